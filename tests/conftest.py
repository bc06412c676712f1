from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_overrides():
    """Tests say themselves which backend and ISA they run; the caller's environment must not."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EDGEFACE_BACKEND", "EDGEFACE_ISA"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def run_edgeface(capsys):
    """Runs `edgeface COMMAND ...` in this process; (status, stdout, stderr)."""
    from edgeface import cli

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([*map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
