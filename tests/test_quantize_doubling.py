"""First channels twice, rounded half a step apart; slopes as nodes, as a .tmfile has them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.backends import native
from edgeface.formats import tmfile
from edgeface.graph import Conv, LeakyRelu, with_slopes_apart
from edgeface.quantization import Method, Options
from edgeface.quantization.doubling import doubled
from edgeface.quantization.equalization import equalized
from edgeface.quantization.observing import observe
from edgeface.quantization.ranges import choose
from edgeface.quantization.rounding import Rounding, rounded_graph, with_own_constants
from edgeface.spec import InputSpec
from reference import Builder, run_graph

SOURCE = InputSpec("input", 24, 20, "bgr", (127.0,) * 3, (1 / 64,) * 3, "stretch")


def stem(activation="leaky_relu"):
    """Two layers of as many channels, a third that mixes them, and more behind."""
    b = Builder(3, 20, 24, seed=2)
    first = b.conv("input", 8, 3, stride=2, activation=activation, name="first")
    own = b.conv(first, 8, 3, groups=8, activation=activation, name="own")
    mixed = b.conv(own, 12, activation=activation, name="mixed")
    return with_own_constants(b.graph(b.conv(mixed, 4, 3, name="last")))


def images(count):
    random = np.random.default_rng(7)
    return [
        random.integers(-127, 128, (1, 3, 20, 24)).astype(np.float32) / 64 for _ in range(count)
    ]


def with_both(graph, extra=1.0, coarse=1):
    """With the steps of what may be doubled so many times as large."""
    statistics = observe(graph, images(4))
    ranges = choose(graph, statistics, Method(), SOURCE)
    ranges.update({name: coarse * ranges[name] for name in ("first", "own") if name in ranges})
    return (*doubled(graph, statistics, ranges, extra), ranges)


def channels(graph):
    return {node.output: graph.tensors[node.output].shape[1] for node in graph.nodes}


@pytest.fixture(scope="module")
def graph():
    return stem()


@pytest.mark.parametrize("apart", [False, True])
def test_both_together_are_what_one_was_within_a_quarter_of_a_step(graph, apart):
    source = with_slopes_apart(graph) if apart else graph
    changed, statistics, ranges = with_both(source)
    assert channels(changed) == {**channels(source), **dict.fromkeys(inside(source), 16)}
    assert all(len(statistics[name].mean) == 16 for name in inside(source))
    [image] = images(1)
    want, got = run_graph(source, image), run_graph(changed, image)
    for name in inside(source):
        low, high = got[name][0][:, :8], got[name][0][:, 8:]
        step = ranges["own" if name.startswith("own") else "first"] / 127
        # Where a slope of 0.1 begins, 10 times as far; at the edges a move is not taken back.
        assert np.abs((low + high) / 2 - want[name][0]).max() < 5 * step
        assert 0.3 * step < np.median(np.abs(high - low)) < 6 * step
    # All of a value's weights together are some ten times one of them.
    assert np.abs(got["last"][0] - want["last"][0]).max() < 0.02 * np.abs(want["last"][0]).max()


def inside(graph):
    return [name for name in channels(graph) if name.split("/")[0] in ("first", "own")]


def test_noise_of_doubled_values_is_less():
    """Where theirs is most of it; half, but for the edges, which are half of so small an image."""
    graph, noise = stem(activation="none"), []
    for extra in (0.0, 1.0):
        changed, statistics, ranges = with_both(graph, extra, coarse=8)
        rounded = rounded_graph(changed, ranges, statistics, Rounding(scale_steps=0))
        scale = float(rounded.tensors["last"].quantization.scale[0])
        errors = []
        for image in images(4):
            want = run_graph(graph, image)["last"][0]
            errors.append(run(rounded, image).reshape(*want.shape[2:], -1) * scale)
            errors[-1] -= want[0].transpose(1, 2, 0)
        noise.append(np.sqrt(np.mean(np.square(errors))))
    assert noise[1] < 0.75 * noise[0]


def run(rounded, image):
    engine = native.open_graph(rounded, 1)
    engine.input()[:] = np.rint(image * 64)
    engine.run()
    return engine.output("last").astype(float)


def test_nothing_is_doubled_beyond_what_may_be_added(graph):
    costs = {node.output: graph.multiply_adds(node) for node in graph.nodes}
    whole = sum(costs.values())
    needed = (costs["first"] + costs["own"] + costs["mixed"]) / whole
    assert with_both(graph, needed * 0.99)[0] is graph
    changed = with_both(graph, needed * 1.01)[0]
    assert sum(map(changed.multiply_adds, changed.nodes)) == whole + needed * whole


def test_only_a_chain_that_ends_in_convolutions_is_doubled():
    b = Builder(3, 20, 24, seed=2)
    first = b.conv("input", 8, 3, name="first")
    seen = with_own_constants(b.graph(b.conv(first, 4, name="last"), first))
    assert with_both(seen)[0] is seen
    b = Builder(3, 20, 24, seed=2)
    first = b.conv("input", 8, 3, name="first")
    summed = b.add(b.conv(first, 8, name="last"), first, name="sum")
    joined = with_own_constants(b.graph(b.conv(summed, 4, name="behind")))
    assert with_both(joined)[0] is joined


@pytest.mark.parametrize("extra", [-0.1, 1.5])
def test_a_share_of_multiply_adds_is_between_0_and_1(extra):
    with pytest.raises(ValueError, match=f"extra is {extra}; expected 0 to 1"):
        Options(extra=extra)


def test_slopes_apart_compute_the_same_and_are_merged_again(graph):
    apart = with_slopes_apart(graph)
    assert all(n.op.activation == "none" for n in apart.nodes if isinstance(n.op, Conv))
    assert [n.output for n in apart.nodes if isinstance(n.op, LeakyRelu)] == [
        "first",
        "own",
        "mixed",
    ]
    [image] = images(1)
    np.testing.assert_array_equal(*(run_graph(g, image)["last"][0] for g in (graph, apart)))


def test_equalizing_passes_a_slope_that_is_a_node(graph):
    apart = with_slopes_apart(graph)
    changed = equalized(apart, observe(apart, images(4)))
    largest = observe(changed, images(4))
    for name in ("first/linear", "first"):
        one = observe(apart, images(4))[name].largest
        assert largest[name].largest.min() / largest[name].largest.max() > one.min() / one.max()
    [image] = images(1)
    want, got = (run_graph(g, image)["last"][0] for g in (apart, changed))
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_int8_with_slopes_apart_comes_back_from_a_tmfile_and_computes_the_same_bytes(graph):
    changed, statistics, ranges = with_both(with_slopes_apart(graph))
    rounded = rounded_graph(changed, ranges, statistics, Rounding())
    again = tmfile.read(tmfile.write(rounded))
    assert [n.op for n in again.nodes] == [n.op for n in rounded.nodes]
    results = [run(network, images(1)[0]) for network in (rounded, again)]
    assert len(np.unique(results[0])) > 20
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("kind", ["Conv", "LeakyRelu", "Upsample", "MaxPool"])
def test_a_layer_of_any_kind_has_a_bar(kind, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    media = pytest.importorskip("edgeface.media")
    from edgeface.quantization import Layer, Limits, plots

    plots.signal_to_noise(
        [Layer("value", kind, 0.1, 0, 30.0, 0.0)], Limits(), "net", tmp_path / "noise.png"
    )
    drawn = media.read_image(tmp_path / "noise.png").astype(int)
    is_blue = np.abs(drawn - (178, 114, 0)).max(axis=2) < 8
    assert is_blue.sum() > 1000
