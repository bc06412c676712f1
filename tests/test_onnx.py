from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgeface.errors import ModelError
from edgeface.formats import onnx as subject
from edgeface.formats import protobuf
from edgeface.formats.onnx import reader, records, tensors
from edgeface.graph import (
    Add,
    Concat,
    Conv,
    Graph,
    LeakyRelu,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Tensor,
    Transpose,
    Upsample,
)
from reference import run_graph

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

pytestmark = pytest.mark.onnx

RELEASED = Path(__file__).parents[2] / "shared" / "weights" / "ultraface"
DECODING = ["version-RFB-320", "version-RFB-640", "version-slim-320"]
RAW = [
    "version-RFB-320_simplified",
    "version-RFB-320_without_postprocessing",
    "version-slim-320_simplified",
]
needs_released = pytest.mark.skipif(
    not RELEASED.is_dir(), reason="the released weights (shared/weights/ultraface) are not here"
)

ROUNDING = 2.0**-24
WIDTH, HEIGHT, CHANNELS = 32, 24, 8
VARIANCES = (0.1, 0.2)

# In `Detector`, the absolute weights of every output sum to 1 and normalisation does not enlarge,
# so no layer enlarges an error made before it. Each adds what a float32 sum of K products of values
# below 3 may lose, in either of the two programs compared: (K + 4) roundings.
DEPTH, TERMS, LARGEST = 7, 9 * CHANNELS, 3
TOLERANCE = 2 * DEPTH * (TERMS + 4) * LARGEST * ROUNDING


class Detector:
    """An SSD in little, as old PyTorch exported it: two levels, two heads, all that is folded."""

    def __init__(self, opset=9, *, decode=True, listed=True):
        self.opset = opset
        self.listed = listed  # whether initialisers are listed as inputs, as before IR version 4
        self.random = np.random.default_rng(7)
        self.nodes, self.constants, self.count = [], [], 0
        self.build(decode)

    def new(self):
        self.count += 1
        return f"v{self.count}"

    def node(self, kind, inputs, output=None, **attributes):
        output = output or self.new()
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def weight(self, values):
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.float32(values), name))
        return name

    def constant(self, values, dtype=np.int64):
        value = numpy_helper.from_array(np.asarray(values, dtype))
        return self.node("Constant", [], value=value)

    def conv(self, data, out_channels, in_channels, stride=1, groups=1):
        weight = self.random.normal(size=(out_channels, in_channels // groups, 3, 3))
        weight /= np.abs(weight).sum(axis=(1, 2, 3), keepdims=True)
        options = {
            "kernel_shape": [3, 3],
            "pads": [1] * 4,
            "strides": [stride] * 2,
            "group": groups,
        }
        return self.node("Conv", [data, self.weight(weight)], **options)

    def normalised(self, data):
        ranges = ((0.5, 1), (-0.5, 0.5), (-0.5, 0.5), (1, 2))  # scale, shift, mean, variance
        parts = [self.weight(self.random.uniform(*limits, CHANNELS)) for limits in ranges]
        return self.node("BatchNormalization", [data, *parts], epsilon=1e-3)

    def unsqueezed(self, data):
        if self.opset < 13:
            return self.node("Unsqueeze", [data], axes=[0])
        return self.node("Unsqueeze", [data, self.constant([0])])

    def head(self, data, values):
        """(1, N, values), its shape computed as PyTorch's `view(x.size(0), -1, values)` was."""
        conv = self.conv(data, 2 * values, CHANNELS)
        rows = self.node("Transpose", [conv], perm=[0, 2, 3, 1])
        batch = self.node("Gather", [self.node("Shape", [rows]), self.constant(0)], axis=0)
        sizes = [batch, self.constant(-1), self.constant(values)]
        shape = self.node("Concat", [self.unsqueezed(size) for size in sizes], axis=0)
        return self.node("Reshape", [rows, shape])

    def sliced(self, data, start, end):
        if self.opset < 10:
            return self.node("Slice", [data], axes=[2], starts=[start], ends=[end])
        limits = [self.constant([value]) for value in (start, end, 2)]
        return self.node("Slice", [data, *limits])

    def halves(self, data):
        return self.sliced(data, 0, 2), self.sliced(data, 2, (1 << 63) - 1)

    def decoded(self, offsets):
        centre, size = self.halves(offsets)
        place, extent = priors(WIDTH, HEIGHT)[None, :, :2], priors(WIDTH, HEIGHT)[None, :, 2:]
        constants = [self.constant(v, np.float32) for v in (*VARIANCES, place, extent, 2)]
        shift, growth, place, extent, two = constants
        moved = self.node("Mul", [self.node("Mul", [centre, shift]), extent])
        moved = self.node("Add", [moved, place])
        grown = self.node("Exp", [self.node("Mul", [size, growth])])
        centred = self.node("Concat", [moved, self.node("Mul", [grown, extent])], axis=2)
        first, second = self.halves(centred), self.halves(centred)
        low = self.node("Sub", [first[0], self.node("Div", [first[1], two])])
        high = self.node("Add", [second[0], self.node("Div", [second[1], two])])
        return self.node("Concat", [low, high], axis=2)

    def build(self, decode):
        data = self.conv("image", CHANNELS, 3, stride=2)
        data = self.node("Relu", [self.normalised(data)])
        side = self.normalised(self.conv(data, CHANNELS, CHANNELS, groups=CHANNELS))
        data = self.node("Relu", [self.node("Add", [side, self.node("Identity", [data])])])
        small = self.node("Relu", [self.normalised(self.conv(data, CHANNELS, CHANNELS, stride=2))])
        heads = [
            self.node("Concat", [self.head(level, values) for level in (data, small)], axis=1)
            for values in (2, 4)
        ]
        scores = self.node("Softmax", [heads[0]], axis=2)
        boxes = self.decoded(heads[1]) if decode else heads[1]
        for value, name in ((scores, "scores"), (boxes, "boxes")):
            self.node("Dropout", [value], name)

    def proto(self):
        declared = [("image", [1, 3, HEIGHT, WIDTH])]
        if self.listed:
            declared += [(constant.name, constant.dims) for constant in self.constants]
        count = len(priors(WIDTH, HEIGHT))
        outputs = [("scores", [1, count, 2]), ("boxes", [1, count, 4])]

        def values(pairs):
            return [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in pairs]

        graph = helper.make_graph(
            self.nodes, "detector", values(declared), values(outputs), self.constants
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=4)


def priors(width, height, strides=(2, 4), min_sizes=((3, 5), (8, 12))):
    """Centre x, centre y, width, height of every prior, level by level: the field's definition."""
    rows = []
    for stride, sizes in zip(strides, min_sizes):
        columns, lines = -(-width // stride), -(-height // stride)
        for j in range(lines):
            for i in range(columns):
                centre = ((i + 0.5) / columns, (j + 0.5) / lines)
                rows += [(*centre, size / width, size / height) for size in sizes]
    return np.clip(np.array(rows), 0, 1)


def decoded(offsets, table, variances):
    """SSD's box decoding in float64."""
    centre = table[:, :2] + offsets[:, :2] * variances[0] * table[:, 2:]
    size = table[:, 2:] * np.exp(offsets[:, 2:] * variances[1])
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def run(data, image):
    options = ort.SessionOptions()
    options.log_severity_level = 3  # old files make it warn about constants listed as inputs
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: image})))


def random_image(graph):
    shape = graph.tensors[graph.input].shape
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def small_model():
    return Detector().proto()


def changed(change):
    """The small model's bytes after `change` has damaged its proto."""
    model = small_model()
    change(model)
    return model.SerializeToString()


def assert_same_graph(got, want):
    assert got.nodes == want.nodes
    assert (got.input, got.outputs) == (want.input, want.outputs)
    assert set(got.tensors) == set(want.tensors)
    for name, tensor in want.tensors.items():
        other = got.tensors[name]
        assert (other.shape, other.dtype) == (tensor.shape, tensor.dtype)
        assert other.is_constant == tensor.is_constant
        if tensor.is_constant:
            assert_array_equal(other.data, tensor.data)


# --- What is read computes what the file computes --------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("opset", [9, 11, 13])
def test_a_rewritten_detector_computes_the_same(opset, listed):
    data = Detector(opset, decode=False, listed=listed).proto().SerializeToString()
    graph = subject.read(data)
    image = random_image(graph)

    written = subject.write(graph)

    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    want, got = run(data, image), run(written, image)
    assert list(got) == ["scores", "boxes"]
    for name, values in want.items():
        assert_allclose(got[name], values, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("opset", [9, 11])
def test_decoding_in_the_graph_is_cut_off_and_reported(opset):
    data = Detector(opset).proto().SerializeToString()
    read = subject.load(data)
    found, image = read.decoding, random_image(read.graph)

    got = run(subject.write(read.graph), image)["boxes"][0].astype(np.float64)

    assert found is not None
    assert found.variances == VARIANCES
    assert_array_equal(found.priors, priors(WIDTH, HEIGHT).astype(np.float32))
    # Decoding shrinks an error of the offsets (variance times size); float32 adds six roundings.
    boxes = decoded(got, priors(WIDTH, HEIGHT), VARIANCES)
    assert_allclose(boxes, run(data, image)["boxes"][0], rtol=0, atol=TOLERANCE + 6 * ROUNDING)


def test_a_graph_without_decoding_reports_none():
    data = Detector(decode=False).proto().SerializeToString()
    assert subject.load(data).decoding is None


def test_reading_leaves_only_the_networks_own_operators():
    graph = subject.read(small_model().SerializeToString())

    kinds = Counter(node.kind for node in graph.nodes)

    heads = {"Transpose": 4, "Reshape": 4, "Concat": 2, "Softmax": 1}
    assert kinds == {"Conv": 7, "Add": 1, **heads}
    assert [n.op.activation for n in graph.nodes if n.kind == "Add"] == ["relu"]
    assert graph.outputs == ("scores", "boxes")
    assert graph.tensors["boxes"].shape == (1, len(priors(WIDTH, HEIGHT)), 4)


def test_reshapes_to_rows_stay_open_so_that_the_graph_resizes():
    shape = numpy_helper.from_array(np.array([1, 384, 2]), "fixed")

    def fix(model):
        reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
        reshape.input[1] = "fixed"
        model.graph.initializer.append(shape)

    graph = subject.read(changed(fix))

    shapes = {node.op.shape for node in graph.nodes if isinstance(node.op, Reshape)}
    assert shapes == {(1, -1, 2), (1, -1, 4)}
    assert graph.resized(64, 40).tensors["boxes"].shape == (1, len(priors(64, 40)), 4)


def network(nodes, constants=(), opset=13, shape=(1, 2, 6, 5), outputs=("y",)):
    """A file of a few nodes from `x` to `y`; constants are (name, values) pairs."""
    graph = helper.make_graph(
        nodes,
        "few",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def node(kind, inputs, output, **attributes):
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, output.split(), name=f"the {kind}", **attributes)


# To 3x2 pixels, of which 6x5 are made again.
HALF = node("MaxPool", "x", "h", kernel_shape=[2, 2], strides=[2, 2])
FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
KERNEL = ("w", np.linspace(-1, 1, 2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2))
LIMITS = [("low", np.float32(0)), ("high", np.float32(6))]

# Each output is a sum of at most 12 products and a bias below 8 in all.
FEW_TOLERANCE = 2 * 16 * 8 * ROUNDING


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([node("Conv", "x w", "y", auto_pad="SAME_UPPER")], 13),
        ([node("Conv", "x w", "y", auto_pad="SAME_LOWER")], 13),
        ([node("Conv", "x w", "y", auto_pad="VALID", strides=[1, 2])], 13),
        ([node("Conv", "x w bias", "c"), node("Clip", "c", "y", min=0.0, max=6.0)], 9),
        ([node("Conv", "x w", "c"), node("Clip", "c low high", "y")], 13),
        ([node("Relu", "x", "r"), node("Add", "r x", "y")], 13),
        ([node("Concat", "x x", "y", axis=-3)], 13),
        ([node("Softmax", "x", "y", axis=1)], 13),
        ([node("Softmax", "x", "y")], 13),
        ([node("Softmax", "x", "y", axis=3)], 9),
        ([node("Transpose", "x", "y")], 13),
        ([node("Reshape", "x copy", "y")], 13),
        ([node("Cast", "wide", "narrow", to=7), node("Reshape", "x narrow", "y")], 13),
        ([node("Identity", "bias", "b"), node("Conv", "x w b", "y")], 13),
        ([node("Conv", "x w bias", "c"), node("BatchNormalization", "c s s s s", "y")], 15),
        ([node("Conv", "x w", "c"), node("Shape", "c", "s4"),
          node("BatchNormalization", "c s s s s", "b"), node("Reshape", "b s4", "y")], 15),
        ([node("Shape", "x", "s2", start=1, end=-1), node("Concat", "s2 minus", "s3", axis=0),
          node("Reshape", "x s3", "y")], 15),
        ([node("Shape", "x", "s4"), node("Slice", "s4 one two", "s1"),
          node("Concat", "one minus s1", "s3", axis=0), node("Reshape", "x s3", "y")], 13),
        ([node("LeakyRelu", "x", "y")], 13),
        ([node("LeakyRelu", "x", "l", alpha=0.0), node("Sigmoid", "l", "y")], 13),
        ([node("Conv", "x w", "c"), node("LeakyRelu", "c", "y", alpha=0.1)], 13),
        ([node("MaxPool", "x", "y", kernel_shape=[3, 2], auto_pad="SAME_UPPER")], 13),
        ([node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2])], 13),
        ([node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], 13),
        ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
               ceil_mode=1)], 13),
        ([HALF, node("Resize", "h none none sizes", "u", **FLOOR), node("Add", "u x", "y")], 11),
        ([HALF, node("Resize", "h - - sizes", "u", antialias=0, **FLOOR), node("Relu", "x", "r"),
          node("Add", "r u", "y")], 18),
        ([HALF, node("Resize", "h - - sizes", "u", **FLOOR), node("Sigmoid", "u", "v"),
          node("Relu", "x", "r"), node("Add", "u r", "a"), node("Concat", "a v", "y", axis=1)], 13),
        ([HALF, node("Resize", "h scales", "u"), node("Add", "u x", "y")], 10),
        ([HALF, node("Upsample", "h scales", "u"), node("Add", "u x", "y")], 9),
        ([HALF, node("Upsample", "h", "u", mode="nearest", scales=[1.0, 1.0, 2.0, 2.5]),
          node("Add", "u x", "y")], 7),
        ([HALF, node("Shape", "x", "s4"), node("Resize", "h - - s4", "u", **FLOOR),
          node("Sigmoid", "u", "v"), node("Add", "u x", "a"), node("Concat", "a v", "y", axis=1)], 13),
    ],
)  # fmt: skip
def test_each_form_of_an_operator_computes_the_same_after_rewriting(nodes, opset):
    constants = [KERNEL, *LIMITS, ("copy", np.array([0, -1, 5])), ("bias", np.float32([5, -5]))]
    constants += [("wide", np.int32([1, 4, 15])), ("s", np.float32([0.5, 0.75]))]
    constants += [("one", np.array([1])), ("two", np.array([2])), ("minus", np.array([-1]))]
    constants += [("sizes", np.array([1, 2, 6, 5])), ("scales", np.float32([1, 1, 2, 2.5]))]
    constants += [("none", np.zeros(0, np.float32))]
    used = {name for n in nodes for name in n.input}
    data = network(nodes, [pair for pair in constants if pair[0] in used], opset)
    graph = subject.read(data)
    image = 4 * random_image(graph)

    written = subject.write(graph)

    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    assert_allclose(run(written, image)["y"], run(data, image)["y"], rtol=0, atol=FEW_TOLERANCE)


@pytest.mark.parametrize("stored", ["raw", "typed"])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8, np.int32, np.int64])
def test_constants_are_read_from_raw_and_typed_storage(dtype, stored):
    values = np.array([[2, 200, 1 << 20]]).astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if stored == "raw":
        theirs = helper.make_tensor("t", number, values.shape, values.tobytes(), raw=True)
    else:
        theirs = helper.make_tensor("t", number, values.shape, values.ravel().tolist())
    parsed = protobuf.parse(records.TensorProto, theirs.SerializeToString())

    got = tensors.array(parsed, "it")

    assert got.dtype == dtype
    assert_array_equal(got, values)


# --- Writing ---------------------------------------------------------------------------------------


def every_operator():
    """A graph with all operators and activations, in the form that reading gives."""
    rng = np.random.default_rng(3)
    shapes = {"x": (1, 3, 8, 6), "a": (1, 4, 4, 3), "b": (1, 4, 4, 3), "sum": (1, 4, 4, 3)}
    shapes |= {"r": (1, 4, 4, 3), "cat": (1, 8, 4, 3), "t": (1, 4, 3, 8), "y": (1, 48, 2)}
    shapes |= {"z": (1, 48, 2), "p": (1, 8, 3, 3), "l": (1, 8, 3, 3), "f": (1, 4, 3, 3)}
    shapes |= {"u": (1, 4, 4, 3), "m": (1, 4, 4, 3), "s": (1, 4, 4, 3)}
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    for name, shape in {
        "w": (4, 3, 3, 3),
        "dw": (4, 1, 3, 3),
        "bias": (4,),
        "pw": (4, 8, 1, 1),
    }.items():
        values = rng.normal(size=shape).astype(np.float32)
        tensors[name] = Tensor(name, shape, data=values)
    first = Conv(stride=(2, 2), pads=(1, 1, 1, 1), activation="relu6")
    depthwise = Conv(dilation=(2, 2), pads=(2, 2, 2, 2), groups=4, activation="relu")
    add, relu, cat = Add(activation="relu6"), Relu(), Concat(1)
    nodes = (
        Node(first, "first", ("x", "w", "bias"), "a"),
        Node(depthwise, "second", ("a", "dw"), "b"),
        Node(add, "sum of both", ("a", "b"), "sum"),
        Node(relu, "alone", ("sum",), "r"),
        Node(cat, "joined", ("r", "sum"), "cat"),
        Node(Transpose((0, 2, 3, 1)), "rows", ("cat",), "t"),
        Node(Reshape((1, -1, 2)), "flat", ("t",), "y"),
        Node(Softmax(2), "score", ("y",), "z"),
        Node(MaxPool((3, 2), (2, 1), (1, 0, 2, 1)), "pooled", ("cat",), "p"),
        Node(LeakyRelu(0.1), "bent", ("p",), "l"),
        Node(Conv(activation="leaky_relu", slope=0.25), "fewer", ("l", "pw"), "f"),
        Node(Upsample(), "larger", ("f", "r"), "u"),
        Node(Add("leaky_relu", 0.1), "merged", ("u", "r"), "m"),
        Node(Sigmoid(), "share", ("m",), "s"),
    )
    return Graph(nodes, tensors, "x", ("z", "y", "s"))


def test_a_written_graph_reads_back_the_same():
    graph = every_operator()

    written = subject.write(graph)

    assert_same_graph(subject.read(written), graph)
    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    made, wants = run(written, random_image(graph)), run_graph(graph, random_image(graph))
    assert set(made) == {"z", "y", "s"}
    for name, values in made.items():
        want, bound = wants[name]
        assert (np.abs(values - want) <= bound).all()


def test_writing_declares_only_the_true_input_and_old_enough_versions():
    model = onnx.load_from_string(subject.write(every_operator()))
    assert [value.name for value in model.graph.input] == ["x"]
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    assert model.producer_name == "edgeface"
    assert all(tensor.HasField("raw_data") for tensor in model.graph.initializer)


def test_writing_gives_the_same_bytes_whatever_the_order_of_tensors_and_metadata():
    graph = every_operator()
    other = dataclasses.replace(graph, tensors=dict(reversed(list(graph.tensors.items()))))
    first = subject.write(graph, {"a": "1", "b": "2"})
    assert subject.write(other, {"b": "2", "a": "1"}) == first


def test_names_that_writing_needs_do_not_clash_with_the_graphs():
    graph = every_operator()
    taken = {"r": "a/linear", "cat": "y/shape", "t": "relu6/min"}

    def renamed(name):
        return taken.get(name, name)

    nodes = tuple(
        Node(n.op, n.name, tuple(map(renamed, n.inputs)), renamed(n.output)) for n in graph.nodes
    )
    tensors = {
        renamed(name): dataclasses.replace(tensor, name=renamed(name))
        for name, tensor in graph.tensors.items()
    }
    graph = Graph(nodes, tensors, graph.input, graph.outputs)
    assert_same_graph(subject.read(subject.write(graph)), graph)


def test_metadata_is_written_and_read_back():
    metadata = {"spec": '{"name": "Gesichter ä"}', "a": ""}
    written = subject.write(every_operator(), metadata)
    assert subject.load(written).metadata == metadata
    props = onnx.load_from_string(written).metadata_props
    assert [entry.key for entry in props] == ["a", "spec"]
    assert subject.load(subject.write(every_operator())).metadata == {}


def test_metadata_with_one_key_twice_is_refused():
    def repeat(model):
        for value in "12":
            model.metadata_props.add(key="spec", value=value)

    with pytest.raises(ModelError, match="metadata has 'spec' twice"):
        subject.load(changed(repeat))


# --- Refusals name the culprit ---------------------------------------------------------------------


def set_dim(index, **value):
    def change(model):
        dim = model.graph.input[0].type.tensor_type.shape.dim[index]
        dim.Clear()
        for field, content in value.items():
            setattr(dim, field, content)

    return change


def rename_output(old, new):
    def change(model):
        for made in model.graph.node:
            made.output[:] = [new if name == old else name for name in made.output]

    return change


def set_opset(version, domain=""):
    def change(model):
        model.opset_import[0].version = version
        model.opset_import[0].domain = domain

    return change


def of(kind, action):
    """Apply `action` to the first node of that kind."""
    return lambda model: action(next(n for n in model.graph.node if n.op_type == kind))


def first_constant(**fields):
    def change(model):
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return change


def swap_nodes(model):
    nodes = list(model.graph.node)
    nodes[0], nodes[1] = nodes[1], nodes[0]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def add_initializer_named(name):
    value = numpy_helper.from_array(np.zeros(1, np.float32), name)
    return lambda model: model.graph.initializer.append(value)


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def subgraph(model):
    attribute = helper.make_attribute("body", helper.make_graph([], "inner", [], []))
    model.graph.node[0].attribute.append(attribute)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_dim(0, dim_value=2), "input 'image' has batch size 2"),
        (set_dim(1, dim_param="c"), "input 'image' has no fixed channels but 'c'"),
        (set_dim(2, dim_param="h"), "input 'image' has no fixed height but 'h'; export"),
        (set_dim(3, dim_param="w"), "input 'image' has no fixed width but 'w'; export"),
        (set_dim(3, dim_value=-1), "no fixed width but '-1'"),
        (set_dim(3, dim_value=1 << 40), "input 'image' is too large"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), "has 3 dimensions"),
        (lambda m: m.graph.input[0].ClearField("type"), "'image' is not declared as a float"),
        (lambda m: m.graph.input.pop(0), "one input, this network has 0: none"),
        (lambda m: m.graph.initializer.pop(0), "one input, this network has 2: 'image', 'w0'"),
        (lambda m: m.graph.output.pop() and m.graph.output.pop(), "outputs have no names"),
        (lambda m: m.graph.output.append(m.graph.output[0]), "outputs have no names of their own"),
        (lambda m: m.graph.output.add(name="w0"), "no operator makes the output 'w0'"),
        (lambda m: m.graph.output.add(name="image"), "no operator makes the output 'image'"),
        (lambda m: m.ClearField("graph"), "no graph"),
        (lambda m: m.ClearField("ir_version"), "no ONNX file"),
        (lambda m: m.ClearField("opset_import"), "names 0 versions"),
        (set_opset(9, "com.example"), "names 0 versions"),
        (lambda m: m.opset_import.add(version=9), "names 2 versions"),
        (set_opset(6), "operator set 6; 7 to 24 are supported"),
        (set_opset(25), "operator set 25"),
        (lambda m: m.functions.add(name="f"), "functions of its own"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse constants"),
        (subgraph, "Conv 'Conv_0' has a graph of its own"),
        (external, "constant 'w0' lies in another file"),
        (first_constant(data_type=10), "constant 'w0' has data type 10"),
        (first_constant(dims=[8, 3, 3, 4]), "'w0' has 216 values, but its dimensions are"),
        (first_constant(dims=[-8, -3, 3, 3]), "'w0' has bad dimensions"),
        (first_constant(dims=[1] * 60), "'w0' has bad dimensions"),
        (first_constant(dims=[0, 1 << 62, 4]), "'w0' is too large"),
        (first_constant(dims=[], raw_data=b""), "'w0' has 0 values"),
        (first_constant(raw_data=b"123"), "'w0' has 3 bytes, not a multiple of 4"),
        (first_constant(float_data=[1.0]), r"'w0' of data type 1 is stored in \['raw_data', 'flo"),
        (first_constant(raw_data=b"", int64_data=[1]), "'w0' of data type 1 is stored in"),
        (first_constant(raw_data=b"\0\0\xc0\x7f" * 216), "not finite"),
        (add_initializer_named("w0"), "the constant 'w0' has no name of its own"),
        (add_initializer_named(""), "the constant '' has no name"),
        (swap_nodes, "'BatchNormalization_1' reads 'v1' before anything makes it"),
        (rename_output("v3", "v1"), "Relu 'Relu_2' writes to 'v1', which is taken"),
        (rename_output("v3", "image"), "Relu 'Relu_2' writes to 'image', which is taken"),
        (of("Relu", lambda n: n.output.append("second")), "Relu 'Relu_2' has . named outputs"),
        (of("Relu", lambda n: n.output.pop()), "Relu 'Relu_2' has . named outputs"),
        (of("Relu", lambda n: setattr(n, "op_type", "Gelu")), "Gelu 'Relu_2' is not supported"),
        (of("Relu", lambda n: setattr(n, "domain", "x.y")), "Relu 'Relu_2' is of domain 'x.y'"),
        (of("Relu", lambda n: n.input.append("image")), "Relu 'Relu_2' got inputs"),
        (of("Relu", lambda n: n.input.append("")), "Relu 'Relu_2' lacks an input"),
        (of("Relu", lambda n: n.input.pop()), "Relu 'Relu_2' needs data as input 0"),
        (of("Conv", lambda n: n.attribute.append(n.attribute[0])), "'Conv_0' has an attribute tw"),
        (of("Conv", lambda n: n.attribute.add(name="x")), "'Conv_0' has the unknown attribute 'x'"),
        (of("Conv", lambda n: setattr(n.attribute[0], "type", 1)), "'Conv_0' has attribute 'group"),
    ],
)
def test_a_damaged_file_is_refused_by_name(change, message):
    with pytest.raises(ModelError, match=message):
        subject.read(changed(change))


AFFINE = "s s s s"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Conv", "x w", "y", kernel_shape=[3, 3])], r"'the Conv' has kernel_shape \(3, 3\)"),
        ([node("Conv", "x w", "y", strides=[1])], "'the Conv' has 1 strides; 2-D needs 2"),
        ([node("Conv", "x w", "y", pads=[1, 1])], "'the Conv' has 2 pads; 2-D needs 4"),
        ([node("Conv", "x w", "y", pads=[9] * 4)], "'the Conv' got inputs .* padding"),
        ([node("Conv", "x w", "y", group=0)], "'the Conv' got inputs .* 0 groups"),
        ([node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])], "give pads"),
        ([node("Conv", "x w", "y", auto_pad="MAYBE")], "unknown auto_pad MAYBE"),
        ([node("Conv", "x w", "y", auto_pad="VALID", pads=[1] * 4)], "both pads and auto_pad"),
        ([node("Conv", "x x", "y")], "'the Conv' needs a float32 constant as input 1"),
        ([node("Conv", "x one", "y")], "'the Conv' needs a float32 constant as input 1"),
        ([node("Conv", "x s", "y")], "'the Conv' is not two-dimensional"),
        ([node("Conv", "w w", "y")], "'the Conv' needs data as input 0"),
        ([node("Relu", "x", "r"), node("BatchNormalization", f"r {AFFINE}", "y")],
         "'the BatchNormalization' must follow a Conv"),
        ([node("Conv", "x w", "c"), node("BatchNormalization", f"c {AFFINE}", "b"),
          node("Add", "c b", "y")], "whose output nothing else reads"),
        ([node("Conv", "x w", "c"), node("BatchNormalization", "c s s s three", "y")],
         "'the BatchNormalization' needs four constants with 2 values"),
        ([node("Conv", "x w", "c"), node("BatchNormalization", "c s s s minus", "y")],
         "'the BatchNormalization' has a variance that is not positive"),
        ([node("Conv", "x w", "c"), node("BatchNormalization", f"c {AFFINE}", "y",
                                         training_mode=1)], "made for inference"),
        ([node("Conv", "x w", "c"), node("BatchNormalization", "c huge huge s s", "y")],
         "values that are not finite"),
        ([node("Conv", "x w", "c"), node("Clip", "c low s", "y")], "not single numbers"),
        ([node("Conv", "x w", "c"), node("Clip", "c low", "y")], "only 0 and 6"),
        ([node("Relu", "x", "c"), node("Clip", "c low high", "y")], "'the Clip' must follow a Conv"),
        ([node("Conv", "x w", "c"), node("Clip", "c low high", "d"),
          node("BatchNormalization", f"d {AFFINE}", "y")],
         "follows Conv 'the Conv', which has an activation already"),
        ([node("Dropout", "x low low", "y")], "'the Dropout' does not simply pass"),
        ([node("Add", "x high", "y")], "output 'y' is made by Add"),
        ([node("Mul", "x x", "y")], "box decoding in the graph was found, but it is not SSD's"),
        ([node("Mul", "x x", "m"), node("Relu", "m", "y")],
         "Mul 'the Mul' is supported only in SSD box decoding"),
        ([node("Mul", "x five", "y")], "'the Mul' got shapes that do not fit"),
        ([node("Cast", "x", "y", to=7)], "'the Cast' is not supported on values that are not"),
        ([node("Cast", "s", "y", to=10)], "'the Cast' makes data type 10"),
        ([node("Cast", "huge", "y", to=6)], "'the Cast' has values that do not fit into int32"),
        ([node("Transpose", "x", "y", perm=[0, 1, 1, 2])], "'the Transpose' got inputs"),
        ([node("Softmax", "x", "y", axis=4)], "'the Softmax' has axis 4 of 4"),
        ([node("Concat", "x x", "y")], "'the Concat' needs an axis"),
        ([node("Concat", "x w", "y", axis=1)], "'the Concat' needs data as input 1"),
        ([node("Concat", "one s", "y", axis=0)], "'the Concat' joins constants of several types"),
        ([node("Reshape", "x x", "y")], "'the Reshape' needs a constant list of integers"),
        ([node("Reshape", "x seven", "y")], "'the Reshape' got inputs"),
        ([node("Reshape", "x zeros", "y")], "'the Reshape' copies dimension 4"),
        ([node("Reshape", "x zeros", "y", allowzero=1)], "'the Reshape' makes an empty tensor"),
        ([node("Gather", "s seven", "y")], "'the Gather' has an index outside 2 values"),
        ([node("Gather", "s third", "y")], "'the Gather' has an index outside 2 values"),
        ([node("Cast", "big", "y", to=6)], "'the Cast' has values that do not fit into int32"),
        ([node("Gather", "s s", "y")], "'the Gather' has indices that are no integers"),
        ([node("Unsqueeze", "s seven", "y")], "'the Unsqueeze' has axis 7 of 2"),
        ([node("Slice", "s one one one", "y")], "'the Slice' has axis 1 of 1"),
        ([node("Slice", "s one zeros", "y")], "'the Slice' has lists that differ in length"),
        ([node("Slice", "x one one one seven", "y")], "'the Slice' has steps"),
        ([node("Concat", "x " * 65, "y", axis=1)], "'the Concat' has 65 inputs, over the limit"),
        ([node("Transpose", "x", "y", perm=range(9))], "'the Transpose' has 9 perm"),
        ([node("Reshape", "x w9", "y")], "'the Reshape' lists 9 axes or sizes"),
        ([node("Constant", "", "y")], "'the Constant' needs one value"),
        ([node("Identity", "y", "y")], "'the Identity' reads 'y' before anything makes it"),
        ([node("Relu", "b", "a"), node("Relu", "a", "b")], "reads 'b' before anything makes it"),
        ([node("Relu", "x", "a"), node("Identity", "a", "y"), node("Identity", "a", "z")],
         "outputs 'y' and 'z' are one value"),
        ([node("LeakyRelu", "x", "y", alpha=2.0)], "'the LeakyRelu' got inputs .* slope is 2.0"),
        ([node("LeakyRelu", "x", "y", alpha=-0.1)], "'the LeakyRelu' got inputs .* slope is -0.1"),
        ([node("MaxPool", "x", "y", kernel_shape=[2])], r"'the MaxPool' has kernel_shape \(2,\)"),
        ([node("MaxPool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])], "MaxPool' is dilated"),
        ([node("MaxPool", "x", "y", kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1)],
         "'the MaxPool' got inputs .* padding is as large as the kernel"),
        ([node("Resize", "x - - sizes", "y")], "has coordinate_transformation_mode half_pixel"),
        ([node("Resize", "x - - sizes", "y", mode="linear", **FLOOR)], "has mode linear"),
        ([node("Resize", "x - - seven", "y", **FLOOR)], r"'the Resize' has sizes \[7\] for 4"),
        ([node("Resize", "x - s", "y", **FLOOR)], r"'the Resize' has scales \[0.5, 0.5\] for 4"),
        ([node("Resize", "x - - swapped", "y", **FLOOR)], "only height and width may change"),
        ([node("Resize", "x - - sizes", "y", **FLOOR)], "'the Resize' makes 'y' of a size of its own"),
        ([HALF, node("Resize", "h - - sizes", "u", **FLOOR), node("Relu", "u", "v"),
          node("Add", "u v", "y")], "'the Resize' takes its size from 'v', made of its own result"),
        ([HALF, node("Resize", "h - - sizes", "u", **FLOOR), node("Add", "u h", "y")],
         "'the Add' got inputs"),
        ([HALF, node("Resize", "h - - sizes", "u", **FLOOR), node("Resize", "h - - sizes", "v",
          **FLOOR), node("Add", "u v", "y")],
         "'the Resize' takes its size from 'v', made of its own result"),
    ],
)  # fmt: skip
def test_an_unsupported_node_is_refused_by_name(nodes, message):
    constants = [KERNEL, *LIMITS, ("s", np.float32([0.5, 0.5])), ("one", np.array([1]))]
    constants += [("three", np.ones(3, np.float32)), ("minus", np.float32([-1, 1]))]
    constants += [("huge", np.float32([3e38, 3e38])), ("five", np.ones((7, 1), np.float32))]
    constants += [
        ("sizes", np.array([1, 2, 6, 5])),
        ("swapped", np.array([2, 1, 6, 5])),
        ("w9", np.ones(9, np.int64)),
        ("seven", np.array([7])),
        ("zeros", np.zeros(5, np.int64)),
    ]
    # The least float above the largest int32, which as a float is that very number.
    constants += [("third", np.array([-3])), ("big", np.float32([2**31]))]
    outputs = ("y", "z") if "outputs" in message else ("y",)
    with pytest.raises(ModelError, match=message):
        subject.read(network(nodes, constants, 15, outputs=outputs))


def test_an_old_softmax_over_several_axes_is_refused():
    data = network([node("Softmax", "x", "y")], opset=12)
    with pytest.raises(ModelError, match="'the Softmax' runs over several axes, from 1 to 3"):
        subject.read(data)


def test_folding_cannot_grow_a_small_file_into_the_machines_memory():
    doubling = [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(60)]
    data = network(doubling, [("c0", np.zeros(64, np.int64))])
    with pytest.raises(ModelError, match="folds constants into more values than the file holds"):
        subject.read(data)


def test_too_many_nodes_are_refused():
    data = network([node("Relu", "x", "y")] * (reader.MAX_NODES + 1))
    with pytest.raises(ModelError, match="over the limit of 4096"):
        subject.read(data)


# --- Decoding that is not SSD's --------------------------------------------------------------------


def swap_inputs(n):
    n.input[:] = list(n.input)[::-1]


def nth(kind, index, action):
    return lambda model: action([n for n in model.graph.node if n.op_type == kind][index])


def set_value(shape, value):
    """Replace a float Constant of that shape."""

    def change(model):
        for n in model.graph.node:
            if n.op_type == "Constant" and list(n.attribute[0].t.dims) == list(shape):
                found = numpy_helper.to_array(n.attribute[0].t)
                if found.dtype == np.float32:
                    n.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(value(found))))

    return change


@pytest.mark.parametrize(
    "change",
    [
        nth("Sub", 0, swap_inputs),  # mirrored corners
        nth("Exp", 0, lambda n: setattr(n, "op_type", "Identity")),
        nth("Sub", 0, lambda n: setattr(n, "op_type", "Add")),
        nth("Concat", -1, swap_inputs),  # last corner first
        nth("Concat", -2, swap_inputs),  # size before centre
        set_value((), lambda v: v * np.nan),
        set_value((), lambda v: v * 0),
        set_value((1, len(priors(WIDTH, HEIGHT)), 2), lambda v: -v),
    ],
)
def test_decoding_that_is_not_ssds_is_refused(change):
    with pytest.raises(ModelError, match=r"output 'boxes' .* but it is not SSD's"):
        subject.read(changed(change))


def test_other_priors_and_variances_are_reported_as_what_they_are():
    """Thirds in place of halves make boxes of two thirds: SSD's decoding still, with those priors."""

    def change(model):
        divide = next(n for n in model.graph.node if n.op_type == "Div")
        (constant,) = (n for n in model.graph.node if n.output[0] == divide.input[1])
        constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(3)))

    found = subject.load(changed(change)).decoding

    table = priors(WIDTH, HEIGHT) * [1, 1, 2 / 3, 2 / 3]
    assert found is not None
    assert_allclose(found.priors, table, rtol=2 * ROUNDING)
    assert found.variances == pytest.approx((VARIANCES[0] * 3 / 2, VARIANCES[1]), rel=1e-6)


def test_decoding_with_one_deviating_prior_is_refused():
    """The extents that shift centres and those that scale sizes must be the same ones."""

    def change(model):
        extents = [n for n in model.graph.node if n.op_type == "Mul"][1].input[1]
        (constant,) = (n for n in model.graph.node if n.output[0] == extents)
        values = numpy_helper.to_array(constant.attribute[0].t).copy()
        values[0, 77, 1] *= 1.00001
        index = list(model.graph.node).index(constant)
        other = helper.make_node("Constant", [], ["other"], value=numpy_helper.from_array(values))
        model.graph.node.insert(index, other)
        next(n for n in model.graph.node if n.op_type == "Mul" and extents in n.input).input[1] = (
            "other"
        )

    with pytest.raises(ModelError, match="not SSD's"):
        subject.read(changed(change))


def test_two_decoded_outputs_are_refused():
    def change(model):
        tail = [n for n in model.graph.node if n.op_type == "Concat"][-1]
        again = copy.deepcopy(tail)
        again.output[0] = "more"
        model.graph.node.append(again)
        model.graph.output.add(name="more")

    with pytest.raises(ModelError, match="output 'more' is a second one with box decoding"):
        subject.read(changed(change))


# --- Hostile bytes ---------------------------------------------------------------------------------


def reads_or_refuses(data):
    """True for a graph, False for a ModelError; anything else fails the test."""
    try:
        graph = subject.read(data)
    except ModelError:
        return False
    assert isinstance(graph, Graph)
    return True


def tiny_model():
    """Few bytes, and still every stage of reading: arithmetic, folding, decoding."""
    shape = (1, 1, 1, 1)
    constants = [
        ("w", np.ones((4, 1, 1, 1), np.float32)),
        ("s", np.ones(4, np.float32)),
        ("place", np.float32([[[0.5, 0.5]]])),
        ("size", np.float32([[[0.25, 0.5]]])),
        ("v", np.float32([0.5])),
        ("four", np.array([1, 1, 4])),
        ("z", np.array([0])),
        ("two", np.array([2])),
        ("axis", np.array([2])),
        ("end", np.array([4])),
    ]
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c s s s s", "b"),
        node("Relu", "b", "r"),
        node("Reshape", "r four", "o"),
        node("Slice", "o z two axis", "o1"),
        node("Slice", "o two end axis", "o2"),
        node("Mul", "o1 v", "m1"),
        node("Mul", "m1 size", "m2"),
        node("Add", "m2 place", "m3"),
        node("Mul", "o2 v", "e1"),
        node("Exp", "e1", "e2"),
        node("Mul", "e2 size", "e3"),
        node("Mul", "e3 v", "h"),
        node("Sub", "m3 h", "p"),
        node("Add", "m3 h", "q"),
        node("Concat", "p q", "y", axis=2),
    ]
    return network(nodes, constants, shape=shape)


def test_a_file_cut_at_any_byte_is_refused():
    data = tiny_model()
    assert reads_or_refuses(data)
    for length in range(len(data)):
        # After the graph only the operator set follows: without it, the file is refused too.
        assert not reads_or_refuses(data[:length]), length


def test_a_written_file_cut_at_any_byte_is_refused():
    data = subject.write(subject.read(tiny_model()))
    assert not any(reads_or_refuses(data[:length]) for length in range(len(data)))


def test_random_byte_flips_give_a_graph_or_a_model_error():
    random = np.random.default_rng(11)
    for data in (tiny_model(), subject.write(every_operator())):
        for _ in range(2000):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), random.integers(1, 4)):
                damaged[place] = random.integers(256)
            reads_or_refuses(bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spliced_bytes_give_a_graph_or_a_model_error(draw):
    data = TINY
    start = draw.draw(st.integers(0, len(data)))
    stop = draw.draw(st.integers(start, min(len(data), start + 12)))
    reads_or_refuses(data[:start] + draw.draw(st.binary(max_size=12)) + data[stop:])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 15), st.data())
def test_scrambled_nodes_give_a_graph_or_a_model_error(index, draw):
    """Well-formed protobuf, so that the damage reaches the operators."""
    model = onnx.load_from_string(TINY)
    names = ["x", "", "y", *(t.name for t in model.graph.initializer)]
    names += [n.output[0] for n in model.graph.node]
    victim = model.graph.node[index]
    victim.op_type = draw.draw(st.sampled_from(sorted(reader._ATTRIBUTES)))
    victim.input[:] = draw.draw(st.lists(st.sampled_from(names), max_size=5))
    attributes = [name for group in reader._ATTRIBUTES.values() for name in group]
    del victim.attribute[:]
    for name in draw.draw(st.lists(st.sampled_from(attributes), max_size=3)):
        number = st.integers(-5, 5) | st.integers(-(1 << 63), (1 << 63) - 1)
        number |= st.floats(width=32)
        value = draw.draw(number | st.lists(st.integers(-3, 9), min_size=1, max_size=5))
        victim.attribute.append(helper.make_attribute(name, value))
    reads_or_refuses(model.SerializeToString())


TINY = tiny_model()


# --- The released files ----------------------------------------------------------------------------


def released(name):
    return (RELEASED / f"{name}.onnx").read_bytes()


def ultraface_priors(width, height):
    sizes = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    return priors(width, height, (8, 16, 32, 64), sizes)


# Folding moves roundings around, and 30 layers carry them on. Measured with onnxruntime 1.31 on x86:
# at most 5e-7 in scores, 7e-6 in offsets that reach 7.4. Other processors' kernels sum in other orders.
def released_tolerance(want):
    return 1e-5 * max(1.0, np.abs(want).max())


@needs_released
@pytest.mark.parametrize("name", DECODING + RAW)
def test_a_released_file_has_the_known_operators(name):
    graph = subject.read(released(name))
    kinds = Counter(n.kind for n in graph.nodes)
    rfb = "RFB" in name
    heads = {"Transpose": 8, "Reshape": 8, "Softmax": 1}
    body = {"Conv": 52, "Concat": 3, "Add": 1} if rfb else {"Conv": 42, "Concat": 2}
    assert kinds == {**heads, **body}
    assert (graph.input, graph.outputs) == ("input", ("scores", "boxes"))


@needs_released
@pytest.mark.parametrize("name", RAW)
def test_a_rewritten_released_file_gives_the_same_scores_and_offsets(name):
    data = released(name)
    graph = subject.read(data)
    image = random_image(graph)
    got, want = run(subject.write(graph), image), run(data, image)
    for output in ("scores", "boxes"):
        atol = released_tolerance(want[output])
        assert_allclose(got[output], want[output], rtol=0, atol=atol)


@needs_released
@pytest.mark.parametrize("name", DECODING)
def test_a_rewritten_decoding_file_gives_the_same_scores_and_boxes(name):
    data = released(name)
    graph = subject.read(data)
    image = random_image(graph)
    got, want = run(subject.write(graph), image), run(data, image)
    table = ultraface_priors(*graph.input_size)
    boxes = decoded(got["boxes"][0].astype(np.float64), table, (0.1, 0.2))
    for values, output in ((got["scores"], "scores"), (boxes[None], "boxes")):
        atol = released_tolerance(want[output])
        assert_allclose(values, want[output], rtol=0, atol=atol)


@needs_released
@pytest.mark.parametrize("name", DECODING)
def test_a_released_files_priors_are_those_of_its_definition(name):
    read = subject.load(released(name))
    found, table = read.decoding, ultraface_priors(*read.graph.input_size)
    assert found is not None
    assert found.variances == (0.1, 0.2)
    assert_array_equal(found.priors, table.astype(np.float32))


@needs_released
@pytest.mark.parametrize("name", RAW)
def test_a_released_file_without_decoding_reports_none(name):
    assert subject.load(released(name)).decoding is None


@needs_released
@pytest.mark.parametrize("name", DECODING + RAW)
@pytest.mark.parametrize("size", [(640, 480), (480, 360), (128, 96)])
def test_a_released_file_resizes(name, size):
    graph = subject.read(released(name)).resized(*size)
    count = len(ultraface_priors(*size))
    assert size != (640, 480) or count == 17640
    assert graph.tensors["scores"].shape == (1, count, 2)
    assert graph.tensors["boxes"].shape == (1, count, 4)


@needs_released
def test_a_released_file_round_trips():
    graph = subject.read(released("version-RFB-320"))
    assert_same_graph(subject.read(subject.write(graph)), graph)


@needs_released
def test_a_released_file_cut_anywhere_is_refused():
    data = released("version-slim-320")
    for length in np.random.default_rng(2).integers(0, len(data), 200):
        assert not reads_or_refuses(data[:length]), length
