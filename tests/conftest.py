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
