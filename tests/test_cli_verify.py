from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys

import numpy as np
import pytest

from edgeface import Faces, model, parity
from edgeface.backends import BACKENDS
from edgeface.formats import onnx, tmfile
from edgeface.graph import Graph, Softmax
from edgeface.spec import to_json
from reference import SHARED, needs_shared
from test_cli import SPEC, network, picture, save

WEIGHTS = SHARED / "weights"
RFB = WEIGHTS / "tmfile" / "rfb320.tmfile"


@pytest.fixture(autouse=True)
def native_first(monkeypatch):
    monkeypatch.delenv("EDGEFACE_BACKEND", raising=False)


@pytest.fixture
def run(run_edgeface):
    """Runs edgeface verify; (status, stdout, stderr)."""
    return functools.partial(run_edgeface, "verify")


@pytest.fixture
def written(tmp_path):
    """Writes a network with its spec inside."""

    def written(name, graph=None, spec=SPEC):
        path = tmp_path / name
        metadata = {} if spec is None else {model.METADATA_KEY: to_json(spec)}
        path.write_bytes(onnx.write(graph or network(), metadata))
        return path

    return written


def scaled(graph, name, factor):
    tensor = graph.tensors[name]
    changed = dataclasses.replace(tensor, data=tensor.data * np.float32(factor))
    return dataclasses.replace(graph, tensors={**graph.tensors, name: changed})


def renamed(graph):
    """Other names inside, and the heads' nodes in another order."""
    names = {name: f"t{i}" for i, name in enumerate(graph.tensors)}
    names.update((name, name) for name in (graph.input, *graph.outputs))
    tensors = {
        names[t.name]: dataclasses.replace(t, name=names[t.name]) for t in graph.tensors.values()
    }
    nodes = [
        dataclasses.replace(
            node,
            name=names[node.output],
            inputs=tuple(names[name] for name in node.inputs),
            output=names[node.output],
        )
        for node in graph.nodes
    ]
    heads = nodes[2:-3]
    nodes = nodes[:2] + heads[len(heads) // 2 :] + heads[: len(heads) // 2] + nodes[-3:]
    return Graph(tuple(nodes), tensors, graph.input, graph.outputs)


def without_softmax(graph):
    nodes = [node for node in graph.nodes if not isinstance(node.op, Softmax)]
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name != "scores"}
    return Graph(tuple(nodes), tensors, graph.input, ("logits", "boxes"))


LOGITS = dataclasses.replace(
    SPEC, heads=dataclasses.replace(SPEC.heads, scores="logits", activation="softmax")
)


# Tensors


def test_a_copy_is_the_same(run, written, tmp_path):
    one, other = written("one.onnx"), tmp_path / "other.tmfile"
    other.write_bytes(tmfile.write(network()))
    other.with_suffix(".json").write_text(to_json(SPEC), encoding="utf-8")
    status, out, err = run(one, other, "--images", save(tmp_path / "a.png"))
    assert (status, err) == (0, "")
    assert "scores: equal" in out
    assert "17 tensors, all in common; none differs" in out
    assert out.splitlines()[-1] == "verdict  same"


@pytest.mark.parametrize(
    ("factor", "verdict", "status"),
    [(1 + 3e-5, "same", 0), (1 + 3e-3, "close", 0), (1.1, "different", 1)],
)
def test_the_verdict_follows_the_largest_difference(run, written, factor, verdict, status):
    # b8 is the last layer of the first level's boxes, which its factor scales.
    graph = scaled(network(), "b8.weight", factor)
    found, out, _ = run(written("one.onnx"), written("other.onnx", graph), "--json")
    values = json.loads(out)
    scores, boxes = values["tensors"]["heads"]
    assert (found, values["verdict"]) == (status, verdict)
    assert scores["largest"] == 0
    assert 0 < boxes["largest"] <= (factor - 1) * boxes["magnitude"] * 1.01
    assert values["limits"]["same"]["tensor"] == parity.SAME.tensor
    diverging = values["tensors"]["diverging"]
    assert (diverging and diverging["name"]) == (None if verdict == "same" else "b8")


def test_tensors_are_paired_whatever_they_are_called(run, written):
    graph = network()
    other = renamed(graph)
    pairs = parity.common_tensors(graph, other)
    order = [node.output for node in graph.nodes]
    assert [name for name, _ in pairs] == order
    assert len({name for _, name in pairs}) == len(order)
    broken = renamed(scaled(graph, "level16.weight", 1.5))
    status, out, _ = run(written("one.onnx"), written("other.onnx", broken))
    assert status == 1
    assert re.search(r"the first: level16 \(t\d+\): differs by up to", out)


def test_where_operators_part_the_rest_is_still_compared(run, written):
    # The softmax is in the file, or left to the detector.
    one, other = written("one.onnx"), written("other.onnx", without_softmax(network()), LOGITS)
    status, out, _ = run(one, other, "--json")
    values = json.loads(out)
    assert (status, values["verdict"]) == (0, "same")
    assert [head["name"] for head in values["tensors"]["heads"]] == ["scores", "boxes"]
    assert values["tensors"]["compared"] < values["tensors"]["nodes"][0]


def test_networks_of_other_sizes_are_different(run, written):
    graph, size = network().resized(128, 96), {"width": 128, "height": 96}
    spec = dataclasses.replace(SPEC, input=dataclasses.replace(SPEC.input, **size))
    status, out, _ = run(written("one.onnx"), written("other.onnx", graph, spec))
    assert status == 1
    assert "their inputs are 64x48 and 128x96" in out


def test_other_preprocessing_is_different_from_the_input_on(run, written):
    spec = dataclasses.replace(SPEC, input=dataclasses.replace(SPEC.input, channels="bgr"))
    status, out, _ = run(written("one.onnx"), written("other.onnx", spec=spec))
    assert status == 1
    assert "the first: input: differs by up to" in out


def test_without_a_spec_outputs_of_one_name_are_compared(run, written, tmp_path):
    graph = network(scores="confidence")
    one, other = written("one.onnx", graph, None), written("other.onnx", graph, None)
    status, out, _ = run(one, other)
    assert status == 0
    assert "confidence: equal" in out
    assert "without a spec: " in out
    status, _, err = run(one, other, "--images", save(tmp_path / "a.png"))
    assert (status, err.count("\n")) == (2, 1)
    assert "faces need a spec" in err
    status, out, _ = run(one, written("third.onnx"))
    assert status == 1
    assert "they share 1 outputs" in out


def test_values_that_are_not_finite_are_different():
    values = np.array([[1.0, np.nan]], np.float32)
    difference = parity._difference("x", "x", values, values)
    assert (difference.largest, difference.verdict) == (np.inf, "different")


# Backends


def test_one_file_needs_two_backends(run, written):
    status, _, err = run(written("one.onnx"))
    assert status == 2
    assert "--backend-a and --backend-b" in err


@pytest.mark.onnx
def test_one_file_on_two_backends(run, written, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    image = save(tmp_path / "a.png")
    arguments = ["--backend-a", "native", "--backend-b", "onnxruntime", "--images", image]
    status, out, _ = run(written("one.onnx"), *arguments)
    assert status == 0
    assert "one.onnx on onnxruntime" in out
    # The engine keeps images in another order of axes.
    assert "17 tensors, all in common; none differs" in out


def test_a_backend_that_gives_no_tensors_inside_says_why(monkeypatch, run, written):
    opened = BACKENDS["native"].open_graph

    def only_heads(graph, num_threads):
        if len(graph.outputs) > 2:
            raise parity.BackendError("heads only")
        return opened(graph, num_threads)

    monkeypatch.setattr(BACKENDS["native"], "open_graph", only_heads)
    one, other = written("one.onnx"), written("other.onnx")
    status, out, _ = run(one, other, "--backend-a", "native", "--backend-b", "native")
    assert status == 0
    assert "the tensors inside were not compared: " in out
    assert "heads only" in out


# Faces


def faces(*rows):
    return Faces(np.array(rows, np.float32).reshape(-1, 5))


FACE = (100, 100, 140, 150, 0.9)


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ([FACE], "same"),
        ([(101, 100, 140, 150, 0.9)], "close"),
        ([(100, 100, 140, 150, 0.87)], "close"),
        ([(100, 100, 140, 150, 0.8)], "different"),
        ([(110, 100, 140, 150, 0.9)], "different"),
        ([(200, 100, 240, 150, 0.9)], "different"),
        ([], "different"),
        ([FACE, (200, 100, 240, 150, 0.7005)], "same"),
        ([FACE, (200, 100, 240, 150, 0.74)], "close"),
        ([FACE, (200, 100, 240, 150, 0.76)], "different"),
    ],
)
def test_verdict_on_faces(other, verdict):
    for pair in ((faces(FACE), faces(*other)), (faces(*other), faces(FACE))):
        assert parity.match_faces(*pair, 640, (0.7, 0.7)).verdict == verdict


def test_boxes_are_measured_at_one_width():
    other = faces((104, 100, 140, 150, 0.9))
    for width, largest in ((640, 4.0), (1280, 2.0), (320, 8.0)):
        found = parity.match_faces(faces(FACE), other, width, (0.7, 0.7))
        assert (found.matched, found.largest_box) == (1, largest)


def test_every_face_is_matched_once():
    near = (102, 100, 142, 150, 0.8)
    found = parity.match_faces(faces(FACE, near), faces(near), 640, (0.7, 0.7))
    assert (found.counts, found.matched) == ((2, 1), 1)


def test_pictures_that_cannot_be_read_are_named(run, written, tmp_path):
    image, broken = save(tmp_path / "in" / "a.png"), tmp_path / "in" / "b.png"
    broken.write_bytes(b"no picture")
    one, other = written("one.onnx"), written("other.onnx")
    status, out, err = run(one, other, "--images", image.parent, "--json")
    assert status == 1
    assert f"edgeface: {broken}: " in err
    assert [found["file"] for found in json.loads(out)["images"]] == [str(image)]


def test_progress_goes_to_a_terminal(monkeypatch, run, written, tmp_path):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    images = [save(tmp_path / f"{i}.png", picture(i)) for i in range(2)]
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    status, out, err = run(written("one.onnx"), written("other.onnx"), "--images", *images)
    assert status == 0
    assert "0/2" in err
    assert out.splitlines()[-1] == "verdict  same"


# The released files


@needs_shared
def test_released_files_of_one_network_find_the_same(run):
    released = WEIGHTS / "ultraface" / "version-RFB-320_simplified.onnx"
    images = [SHARED / "images" / name for name in ("10.jpg", "3.jpg")]
    status, out, _ = run(RFB, released, "--images", *images, "--json")
    values = json.loads(out)
    assert (status, values["verdict"]) == (0, "same")
    assert [image["matched"] for image in values["images"]] == [19, 5]


@needs_shared
def test_a_quantised_network_has_other_heads_and_most_faces(run):
    images = [SHARED / "images" / name for name in ("10.jpg", "3.jpg", "1.jpg")]
    status, out, _ = run(RFB, RFB.with_name("rfb320-int8.tmfile"), "--images", *images, "--json")
    values = json.loads(out)
    assert (status, values["verdict"]) == (1, "different")
    assert values["tensors"]["verdict"] == "different"
    assert values["tensors"]["compared"] == 73
    assert values["tensors"]["diverging"] is not None
    assert values["faces"]["matched"] >= 0.95 * max(values["faces"]["counts"])
    assert values["faces"]["verdict"] == "close"


@needs_shared
@pytest.mark.onnx
@pytest.mark.parametrize("name", ["rfb320", "rfb320-int8"])
def test_tensors_inside_are_the_same_on_two_backends(run, name):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = RFB.with_name(f"{name}.tmfile")
    status, out, _ = run(path, "--backend-a", "native", "--backend-b", "onnxruntime")
    assert status == 0
    assert "73 tensors, all in common; none differs" in out
