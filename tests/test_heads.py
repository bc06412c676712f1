"""Heads that a file has by level: YuNet's, in little and as released."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edgeface import FaceDetector, heads, model, trim, zoo
from edgeface import spec as specs
from edgeface.backends import native
from edgeface.errors import ModelError
from edgeface.formats import onnx
from edgeface.graph import Graph
from reference import SHARED, Builder, needs_shared, photograph, quantize, run_graph, run_quantized

STRIDES = (8, 16, 32)
KINDS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
YUNET = SHARED / "weights" / "yunet" / "yunet_n_320_320.onnx"


def little_yunet(width=64, height=96):
    """Heads of YuNet's names and shapes."""
    b = Builder(3, height, width)
    x = b.max_pool(b.conv("input", 6, 3, stride=2, activation="relu"))
    made = {}
    for stride in STRIDES:
        x = b.max_pool(b.conv(x, 8, 3, activation="relu"))
        for kind, columns in KINDS.items():
            name = f"{kind}_{stride}"
            rows = b.rows(b.conv(x, columns, 3), columns)
            made[name] = b.sigmoid(rows, name) if columns == 1 else rows
    return as_named(b.graph(*made.values()), dict(zip(made.values(), made)))


def as_named(graph, names):
    def new(name):
        return names.get(name, name)

    nodes = tuple(
        dataclasses.replace(n, inputs=tuple(map(new, n.inputs)), output=new(n.output))
        for n in graph.nodes
    )
    tensors = {new(k): dataclasses.replace(t, name=new(k)) for k, t in graph.tensors.items()}
    return Graph(nodes, tensors, graph.input, tuple(map(new, graph.outputs)))


@pytest.fixture(scope="module")
def graph():
    return little_yunet()


def test_levels_are_joined_in_the_order_of_the_strides(graph):
    joined = heads.joined(graph, zoo.yunet(graph))
    image = np.random.default_rng(0).normal(size=(1, 3, 96, 64)).astype(np.float32)
    values = run_graph(joined, image)
    assert joined.outputs == ("cls_{stride}", "bbox_{stride}", "kps_{stride}", "obj_{stride}")
    for kind in KINDS:
        parts = [values[f"{kind}_{stride}"][0] for stride in STRIDES]
        assert_array_equal(values[f"{kind}_{{stride}}"][0], np.concatenate(parts, axis=1))


def test_what_is_joined_is_not_joined_again_and_what_has_no_levels_stays(graph):
    joined = heads.joined(graph, zoo.yunet(graph))
    assert heads.joined(joined, zoo.yunet(graph)) is joined
    assert heads.joined(graph, zoo.ultraface(graph)) is graph


def test_joined_levels_follow_the_input_size(graph):
    joined = heads.joined(graph, zoo.yunet(graph)).resized(128, 160)
    shapes = {name: joined.tensors[name].shape for name in joined.outputs}
    assert shapes == heads.shapes(zoo.yunet(graph).resized(128, 160))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantised_levels_are_joined_in_the_coarsest_scale(graph, dtype):
    rounded = quantize(graph, dtype, seed=3)
    joined = heads.joined(rounded, zoo.yunet(graph))
    for kind in KINDS:
        scales = [rounded.tensors[f"{kind}_{s}"].quantization.scale[0] for s in STRIDES]
        assert joined.tensors[f"{kind}_{{stride}}"].quantization.scale[0] == max(scales)
    image = np.random.default_rng(0).integers(0, 100, (1, 3, 96, 64)).astype(dtype)
    assert run_quantized(joined, image)["cls_{stride}"].shape == (1, 126, 1)


def test_a_level_that_is_not_there_is_named(graph):
    fewer = dataclasses.replace(graph, outputs=graph.outputs[:-1])
    with pytest.raises(ModelError, match="the spec names 'kps_32'"):
        heads.joined(fewer, zoo.yunet(graph))


def test_the_family_is_told_by_its_outputs(graph):
    spec = zoo.yunet(graph)
    assert zoo.recognised(graph) == spec
    assert zoo.recognised(heads.joined(graph, spec)) == spec
    assert zoo.recognised(dataclasses.replace(graph, outputs=graph.outputs[:-1])) is None


def test_no_level_of_points_can_be_spared(graph):
    assert trim.needed_strides(zoo.yunet(graph).priors, 1000) == STRIDES


def test_levels_of_points_can_be_chosen(graph):
    spec = zoo.yunet(graph)
    trimmed, fewer = trim.trimmed(heads.joined(graph, spec), spec, (16, 32))
    shapes = {name: trimmed.tensors[name].shape for name in trimmed.outputs}
    assert shapes == heads.shapes(fewer)


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_a_model_with_heads_by_level_detects(graph, tmp_path, backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    path = tmp_path / "little.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(zoo.yunet(graph)))
    with FaceDetector(path, backend=backend, score_threshold=0.0, iou_threshold=1.0) as detector:
        faces = detector.detect(np.zeros((96, 64, 3), np.uint8))
    assert faces.landmarks.shape[1:] == (5, 2)
    assert len(faces) > 0


# --- As released -------------------------------------------------------------------------------------------


@needs_shared
def test_the_released_network_gives_what_onnxruntime_gives():
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(YUNET), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)
    names = [value.name for value in session.get_outputs()]
    wants = dict(zip(names, session.run(names, {"input": image})))
    opened = model.load(YUNET)
    engine = native.open_graph(opened.graph, 2)
    engine.input()[:] = image
    engine.run()
    for kind in KINDS:
        want = np.concatenate([wants[f"{kind}_{stride}"][0] for stride in STRIDES])
        # Both are float32 programs: 2e-6 here, of values up to 1.5.
        assert np.abs(engine.output(f"{kind}_{{stride}}") - want).max() < 1e-4


@needs_shared
def test_the_dynamic_file_is_the_same_network():
    data = YUNET.with_name("yunet_n_dynamic.onnx").read_bytes()
    fixed, dynamic = onnx.read(YUNET.read_bytes()), onnx.load(data, (320, 320)).graph
    assert [node.op for node in dynamic.nodes] == [node.op for node in fixed.nodes]
    with pytest.raises(ModelError, match="no fixed height but 'height'; export the model"):
        onnx.read(data)


@needs_shared
@pytest.mark.parametrize("name", ["1.jpg", "2.jpg", "3.jpg", "10.jpg", "26.jpg"])
def test_the_released_network_finds_opencvs_faces(name):
    """All of them but in 17.jpg, where OpenCV's own NMS, on whole pixels, keeps 3 of 576 more."""
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    if not hasattr(cv2, "FaceDetectorYN"):
        pytest.skip("this OpenCV has no FaceDetectorYN")
    frame = photograph(name)
    height, width = frame.shape[:2]
    theirs = cv2.FaceDetectorYN.create(str(YUNET), "", (width, height), 0.6, 0.3, 5000)
    _, want = theirs.detect(frame)
    padded = np.pad(frame, ((0, -height % 32), (0, -width % 32), (0, 0)))  # as it does itself
    with FaceDetector(
        YUNET,
        backend="native",
        input_size=(padded.shape[1], padded.shape[0]),
        score_threshold=0.6,
        max_faces=1000,
    ) as detector:
        got = detector.detect(padded)
    want = want[np.argsort(-want[:, 14], kind="stable")]
    corners = np.hstack([want[:, :2], want[:, :2] + want[:, 2:4]])
    edges = [padded.shape[1], padded.shape[0]] * 2
    assert len(got) == len(want)
    # Sums of a few float32 numbers below 2048, which are 1.2e-4 apart.
    assert np.abs(got.boxes - np.clip(corners, 0, edges)).max() < 1e-2
    assert np.abs(got.landmarks.reshape(-1, 10) - want[:, 4:14]).max() < 1e-2
    assert np.abs(got.scores - want[:, 14]).max() < 1e-5
