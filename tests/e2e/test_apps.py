"""An operator adds an app to a platform that runs: without htag, with a secret, an icon, and data that it keeps."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Visitor
from tests.e2e.stack import Stack, docker, until

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

APP = '''
"""Counts who comes."""
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

KEY = Path("/run/secrets/api-key").read_text()
COUNT = Path("/data/count")

async def page(request):
    count = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
    COUNT.write_text(str(count))
    return HTMLResponse(f"<!doctype html><title>Guests</title><h1>Visit {count}, key of {len(KEY)}</h1>")

app = Starlette(routes=[Route("/", page)])
'''
TABLE = '\n[apps.guests]\ntitle = "{title}"\ndata = "2m"\nsecrets = ["api-key"]\n'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="4" fill="#0b6e75"/></svg>'


def test_an_app_is_added_and_changed_while_all_runs(stack: Stack, visitor: Visitor) -> None:
    config = stack.folder / "htagweb.toml"
    before = config.read_text()
    (stack.folder / "secrets" / "api-key").write_text("hush-hush")
    config.write_text(before + TABLE.format(title="Guest book"))  # in place: the container has this very file mounted
    (stack.folder / "apps" / "guests.svg").write_text(SVG)
    (stack.folder / "apps" / "guests.py").write_text(APP)
    page = visitor()
    try:
        until(lambda: "Guest book" in stack.get("/")[2], what="the catalogue has it")
        page.goto("/guests/")
        expect(page.get_by_role("heading")).to_have_text("Visit 1, key of 9")
        page.goto("/")
        row = page.locator("li", has=page.get_by_role("link", name="Guest book", exact=True))
        expect(row.locator("img")).to_have_js_property("complete", True)
        assert row.locator("img").evaluate("(img) => img.naturalWidth") > 0
        row.get_by_role("button", name="Stop Guest book").click()
        config.write_text(before + TABLE.format(title="Our guests"))
        until(lambda: "Our guests" in stack.get("/")[2], what="the new title")
        page.goto("/guests/")
        expect(page.get_by_role("heading")).to_have_text("Visit 2, key of 9")
        (guests,) = (row for row in stack.rows() if row["app"] == "guests")
        assert "hush-hush" not in docker("inspect", f"htagweb-{guests['id']}")
        (kept,) = json.loads(stack.htagweb("users", "data", "--app", "guests", "--json").stdout)
        assert (kept["user"], kept["in_use"]) == (guests["user"], True)
        stack.htagweb("reap", "--app", "guests", "--yes")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # by itself it asks every 30 s
        expect(page.get_by_role("heading", name="This app was stopped")).to_be_visible()
        removed = stack.htagweb("users", "remove-data", "--app", "guests", "--yes")
        assert removed.returncode == 0
        assert json.loads(stack.htagweb("users", "data", "--json").stdout) == []
    finally:
        (stack.folder / "apps" / "guests.py").unlink()
        config.write_text(before)
