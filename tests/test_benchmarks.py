from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """They are scripts, each of which finds its neighbours beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.mark.parametrize(
    "file",
    [
        "version-RFB-320.onnx",
        "version-RFB-320_simplified.onnx",
        "version-RFB-320_without_postprocessing.tflite",
        "version-RFB-320.int8.onnx",
        "version-RFB-320.ncnn.param",
        "RFB-320.param",
        "rfb320-uint8.tmfile",
        "rfb_320.mnn",
    ],
)
def test_files_of_one_network_have_one_name(file):
    import peers

    assert peers.network_name(Path(file)) == "rfb320"
    assert peers.network_name(Path(file.replace("320", "640"))) == "rfb640"


def test_candidates_are_the_files_of_that_network_precision_and_runtime():
    import peers

    names = ["a/RFB-320.param", "a/RFB-320.bin", "a/RFB-320.int8.mnn", "b/rfb320.mnn", "slim.mnn"]
    files = [Path(name) for name in names]

    def found(runtime, precision):
        return [
            (str(c.path), c.variant) for c in peers.candidates(runtime, precision, "rfb320", files)
        ]

    assert found("ncnn", "fp32") == [("a/RFB-320.param", ""), ("a/RFB-320.param", "no winograd")]
    assert found("mnn", "fp32") == [("b/rfb320.mnn", "module"), ("b/rfb320.mnn", "session")]
    assert {path for path, _ in found("mnn", "int8")} == {"a/RFB-320.int8.mnn"}
    assert found("onnxruntime", "fp32") == []


def test_every_runtime_has_an_adapter():
    import peers

    for runtime in peers.RUNTIMES:
        module = peers.adapter(runtime)
        assert module.PACKAGE
        assert module.SUFFIXES
        assert module.VARIANTS
        assert module.WITHOUT_INT8


def test_scores_are_told_from_boxes_by_their_columns():
    import peers

    boxes, scores = np.arange(8.0).reshape(1, 2, 4), np.arange(4.0).reshape(2, 2)
    for outputs in ([boxes, scores], [scores, boxes]):
        found = peers.by_columns(outputs)
        np.testing.assert_array_equal(found[0], scores)
        np.testing.assert_array_equal(found[1], boxes[0])
    assert len(peers.by_columns([np.zeros((2, 10)), boxes, scores])) == 2  # landmarks are dropped
    with pytest.raises(ValueError, match="outputs have shapes"):
        peers.by_columns([boxes])


def test_a_ratio_is_taken_round_by_round():
    from peers import race

    # The third round met somebody else's work, at both.
    one = race.Times(np.array([[2.0, 2.0, 9.0], [4.0, 4.0, 4.0], [40.0, 40.0, 40.0]]), np.empty(0))
    other = race.Times(np.array([[1.0] * 3, [2.0] * 3, [20.0] * 3]), np.empty(0))
    found = race.ratio(one, other)
    assert (found["median"], found["p10"], found["p90"]) == (2.0, 2.0, 2.0)
    assert found["of_minima"] == 2.0


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ((0.1, 0.0, 0.0, 0.0), None),
        ((0.1, None, None, 0.0), None),
        ((9.0, 1.5, 0.0, 0.0), "other processes kept 1.50 cores busy"),
        ((0.1, 0.0, 0.2, 0.0), "the hypervisor took 20.0% of the time"),
        ((0.1, 0.0, 0.0, 0.5), "waiting workers kept 0.50 cores busy"),
    ],
)
def test_load_says_why_figures_are_provisional(load, words):
    from peers import race

    assert race.Load(*load).problem == words


def test_a_worker_hands_on_what_goes_wrong_in_it():
    from peers.worker import Worker, WorkerError

    with Worker("test") as worker:
        assert worker.ask("cpu_seconds") >= 0
        with pytest.raises(WorkerError, match=r"ModuleNotFoundError: .*peers\.none"):
            worker.ask("open_model", "none", "a.onnx", 1, "")
        assert worker.ask("cpu_seconds") >= 0  # it lives on
        worker._process.kill()
        with pytest.raises(WorkerError, match="its process died: SIGKILL"):
            worker.ask("cpu_seconds")


@pytest.mark.parametrize(
    ("kind", "cycles"),
    [
        # From the published table: 1 / throughput.
        ("ldr q", 2),
        ("ldp q", 4),
        ("ldr x", 1),
        ("ldp x", 2),
        ("ld1 {4x128}", 8),
        ("ld1 {1}lane", 1),
        ("ld1r {1x128}", 1),
        ("stp q", 2),
        ("fmla v128", 1),
        ("smlal2 v128", 1),
        ("sadalp v128", 2),
        ("sqxtn v64", 0.5),
        ("add v128", 1),
        ("add x", 0.5),
        ("fmadd s", 0.5),
        ("mul w", 2),
        ("b.ne", 1),
        ("b", 3),
        ("fmla v64", None),
        ("unheard of", None),
    ],
)
def test_issue_cycles_are_the_published_ones(kind, cycles):
    import cortex_a53

    assert cortex_a53.issue_cycles(kind) == cycles


def test_weighted_tells_what_it_guessed():
    import cortex_a53

    counts = {"ldp q": 10, "fmla v64": 20, "prfm": 5, "ldp d": 2, "ld1 {3x64}": 3}
    cycles, guessed = cortex_a53.weighted(counts)
    assert cycles == 10 * 4 + 20 * 0.5 + 5 * 1 + 2 * 2 + 3 * 3
    assert guessed == 0.75


def test_on_device_imports_nothing_but_edgeface_and_numpy():
    tree = ast.parse((BENCHMARKS / "on_device.py").read_text(encoding="utf-8"))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"__future__", "argparse", "collections", "contextlib", "dataclasses", "json"}
    standard |= {"pathlib", "platform", "sys", "time", "typing"}
    assert {name.split(".")[0] for name in names} - standard == {"edgeface", "numpy"}


def test_instructions_are_compared_with_the_best_float32_peer():
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    import arm

    def row(runtime, precision, instructions):
        return {
            "runtime": runtime,
            "precision": precision,
            "instructions": instructions,
            "issue_cycles": 2 * instructions,
        }

    rows = [row("edgeface", "fp32", 30), row("litert", "fp32", 60), row("ncnn", "fp32", 50)]
    rows += [row("litert", "int8", 40), {"runtime": "mnn", "precision": "fp32", "problem": "no"}]
    arm.add_ratios(rows)
    found = [r.get("instructions_over_peer") for r in rows]
    assert found == [0.6, 1.2, 1.0, 0.8, None]
    assert rows[0]["issue_cycles_over_peer"] == 0.6


class ScriptedWorker:
    """Answers like one in a process, which lives for so many turns."""

    def __init__(self, milliseconds, turns=99):
        self.milliseconds = milliseconds
        self.turns = turns

    def ask(self, method, *arguments):
        from peers.worker import Turn, WorkerError

        if method == "cpu_seconds":
            return 0.0
        self.turns -= 1
        if self.turns < 0:
            raise WorkerError("it died")
        runs, _ = arguments
        return Turn([self.milliseconds] * runs, [], 0.0)


def test_a_race_goes_on_without_those_that_fail(monkeypatch):
    from peers import race

    monkeypatch.setattr(race, "REST_SECONDS", 0.0)
    times, load = race.race([ScriptedWorker(3.0), ScriptedWorker(2.0, turns=2)], 4, 5)
    np.testing.assert_array_equal(times[0].runs, np.full((4, 5), 3.0))
    assert times[1] == "it died"
    assert load.waiting_cpus == 0.0


def pointwise_layers(count):
    """A graph of that many equal convolutions, one after another."""
    from edgeface.graph import Conv, Graph, Node, Tensor

    random = np.random.default_rng(0)
    tensors = {"0": Tensor("0", (1, 8, 6, 6))}
    for i in range(count):
        weight = random.normal(size=(8, 8, 1, 1)).astype(np.float32)
        tensors[f"w{i}"] = Tensor(f"w{i}", weight.shape, data=weight)
        tensors[str(i + 1)] = Tensor(str(i + 1), (1, 8, 6, 6))
    nodes = tuple(Node(Conv(), f"conv{i}", (str(i), f"w{i}"), str(i + 1)) for i in range(count))
    return Graph(nodes, tensors, "0", (str(count),))


def test_equal_layers_are_measured_once_and_counted():
    import kernels

    (layer,) = kernels.layers_of(pointwise_layers(3))
    assert (layer.count, layer.multiply_adds) == (3, 8 * 8 * 6 * 6)
    assert layer.name == "pointwise, 6x6x8 to 8"


def test_a_layer_is_no_faster_by_computing_something_else(monkeypatch):
    import kernels

    (layer,) = kernels.layers_of(pointwise_layers(1))
    isas = [isa for isa in kernels._core.isas() if isa != "scalar"]
    kernels.check(layer, isas)
    monkeypatch.setattr(kernels, "output", lambda _, isa: np.full(3, len(isa), np.float32))
    with pytest.raises(AssertionError, match="pointwise, 6x6x8 to 8 on elsewhere"):
        kernels.check(layer, ["elsewhere"])


def test_published_priors_are_those_of_the_core():
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    from peers import published

    from edgeface import _core, model
    from edgeface.networks import build
    from edgeface.zoo import family_spec
    from test_retinaface import make_weights

    spec = family_spec("retinaface", build(make_weights("mobilenet"), (96, 64)))
    expected = _core.make_priors(model.core_spec(spec))
    np.testing.assert_allclose(published.priors(spec), expected, rtol=0, atol=1e-6)


def test_every_step_of_the_published_pipeline_is_a_row():
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    import retinaface
    from peers import published

    rows = [row for row in retinaface.rows((16, 32)) if row.kind == "published"]
    assert len(rows) % (1 + len(published.STEPS)) == 0
    assert [row.is_trimmed for row in rows[:5]] == [False, False, False, True, True]
    ours = [row for row in retinaface.rows((16, 32)) if row.kind == "edgeface"]
    assert [row.is_trimmed for row in ours[:2]] == [False, True]


def test_a_trimmed_row_is_told_over_the_whole_one():
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    import retinaface
    from peers import race

    def ended(name, milliseconds, **options):
        times = race.Times(np.full((2, 3), milliseconds), np.ones((2, 3, 3)))
        return retinaface.Ended(retinaface.Row(name, "edgeface", options), times=times)

    both = [ended("native", 8.0), ended("native, trimmed", 4.0, levels=(16, 32))]
    by_name = {e.row.name: e for e in both}
    whole, trimmed = (retinaface.row_values(e, by_name) for e in both)
    assert "over_whole" not in whole
    assert trimmed["over_whole"]["median"] == 0.5
