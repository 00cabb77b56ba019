"""What the end-to-end tests share: the embedded model, or a printed reason why they are skipped."""

from __future__ import annotations

import pytest

from sixgig.catalogue import EMBEDDED
from sixgig.load.fetch import is_fetched


@pytest.fixture(scope="session")
def embedded_model() -> str:
    """The embedded model's name; skips where it was not fetched, since a test downloads nothing."""
    if not is_fetched(EMBEDDED):
        pytest.skip(f"{EMBEDDED} is not fetched: sixgig fetch {EMBEDDED}")
    return EMBEDDED
