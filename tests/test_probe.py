from __future__ import annotations

import os
import sys

import pytest

from edgeface.backends import probe


def test_what_ends_well_is_no_failure():
    assert probe.failure("pass") is None


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ValueError('so it is')", "so it is"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed the probe with SIGILL"),
        ("import ctypes; ctypes.string_at(0)", "killed the probe with SIGSEGV"),
        ("import os; os._exit(3)", "ended the probe with status 3"),
        ("print('half a word'); import os; os._exit(3)", "half a word"),
    ],
)
def test_a_failure_is_told(program, reason):
    assert probe.failure(program) == reason


def test_what_hangs_is_ended():
    reason = probe.failure("import time; time.sleep(60)", timeout=0.5)
    assert reason == "kept the probe busy for more than 0.5 s"


def test_the_child_gets_arguments_input_environment_and_path(monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("value = 5")
    monkeypatch.syspath_prepend(str(tmp_path))
    program = """
import os, sys, only_here
said = sys.argv[1:], sys.stdin.buffer.read(), os.environ["PROBE_TEST"], only_here.value
if said != (["a", "b"], b"content", "yes", 5):
    raise ValueError(said)
"""
    environment = {"PROBE_TEST": "yes"}
    assert probe.failure(program, ["a", "b"], stdin=b"content", environment=environment) is None
    assert "PROBE_TEST" not in os.environ


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/frobnicate", "/no/python3"])
def test_without_an_interpreter_everything_counts_as_sound(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert probe.failure("raise ValueError") is None


def test_a_frozen_program_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert probe.failure("raise ValueError") is None


def test_an_import_that_kills_is_a_reason_until_the_file_changes(monkeypatch, tmp_path):
    module = tmp_path / "deadly_module.py"
    module.write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        assert probe.import_failure("deadly_module") == "killed the probe with SIGILL"
    module.write_text("mended = True")
    assert probe.import_failure("deadly_module") is None
    assert "deadly_module" not in sys.modules


def test_an_import_is_tried_once_and_never_when_it_has_been_done(monkeypatch, tmp_path):
    (tmp_path / "innocent_module.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = []
    monkeypatch.setattr(probe, "failure", asked.append)
    for _ in range(2):
        assert probe.import_failure("innocent_module") is None
    assert asked == ["import innocent_module"]
    assert probe.import_failure("sys") is None
    assert probe.import_failure("no_such_module") == "is not installed"
    assert len(asked) == 1
