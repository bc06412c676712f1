from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_overrides():
    """Tests say themselves which backend and ISA they run; the caller's environment must not."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EDGEFACE_BACKEND", "EDGEFACE_ISA"):
            patch.delenv(name, raising=False)
        yield
