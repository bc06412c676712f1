"""int8 of what pyramids have: slopes, pools, upsampling, sigmoids."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.backends import native
from edgeface.quantization import Method
from edgeface.quantization.equalization import equalized
from edgeface.quantization.observing import observe
from edgeface.quantization.ranges import choose, groups
from edgeface.quantization.rounding import Rounding, rounded_graph, with_own_constants
from edgeface.spec import InputSpec
from reference import Builder, run_graph

SOURCE = InputSpec("input", 24, 20, "bgr", (127.0,) * 3, (1 / 64,) * 3, "stretch")


def pyramid():
    b = Builder(3, 20, 24, seed=2)
    fine = b.conv("input", 8, 3, stride=2, activation="leaky_relu", name="fine")
    wide = b.conv(fine, 10, activation="leaky_relu", name="wide")
    deep = b.conv(wide, 12, 3, activation="leaky_relu", name="deep")
    pooled = b.max_pool(deep, 2, name="pooled")
    coarse = b.leaky_relu(b.conv(pooled, 8, name="coarse"), name="bent")
    merged = b.add(b.upsample(coarse, fine, name="large"), fine, "leaky_relu", name="merged")
    heads = [
        b.sigmoid(b.rows(b.conv(x, 2), 2), name=f"share{i}") for i, x in enumerate((merged, coarse))
    ]
    return with_own_constants(b.graph(b.concat(*heads, axis=1, name="shares"), merged))


@pytest.fixture(scope="module")
def graph():
    return pyramid()


def images(count):
    random = np.random.default_rng(7)
    return [
        random.integers(-127, 128, (1, 3, 20, 24)).astype(np.float32) / 64 for _ in range(count)
    ]


def group_of(graph, name):
    [found] = [set(names) for names in groups(graph) if name in names]
    return found


def test_only_what_is_passed_on_shares_a_scale(graph):
    assert group_of(graph, "deep") == {"deep", "pooled"}
    assert group_of(graph, "large") == {"bent", "large"}  # not with what it is as large as
    assert group_of(graph, "coarse") == {"coarse"}  # a slope makes small what is below zero
    assert group_of(graph, "share0") == {"share0", "share1", "shares"}


def integers(graph, rounding):
    statistics = observe(graph, images(4))
    ranges = choose(graph, statistics, Method(), SOURCE)
    assert ranges["shares"] == 1.0
    return rounded_graph(graph, ranges, statistics, rounding)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("equalize", [False, True])
def test_int8_computes_what_float32_does(graph, equalize, zero_points):
    source = equalized(graph, observe(graph, images(4))) if equalize else graph
    rounded = integers(source, Rounding(zero_points=zero_points))
    engine = native.open_graph(rounded, 1)
    [image] = images(1)
    engine.input()[:] = np.rint(image * 64)
    engine.run()
    wants = run_graph(graph, image)
    for name, allowed in (("shares", 0.06), ("merged", 0.1)):
        want = wants[name][0]
        want = want.reshape(-1, 2) if name == "shares" else want[0].reshape(8, -1).T
        pairs = rounded.tensors[name].quantization
        got = (engine.output(name).astype(int) - pairs.zero_point[0]) * pairs.scale[0]
        # A few steps of some layers' 127, of the largest value.
        assert np.abs(got - want).max() < allowed * np.abs(want).max()


def test_a_slope_is_not_positive_but_a_sigmoid_is(graph):
    rounded = integers(graph, Rounding(zero_points=True))
    zeros = {
        name: int(rounded.tensors[name].quantization.zero_point[0])
        for name in ("fine", "merged", "shares")
    }
    assert zeros == {"fine": 0, "merged": 0, "shares": -127}


def test_equalizing_passes_a_slope(graph):
    changed = equalized(graph, observe(graph, images(4)))
    [node] = [node for node in graph.nodes if node.output == "wide"]
    assert not np.array_equal(*(g.tensors[node.inputs[1]].data for g in (graph, changed)))
    [image] = images(1)
    want, got = (run_graph(g, image)["merged"][0] for g in (graph, changed))
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4)
