from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.harness.driver import Harness, booted
from tests.sites import Sites

Boot = Callable[[int], Awaitable[Harness]]


@asynccontextmanager
async def booting(sites: Sites) -> AsyncIterator[Boot]:
    async with AsyncExitStack() as stack:

        async def boot(generation: int) -> Harness:
            harness = await stack.enter_async_context(booted(sites, generation))
            await harness.connect()
            await harness.link.hello()
            return harness

        yield boot


@pytest.fixture
async def boot(sites: Sites) -> AsyncIterator[Boot]:
    """Start a harness of a generation; the connection has said hello."""
    async with booting(sites) as boot:
        yield boot


@pytest.fixture
async def first(boot: Boot) -> Harness:
    return await boot(1)


@pytest.fixture
async def second(boot: Boot) -> Harness:
    return await boot(2)
