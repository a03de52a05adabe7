"""The apps' pictures, as /-/icon/NAME. They come from whoever wrote the app, so they are shown as pictures and can't be
anything else: an SVG that somebody opens by itself runs nothing and loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, Icon

from .identity import Visitor
from .problems import problem, problem_of_error

if TYPE_CHECKING:
    from .app import Gateway

ICONS = "/-/icon/"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=86400",  # another picture has another address
}


class Icons:
    """Keeps those that are in use: as many as there are apps, 64k each at most."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[AppName, tuple[str, Icon]] = {}  # with the tag of the card that it belongs to

    async def answer(self, request: Request, name: AppName, visitor: Visitor | None) -> Response:
        card = self._gateway.card(name, visitor)
        if card is None or not card.icon:
            return problem(404, "not-found", "There is nothing here.")
        etag = f'"{card.icon}"'
        if etag in request.headers.get("if-none-match", ""):
            return Response(None, 304, {"ETag": etag, **_HEADERS})
        try:
            icon = await self._icon(name, card.icon)
        except OrchestratorError as error:
            return problem_of_error(error)
        if icon is None:
            return problem(404, "not-found", "There is nothing here.")
        return Response(icon.body, 200, {"ETag": etag, **_HEADERS}, media_type=icon.media_type)

    async def _icon(self, name: AppName, tag: str) -> Icon | None:
        known = self._known.get(name)
        if known is not None and known[0] == tag:
            return known[1]
        icon = await self._gateway.orchestrator.icon(name)
        apps = self._gateway.routes.apps
        self._known = {other: kept for other, kept in self._known.items() if other in apps}
        if icon is not None:
            self._known[name] = (tag, icon)
        return icon
