from __future__ import annotations

import pytest

from edgeface import cli
from edgeface.backends import BACKENDS
from reference import SHARED, needs_shared


@pytest.mark.parametrize("command", ["convert", "verify", "models", "doctor"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--traceback" in out
    assert max(map(len, out.splitlines())) <= 120


@needs_shared
def test_weights_are_told_by_their_format(capsys):
    assert cli.main(["info", str(SHARED / "weights" / "ultraface" / "version-slim-320.pth")]) == 0
    assert "PyTorch weights, float32" in capsys.readouterr().out


@needs_shared
def test_a_backend_that_is_discouraged_says_why(monkeypatch, capsys):
    monkeypatch.setattr(
        BACKENDS["native"], "discouraged", lambda _: "it is\nwrong here", raising=False
    )
    assert cli.main(["info", str(SHARED / "weights" / "tmfile" / "slim320.tmfile")]) == 0
    assert "but only when asked for by name: it is wrong here" in capsys.readouterr().out
