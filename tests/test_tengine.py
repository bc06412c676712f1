from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import BackendError, FaceDetector, _core, backends
from edgeface import spec as specs
from edgeface.backends import onnxruntime, probe, tengine
from edgeface.formats import onnx, tmfile
from edgeface.graph import Quantization, Tensor
from reference import SHARED, needs_shared

STUB = Path(__file__).parent / "tengine_stub" / "stub.c"
# The stub's own network; the model is not looked at beyond its first byte.
WIDTH, HEIGHT = 32, 24
PIXELS = 3 * WIDTH * HEIGHT
MODEL = b"\2\0\0\0 and the rest of a tmfile"
FLOAT32, INT8, UINT8 = 0, 2, 3
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


# --- What surrounds the library, with one that stands in for it -------------------------------------------


def compiled(folder, *flags):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the stand-in library")
    library = folder / f"libstub{len(list(folder.iterdir()))}.so"
    command = [compiler, "-std=c11", "-shared", "-fPIC", "-pthread", *flags, STUB, "-o", library]
    subprocess.run(command, check=True, timeout=60)
    return library


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("stub"))


class Stub:
    """A library of its own for a test: it is not yet loaded, and its record is empty."""

    def __init__(self, built, folder, monkeypatch):
        self.path = str(shutil.copy(built, folder / "libtengine-lite.so"))
        self.record = folder / "calls"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("TENGINE_STUB_CALLS", str(self.record))
        monkeypatch.setenv(tengine.LIBRARY_VARIABLE, self.path)

    def set(self, name, value):
        self._monkeypatch.setenv(f"TENGINE_STUB_{name}", str(value))

    def open(self, num_threads=1):
        return _core.Tengine(self.path, MODEL, num_threads=num_threads)

    @property
    def calls(self):
        return self.record.read_text().splitlines() if self.record.exists() else []

    @property
    def names(self):
        return [call.split()[0] for call in self.calls]


@pytest.fixture
def stub(built, tmp_path, monkeypatch):
    return Stub(built, tmp_path, monkeypatch)


OPENED = [
    "set_log_level",
    "init_tengine",
    "create_graph",
    "set_tensor_buffer",
    "prerun_graph_multithread",
    "omp_set_num_threads",
]


def test_calls_come_in_the_order_that_works(stub):
    runner = stub.open()
    assert stub.names == OPENED
    assert stub.calls[2] == f"create_graph NULL tengine:m {len(MODEL)} 2"
    runner.run()
    runner.run()
    assert stub.calls[len(OPENED) :] == ["run_graph 1"] * 2
    del runner
    # And never release_tengine: this process may have other users of the library.
    assert stub.names[len(OPENED) + 2 :] == ["postrun_graph", "destroy_graph"]


def test_the_library_starts_once(stub):
    stub.open()
    stub.open()
    assert stub.names.count("init_tengine") == 1


@pytest.mark.parametrize(("type_", "precision"), [(FLOAT32, 0), (INT8, 4), (UINT8, 3)])
def test_the_precision_is_that_of_the_input(stub, type_, precision):
    stub.set("TYPE", type_)
    stub.open(num_threads=3)
    assert stub.calls[3] == f"set_tensor_buffer {PIXELS * (1 if type_ else 4)}"
    mask = sum(1 << cpu for cpu in CPUS if cpu < 64)
    assert stub.calls[4] == f"prerun_graph_multithread 3 0 {precision} {mask}"


def test_one_thread_prepares_on_one_cpu_so_that_no_other_is_started(stub):
    stub.open(num_threads=1)
    assert stub.calls[4] == f"prerun_graph_multithread 1 0 0 {1 << min(CPUS)}"


@pytest.mark.skipif(len(CPUS) < 2, reason="this process may use one CPU only")
@pytest.mark.parametrize("fail", ["", "prerun_graph_multithread"])
def test_the_calling_thread_stays_on_its_cpus(stub, fail):
    stub.set("FAIL", fail)
    try:
        stub.open(num_threads=2)
    except BackendError:
        assert fail
    assert os.sched_getaffinity(0) == CPUS
    # And gets as many OpenMP threads as before.
    assert "omp_set_num_threads 7" in stub.calls


@pytest.mark.parametrize(
    ("function", "closed"),
    [
        ("create_graph", []),
        ("set_tensor_buffer", ["destroy_graph"]),
        # postrun_graph would read what an unprepared graph has not got.
        ("prerun_graph_multithread", ["omp_set_num_threads", "destroy_graph"]),
    ],
)
def test_what_fails_at_opening_is_told_and_undone(stub, function, closed):
    stub.set("FAIL", function)
    with pytest.raises(BackendError) as caught:
        stub.open()
    if function != "set_tensor_buffer":
        assert str(caught.value).endswith(f": the stub's {function} failed")
    names = stub.names
    assert names[names.index(function) + 1 :] == closed
    # A failure leaves nothing behind: the next one opens.
    stub.set("FAIL", "")
    stub.open().run()


def test_a_library_that_does_not_start_says_why(stub):
    stub.set("FAIL", "init_tengine")
    with pytest.raises(BackendError, match="does not start: the stub's init_tengine failed"):
        stub.open()


def test_a_run_that_fails_says_why_and_the_next_one_works(stub):
    runner = stub.open()
    stub.set("FAIL", "run_graph")
    for _ in range(2):
        with pytest.raises(BackendError, match="failed to run the network: the stub's run_graph"):
            runner.run()
    stub.set("FAIL", "")
    runner.run()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inputs", "2 inputs"),
        ("get_graph_input_tensor", "1 inputs"),
        ("get_tensor_shape", "-1 dimensions"),
        ("get_tensor_buffer_size", f"has {4 * PIXELS + 4} bytes"),
    ],
)
def test_an_answer_that_makes_no_sense_is_not_believed(stub, word, message):
    stub.set("FAIL", word)
    with pytest.raises(BackendError, match=message):
        stub.open()


@pytest.mark.parametrize("type_", [1, 4, 5, -1])
def test_other_data_types_are_refused(stub, type_):
    stub.set("TYPE", type_)
    with pytest.raises(BackendError, match=f"data type {type_}; expected 0"):
        stub.open()


def test_a_quantised_network_without_scales_is_refused(stub):
    stub.set("TYPE", INT8)
    stub.set("FAIL", "get_tensor_quant_param")
    with pytest.raises(BackendError, match="without one positive scale"):
        stub.open()


def test_what_other_threads_log_goes_to_stderr(stub, capfd):
    runner = stub.open()
    stub.set("FAIL", "chatter")
    runner.run()
    assert capfd.readouterr().err == "said in a thread of the library\n"


def test_opening_logs_nothing(stub, capfd):
    stub.open()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("type_", "dtype", "image", "scores"),
    [
        (FLOAT32, np.float32, (1.0, 0), (1.0, 0)),
        (INT8, np.int8, (1 / 64, 0), (0.01, 0)),
        (UINT8, np.uint8, (1 / 128, 20), (0.005, 20)),
    ],
)
def test_arrays_are_the_librarys_own_in_its_type(stub, type_, dtype, image, scores):
    stub.set("TYPE", type_)
    runner = stub.open()
    array = runner.input()
    assert (array.dtype, array.shape) == (dtype, (1, 3, HEIGHT, WIDTH))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert np.shares_memory(array, runner.input())
    runner.run()
    found = runner.output("scores")
    assert (found.dtype, found.shape) == (dtype, (12, 2))
    assert not found.flags.writeable
    assert_allclose(runner.input_quantization(), image, rtol=1e-6)
    scale, zero_point = runner.output_quantization("scores")
    assert_allclose((scale, zero_point), scores, rtol=1e-6)
    assert_allclose((found[5].astype(float) - zero_point) * scale, (0.1, 0.9), atol=1e-6)
    assert runner.output("y").shape == (16 * 6, 6)
    with pytest.raises(BackendError, match="no output 'faces'"):
        runner.output("faces")


def test_arrays_keep_the_network(stub):
    array = stub.open().input()
    array[:] = 1
    assert "destroy_graph" not in stub.names
    del array
    assert stub.names[-2:] == ["postrun_graph", "destroy_graph"]


def test_an_output_without_memory_is_an_error(stub):
    runner = stub.open()
    stub.set("FAIL", "get_tensor_buffer")
    with pytest.raises(BackendError, match="no memory for output 'scores'"):
        runner.output("scores")


@pytest.mark.parametrize("type_", [FLOAT32, INT8, UINT8])
def test_a_detector_reads_and_writes_them_as_they_are(stub, type_):
    stub.set("TYPE", type_)
    runner = stub.open()
    spec = reference.core_spec(
        width=WIDTH, height=HEIGHT, strides=(8,), min_sizes=((8.0,),), clip=False, mean=(0, 0, 0)
    )
    options = _core.Options(
        score_threshold=0.5,
        iou_threshold=0.4,
        nms="hard",
        max_faces=10,
        pre_nms_top_k=10,
        min_face=0,
    )
    frame = reference.picture(HEIGHT, WIDTH)
    rows, _ = _core.Detector(runner, spec, options).detect(frame, "bgr", (0, 0, WIDTH, HEIGHT))
    # The prior in the middle of the 6th cell of 8 pixels, as it is: its offsets are 0.
    assert_allclose(rows, [[8, 8, 16, 16, 0.9]], atol=1e-4)
    real = frame[:, :, ::-1].transpose(2, 0, 1)[None] / 128
    scale, zero_point = runner.input_quantization()
    stored = runner.input()
    # A little more than half a step: the scale is rounded to float32.
    step = 0.51 * scale if type_ else 1e-6
    low, high = {FLOAT32: (0, 2), INT8: (-128, 127), UINT8: (0, 255)}[type_]
    reached = np.clip(real, (low - zero_point) * scale, (high - zero_point) * scale)
    assert np.abs((stored.astype(float) - zero_point) * scale - reached).max() <= step


def test_opening_and_closing_never_overlap(stub):
    def cycle(_):
        runner = stub.open()
        runner.run()
        return runner.output("scores")[5, 1]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(cycle, range(100))) == {np.float32(0.9)}
    assert "overlap" not in stub.names
    assert stub.names.count("destroy_graph") == 100


def test_a_fork_after_several_threads_is_an_error_and_no_hang(stub):
    program = """
import os, sys
from edgeface import BackendError, _core
several = _core.Tengine(sys.argv[1], b"\\2", num_threads=2)
several.run()
child = os.fork()
if child == 0:
    try:
        several.run()
    except BackendError as error:
        _core.Tengine(sys.argv[1], b"\\2", num_threads=1).run()
        os._exit(7 if "spawn" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_child(program, stub.path).returncode == 7


def in_child(program, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, check=False, timeout=60, capture_output=True, text=True, env=environment
    )


# --- Which library ----------------------------------------------------------------------------------------


def test_a_missing_file_is_named(monkeypatch):
    monkeypatch.setenv(tengine.LIBRARY_VARIABLE, "/no/such.so")
    assert "/no/such.so" in tengine.unavailable()
    with pytest.raises(BackendError, match=r"/no/such\.so"):
        backends.open_backend(reference.detector_graph(), "tengine", 1)


def test_a_library_of_something_else_lacks_the_functions(tmp_path, monkeypatch):
    source = tmp_path / "other.c"
    source.write_text("int other;")
    monkeypatch.setattr(sys.modules[__name__], "STUB", source)
    with pytest.raises(BackendError, match="no function init_tengine; expected libtengine-lite"):
        _core.Tengine(str(compiled(tmp_path)), MODEL, num_threads=1)


def test_the_loader_is_followed_without_asking_it(tmp_path, monkeypatch):
    monkeypatch.delenv(tengine.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(tengine, "_DIRECTORIES", ())
    monkeypatch.setattr(tengine, "_LOADER_CACHE", tmp_path / "ld.so.cache")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    assert "is not where the loader looks" in tengine.unavailable()
    with pytest.raises(BackendError, match="is not where the loader looks"):
        tengine.open_graph(reference.detector_graph(), 1)
    cached = b"glibc-ld.so.cache1.1\0\1\2libz.so\0/a/libz.so\0libtengine-lite.so\0/b/libtengine-lite.so\0"
    tengine._LOADER_CACHE.write_bytes(cached)
    assert tengine.library_path() == "/b/libtengine-lite.so"
    (tmp_path / "libtengine-lite.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}:")
    assert tengine.library_path() == str(tmp_path / "libtengine-lite.so")
    monkeypatch.setenv(tengine.LIBRARY_VARIABLE, "libtengine-mine.so")
    assert tengine.library_path() is None


def test_a_sound_library_is_probed_once(stub):
    assert tengine.unavailable() is None
    calls = stub.calls
    assert [call.split()[0] for call in calls][-3:] == [
        "run_graph",
        "postrun_graph",
        "destroy_graph",
    ]
    assert tengine.unavailable() is None
    assert stub.calls == calls


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("SIGILL", "killed the probe with SIGILL"),
        ("convolution", "it computes a convolution wrongly"),
        ("run_graph", "failed to run the network: the stub's run_graph failed"),
    ],
)
def test_a_library_that_is_not_sound_does_not_get_into_this_process(stub, word, reason):
    stub.set("FAIL", word)
    assert tengine.unavailable().startswith(f"the library at {stub.path} ")
    assert tengine.unavailable().endswith(reason)
    graph = reference.detector_graph()
    with pytest.raises(BackendError, match=reason):
        backends.open_backend(graph, "tengine", 1)
    assert str(backends.open_backend(graph, "auto", 1)[1]) == "native"


def test_a_network_opens_through_the_graph(stub):
    runner, choice = backends.open_backend(reference.detector_graph(), "tengine", 1)
    assert str(choice) == "tengine"
    size = len(tmfile.write(reference.detector_graph()))
    assert f"create_graph NULL tengine:m {size} 2" in stub.calls
    assert runner.version == "stub"


def test_what_a_tmfile_cannot_hold_is_refused_before_the_library_sees_it(stub):
    graph = reference.detector_graph()
    tensors = {**graph.tensors, "fixed": Tensor("fixed", (1,), data=np.zeros(1, np.float32))}
    odd = type(graph)(graph.nodes, tensors, graph.input, (*graph.outputs, "fixed"))
    with pytest.raises(BackendError, match="fixed"):
        tengine.open_graph(odd, 1)
    assert stub.calls == []


@pytest.mark.usefixtures("stub")
def test_threads_sleep_where_nothing_else_was_said(monkeypatch):
    seen = []
    monkeypatch.setattr(
        tengine._core, "Tengine", lambda *_, **__: seen.append(os.environ.get("OMP_WAIT_POLICY"))
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    graph = reference.detector_graph()
    tengine.open_graph(graph, 1)
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    tengine.open_graph(graph, 1)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert seen == ["PASSIVE", "ACTIVE"]


# --- Telemetry --------------------------------------------------------------------------------------------


@pytest.fixture
def reporting(tmp_path, monkeypatch):
    """A stub with the vendor's reporter in it."""
    folder = tmp_path / "reporting"
    folder.mkdir()
    # So that it is gone afterwards, too.
    monkeypatch.setenv("tengine_report_host", "")
    os.environ.pop("tengine_report_host")
    return Stub(compiled(folder, "-DREPORTS"), tmp_path, monkeypatch)


def test_a_reporter_has_no_host_and_is_warned_of_once(reporting):
    assert tengine.unavailable() is None
    assert "tengine_report_host" not in os.environ
    graph = reference.detector_graph()
    with pytest.warns(RuntimeWarning, match=r"telemetry.*TENGINE_ONLINE_REPORT=OFF"):
        runner = tengine.open_graph(graph, 1)
    del runner
    tengine.open_graph(graph, 1)
    # In the probe and here.
    assert [call for call in reporting.calls if "reports" in call] == ["reports to .."] * 2


def test_a_reporter_keeps_the_host_that_was_set_for_it(reporting, monkeypatch):
    monkeypatch.setenv("tengine_report_host", "reports.example")
    tengine.open_graph(reference.detector_graph(), 1)
    assert "reports to reports.example" in reporting.calls


def test_without_a_reporter_nothing_is_said(stub):
    tengine.open_graph(reference.detector_graph(), 1)
    assert "tengine_report_host" not in os.environ
    assert stub.names[-1] == "destroy_graph"


# --- Where Tengine is wrong -------------------------------------------------------------------------------


def quantised_graph(dtype=np.int8):
    """Enough of one for what is asked here."""
    graph = reference.detector_graph()
    pair = Quantization(np.ones(1, np.float32), np.zeros(1, np.int32))
    tensor = Tensor(graph.input, graph.tensors[graph.input].shape, np.dtype(dtype), None, pair)
    return type(graph)(
        graph.nodes, {**graph.tensors, graph.input: tensor}, graph.input, graph.outputs
    )


FLOAT_GRAPH = reference.detector_graph()


@pytest.mark.parametrize(
    ("machine", "maxsize", "graph", "word"),
    [
        ("aarch64", 2**63 - 1, quantised_graph(), "clamp"),
        ("aarch64", 2**63 - 1, quantised_graph(np.uint8), None),
        ("aarch64", 2**63 - 1, FLOAT_GRAPH, None),
        ("armv7l", 2**31 - 1, FLOAT_GRAPH, "depthwise"),
        # A 32-bit system on a 64-bit kernel.
        ("aarch64", 2**31 - 1, FLOAT_GRAPH, "depthwise"),
        ("aarch64", 2**31 - 1, quantised_graph(), None),
        ("x86_64", 2**63 - 1, quantised_graph(), None),
        ("x86_64", 2**63 - 1, FLOAT_GRAPH, None),
    ],
)
def test_it_is_discouraged_where_it_computes_wrongly(monkeypatch, machine, maxsize, graph, word):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(tengine.sys, "maxsize", maxsize)
    reason = tengine.discouraged(graph)
    assert reason is None if word is None else word in reason


def test_auto_passes_over_it_there_and_its_name_takes_it_with_a_warning(stub, monkeypatch):
    monkeypatch.setattr(tengine, "discouraged", lambda _: "it counts on its fingers")
    monkeypatch.setattr(backends.native, "unavailable", lambda: "not today")
    monkeypatch.setattr(backends.onnxruntime, "unavailable", lambda: "not today")
    graph = reference.detector_graph()
    with pytest.raises(BackendError, match=r"tengine: it counts on its fingers .*by name"):
        backends.open_backend(graph, "auto", 1)
    assert stub.calls == []
    with pytest.warns(RuntimeWarning, match="the backend tengine: it counts on its fingers"):
        _, choice = backends.open_backend(graph, "tengine", 1)
    assert str(choice) == "tengine"
    supports = {support.backend: support for support in backends.supporting(graph)}
    assert supports["tengine"].refusal is None
    assert supports["tengine"].discouraged == "it counts on its fingers"


# --- The real library -------------------------------------------------------------------------------------

TMFILES = SHARED / "weights" / "tmfile"
FLOAT_MODELS = ("rfb320", "slim320")
QUANTISED_MODELS = ("rfb320-int8", "rfb320-uint8")


@pytest.fixture(scope="module")
def real():
    """The library that EDGEFACE_TENGINE_LIBRARY names, or the system's."""
    reason = tengine.unavailable()
    if reason is not None:
        pytest.skip(reason)
    return tengine.library_path()


def images():
    cv2 = pytest.importorskip("cv2")
    return [cv2.imread(str(path)) for path in sorted((SHARED / "images").glob("*.jpg"))]


def filled(runner, image):
    runner.input()[:] = image
    runner.run()


@pytest.mark.tengine
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_within_the_bound_of_the_reference(real, threads, seed):  # noqa: ARG001
    graph = reference.detector_graph(landmarks=True, seed=seed)
    runner = tengine.open_graph(graph, threads)
    image = np.random.default_rng(seed).normal(size=(1, 3, 64, 96)).astype(np.float32)
    filled(runner, image)
    values = reference.run_graph(graph, image)
    for name in graph.outputs:
        want, bound = values[name]
        assert (np.abs(runner.output(name).reshape(want.shape) - want) <= bound).all()


@pytest.mark.tengine
@needs_shared
@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_released_models_give_what_onnxruntime_gives(real, name):  # noqa: ARG001
    pytest.importorskip("onnxruntime")
    graph = tmfile.read((TMFILES / f"{name}.tmfile").read_bytes())
    ours, theirs = tengine.open_graph(graph, 1), onnxruntime.open_graph(graph, 1)
    # Both add up in their own order, through some 20 layers. Measured over these 6 photographs: 1.1e-6 in
    # scores and 1.3e-5 in boxes, which reach 6.4.
    for frame in images():
        spec = reference.core_spec()
        image = _core.preprocess(frame, spec, "bgr")
        filled(ours, image)
        filled(theirs, image)
        for output, most in (("scores", 2e-6), ("boxes", 2e-5)):
            want = theirs.output(output).reshape(-1, ours.output(output).shape[1])
            assert np.abs(ours.output(output) - want).max() <= most


@pytest.mark.tengine
@needs_shared
@pytest.mark.parametrize("name", FLOAT_MODELS)
@pytest.mark.parametrize("size", [(128, 96), (320, 240), (480, 360)])
def test_released_models_find_the_same_faces_as_native(real, name, size):  # noqa: ARG001
    native, ours = (
        FaceDetector(TMFILES / f"{name}.tmfile", backend=backend, input_size=size)
        for backend in ("native", "tengine")
    )
    count = 0
    for frame in images():
        want, got = native.detect(frame), ours.detect(frame)
        assert len(want) == len(got)
        pixels = 0.05 * max(1, frame.shape[1] / 640)
        assert np.abs(want.boxes - got.boxes).max(initial=0) <= pixels
        assert np.abs(want.scores - got.scores).max(initial=0) <= 1e-4
        count += len(want)
    assert count > 5


@pytest.mark.tengine
def test_an_onnx_file_runs_on_it_too(real, tmp_path):  # noqa: ARG001
    graph = reference.detector_graph()
    path = tmp_path / "little.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    frame = reference.picture()
    want, got = (
        FaceDetector(path, backend=backend).detect(frame) for backend in ("native", "tengine")
    )
    assert len(want) == len(got) > 0
    assert_allclose(got.rows, want.rows, rtol=0, atol=0.01)


def matches(found, wanted):
    """How many faces of one are in the other, each taken once, best first."""
    left = list(range(len(wanted)))
    hits = 0
    for box in found.boxes:
        overlaps = [reference.iou(box, wanted.boxes[i]) for i in left]
        if overlaps and max(overlaps) >= 0.5:
            left.pop(int(np.argmax(overlaps)))
            hits += 1
    return hits


@pytest.mark.tengine
@needs_shared
@pytest.mark.parametrize("name", QUANTISED_MODELS)
def test_quantised_models_find_the_faces_of_the_float_one(real, name):  # noqa: ARG001
    reason = tengine.discouraged(tmfile.read((TMFILES / f"{name}.tmfile").read_bytes()))
    if reason is not None:
        pytest.skip(f"here {reason}")
    plain = FaceDetector(TMFILES / "rfb320.tmfile", backend="tengine", score_threshold=0.7)
    quantised = FaceDetector(TMFILES / f"{name}.tmfile", backend="tengine", score_threshold=0.7)
    pairs = [(quantised.detect(frame), plain.detect(frame)) for frame in images()]
    hits = sum(matches(*pair) for pair in pairs)
    # Here int8 finds 205 of 206 and 13 more, uint8 195 and 3 more: recall 0.995 and 0.947, precision 0.940
    # and 0.985. On the 24 pictures of their calibration it was 0.983 and 0.950, 0.965 and 0.991.
    assert hits >= 0.93 * sum(len(wanted) for _, wanted in pairs)
    assert hits >= 0.93 * sum(len(found) for found, _ in pairs)
    assert hits > 80


@pytest.mark.tengine
@needs_shared
@pytest.mark.parametrize("name", [*FLOAT_MODELS, *QUANTISED_MODELS])
def test_a_model_that_it_runs_wrongly_here_is_warned_of_and_no_other(real, name, recwarn):  # noqa: ARG001
    path = TMFILES / f"{name}.tmfile"
    reason = tengine.discouraged(tmfile.read(path.read_bytes()))
    detector = FaceDetector(path, backend="tengine")
    said = [str(warning.message) for warning in recwarn if "backend" in str(warning.message)]
    assert said == ([] if reason is None else [f"the backend tengine: {reason}"])
    # Which faces is not promised: stock int8 on 64-bit ARM found 170 of the 218 in the photographs.
    detector.detect(reference.picture())


@pytest.mark.tengine
@needs_shared
@pytest.mark.slow
def test_opening_and_closing_keeps_no_memory(real):  # noqa: ARG001
    graph = tmfile.read((TMFILES / "rfb320.tmfile").read_bytes())

    def cycles(count):
        for _ in range(count):
            tengine.open_graph(graph, 1).run()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    settled = cycles(20)
    # A network takes some 4 MB: one that stayed in 180 would be 20 KB a cycle.
    assert cycles(180) - settled < 4 << 20


@pytest.mark.tengine
@needs_shared
def test_two_detectors_work_in_two_threads(real):  # noqa: ARG001
    frames = images()
    detectors = [FaceDetector(TMFILES / f"{n}.tmfile", backend="tengine") for n in FLOAT_MODELS]
    wanted = [[d.detect(frame).rows for frame in frames] for d in detectors]

    def work(index):
        return [[detectors[index].detect(frame).rows for frame in frames] for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        for want, rounds in zip(wanted, pool.map(work, range(2))):
            for found in rounds:
                for a, b in zip(found, want):
                    assert_array_equal(a, b)


@pytest.mark.tengine
@needs_shared
def test_threads_take_turns_on_one_detector(real):  # noqa: ARG001
    frames = images()[:3]
    detector = FaceDetector(TMFILES / "slim320.tmfile", backend="tengine", num_threads=2)
    wanted = [detector.detect(frame).rows for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for i, faces in enumerate(pool.map(detector.detect, frames * 10)):
            assert_array_equal(faces.rows, wanted[i % 3])


@pytest.mark.tengine
@pytest.mark.skipif(len(CPUS) < 2, reason="this process may use one CPU only")
def test_the_real_library_leaves_the_calling_thread_where_it_was(real):  # noqa: ARG001
    for threads in (1, 2):
        tengine.open_graph(reference.detector_graph(), threads)
        assert os.sched_getaffinity(0) == CPUS


@pytest.mark.tengine
def test_the_real_library_says_what_is_wrong(real):
    model = tmfile.write(reference.detector_graph())
    with pytest.raises(BackendError, match="cannot load the network: model is not version 2"):
        _core.Tengine(real, b"\1" + model[1:], num_threads=1)


@pytest.mark.tengine
def test_a_fork_is_an_error_with_several_threads_and_works_with_one(real):
    program = """
import os, sys
import numpy as np
from edgeface import BackendError
from edgeface.backends import tengine
several, single = (tengine.open_graph(tengine._one_convolution(), n) for n in (2, 1))
several.run()
single.run()
child = os.fork()
if child == 0:
    single.run()
    tengine.open_graph(tengine._one_convolution(), 1).run()
    try:
        several.run()
    except BackendError:
        os._exit(7)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = in_child(program)
    assert ended.returncode == 7, f"{real}: {ended.stderr}"


@pytest.mark.tengine
def test_the_probe_is_what_the_real_library_passes(real):
    assert tengine._probed(probe.identity(real)) is None
