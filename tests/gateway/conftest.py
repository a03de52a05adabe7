"""The data path's tests run on both event loops: sockets end in different ways on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from .scripted import warm

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """`@both_paths` asks for both."""
    before = warm.set(getattr(request, "param", "cold") == "warm")
    yield
    warm.reset(before)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module asks for it by `BOTH_LOOPS = True`."""
    module = getattr(item, "module", None)
    return LOOPS if getattr(module, "BOTH_LOOPS", False) else {"asyncio": asyncio.new_event_loop}
