from __future__ import annotations

import json
import re

import numpy as np
import pytest

import edgeface
import reference
from edgeface import BackendError, _core, bundled, cli, cpu, doctor
from edgeface import spec as specs
from edgeface.backends import BACKENDS, probe, tengine
from edgeface.formats import onnx


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
    monkeypatch.setattr(doctor, "SECONDS", 0.02)
    monkeypatch.setattr(bundled, "names", list)


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
    cpus = [number for cluster in found["clusters"] for number in cluster["cpus"]]
    assert sorted(cpus) == sorted(cpu.allowed_cpus())
    counts = sorted({1, cpu.default_num_threads()})
    rows = found["times"]["milliseconds"]
    assert [(row["type"], row["threads"]) for row in rows] == [
        (name, count) for name in ("float32", "int8") for count in counts
    ]
    assert all(row["median"] > 0 for row in rows)


def test_text_has_a_line_for_each(run):
    status, out = run()
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert status == 0
    assert names == list(dict.fromkeys(names))
    wanted = {"machine", "self-test", "threads", "conditions", "backend native", "environment"}
    assert wanted <= set(names)
    assert any(name.startswith("cpus ") for name in names)
    assert re.search(
        r"^time +slim-320 without heads: \d+\.\d\d ms float32 on 1 thread", out, re.MULTILINE
    )


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
    names += ["cpu_clusters", "_stand_in_times"]
    for name in [*names, "_packages", "_backends", "_tengine", "_environment"]:
        monkeypatch.setattr(doctor, name, broken)
    monkeypatch.setattr(doctor.bench, "machine", broken)
    monkeypatch.setattr(doctor.bench, "conditions", broken)
    status, out = run(*options)
    assert status == 1
    assert out.count("RuntimeError: broken") == 15


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


# As an RK3399 has it, and of a 64-bit kernel that lists more than the parts.
RK3399 = "".join(
    f"processor\t: {number}\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
    f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 4\n\n"
    for number, part in enumerate(["0xd03"] * 4 + ["0xd08"] * 2)
)


def test_cpus_have_their_makers_names(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    for text, names in (
        (RK3399, dict(enumerate(["Cortex-A53"] * 4 + ["Cortex-A72"] * 2))),
        (
            "processor : 0\nmodel name : AMD EPYC\n\nprocessor : 1\nmodel name : AMD EPYC\n",
            {0: "AMD EPYC", 1: "AMD EPYC"},
        ),
        (
            "processor\t: 0\nmodel name\t: ARMv7\nCPU implementer\t: 0x41\nCPU part\t: 0xc07\n\nRevision: 2",
            {0: "Cortex-A7"},
        ),
        ("processor : 3\nCPU implementer : 0x51\nCPU part : 0x800\n", {3: "part 0x800 of 0x51"}),
        ("processor : 3\nCPU part : 0xfff\n", {3: "part 0xfff of an unknown maker"}),
        ("processor : 0\n", {}),
        ("", {}),
    ):
        cpuinfo.write_text(text, encoding="ascii")
        assert doctor.cpu_names(cpuinfo) == names


def test_the_clusters_of_a_board_are_told(tmp_path, monkeypatch, run):
    (tmp_path / "cpuinfo").write_text(RK3399, encoding="ascii")
    for number in range(6):
        for name, text in (
            ("cpu_capacity", 485 if number < 4 else 1024),
            ("cpufreq/scaling_min_freq", 408000),
            ("cpufreq/scaling_max_freq", 1416000 if number < 4 else 1800000),
            ("cpufreq/scaling_governor", "interactive"),
        ):
            file = tmp_path / "cpu" / f"cpu{number}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
    monkeypatch.setattr(doctor, "allowed_cpus", lambda: range(6))
    found = doctor.cpu_clusters(tmp_path / "cpu", tmp_path / "cpuinfo")
    assert found == [
        {
            "cpus": [4, 5],
            "name": "Cortex-A72",
            "megahertz": [408, 1800],
            "governor": "interactive",
        },
        {
            "cpus": [0, 1, 2, 3],
            "name": "Cortex-A53",
            "megahertz": [408, 1416],
            "governor": "interactive",
        },
    ]
    monkeypatch.setattr(doctor, "cpu_clusters", lambda: found)
    lines = dict(line.split("  ", 1) for line in run()[1].splitlines())
    assert lines["cpus 4,5"].strip() == "Cortex-A72, 408 to 1800 MHz, interactive"


def test_the_stand_in_has_the_layers_of_slim():
    for dtype in (np.float32, np.int8):
        graph = doctor.stand_in(dtype)
        assert len(graph.nodes) == 25
        assert graph.tensors[graph.outputs[0]].shape == (1, 256, 8, 10)
        assert BACKENDS["native"].open_graph(graph, 1).isa == _core.isas()[0]


@pytest.fixture
def model(tmp_path):
    graph = reference.detector_graph()
    path = tmp_path / "little.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    return path


def test_a_model_is_timed_instead(run, model):
    times = json.loads(run(str(model), "--json")[1])["times"]
    assert times["network"] == "little.onnx, 640x480 frames"
    assert {row["type"] for row in times["milliseconds"]} == {"native"}
    status, out = run(str(model.with_name("none.onnx")))
    assert status == 0
    assert "time                 not known: FileNotFoundError" in out


def test_the_model_that_comes_with_edgeface_is_timed(run, model, monkeypatch):
    monkeypatch.setattr(bundled, "names", lambda: [bundled.DEFAULT])
    monkeypatch.setattr(bundled, "path_of", lambda _: model)
    times = json.loads(run("--json")[1])["times"]
    assert times["network"] == "little.onnx, 640x480 frames"
