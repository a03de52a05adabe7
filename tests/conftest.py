from __future__ import annotations

import hypothesis
import pytest

from tests.sites import Sites, build

# The same examples every time, and none is a failure for having met a busy machine.
hypothesis.settings.register_profile("calm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("calm")


@pytest.fixture(scope="session")
def sites() -> Sites:
    """htag of both generations and what else a sandbox has, beside our own environment."""
    return build()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no worker is left with it when the others are done."""
    order = ("e2e", "docker")

    def place(item: pytest.Item) -> int:
        return next((n for n, mark in enumerate(order) if item.get_closest_marker(mark)), len(order))

    items.sort(key=place)
