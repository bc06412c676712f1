from __future__ import annotations

import json

import pytest

import edgeface
from edgeface import BackendError, _core, cli, doctor
from edgeface.backends import BACKENDS, probe, tengine


@pytest.fixture
def run(capsys):
    """Runs edgeface doctor; (status, stdout)."""

    def run(*arguments):
        status = cli.main(["doctor", *arguments])
        captured = capsys.readouterr()
        assert captured.err == ""
        return status, captured.out

    return run


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("EDGEFACE_ISA", raising=False)


def test_json_has_every_part(run):
    status, out = run("--json")
    found = json.loads(out)
    assert status == 0
    assert found["edgeface"] == edgeface.__version__
    assert found["isas"] == _core.isas()
    assert found["isa"] == _core.isas()[0]
    assert found["self_test"] == dict.fromkeys(_core.isas(), "ok")
    assert found["threads"]["default"] >= 1
    assert found["memory"]["total"] >= found["memory"]["available"] > 0
    assert set(found["packages"]) == set(doctor.PACKAGES)
    assert list(found["backends"]) == list(BACKENDS)
    assert found["backends"]["native"] == "ok"
    assert not any("error" in part for part in found.values() if isinstance(part, dict))


def test_text_has_a_line_for_each(run):
    status, out = run()
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert status == 0
    assert names == list(dict.fromkeys(names))
    assert {"machine", "self-test", "threads", "backend native", "environment"} <= set(names)


def test_environment_is_shown(monkeypatch, run):
    isa = _core.isas()[-1]
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    found = json.loads(run("--json")[1])
    assert found["isa"] == isa
    assert found["environment"]["EDGEFACE_ISA"] == isa


def test_an_isa_that_is_not_here_is_said(monkeypatch, run):
    monkeypatch.setenv("EDGEFACE_ISA", "vax")
    status, out = run()
    assert status == 1
    assert "not known: BackendError: this CPU has no kernels for 'vax'" in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_whatever_fails_is_a_line_of_its_own(monkeypatch, run, options):
    def broken(*_, **__):
        raise RuntimeError("broken")

    names = ["cpu_features", "self_test", "_isa", "_threads", "_memory", "_system", "_python"]
    for name in [*names, "_packages", "_backends", "_tengine", "_environment"]:
        monkeypatch.setattr(doctor, name, broken)
    monkeypatch.setattr(doctor.bench, "machine", broken)
    status, out = run(*options)
    assert status == 1
    assert out.count("RuntimeError: broken") == 12


def test_an_isa_that_kills_its_process_is_survived(monkeypatch, run):
    monkeypatch.setattr(probe, "failure", lambda *_: "killed the probe with SIGILL")
    status, out = run("--json")
    assert status == 1
    assert set(json.loads(out)["self_test"].values()) == {"killed the probe with SIGILL"}


def test_the_self_test_runs_where_no_child_can_be_started(monkeypatch):
    monkeypatch.setattr(probe, "failure", lambda *_: None)
    monkeypatch.setattr(doctor, "_ONES", 28)
    answers = set(doctor.self_test().values())
    assert answers == {"RuntimeError: its float32 convolution is wrong"}


def test_a_backend_says_why_it_is_not_here(monkeypatch, run):
    def broken():
        raise BackendError("no luck")

    monkeypatch.setattr(BACKENDS["onnxruntime"], "unavailable", lambda: "it is\nnot here")
    monkeypatch.setattr(BACKENDS["tengine"], "unavailable", broken)
    monkeypatch.setattr(tengine, "library_path", lambda: None)
    _, out = run()
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["backend onnxruntime"].strip() == "it is not here"
    assert lines["backend tengine"].strip() == "BackendError: no luck"
    assert lines["tengine"].strip() == "library -, version -"


def test_features_of_a_board(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd evtstrm aes asimddp\n\n"
        "processor\t: 1\nFeatures\t: fp asimd i8mm\n",
        encoding="ascii",
    )
    assert doctor.cpu_features(cpuinfo) == ["asimd", "asimddp"]
