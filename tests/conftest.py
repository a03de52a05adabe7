from __future__ import annotations

from collections.abc import Generator

import hypothesis
import pytest

from tests.sites import Sites, build

# The same examples every time, and none is a failure for having met a busy machine.
hypothesis.settings.register_profile("calm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("calm")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """With several workers: one of them gets a whole file, and one all that need the stack, of which there is one.

    (A wrapper, since xdist looks at the marks before any plain hook of a conftest.)
    """
    for item in items:
        name = "stack" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))
    yield


@pytest.fixture(scope="session")
def sites() -> Sites:
    """htag of both generations and what else a sandbox has, beside our own environment."""
    return build()
