from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import reference
from edgeface import model, networks
from edgeface.errors import ModelError
from edgeface.formats import torch_weights
from edgeface.graph import Conv
from reference import SHARED, needs_shared
from test_networks import Modules, outputs_of, relu, shaken

WEIGHTS = SHARED / "weights"
BACKBONES = ["mobilenet0.25", "resnet50"]
RELEASED = ["retinaface/mobilenet0.25_Final.pth", "ultraface-landmark/mobilenet0.25_Final.pth"]

# --- The networks as their training code has them: a convolution, then a BatchNorm, then a ReLU -------

SLOPE = 0.1


def leaky(data, slope=SLOPE):
    return np.where(data > 0, data, slope * data)


def conv_norm(m, data, name, channels, kernel=3, stride=1):
    return m.norm(m.conv(data, f"{name}.0", channels, kernel, stride=stride), f"{name}.1")


def depthwise(m, data, name, channels, stride):
    before = data.shape[1]
    data = leaky(
        m.norm(m.conv(data, f"{name}.0", before, groups=before, stride=stride), f"{name}.1")
    )
    return leaky(m.norm(m.conv(data, f"{name}.3", channels, 1), f"{name}.4"))


def mobilenet(m, image):
    data = leaky(conv_norm(m, image, "body.stage1.0", 8, stride=2))
    for index, (channels, stride) in enumerate([(16, 1), (32, 2), (32, 1), (64, 2), (64, 1)], 1):
        data = depthwise(m, data, f"body.stage1.{index}", channels, stride)
    first = data
    for index in range(6):
        data = depthwise(m, data, f"body.stage2.{index}", 128, 2 if index == 0 else 1)
    second = data
    data = depthwise(m, data, "body.stage3.0", 256, 2)
    return first, second, depthwise(m, data, "body.stage3.1", 256, 1)


def max_pool(data):
    """Windows of 3, every second one, with a pixel beyond each edge."""
    _, _, height, width = data.shape
    padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifted = [
        padded[:, :, y : y + height : 2, x : x + width : 2] for y in range(3) for x in range(3)
    ]
    return np.max(shifted, axis=0)


def resnet50(m, image):
    data = relu(m.norm(m.conv(image, "body.conv1", 64, 7, stride=2), "body.bn1"))
    data = max_pool(data)
    stages = []
    for number, (blocks, inside) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 1):
        for index in range(blocks):
            name = f"body.layer{number}.{index}"
            stride = 2 if number > 1 and index == 0 else 1
            short = data
            if index == 0:
                short = conv_norm(m, data, f"{name}.downsample", 4 * inside, 1, stride)
            data = relu(m.norm(m.conv(data, f"{name}.conv1", inside, 1), f"{name}.bn1"))
            data = relu(m.norm(m.conv(data, f"{name}.conv2", inside, stride=stride), f"{name}.bn2"))
            data = m.norm(m.conv(data, f"{name}.conv3", 4 * inside, 1), f"{name}.bn3")
            data = relu(data + short)
        stages.append(data)
    return stages[1:]


def nearest(data, like):
    """data at the height and width of like."""
    rows = np.arange(like.shape[2]) * data.shape[2] // like.shape[2]
    columns = np.arange(like.shape[3]) * data.shape[3] // like.shape[3]
    return data[:, :, rows][:, :, :, columns]


def pyramid(m, stages, channels, slope):
    one, two, three = (
        leaky(conv_norm(m, data, f"fpn.output{index}", channels, 1), slope)
        for index, data in enumerate(stages, 1)
    )
    two = leaky(conv_norm(m, two + nearest(three, two), "fpn.merge2", channels), slope)
    one = leaky(conv_norm(m, one + nearest(two, one), "fpn.merge1", channels), slope)
    return one, two, three


def context(m, data, name, channels, slope):
    three = conv_norm(m, data, f"{name}.conv3X3", channels // 2)
    shared = leaky(conv_norm(m, data, f"{name}.conv5X5_1", channels // 4), slope)
    five = conv_norm(m, shared, f"{name}.conv5X5_2", channels // 4)
    seven = leaky(conv_norm(m, shared, f"{name}.conv7X7_2", channels // 4), slope)
    seven = conv_norm(m, seven, f"{name}.conv7x7_3", channels // 4)
    return relu(np.concatenate([three, five, seven], axis=1))


def forward(m, backbone, image):
    """output -> values; scores before the softmax."""
    stages, channels, slope = mobilenet, 64, SLOPE
    if backbone == "resnet50":
        stages, channels, slope = resnet50, 256, 0.0
    levels = pyramid(m, stages(m, image), channels, slope)
    features = [context(m, data, f"ssh{i}", channels, slope) for i, data in enumerate(levels, 1)]
    heads = {
        "boxes": ("BboxHead", 4),
        "scores": ("ClassHead", 2),
        "landmarks": ("LandmarkHead", 10),
    }
    return {output: rows(m, features, *head) for output, head in heads.items()}


def rows(m, features, head, values):
    """Two priors a cell."""
    parts = []
    for level, data in enumerate(features):
        made = m.conv(data, f"{head}.{level}.conv1x1", 2 * values, 1, bias=True)
        parts.append(made.transpose(0, 2, 3, 1).reshape(1, -1, values))
    return np.concatenate(parts, axis=1)


def make_weights(backbone, seed=0):
    """A state dict of made-up values."""
    modules = Modules(seed=seed)
    forward(modules, backbone, np.zeros((1, 3, 32, 32)))
    return modules.arrays


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    return request.param


@pytest.fixture(scope="module")
def weights(backbone):
    return make_weights(backbone)


# --- What is built -----------------------------------------------------------------------------------


def test_values_are_those_of_the_training_code(backbone, weights):
    # No multiple of 32: levels round up, and upsampling repeats some pixels more often than others.
    width, height = (88, 56) if backbone == "mobilenet0.25" else (40, 35)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
    expected = forward(Modules(weights), backbone, np.float64(image))
    moved = [
        forward(Modules(shaken(weights, seed)), backbone, np.float64(image)) for seed in (1, 2)
    ]
    graph = networks.build(weights, (width, height))
    values = reference.run_graph(graph, image)
    logits = next(node.inputs[0] for node in graph.nodes if node.output == "scores")
    for output, wanted in expected.items():
        found, _ = values[logits if output == "scores" else output]
        # As in test_networks: folding rounds once what `shaken` moves by the most that rounding can.
        tolerance = 2 * max(np.abs(other[output] - wanted).max() for other in moved)
        assert tolerance < 1e-4 * np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= tolerance


def test_input_and_outputs_have_their_names_and_shapes(weights):
    for size, priors in [((640, 640), 16800), ((320, 240), 3160), ((300, 301), 3810)]:
        graph = networks.build(weights, size)
        assert (graph.input, graph.input_size) == ("input", size)
        assert {name: graph.tensors[name].shape for name in graph.outputs} == {
            "scores": (1, priors, 2),
            "boxes": (1, priors, 4),
            "landmarks": (1, priors, 10),
        }


def test_multiply_adds_are_those_of_the_papers_networks(backbone, weights):
    """981 M and 44.3 G at 640x640; ResNet-50 alone has 3.8 G at 224x224 (arXiv 1512.03385, table 1)."""
    graph = networks.build(weights, (640, 640))
    total = sum(map(graph.multiply_adds, graph.nodes))
    assert total == {"mobilenet0.25": 981_145_600, "resnet50": 44_264_652_800}[backbone]
    if backbone == "resnet50":
        body = networks.build(weights, (224, 224))
        count = sum(body.multiply_adds(n) for n in body.nodes if n.name.startswith("body."))
        assert 3.8e9 < count < 4.2e9


def test_a_graph_can_be_resized(weights):
    resized = networks.build(weights).resized(128, 96)
    assert resized.nodes == networks.build(weights, (128, 96)).nodes
    assert {name: tensor.shape for name, tensor in resized.tensors.items()} == {
        name: tensor.shape for name, tensor in networks.build(weights, (128, 96)).tensors.items()
    }


def test_landmarks_may_be_missing(weights):
    without = {k: v for k, v in weights.items() if not k.startswith("LandmarkHead")}
    graph = networks.build(without)
    assert list(graph.outputs) == ["scores", "boxes"]
    boxes = {node.output for node in networks.build(weights).nodes} - {
        n.output for n in graph.nodes
    }
    assert all("LandmarkHead" in name or name == "landmarks" for name in boxes)


def test_the_slope_of_leaky_relus_may_be_another():
    weights = make_weights("mobilenet0.25")
    for slope, activations in [(0.2, {"leaky_relu"}), (0.0, {"relu"})]:
        graph = networks.build(weights, slope=slope)
        convs = [n.op for n in graph.nodes if isinstance(n.op, Conv) and n.name.startswith("body.")]
        assert {op.activation for op in convs} == activations
        assert {op.slope for op in convs} == {slope}


# --- What is refused ---------------------------------------------------------------------------------


def test_missing_arrays_are_named(weights):
    telling = ("ClassHead.0.conv1x1.weight", "body.conv1.weight")
    for key in list(weights)[::31]:  # each takes a third of what a whole network takes
        if key.endswith("num_batches_tracked") or key in telling:
            continue
        less = {name: values for name, values in weights.items() if name != key}
        with pytest.raises(ModelError, match="the weights") as error:
            networks.build(less)
        assert f"'{key}'" in str(error.value)


def test_unexpected_arrays_are_named(weights):
    with pytest.raises(ModelError, match=r"1 arrays too many: fc.bias"):
        networks.build({**weights, "fc.bias": np.zeros(1000, np.float32)})


def test_misshapen_arrays_are_named(weights):
    key = "ssh2.conv7x7_3.0.weight"
    with pytest.raises(ModelError, match=f"'{key}' are .*; expected floats"):
        networks.build({**weights, key: weights[key][:8]})


# --- The released weights ----------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("file", RELEASED)
def test_released_weights_make_a_network(file):
    graph = networks.build(torch_weights.read((WEIGHTS / file).read_bytes()), (640, 640))
    assert graph.tensors["landmarks"].shape == (1, 16800, 10)
    assert all(np.isfinite(tensor.data).all() for tensor in graph.constants)


@needs_shared
def test_the_released_network_has_its_pretrained_backbones_arrays():
    """Trained further: other values under the same names."""
    folder = WEIGHTS / "retinaface"
    backbone = torch_weights.read((folder / "mobilenetV1X0.25_pretrain.tar").read_bytes())
    network = torch_weights.read((folder / "mobilenet0.25_Final.pth").read_bytes())
    names = {f"body.{key}" for key in backbone if not key.startswith("fc.")}
    assert names == {key for key in network if key.startswith("body.")}
    assert_array_equal(
        [backbone[key.removeprefix("body.")].shape == network[key].shape for key in names], True
    )


@needs_shared
@pytest.mark.onnx
@pytest.mark.parametrize("size", [(640, 640), (427, 319)])
@pytest.mark.parametrize("file", RELEASED)
def test_the_engine_gives_what_onnxruntime_gives(file, size):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = model.load(WEIGHTS / file).graph.resized(*size)
    image = np.random.default_rng(2).integers(-120, 140, graph.tensors["input"].shape)
    found, wanted = (outputs_of(graph, np.float32(image), b) for b in ("native", "onnxruntime"))
    for name, values in wanted.items():
        # Float32 in other orders, through some 40 layers. Measured: 3e-5 at most, of landmarks up to 5.
        assert np.abs(found[name] - values).max() <= 1e-4
