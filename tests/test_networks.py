from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import networks
from edgeface.backends import open_backend
from edgeface.errors import ModelError
from edgeface.formats import onnx, torch_weights
from edgeface.graph import Conv
from reference import ROUNDING, SHARED, needs_shared

WEIGHTS = SHARED / "weights"
NETWORKS = ["slim", "RFB", "slim-landmark", "RFB-landmark"]

# --- The networks as their training code has them: a convolution, then a BatchNorm, then a ReLU -------

CHANNELS = [16, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256]
STRIDE_2 = (0, 2, 4, 8, 11)
FEATURES = {7: 3, 10: 2, 12: 2, 13: 3}  # priors of the level that looks at this layer


class Modules:
    """Computes in float64 what PyTorch would with arrays of these names; makes them up when there are none."""

    def __init__(self, arrays=None, seed=0):
        self.made = arrays is None
        self.arrays = {} if arrays is None else arrays
        self.random = np.random.default_rng(seed)

    def array(self, name, shape, low=None, high=None):
        if self.made:
            scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
            values = self.random.normal(scale=scale, size=shape)
            if low is not None:
                values = self.random.uniform(low, high, shape)
            self.arrays[name] = values.astype(np.float32)
        assert self.arrays[name].shape == shape
        return self.arrays[name].astype(np.float64)

    def conv(self, data, name, channels, kernel=3, *, bias=False, groups=1, stride=1, dilation=1):
        pad = dilation * (kernel // 2)
        op = Conv((stride, stride), (dilation, dilation), (pad,) * 4, groups)
        shape = (channels, data.shape[1] // groups, kernel, kernel)
        made = reference.convolve(data, self.array(f"{name}.weight", shape), op)
        if bias:
            made += self.array(f"{name}.bias", (channels,), -0.1, 0.1)[:, None, None]
        return made

    def norm(self, data, name):
        shape = (data.shape[1],)
        gamma = self.array(f"{name}.weight", shape, 0.5, 1.5)
        beta = self.array(f"{name}.bias", shape, -0.5, 0.5)
        mean = self.array(f"{name}.running_mean", shape, -0.5, 0.5)
        variance = self.array(f"{name}.running_var", shape, 0.5, 1.5)
        if self.made:
            self.arrays[f"{name}.num_batches_tracked"] = np.array(1000)
        gamma, beta, mean, variance = (x[:, None, None] for x in (gamma, beta, mean, variance))
        return (data - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def relu(data):
    return np.maximum(data, 0)


def basic(m, data, name, channels, kernel, **options):
    return m.norm(m.conv(data, f"{name}.conv", channels, kernel, **options), f"{name}.bn")


def block(m, data, name):
    """BasicRFB of 64 channels with map_reduce 8, vision 1 and scale 1."""
    first = basic(m, data, f"{name}.branch0.0", 8, 1)
    first = relu(basic(m, first, f"{name}.branch0.1", 16, 3))
    first = basic(m, first, f"{name}.branch0.2", 16, 3, dilation=2)
    second = basic(m, data, f"{name}.branch1.0", 8, 1)
    second = relu(basic(m, second, f"{name}.branch1.1", 16, 3))
    second = basic(m, second, f"{name}.branch1.2", 16, 3, dilation=3)
    third = basic(m, data, f"{name}.branch2.0", 8, 1)
    third = relu(basic(m, third, f"{name}.branch2.1", 12, 3))
    third = relu(basic(m, third, f"{name}.branch2.2", 16, 3))
    third = basic(m, third, f"{name}.branch2.3", 16, 3, dilation=5)
    joined = np.concatenate([first, second, third], axis=1)
    linear = basic(m, joined, f"{name}.ConvLinear", 64, 1)
    return relu(linear + basic(m, data, f"{name}.shortcut", 64, 1))


def names_of(network):
    """What the repository calls the layers, the extra layer and the heads, with values per prior."""
    if network.endswith("landmark"):
        heads = {"boxes": ("loc", 4), "scores": ("conf", 2), "landmarks": ("landm", 10)}
        return [f"conv{i + 1}" for i in range(14)], heads
    heads = {"scores": ("classification_headers", 2), "boxes": ("regression_headers", 4)}
    return [*(f"base_net.{i}" for i in range(13)), "extras.0"], heads


def forward(m, network, image):
    """output -> values; scores before the softmax."""
    layers, heads = names_of(network)
    data, features = image, []
    for index, (name, channels) in enumerate(zip(layers, CHANNELS)):
        stride, before = 2 if index in STRIDE_2 else 1, data.shape[1]
        if index == 0:
            data = relu(m.norm(m.conv(data, f"{name}.0", channels, stride=stride), f"{name}.1"))
        elif index == 7 and network.startswith("RFB"):
            data = block(m, data, name)
        else:
            data = m.conv(data, f"{name}.0", before, groups=before, stride=stride)
            data = relu(m.norm(data, f"{name}.1"))
            data = relu(m.norm(m.conv(data, f"{name}.3", channels, 1), f"{name}.4"))
        features.append(data)
    extra = layers[13]
    data = relu(m.conv(data, f"{extra}.0", 64, 1, bias=True))
    data = relu(m.conv(data, f"{extra}.2.0", 64, bias=True, groups=64, stride=2))
    features.append(relu(m.conv(data, f"{extra}.2.2", 256, 1, bias=True)))
    return {output: rows(m, features, *head) for output, head in heads.items()}


def rows(m, features, head, values):
    parts = []
    for level, (layer, priors) in enumerate(FEATURES.items()):
        data, name = features[layer], f"{head}.{level}"
        if level < 3:
            channels = data.shape[1]
            data = relu(m.conv(data, f"{name}.0", channels, bias=True, groups=channels))
            data = m.conv(data, f"{name}.2", priors * values, 1, bias=True)
        else:
            data = m.conv(data, name, priors * values, bias=True)
        parts.append(data.transpose(0, 2, 3, 1).reshape(1, -1, values))
    return np.concatenate(parts, axis=1)


def make_weights(network, seed=0):
    """A state dict of made-up values."""
    modules = Modules(seed=seed)
    forward(modules, network, np.zeros((1, 3, 32, 32)))
    return modules.arrays


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return request.param


@pytest.fixture(scope="module")
def weights(network):
    return make_weights(network)


# --- What is built -----------------------------------------------------------------------------------


def shaken(weights, seed):
    """The weights in float64, each a rounding to float32 away."""
    random = np.random.default_rng(seed)
    signs = {key: random.choice([-1, 1], values.shape) for key, values in weights.items()}
    return {key: values * (1 + ROUNDING * signs[key]) for key, values in weights.items()}


def test_values_are_those_of_the_training_code(network, weights):
    width, height = 72, 56  # no multiple of 64: the last levels round up
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
    expected = forward(Modules(weights), network, np.float64(image))
    moved = [forward(Modules(shaken(weights, seed)), network, np.float64(image)) for seed in (1, 2)]
    graph = networks.build(weights, (width, height))
    values = reference.run_graph(graph, image)
    logits = next(node.inputs[0] for node in graph.nodes if node.output == "scores")
    for output, wanted in expected.items():
        found, _ = values[logits if output == "scores" else output]
        # Folding rounds what it folds once, to the nearest: that is less than to move it by the most
        # that rounding can, as above.
        tolerance = 2 * max(np.abs(other[output] - wanted).max() for other in moved)
        assert tolerance < 1e-5 * np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= tolerance


def test_input_and_outputs_have_their_names_and_shapes(network, weights):
    outputs = {"scores": 2, "boxes": 4}
    if network.endswith("landmark"):
        outputs["landmarks"] = 10
    for size, priors in [((320, 240), 4420), ((640, 480), 17640), ((300, 300), 5329)]:
        graph = networks.build(weights, size)
        assert (graph.input, graph.input_size) == ("input", size)
        assert graph.tensors["input"].shape == (1, 3, size[1], size[0])
        assert {name: graph.tensors[name].shape for name in graph.outputs} == {
            name: (1, priors, values) for name, values in outputs.items()
        }
        assert list(graph.outputs) == list(outputs)


def test_without_a_size_it_is_320x240(weights):
    assert networks.build(weights).input_size == (320, 240)


def test_a_graph_can_be_resized(weights):
    resized = networks.build(weights).resized(128, 96)
    assert (
        resized.tensors["boxes"].shape == networks.build(weights, (128, 96)).tensors["boxes"].shape
    )


def test_counters_of_training_steps_may_be_missing(weights):
    """PyTorch before 0.4.1 had none."""
    older = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(older) < len(weights)
    graphs = [networks.build(arrays) for arrays in (weights, older)]
    assert graphs[0].nodes == graphs[1].nodes


def test_weights_of_half_or_double_precision_are_taken(weights):
    plain = networks.build(weights)
    double = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in weights.items()}
    half = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in weights.items()}
    for tensor in plain.constants:
        same = networks.build(double).tensors[tensor.name].data
        assert_array_equal(same, tensor.data)
    assert all(tensor.dtype == np.float32 for tensor in networks.build(half).constants)


# --- What is refused ---------------------------------------------------------------------------------


def test_every_missing_array_is_named(network, weights):
    telling = {"slim": "base_net.0.0.weight", "RFB": "base_net.0.0.weight"}
    for key in weights:
        if key.endswith("num_batches_tracked") or key == telling.get(network, "landm.3.weight"):
            continue
        less = {name: values for name, values in weights.items() if name != key}
        with pytest.raises(ModelError, match="the weights") as error:
            networks.build(less)
        # Without the array that tells RFB from slim, it is a slim network that lacks others.
        assert f"'{key}'" in str(error.value) or "shortcut.conv" in key


def test_unexpected_arrays_are_named(weights):
    more = {**weights, "fc.weight": np.zeros((2, 1024), np.float32), "fc.bias": np.zeros(2)}
    with pytest.raises(ModelError, match=r"2 arrays too many: fc.bias, fc.weight"):
        networks.build(more)


def test_misshapen_arrays_are_named(network, weights):
    layer = names_of(network)[0][3]
    key = f"{layer}.3.weight"
    for values in (weights[key][:16], weights[key][..., 0], weights[key].astype(np.int32)):
        with pytest.raises(ModelError, match=f"'{key}' are .*; expected floats"):
            networks.build({**weights, key: values})


def test_a_head_of_three_classes_is_refused():
    """As of Ultra-Light trained to tell masks."""
    key = "classification_headers.0.2.weight"
    weights = {**make_weights("RFB"), key: np.zeros((9, 64, 1, 1), np.float32)}
    with pytest.raises(ModelError, match=r"\(9, 64, 1, 1\); expected floats \(6, 64, 1, 1\)"):
        networks.build(weights)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(weights, network, value):
    layer = names_of(network)[0][0]
    for key in (f"{layer}.0.weight", f"{layer}.1.weight", f"{layer}.1.running_mean"):
        broken = weights[key].copy()
        broken.reshape(-1)[0] = value
        with pytest.raises(ModelError, match="not finite"):
            networks.build({**weights, key: broken})


@pytest.mark.parametrize("value", [-2e-5, -1, np.nan])
def test_a_variance_that_is_not_positive_is_refused(weights, network, value):
    key = f"{names_of(network)[0][0]}.1.running_var"
    broken = weights[key].copy()
    broken[3] = value
    with pytest.raises(ModelError, match=f"'{key}' holds a variance"):
        networks.build({**weights, key: broken})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("stage1.0.0.weight", "backbone of RetinaFace"),
        ("backbone.layer1.weight", "no network known here .*: backbone.layer1.weight"),
    ],
)
def test_other_networks_are_refused(key, message):
    with pytest.raises(ModelError, match=message):
        networks.build({key: np.zeros((8, 3, 3, 3), np.float32)})


@pytest.mark.parametrize("size", [(0, 240), (320, 0), (1 << 15, 1 << 15)])
def test_a_size_that_cannot_be_is_refused(weights, size):
    with pytest.raises(ModelError):
        networks.build(weights, size)


# --- The released weights ----------------------------------------------------------------------------


def outputs_of(graph, image, backend):
    runner, _ = open_backend(graph, backend, 1)
    runner.input()[:] = image
    runner.run()
    return {name: np.array(runner.output(name)).reshape(-1) for name in graph.outputs}


@needs_shared
@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize(
    ("weights_file", "onnx_file"),
    [
        ("version-slim-320", "version-slim-320"),
        ("version-slim-320", "version-slim-320_simplified"),
        ("version-RFB-320", "version-RFB-320"),
        ("version-RFB-320", "version-RFB-320_simplified"),
        ("version-RFB-320", "version-RFB-320_without_postprocessing"),
        ("version-RFB-640", "version-RFB-640"),
    ],
)
def test_released_weights_give_what_the_released_onnx_gives(backend, weights_file, onnx_file):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = WEIGHTS / "ultraface"
    expected = onnx.read((folder / f"{onnx_file}.onnx").read_bytes())
    arrays = torch_weights.read((folder / f"{weights_file}.pth").read_bytes())
    graph = networks.build(arrays, expected.input_size)
    image = np.random.default_rng(2).uniform(-1, 1, expected.tensors[expected.input].shape)
    found, wanted = (outputs_of(g, np.float32(image), backend) for g in (graph, expected))
    for name, values in wanted.items():
        # Both run in float32; folding BatchNorm in float64 here and in float32 there differs by a few
        # roundings of values up to 8 in each of some 30 layers. Measured: 8e-6 at most.
        assert_allclose(found[name], values, rtol=0, atol=2e-5)


@needs_shared
def test_the_released_backbone_is_recognised_and_refused():
    file = WEIGHTS / "retinaface" / "mobilenetV1X0.25_pretrain.tar"
    with pytest.raises(ModelError, match="finds no faces by itself"):
        networks.build(torch_weights.read(file.read_bytes()))
