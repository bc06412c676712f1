from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import reference
from edgeface import model, networks, trim, zoo
from edgeface.backends import open_backend
from edgeface.errors import ModelError
from edgeface.graph import Concat, Graph, Reshape
from edgeface.spec import PriorSpec
from reference import SHARED, Builder, detector_graph, detector_spec, needs_shared
from test_networks import make_weights
from test_retinaface import make_weights as make_retinaface

WEIGHTS = SHARED / "weights"

ULTRAFACE = zoo.ultraface(detector_graph()).priors
RETINAFACE = zoo.retinaface(detector_graph()).priors
RETINAFACE_320 = zoo.retinaface_320(detector_graph()).priors


def outputs_of(graph, backend):
    runner, _ = open_backend(graph, backend, 1)
    data = runner.input()
    data[:] = np.random.default_rng(0).integers(-60, 60, data.shape).astype(data.dtype)
    runner.run()
    return {name: np.array(runner.output(name)) for name in graph.outputs}


def assert_same_levels(graph, spec, strides, backend):
    """Bit for bit, rows of the levels that stay; and gone are those that do not."""
    small, fewer = trim.trimmed(graph, spec, strides)
    assert fewer.priors.strides == tuple(s for s in spec.priors.strides if s in strides)
    rows = spec.priors.level_counts(*graph.input_size)
    is_kept = np.repeat([stride in strides for stride in spec.priors.strides], rows)
    whole, part = outputs_of(graph, backend), outputs_of(small, backend)
    assert list(whole) == list(part)
    for name, values in whole.items():
        columns = graph.tensors[name].shape[-1]
        wanted = values.reshape(-1, columns)[is_kept]
        assert 0 < len(wanted) == fewer.priors.count(*small.input_size)
        assert wanted.tobytes() == part[name].reshape(-1, columns).tobytes()


# --- Which levels a face needs ------------------------------------------------------------------------


def iou(prior, width, height):
    """Of a square prior and a face about one centre."""
    shared = min(prior, width) * min(prior, height)
    return shared / (prior**2 + width * height - shared)


@pytest.mark.parametrize("priors", [ULTRAFACE, RETINAFACE, RETINAFACE_320])
@pytest.mark.parametrize("aspect", [1.0, 1.3, 1.7, 2.0])
def test_a_face_overlaps_a_level_that_stays_at_least_as_much_as_one_that_goes(priors, aspect):
    for wanted in np.arange(10, 600, 1.0):
        strides = trim.needed_strides(priors, wanted)
        for face in (wanted, 1.1 * wanted, 2 * wanted):
            sizes = (face, face / aspect)
            stays, goes = 0.0, 0.0
            for stride, level in zip(priors.strides, priors.min_sizes):
                best = max(iou(side, *sizes) for side in level)
                stays, goes = (
                    (max(stays, best), goes) if stride in strides else (stays, max(goes, best))
                )
            assert stays >= goes - 1e-12
            if goes > 0:
                assert stays > 0.35 or face > 1.2 * max(priors.min_sizes[-1])


@pytest.mark.parametrize(
    ("priors", "least"),
    [
        (ULTRAFACE, {8: 48, 16: 96, 32: 192}),
        (RETINAFACE, {8: 64, 16: 256}),
        (RETINAFACE_320, {8: 40, 16: 128}),
    ],
)
def test_levels_go_one_after_another_and_one_stays(priors, least):
    assert trim.dispensable_from(priors) == least
    assert trim.needed_strides(priors, 0) == priors.strides
    assert trim.needed_strides(priors, 1e9) == priors.strides[-1:]
    for index, smallest in enumerate(least.values()):
        assert trim.needed_strides(priors, math.nextafter(smallest, 0)) == priors.strides[index:]
        assert trim.needed_strides(priors, smallest) == priors.strides[index + 1 :]


def test_a_level_stays_while_the_next_begins_with_larger_faces():
    priors = PriorSpec((8, 16), ((10.0,), (100.0,)), "cell", False, (0.1, 0.2))
    assert trim.needed_strides(priors, 99) == (8, 16)
    assert trim.needed_strides(priors, 100) == (16,)


def test_levels_need_not_be_in_order():
    priors = dataclasses.replace(
        RETINAFACE, strides=RETINAFACE.strides[::-1], min_sizes=RETINAFACE.min_sizes[::-1]
    )
    assert trim.needed_strides(priors, 64) == (32, 16)


# --- The network without them -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize("strides", [(16,), (8,)])
def test_what_stays_has_the_same_bits(backend, strides):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = detector_graph(landmarks=True)
    assert_same_levels(graph, detector_spec(graph), strides, backend)


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize("network", ["slim", "RFB", "RFB-landmark"])
@pytest.mark.parametrize("strides", [(16, 32, 64), (64,)])
def test_ultra_light_without_levels_has_the_same_bits(backend, network, strides):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = networks.build(make_weights(network), (160, 120))
    assert_same_levels(graph, zoo.recognised(graph), strides, backend)


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("mobilenet0.25", (203, 171)),
        pytest.param("resnet50", (70, 61), marks=pytest.mark.slow),  # 100 MB of weights
    ],
)
def test_retinaface_without_its_finest_level_has_the_same_bits(backend, backbone, size):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = networks.build(make_retinaface(backbone), size)
    assert_same_levels(graph, zoo.retinaface(graph), (16, 32), backend)


@needs_shared
@pytest.mark.parametrize("name", ["rfb320-int8", "rfb320-uint8"])
def test_integers_stay_the_same(name):
    opened = model.load(WEIGHTS / "tmfile" / f"{name}.tmfile")
    assert_same_levels(opened.graph, opened.spec, (16, 32, 64), "native")


@needs_shared
def test_heads_that_come_by_level_lose_it_too():
    opened = model.load(WEIGHTS / "yunet" / "yunet_n_320_320.onnx")
    assert len(opened.spec.heads.roles) == 4
    assert_same_levels(opened.graph, opened.spec, (16, 32), "native")


def test_retinafaces_finest_level_is_half_of_it():
    graph = networks.build(make_retinaface("mobilenet0.25"), (640, 640))
    spec = zoo.retinaface(graph)
    small, fewer = trim.trimmed(graph, spec, (16, 32))
    assert (spec.priors.count(640, 640), fewer.priors.count(640, 640)) == (16800, 4000)
    counts = [sum(map(g.multiply_adds, g.nodes)) for g in (graph, small)]
    assert counts == [981_145_600, 484_710_400]
    gone = {node.name.split(".")[0] for node in graph.nodes} - {
        n.name.split(".")[0] for n in small.nodes
    }
    assert "ssh1" in gone
    names = {node.name for node in small.nodes}
    assert not any(name.startswith(("fpn.merge1", "fpn.output1")) for name in names)
    # What comes after a backbone's first stage is not needed by that level alone.
    assert "body.stage1.5.3" in names


def test_nothing_is_done_where_every_level_stays():
    graph = detector_graph()
    spec = detector_spec(graph)
    assert trim.trimmed(graph, spec, (16, 8)) == (graph, spec)


def test_a_trimmed_networks_spec_leaves_accuracy_and_digest_out():
    graph = detector_graph()
    spec = detector_spec(graph, ap={"easy": 0.9}, sha256="0" * 64)
    _, fewer = trim.trimmed(graph, spec, (16,))
    assert (fewer.ap, fewer.sha256) == ({}, None)
    assert (fewer.priors.strides, fewer.priors.min_sizes) == ((16,), ((32.0,),))
    assert dataclasses.replace(fewer, priors=spec.priors, ap=spec.ap, sha256=spec.sha256) == spec


@pytest.mark.parametrize("strides", [(), (8, 64), (64,)])
def test_levels_that_are_not_there_are_refused(strides):
    graph = detector_graph()
    with pytest.raises(ValueError, match=r"levels are .*; expected one or more of 8, 16"):
        trim.trimmed(graph, detector_spec(graph), strides)


def flat_graph():
    """Its boxes are joined channel by channel, as a vector."""
    b = Builder(3, 16, 16)
    fine, coarse = b.conv("input", 8, 3, stride=8), b.conv("input", 4, 3, stride=16)
    parts = [b.node(Reshape((1, -1)), level) for level in (fine, coarse)]
    boxes = b.node(Reshape((1, -1, 4)), b.node(Concat(1), *parts), name="boxes")
    levels = [b.rows(b.conv(data, n), 2) for data, n in ((fine, 4), (coarse, 2))]
    scores = b.concat(*levels, name="scores")
    return b.graph(scores, boxes)


def test_levels_joined_in_another_way_are_refused_by_the_output():
    graph = flat_graph()
    spec = detector_spec(graph)
    assert not trim.can_trim(graph, spec)
    with pytest.raises(ModelError, match="output 'boxes' ends in Reshape"):
        trim.trimmed(graph, spec, (16,))


def test_priors_of_another_network_are_refused_by_the_output():
    graph = detector_graph()
    priors = dataclasses.replace(detector_spec(graph).priors, strides=(16, 8))
    spec = dataclasses.replace(detector_spec(graph), priors=priors)
    with pytest.raises(
        ModelError, match=r"output 'scores' joins .* for levels of \(48, 96\) priors"
    ):
        trim.trimmed(graph, spec, (16,))


def test_an_output_that_is_the_input_is_refused():
    graph = detector_graph()
    only = Graph(graph.nodes, graph.tensors, graph.input, (*graph.outputs, "input"))
    spec = detector_spec(graph)
    spec = dataclasses.replace(spec, heads=dataclasses.replace(spec.heads, boxes="input"))
    assert not trim.can_trim(only, spec)


def test_resizing_and_trimming_may_come_in_either_order():
    graph = detector_graph()
    spec = detector_spec(graph)
    one, _ = trim.trimmed(graph.resized(128, 64), spec.resized(128, 64), (16,))
    other = trim.trimmed(graph, spec, (16,))[0].resized(128, 64)
    assert one.nodes == other.nodes
    assert {n: t.shape for n, t in one.tensors.items()} == {
        n: t.shape for n, t in other.tensors.items()
    }


def test_a_reference_run_agrees():
    """Without any backend: the definition of every operator in float64."""
    graph = detector_graph()
    spec = detector_spec(graph)
    small, _ = trim.trimmed(graph, spec, (16,))
    image = np.random.default_rng(0).uniform(-1, 1, graph.tensors["input"].shape).astype(np.float32)
    whole, part = reference.run_graph(graph, image), reference.run_graph(small, image)
    rows = spec.priors.level_counts(*graph.input_size)[0]
    for name in graph.outputs:
        assert np.array_equal(whole[name][0][:, rows:], part[name][0])
