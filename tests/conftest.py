from __future__ import annotations

import pytest

from tests.sites import Sites, build


@pytest.fixture(scope="session")
def sites() -> Sites:
    """htag of both generations and what else a sandbox has, beside our own environment."""
    return build()
