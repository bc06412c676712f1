from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import tmfile_builder as tm
from edgeface.errors import ModelError
from edgeface.formats import tmfile
from edgeface.graph import Add, Concat, Conv, Graph, MaxPool, Relu, Reshape, Softmax, Transpose
from tmfile_builder import FileBuilder

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights"
KNOWN_SHARED = ["rfb320", "slim320", "rfb320-int8", "rfb320-uint8"]


def detector(**options):
    """Two heads over one stem, with every operator that real detectors have, in little."""
    net = FileBuilder(**options)
    random_weights = np.random.default_rng(5)
    quantized = net.dtype != tm.FP32

    def conv(name, data, out_channels, in_channels, kernel, **attributes):
        shape = (out_channels, in_channels, kernel, kernel)
        weight, bias = random_weights.normal(size=shape), random_weights.normal(size=out_channels)
        if not quantized:
            w = net.const(f"{name}.w", weight.astype(np.float32))
            b = net.const(f"{name}.b", bias.astype(np.float32))
            return net.conv(name, [data, w, b], **attributes)
        stored = np.int8 if net.dtype == tm.INT8 else np.uint8
        count, zero = (out_channels, 0) if net.dtype == tm.INT8 else (1, 120)
        scales = [0.5 / (i + 1) for i in range(count)]
        w = net.const(f"{name}.w", (weight * 9 + zero).astype(stored), [(s, zero) for s in scales])
        b = net.const(f"{name}.b", (bias * 9).astype(np.int32), [(s / 4, 0) for s in scales])
        return net.conv(name, [data, w, b], **attributes)

    image = net.input()
    stem = conv("stem", image, 4, 3, 3, stride=2, pads=(1, 1, 1, 1), activation=0)
    depthwise = conv("dw", stem, 4, 1, 3, group=4, dilation=2, pads=(2, 2, 2, 2), activation=6)
    point = conv("pw", depthwise, 4, 4, 1)
    total = net.add("sum", [point, stem])
    merged = net.op(tm.RELU, "merged", [total], [0.0])
    score = conv("score", merged, 2, 4, 1)
    joined = net.op(tm.CONCAT, "joined", [score, conv("more", merged, 4, 4, 1)], [-3])
    rows = net.op(tm.TRANSPOSE, "rows", [joined], [[0, 2, 3, 1]])
    # ONNX's [1, -1, 2] as 64-bit numbers, cut to half.
    shape = net.const("shape", np.array([1, 0, -1], np.int32), [(0.0, 0)] if quantized else ())
    flat = net.reshape("flat", [rows, shape], [0, -1, 2])
    scores = net.op(tm.SOFTMAX, "scores", [flat], [-1])
    boxes = net.op(tm.PERMUTE, "boxes", [conv("box", merged, 4, 4, 1)], [0, 0, 2, 3, 1])
    return net, (scores, boxes)


def build_detector(**options):
    net, outputs = detector(**options)
    return net.build(*outputs)


@pytest.fixture(scope="module")
def built():
    return build_detector()


@pytest.fixture(scope="module")
def built_int8():
    return build_detector(dtype=tm.INT8, quant=[(0.1, 0)])


def image_net(dims=(1, 3, 6, 8)):
    net = FileBuilder()
    return net, net.input(dims=dims)


def only_op(net, output):
    graph = tmfile.read(net.build(output).data)
    assert len(graph.nodes) == 1
    return graph.nodes[0].op


# What is read


def test_float_network_is_read_in_full(built):
    graph = tmfile.read(built.data)
    assert graph.input == "input"
    assert graph.input_size == (8, 6)
    assert graph.outputs == ("scores", "boxes")
    assert {node.name: node.op for node in graph.nodes} == {
        "stem": Conv((2, 2), (1, 1), (1, 1, 1, 1), 1, "relu"),
        "dw": Conv((1, 1), (2, 2), (2, 2, 2, 2), 4, "relu6"),
        "pw": Conv(),
        "sum": Add("relu"),
        "score": Conv(),
        "more": Conv(),
        "joined": Concat(1),
        "rows": Transpose((0, 2, 3, 1)),
        "flat": Reshape((1, -1, 2)),
        "scores": Softmax(2),
        "box": Conv(),
        "boxes": Transpose((0, 2, 3, 1)),
    }
    assert graph.tensors["scores"].shape == (1, 36, 2)
    assert graph.tensors["boxes"].shape == (1, 3, 4, 4)
    assert not graph.is_quantized


def test_constants_hold_the_bytes_of_the_file():
    net, outputs = detector()
    graph = tmfile.read(net.build(*outputs).data)
    stored = {tensor.name: tensor for tensor in net.tensors if tensor.data is not None}
    assert {tensor.name for tensor in graph.constants} == set(stored) - {"shape"}
    for tensor in graph.constants:
        assert tensor.data.tobytes() == stored[tensor.name].data
        assert tensor.data.shape == stored[tensor.name].dims
        assert tensor.data.flags.aligned


def test_merged_relu_takes_the_place_of_the_sum(built):
    graph = tmfile.read(built.data)
    assert "merged" in graph.tensors
    assert "sum" not in graph.tensors


def test_int8_has_one_scale_per_channel_of_weights_and_biases(built_int8):
    graph = tmfile.read(built_int8.data)
    assert graph.is_quantized
    for name, dtype in (("stem.w", np.int8), ("stem.b", np.int32)):
        assert graph.tensors[name].dtype == dtype
        assert graph.tensors[name].quantization.scale.shape == (4,)
        assert graph.tensors[name].quantization.zero_point.dtype == np.int32
    scales = np.array([0.5, 0.25, 0.5 / 3, 0.125], np.float32)
    assert_array_equal(graph.tensors["stem.w"].quantization.scale, scales)
    assert graph.tensors["boxes"].dtype == np.int8
    assert_array_equal(graph.tensors["boxes"].quantization.scale, np.float32([0.1]))


def test_bias_without_scales_gets_what_it_is_computed_with(built_int8):
    graph = tmfile.read(built_int8.patched("tensor:stem.b.quant", 0))
    scales = np.float32(0.1) * graph.tensors["stem.w"].quantization.scale
    assert_array_equal(graph.tensors["stem.b"].quantization.scale, scales)
    assert_array_equal(graph.tensors["stem.b"].quantization.zero_point, [0, 0, 0, 0])


def test_bias_without_scales_that_two_convolutions_read_needs_one_product():
    def shared(first, second):
        net = FileBuilder(dtype=tm.INT8, quant=[(0.1, 0)])
        data, bias = net.input(), net.const("b", np.zeros(2, np.int32))
        convs = []
        for name, scale in (("one", first), ("two", second)):
            weight = net.const(f"{name}.w", np.ones((2, 3, 1, 1), np.int8), [(scale, 0)] * 2)
            convs.append(net.conv(name, [data, weight, bias]))
        return tmfile.read(net.build(*convs).data)

    assert_array_equal(shared(0.5, 0.5).tensors["b"].quantization.scale, np.float32([0.05] * 2))
    with pytest.raises(ModelError, match="'two' shares its bias 'b' with one of another scale"):
        shared(0.5, 0.25)


@pytest.mark.parametrize("scale", [1e-45, 3e38])
def test_bias_without_scales_whose_product_is_no_number_is_refused(scale):
    net = FileBuilder(dtype=tm.INT8, quant=[(max(scale, 1e-30) / 2, 0)])
    weight = net.const("w", np.ones((2, 3, 1, 1), np.int8), [(scale, 0)] * 2)
    conv = net.conv("c", [net.input(), weight, net.const("b", np.zeros(2, np.int32))])
    with pytest.raises(ModelError, match="the bias 'b' of Convolution 'c' has scale"):
        tmfile.read(net.build(conv).data)


def test_convolution_over_a_constant_with_many_scales_is_refused():
    net = FileBuilder(dtype=tm.INT8, quant=[(0.1, 0)])
    net.input()
    data = net.const("d", np.ones((3, 3, 2, 2), np.int8), [(0.1, 0)] * 3)
    weight = net.const("w", np.ones((2, 3, 1, 1), np.int8), [(0.1, 0)] * 2)
    conv = net.conv("c", [data, weight, net.const("b", np.zeros(2, np.int32))])
    with pytest.raises(ModelError, match="Convolution 'c' reads 'd', which has 3 scales"):
        tmfile.read(net.build(conv).data)


def test_relu_that_keeps_the_scale_is_merged_beside_one_that_does_not():
    net = FileBuilder(dtype=tm.INT8, quant=[(0.25, 0)])
    image = net.input()
    first = net.op(tm.RELU, "first", [net.add("sum", [image, image])], [0.0])
    second = net.op(tm.RELU, "second", [first], [0.0], quant=[(0.5, 0)])
    graph = tmfile.read(net.build(second).data)
    assert [node.op for node in graph.nodes] == [Add("relu"), Relu()]


def test_uint8_has_one_scale_and_zero_point_per_tensor():
    graph = tmfile.read(build_detector(dtype=tm.UINT8, quant=[(0.1, 128)]).data)
    assert graph.tensors["input"].dtype == np.uint8
    assert_array_equal(graph.tensors["input"].quantization.zero_point, [128])
    assert_array_equal(graph.tensors["stem.w"].quantization.zero_point, [120])


def test_scale_of_a_float_tensor_is_ignored():
    graph = tmfile.read(build_detector(quant=[(0.0, 7)]).data)
    assert not graph.is_quantized


@pytest.mark.parametrize("output_scale", [0.25, 0.5])
def test_relu_is_merged_only_where_it_keeps_the_scale(output_scale):
    net = FileBuilder(dtype=tm.INT8, quant=[(0.25, 0)])
    image = net.input()
    total = net.add("sum", [image, image])
    relu = net.op(tm.RELU, "relu", [total], [0.0], quant=[(output_scale, 0)])
    graph = tmfile.read(net.build(relu).data)
    merged = output_scale == 0.25
    assert [node.op for node in graph.nodes] == ([Add("relu")] if merged else [Add(), Relu()])


@pytest.mark.parametrize(
    "sizes",
    [
        {"eltwise_size": 8},
        {"reshape_size": 12},
        {"subgraph_size": 36},
        {"eltwise_size": 8, "reshape_size": 12, "subgraph_size": 36},
    ],
)
def test_file_with_older_smaller_structs_reads_the_same(built, sizes):
    older = tmfile.read(build_detector(**sizes).data)
    newer = tmfile.read(built.data)
    assert older.nodes == newer.nodes
    assert older.outputs == newer.outputs


def test_node_that_no_output_needs_is_dropped():
    net, image = image_net()
    relu = net.op(tm.RELU, "relu", [image], [0.0])
    net.op(tm.SOFTMAX, "unused", [image], [1])
    assert set(tmfile.read(net.build(relu).data).tensors) == {"input", "relu"}


def test_dropout_vanishes_between_nodes():
    net, image = image_net()
    dropout = net.op(tm.DROPOUT, "dropout", [image])
    graph = tmfile.read(net.build(net.op(tm.RELU, "relu", [dropout], [0.0])).data)
    assert [node.inputs for node in graph.nodes] == [("input",)]
    assert set(graph.tensors) == {"input", "relu"}


def test_dropout_keeps_the_name_of_an_output():
    net, image = image_net()
    graph = tmfile.read(net.build(net.op(tm.DROPOUT, "scores", [image])).data)
    assert graph.outputs == ("scores",)
    assert graph.nodes[0].op == Reshape((1, 3, 6, 8))


def test_dropout_between_two_scales_keeps_its_bytes():
    net = FileBuilder(dtype=tm.INT8, quant=[(0.25, 0)])
    image = net.input()
    dropout = net.op(tm.DROPOUT, "dropout", [image], quant=[(0.5, 0)])
    graph = tmfile.read(net.build(net.op(tm.RELU, "relu", [dropout], [0.0])).data)
    assert [node.kind for node in graph.nodes] == ["Reshape", "Relu"]
    assert_array_equal(graph.tensors["dropout"].quantization.scale, [0.5])


def test_pads_keep_their_sides():
    net, image = image_net()
    weight = net.const("w", np.ones((2, 3, 5, 3), np.float32))
    conv = only_op(net, net.conv("c", [image, weight], pads=(1, 2, 3, 0)))
    assert conv.pads == (1, 2, 3, 0)  # top, left, bottom, right: as in the file


def test_negative_axes_count_from_the_end():
    net, image = image_net()
    assert only_op(net, net.op(tm.TRANSPOSE, "t", [image], [[0, -1, 1, -2]])) == Transpose(
        (0, 3, 1, 2)
    )


@pytest.mark.parametrize(
    ("asked", "read"), [([0, 3, -1], (1, 3, -1)), ([0, 0, 48], (1, 3, 48)), ([-1], (-1,))]
)
def test_zero_in_a_reshape_copies_the_dimension(asked, read):
    net, image = image_net()
    assert only_op(net, net.reshape("r", [image], asked)) == Reshape(read)


def test_stale_shapes_of_computed_values_are_ignored(built):
    graph = tmfile.read(built.patched("tensor:stem.dims.0", 77))
    assert graph.tensors["stem"].shape == (1, 4, 3, 4)


@pytest.mark.parametrize(
    "label",
    [
        "header.sizes",
        "model.orig_format",
        "subgraph.id",
        "subgraph.sub_info",
        "node:stem.id",
        "node:stem.attrs",
        "node:stem.dynamic_shape",
        "node:stem.operator.version",
        "node:stem.param.6",  # input channels
        "node:sum.param.2",
        "tensor:stem.id",
        "tensor:stem.buffer",
        "tensor:stem.layout",
        "tensor:input.quant0.width",
        "tensor:stem.w.quant2.width",
    ],
)
def test_field_that_tengine_leaves_unset_is_ignored(built_int8, label):
    graph = tmfile.read(built_int8.patched(label, 0xFFFFFFFF))
    assert graph.nodes == tmfile.read(built_int8.data).nodes


# What is refused


@dataclass(frozen=True)
class Damage:
    label: str
    value: int | float | bytes
    message: str

    @property
    def name(self):
        return f"{self.label}={self.value!r}"


HUGE = 0xFFFFFFF0
DAMAGES = [
    # structure
    Damage("header.version", b"TF", "not a tmfile of version 2"),
    Damage("header.version", b"\x03\0", "it starts with 3"),
    Damage("header.model", 0, "the model object is missing"),
    Damage("header.model", HUGE, "the model object needs 16 bytes from byte 4294967280"),
    Damage("model.subgraphs", 0, "the list of subgraphs is missing"),
    Damage("subgraphs.count", 0, "the file has 0 subgraphs; expected 1"),
    Damage("subgraphs.count", 2, "the file has 2 subgraphs; expected 1"),
    Damage("subgraphs.count", HUGE, "the list of subgraphs has 4294967280 entries"),
    Damage("subgraphs.0", HUGE, "the subgraph needs 36 bytes"),
    Damage("subgraph.model_layout", 1, "model_layout is 1 .*NHWC"),
    Damage("subgraph.graph_layout", 1, "graph_layout is 1 .*NHWC"),
    Damage("subgraph.nodes", 0, "the list of nodes is missing"),
    Damage("subgraph.tensors", 0, "the list of tensors is missing"),
    Damage("subgraph.buffers", 0, "is in buffer 0 of 0"),
    Damage("subgraph.inputs", 0, "the list of input nodes is missing"),
    Damage("subgraph.outputs", 0, "the list of output nodes is missing"),
    Damage("nodes.count", 9999, "the list of nodes"),
    Damage("nodes.count", 0x7FFFFFFF, "the list of nodes has 2147483647 entries"),
    Damage("tensors.count", 3, "makes tensor 3 of 3"),
    Damage("nodes.0", HUGE, "node 0 needs 28 bytes"),
    Damage("tensors.0", HUGE, "tensor 0 needs 32 bytes"),
    # inputs and outputs
    Damage("inputs.0", 1, r"the list of input nodes is \(1,\); expected only 0, which is 'input'"),
    Damage("inputs.count", 0, r"the list of input nodes is \(\); expected only"),
    Damage("outputs.count", 0, "the network has no output"),
    Damage("outputs.0", 0, "the list of output nodes has 0, which is no operator"),
    Damage("outputs.0", 500, "the list of output nodes has 500"),
    # nodes
    Damage("node:stem.name", 0, "the name of node 3 is missing"),
    Damage("node:stem.operator", 0, "the operator of node 'stem' is missing"),
    Damage("node:stem.operator", HUGE, "the operator of node 'stem' needs 12 bytes"),
    Damage("node:stem.outputs", 0, "the list of outputs of Convolution 'stem' is missing"),
    Damage("node:stem.outputs.count", 0, "'stem' has 0 outputs"),
    Damage("node:stem.outputs.count", 2, "'stem' has 2 outputs"),
    Damage("node:stem.outputs.0", 99, "'stem' makes tensor 99 of"),
    Damage("node:stem.outputs.0", 0, "'stem' makes tensor 0, which another node has made"),
    Damage("node:stem.inputs", 0, "the list of inputs of Convolution 'stem' is missing"),
    Damage("node:stem.inputs.count", 0, "the list of inputs of Convolution 'stem' is empty"),
    Damage("node:stem.inputs.count", 1, "'stem' has 1 inputs"),
    Damage("node:stem.inputs.0", 99, "'stem' reads tensor 99 of"),
    Damage("node:stem.inputs.0", 3, "'stem' reads tensor 3, which no node before it makes"),
    Damage("node:stem.inputs.0", 6, "'stem' reads tensor 6, which no node before it makes"),
    # operators
    Damage("node:merged.operator.type", 31, r"'merged' is operator 31 \(Gemm\)"),
    Damage("node:merged.operator.type", 27, r"'merged' is operator 27 \(Slice\)"),
    Damage("node:merged.operator.type", 21, r"'merged' is operator 21 \(ReLu6\)"),
    Damage("node:merged.operator.type", 10, r"'merged' is operator 10 \(Flatten\)"),
    Damage("node:merged.operator.type", 500, r"'merged' is operator 500 \(unknown\)"),
    Damage("node:stem.operator.param", 0, "the parameter of node 'stem' is missing"),
    Damage("node:stem.operator.param", HUGE, "the parameter of node 'stem' needs 56 bytes"),
    Damage("node:stem.param.0", 5, r"'stem' declares channels and kernel \(4, 5, 3\)"),
    Damage("node:stem.param.7", 8, r"'stem' declares channels and kernel \(8, 3, 3\)"),
    Damage("node:stem.param.2", 0, "Conv 'stem'.* stride and dilation start at 1"),
    Damage("node:stem.param.4", -1, "Conv 'stem'.* stride and dilation start at 1"),
    Damage("node:stem.param.8", 0, "Conv 'stem'.* 0 groups"),
    Damage("node:stem.param.8", 4, "Conv 'stem'.* the weight is for 12 channels"),
    Damage("node:stem.param.9", 1, "Convolution 'stem' has activation 1"),
    Damage("node:stem.param.10", -1, "Convolution 'stem' has pads .*SAME"),
    Damage("node:stem.param.13", -2, "Convolution 'stem' has pads .*SAME"),
    Damage("node:stem.param.10", 0x7FFFFFFF, "Conv 'stem'.* padding"),
    Damage("node:sum.param.0", 0, r"Eltwise 'sum' is of type 0 \(PROD\)"),
    Damage("node:sum.param.0", 77, r"Eltwise 'sum' is of type 77 \(unknown\)"),
    Damage("node:merged.param.0", 1.5, "LeakyRelu 'merged' got .* the slope is 1.5"),
    Damage("node:merged.param.0", float("nan"), "LeakyRelu 'merged' got .* the slope is nan"),
    Damage("node:joined.param.0", 4, "Concat 'joined'.* there is no axis 4"),
    Damage("node:joined.param.0", -5, "Concat 'joined'.* there is no axis -1"),
    Damage("node:scores.param.0", 3, "Softmax 'scores'.* there is no axis 3"),
    Damage("node:rows.param.0", 0, "the parameter of node 'rows' is missing"),
    Damage("node:rows.param.0.vector.1", 0, "Transpose 'rows'.* does not order"),
    Damage("node:rows.param.0.vector.count", 9, "the parameter of node 'rows' has 9 entries"),
    Damage("node:boxes.param.0", 1, "Permute 'boxes' has flag 1"),
    Damage("node:boxes.param.4", 7, "Transpose 'boxes'.* does not order"),
    Damage("node:flat.param.1", 1, "Reshape 'flat' has reverse 1"),
    Damage("node:flat.param.2.vector.0", -3, "Reshape 'flat'.* bad shape"),
    Damage("node:flat.param.2.vector.0", -1, "Reshape 'flat'.* more than one -1"),
    Damage("node:flat.param.2.vector.0", 5, "Reshape 'flat'.* do not fill"),
    # tensors
    Damage("tensor:stem.name", 0, "the name of tensor 3 is missing"),
    Damage("tensor:stem.dtype", 1, "'stem' has data type 1"),
    Damage("tensor:stem.dtype", -1, "'stem' has data type -1"),
    Damage("tensor:stem.dtype", tm.INT32, "int32 'stem' from float32 'input'"),
    Damage("tensor:input.dtype", tm.INT32, "'input' is int32"),
    Damage("tensor:input.dtype", tm.INT8, "'input' is int8, but has no scale"),
    Damage("tensor:stem.w.dtype", tm.INT32, "'stem' has a int32 weight and a float32 bias"),
    Damage("tensor:input.dims", 0, "the shape of tensor 'input' is missing"),
    Damage("tensor:input.dims.count", 0, r"the shape of tensor 'input' is \(\)"),
    Damage("tensor:input.dims.count", 9, "the shape of tensor 'input' has 9 entries"),
    Damage("tensor:input.dims.0", 2, r"'input' has shape \(2, 3, 6, 8\)"),
    Damage("tensor:input.dims.1", 0, r"the shape of tensor 'input' is \(1, 0, 6, 8\)"),
    Damage("tensor:input.dims.1", -3, r"the shape of tensor 'input' is \(1, -3, 6, 8\)"),
    Damage("tensor:input.dims.2", 0x7FFFFFFF, "the shape of tensor 'input' is"),
    Damage("tensor:input.dims.1", 4, "Conv 'stem'.* the weight is for 3 channels"),
    Damage("tensor:stem.w.role", tm.VAR, "'stem.w' is of type 1; expected 2"),
    Damage("tensor:stem.w.buffer", 99, "'stem.w' is in buffer 99 of"),
    Damage("tensor:stem.w.dims.0", 5, "constant 'stem.w' has 432 bytes; .* needs 540"),
    Damage("tensor:stem.w.dims.0", 0x10000, "the data of constant 'stem.w' has 432 bytes"),
    Damage("buffer:stem.w.size", 431, "the data of constant 'stem.w' has 431 bytes"),
    Damage("buffer:stem.w.size", HUGE, "the data of constant 'stem.w' needs 4294967280 bytes"),
    Damage("buffer:stem.w.data", 0, "the data of constant 'stem.w' is missing"),
    Damage("buffer:stem.w.data", HUGE, "the data of constant 'stem.w' needs 432 bytes"),
    Damage("data:stem.w", float("nan"), "constant 'stem.w' holds values that are not finite"),
    # names
    Damage("tensor:stem.name.string.size", 0, "the name of tensor 3 is not a text"),
    Damage("tensor:stem.name.string.size", 1, "the name of tensor 3 is not a text"),
    Damage("tensor:stem.name.string.size", 4, "the name of tensor 3 is not a text"),
    Damage("tensor:stem.name.string.size", 7, "the name of tensor 3 is not a text"),
    Damage("tensor:stem.name.string.size", HUGE, "the name of tensor 3 needs 4294967280 bytes"),
    Damage("tensor:stem.name.string.start", HUGE, "the name of tensor 3 needs 5 bytes"),
    Damage("tensor:stem.name.characters", b"\0", "the name of tensor 3 is not a text"),
    Damage("tensor:stem.name.characters", b"\xff", "the name of tensor 3 is not UTF-8"),
]

QUANT_DAMAGES = [
    Damage("tensor:stem.quant0.scale", 0.0, "'stem' has scale 0.0; .*min-max"),
    Damage("tensor:stem.quant0.scale", -0.5, "'stem' has scale -0.5"),
    Damage("tensor:stem.quant0.scale", float("inf"), "'stem' has scale inf"),
    Damage("tensor:stem.w.quant3.scale", float("nan"), "'stem.w' has scale nan"),
    Damage("tensor:stem.quant0.zero_point", 128, "'stem' has zero point 128, which is no int8"),
    Damage("tensor:stem.w.quant.count", 3, "'stem.w' has 3 scales; expected 1 or 4"),
    Damage("tensor:stem.w.quant.count", 0, "'stem.w' has 0 scales; expected 1 or 4"),
    Damage("tensor:stem.w.quant.count", HUGE, "'stem.w' has 4294967280 entries"),
    Damage("tensor:stem.quant.count", 4, "'stem' has 4 scales; expected 1 or 1"),
    Damage("tensor:stem.w.quant.2", 0, "the quantisation of tensor 'stem.w' is missing"),
    Damage("tensor:stem.quant", 0, "'stem' is int8, but has no scale"),
    Damage("tensor:stem.w.quant", 0, "'stem.w' is int8, but has no scale"),
    Damage("tensor:stem.b.dtype", tm.INT8, "int8 weight and a int8 bias 'stem.b'; expected int32"),
    Damage("tensor:stem.dtype", tm.FP32, "float32 'stem' from int8 'input'"),
    Damage("tensor:stem.w.dtype", tm.UINT8, "'stem' .*from uint8 'stem.w'"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damaged_field_is_refused_by_name(built, damage):
    with pytest.raises(ModelError, match=damage.message):
        tmfile.read(built.patched(damage.label, damage.value))


@pytest.mark.parametrize("damage", QUANT_DAMAGES, ids=lambda damage: damage.name)
def test_damaged_quantisation_is_refused_by_name(built_int8, damage):
    with pytest.raises(ModelError, match=damage.message):
        tmfile.read(built_int8.patched(damage.label, damage.value))


def test_unknown_operator_is_refused_with_what_is_supported():
    net, image = image_net()
    output = net.op(10, "flat", [image])
    with pytest.raises(
        ModelError, match=r"'flat' is operator 10 \(Flatten\).*Convolution.*Softmax"
    ):
        tmfile.read(net.build(output).data)


def read_one(kind, param):
    net = tm.FileBuilder()
    return tmfile.read(net.build(net.op(kind, "it", [net.input()], param)).data)


def pooling(**changes):
    """alg, kernel, stride, global, flavour, pads: 3x3 stride 2 with a pixel around."""
    fields = {
        "alg": 0,
        "kh": 3,
        "kw": 3,
        "sh": 2,
        "sw": 2,
        "all": 0,
        "flavour": 0,
        "top": 1,
        "left": 1,
    }
    values = {**fields, **changes}
    return [*values.values(), values["top"], values["left"]]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, MaxPool((3, 3), (2, 2), (1, 1, 1, 1))),
        ({"flavour": 1}, MaxPool((3, 3), (2, 2), (1, 1, 2, 2))),
        ({"flavour": 0x11, "sw": 1}, MaxPool((3, 3), (2, 1), (1, 1, 2, 1))),
        ({"flavour": 2}, MaxPool((3, 3), (2, 2), (0, 0, 1, 1))),
        ({"flavour": 2, "top": 3, "left": 2}, MaxPool((3, 3), (2, 2), (1, 1, 2, 1))),
        ({"all": 1}, MaxPool((6, 8))),
    ],
)
def test_pooling_is_read_as_tengine_counts_its_windows(changes, want):
    (node,) = read_one(tm.POOLING, pooling(**changes)).nodes
    assert node.op == want


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alg": 1}, r"Pooling 'it' is of type 1 \(1 is AVG\); expected 0"),
        ({"flavour": 3}, "Pooling 'it' has caffe_flavor 3"),
        ({"top": -1}, r"Pooling 'it' has caffe_flavor 0 and pads \[-1, 1\]"),
        ({"kh": 0}, "MaxPool 'it' got .*the kernel is empty"),
        ({"sh": 0}, "MaxPool 'it' got .*stride and dilation start at 1"),
        ({"top": 3}, "MaxPool 'it' got .*padding is as large as the kernel"),
        ({"kw": 0x7FFFFFFF}, "MaxPool 'it' got .*does not fit"),
    ],
)
def test_pooling_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        read_one(tm.POOLING, pooling(**changes))


def upsampled(kind, param):
    net = tm.FileBuilder()
    image = net.input(dims=(1, 3, 6, 8))
    half = net.op(tm.POOLING, "half", [image], pooling(kh=2, kw=2, top=0, left=0))
    made = net.op(kind, "it", [half], param)
    return tmfile.read(net.build(net.add("sum", [made, image])).data)


@pytest.mark.parametrize(
    ("kind", "param"),
    [
        (tm.UPSAMPLE, [2.0]),
        (tm.INTERP, [1, 2.0, 2.0, 0, 0]),
        (tm.INTERP, [1, 0.0, 0.0, 8, 6]),
        (tm.INTERP, [1, 2.0, 2.0, 77, 99]),  # the scales count, as in Tengine
    ],
)
def test_upsampling_is_as_large_as_what_it_is_added_to(kind, param):
    graph = upsampled(kind, param)
    assert [(node.kind, node.inputs) for node in graph.nodes[1:]] == [
        ("Upsample", ("half", "input")),
        ("Add", ("it", "input")),
    ]


@pytest.mark.parametrize(
    ("kind", "param", "message"),
    [
        (tm.INTERP, [2, 2.0, 2.0, 8, 6], r"Interp 'it' has resize_type 2 \(2 is bilinear\)"),
        (tm.INTERP, [1, float("nan"), 2.0, 8, 6], "Interp 'it' has scales"),
        (tm.INTERP, [1, -2.0, 2.0, 8, 6], "Interp 'it' has scales"),
        (tm.INTERP, [1, 1e30, 2.0, 8, 6], "Interp 'it' has scales"),
        (tm.INTERP, [1, 0.0, 0.0, 1 << 30, 6], "Interp 'it' makes"),
        (tm.INTERP, [1, 0.0, 0.0, 0, -6], "Interp 'it' makes"),
        (tm.INTERP, [1, 0.1, 0.1, 0, 0], "Interp 'it' makes"),
        (tm.INTERP, [1, 2.6, 2.0, 0, 0], "Interp 'it' makes 10 pixels of 4 by a scale of 2.59999"),
        (tm.UPSAMPLE, [3.0], "Add 'sum' got inputs"),
    ],
)
def test_upsampling_that_makes_no_sense_is_refused(kind, param, message):
    with pytest.raises(ModelError, match=message):
        upsampled(kind, param)


def test_upsampling_that_no_sum_reads_is_refused():
    with pytest.raises(
        ModelError, match="'it' makes 'it' of a size of its own; supported where an"
    ):
        read_one(tm.UPSAMPLE, [2.0])


def test_second_input_is_refused_by_name():
    net, image = image_net()
    net.input("other")
    output = net.op(tm.RELU, "relu", [image], [0.0])
    with pytest.raises(ModelError, match="inputs are 'input', 'other'; expected exactly one"):
        tmfile.read(net.build(output).data)


def test_network_without_input_is_refused():
    net = FileBuilder()
    output = net.op(tm.RELU, "relu", [net.const("c", np.ones((1, 1), np.float32))], [0.0])
    with pytest.raises(ModelError, match="inputs are none; expected exactly one"):
        tmfile.read(net.build(output).data)


def test_equal_tensor_names_are_refused():
    net, image = image_net()
    output = net.op(tm.RELU, "input", [image], [0.0])
    with pytest.raises(ModelError, match="two tensors are named 'input'"):
        tmfile.read(net.build(output).data)


def test_name_of_a_vanished_dropout_stays_taken():
    net, image = image_net()
    dropout = net.op(tm.DROPOUT, "twice", [image])
    output = net.op(tm.RELU, "twice", [dropout], [0.0])
    with pytest.raises(ModelError, match="two tensors are named 'twice'"):
        tmfile.read(net.build(output).data)


def test_output_listed_twice_is_refused():
    net, image = image_net()
    output = net.op(tm.RELU, "relu", [image], [0.0])
    with pytest.raises(ModelError, match="output nodes names one twice"):
        tmfile.read(net.build(output, output).data)


def test_computed_weight_is_refused():
    net, image = image_net()
    weight = net.op(tm.RELU, "w", [net.const("c", np.ones((2, 3, 1, 1), np.float32))], [0.0])
    with pytest.raises(ModelError, match="'conv' needs a constant for its weight or bias 'w'"):
        tmfile.read(net.build(net.conv("conv", [image, weight])).data)


def test_sum_that_would_broadcast_is_refused():
    net, image = image_net()
    output = net.add("sum", [image, net.const("c", np.ones((1, 3, 1, 1), np.float32))])
    with pytest.raises(ModelError, match=r"Add 'sum'.*no broadcasting"):
        tmfile.read(net.build(output).data)


def test_reshape_cannot_copy_a_dimension_that_is_not_there():
    net, image = image_net()
    with pytest.raises(ModelError, match=r"Reshape 'r'.*copies a dimension"):
        tmfile.read(net.build(net.reshape("r", [image], [1, 3, 6, 8, 0])).data)


def test_input_of_three_dimensions_is_refused():
    net, image = image_net(dims=(3, 6, 8))
    with pytest.raises(ModelError, match=r"'input' has shape \(3, 6, 8\)"):
        tmfile.read(net.build(net.op(tm.RELU, "relu", [image], [0.0])).data)


def test_half_precision_is_refused():
    net, image = image_net()
    weight = net.const("half", np.ones((2, 3, 1, 1), np.float16))
    with pytest.raises(ModelError, match="'half' has data type 1"):
        tmfile.read(net.build(net.conv("conv", [image, weight])).data)


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x02\0" * 5, b"ONNX" * 100, b"\0" * 4096])
def test_what_is_no_tmfile_is_refused(data):
    with pytest.raises(ModelError):
        tmfile.read(data)


# What a crafted file can cost


def read_or_refuse(data):
    """True when the file was read. Anything raised but ModelError fails the test."""
    try:
        graph = tmfile.read(data)
    except ModelError:
        return False
    assert isinstance(graph, Graph)
    return True


def test_objects_that_overlap_too_often_are_refused():
    """Many nodes over one list of many inputs would take the product of both to read."""
    net, image = image_net()
    for i in range(500):
        net.op(tm.CONCAT, f"c{i}", [image] * (500 if i == 0 else 1), [1])
    built = net.build(1)
    data = built.data
    shared = struct.pack("<I", built.value("node:c0.inputs"))
    for i in range(1, 500):
        start = built.at[f"node:c{i}.inputs"]
        data = data[:start] + shared + data[start + 4 :]
    with pytest.raises(ModelError, match="overlaps other objects"):
        tmfile.read(data)


def test_more_nodes_than_any_detector_has_are_refused():
    net, image = image_net()
    for i in range(4200):
        net.op(tm.DROPOUT, f"d{i}", [image])
    with pytest.raises(ModelError, match="lists 4201 nodes; at most 4096"):
        tmfile.read(net.build(1).data)


def test_longest_chain_is_read_in_bounded_time():
    net, tensor = image_net()
    for i in range(4000):
        tensor = net.op(tm.RELU, f"r{i}", [tensor], [0.0])
    data = net.build(tensor).data
    start = time.perf_counter()
    assert len(tmfile.read(data).nodes) == 4000
    assert time.perf_counter() - start < 10  # measured: 1 s; it grows with the square


@pytest.mark.parametrize("label", ["nodes.count", "tensor:stem.w.dims.0", "buffer:stem.w.size"])
def test_crafted_count_allocates_nothing(built, label):
    data = built.patched(label, 0x3FFFFFFF)
    tracemalloc.start()
    try:
        assert not read_or_refuse(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fixture", ["built", "built_int8"])
def test_file_cut_at_any_byte_is_refused(fixture, request):
    data = request.getfixturevalue(fixture).data
    for length in range(len(data)):
        with pytest.raises(ModelError):
            tmfile.read(data[:length])


WORDS = [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0, 1, 2, 4, 12, 77, 0x100, 0x7FC00000, 0x7F800000]


@pytest.mark.parametrize("fixture", ["built", "built_int8"])
def test_every_word_overwritten_gives_a_graph_or_a_model_error(fixture, request):
    data = request.getfixturevalue(fixture).data
    outcomes = Counter()
    for start in range(0, len(data) - 3, 4):
        for word in random.Random(start).sample(WORDS, 4):
            damaged = data[:start] + struct.pack("<I", word) + data[start + 4 :]
            outcomes[read_or_refuse(damaged)] += 1
    assert min(outcomes[True], outcomes[False]) > 100  # both ways are exercised


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_gives_a_graph_or_a_model_error(built, built_int8, seed):
    rng = random.Random(seed)
    for _ in range(1000):
        data = bytearray(rng.choice([built, built_int8]).data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            start = rng.randrange(len(data) - 4)
            if rng.random() < 0.5:
                data[start] = rng.randrange(256)
            else:
                struct.pack_into("<I", data, start & ~3, rng.randrange(len(data)))
        read_or_refuse(bytes(data))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_edit_gives_a_graph_or_a_model_error(built, data):
    start = data.draw(st.integers(0, len(built.data)))
    end = data.draw(st.integers(start, min(start + 64, len(built.data))))
    inserted = data.draw(st.binary(max_size=64))
    read_or_refuse(built.data[:start] + inserted + built.data[end:])


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=300))
def test_any_bytes_behind_a_header_give_a_model_error(tail):
    with pytest.raises(ModelError):
        tmfile.read(struct.pack("<4HI", 2, 0, 0, 0, 12) + tail)


# Real files


@pytest.fixture(scope="module", params=KNOWN_SHARED)
def real(request):
    return shared_file(f"tmfile/{request.param}.tmfile").read_bytes()


def shared_file(name):
    path = WEIGHTS / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared model files, which are not in this checkout")
    return path


def real_graph(name):
    return tmfile.read(shared_file(f"tmfile/{name}.tmfile").read_bytes())


RFB_NODES = {"Conv": 52, "Concat": 3, "Add": 1, "Transpose": 8, "Reshape": 8, "Softmax": 1}
SLIM_NODES = {"Conv": 42, "Concat": 2, "Transpose": 8, "Reshape": 8, "Softmax": 1}


@pytest.mark.parametrize("name", KNOWN_SHARED)
def test_real_file_has_the_nodes_that_were_counted_in_it(name):
    graph = real_graph(name)
    expected = RFB_NODES if name.startswith("rfb") else SLIM_NODES
    assert Counter(node.kind for node in graph.nodes) == expected
    assert graph.input_size == (320, 240)
    assert graph.outputs == ("scores", "boxes")
    assert graph.tensors["scores"].shape == (1, 4420, 2)
    assert graph.tensors["boxes"].shape == (1, 4420, 4)
    assert [node.op for node in graph.nodes if isinstance(node.op, Softmax)] == [Softmax(2)]


def weights(graph):
    return [[graph.tensors[name] for name in node.inputs[1:]] for node in convs(graph)]


def convs(graph):
    return [node for node in graph.nodes if isinstance(node.op, Conv)]


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("name", "source"), [("rfb320", "version-RFB-320"), ("slim320", "version-slim-320")]
)
def test_real_weights_equal_those_of_the_onnx_file_they_were_made_from(name, source):
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    model = onnx.load(shared_file(f"ultraface/{source}_simplified.onnx"))
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    graph = real_graph(name)
    made = {node.output[0]: node for node in model.graph.node}
    compared = 0
    for node in convs(graph):
        original = onnx_conv(made, node.output)
        for ours, theirs in zip(node.inputs[1:], original.input[1:]):
            assert_array_equal(graph.tensors[ours].data, arrays[theirs])
            compared += 1
    assert compared == 2 * len(convs(graph))


def onnx_conv(made, output):
    """The Conv behind a tensor name, seen through a merged Relu."""
    node = made[output]
    return made[node.input[0]] if node.op_type == "Relu" else node


@pytest.mark.parametrize("name", ["rfb320-int8", "rfb320-uint8"])
def test_real_quantised_weights_are_within_half_a_step_of_the_float_ones(name):
    plain, quantized = weights(real_graph("rfb320")), weights(real_graph(name))
    for (weight, _), (stored, _) in zip(plain, quantized):
        pairs = stored.quantization
        scale = pairs.scale.reshape(-1, 1, 1, 1).astype(np.float64)
        zero = pairs.zero_point.reshape(-1, 1, 1, 1)
        steps = np.abs((stored.data.astype(np.int64) - zero) - weight.data / scale)
        # The quantiser cuts the uint8 zero point down to an integer, so what it moves below 0 is
        # clamped there and up to a whole step off.
        clamped = (stored.data == 0) & (stored.dtype == np.uint8)
        # weight / scale was rounded to float32 before it was rounded to an integer of 8 bits.
        slack = 256 * 2**-23
        assert (steps <= np.where(clamped, 1.0, 0.5) + slack).all(), stored.name


@pytest.mark.parametrize(("name", "per_channel"), [("rfb320-int8", True), ("rfb320-uint8", False)])
def test_real_bias_scale_is_input_scale_times_weight_scale(name, per_channel):
    graph = real_graph(name)
    for node in convs(graph):
        data, weight, bias = (graph.tensors[i] for i in node.inputs)
        assert len(weight.quantization.scale) == (weight.shape[0] if per_channel else 1)
        product = data.quantization.scale * weight.quantization.scale
        # Both factors and the product were rounded to float32 once each.
        np.testing.assert_allclose(bias.quantization.scale, product, rtol=3 * 2**-23)


def test_real_file_cut_short_is_refused(real):
    rng = random.Random(1)
    for length in [len(real) - 1, *(rng.randrange(len(real)) for _ in range(300))]:
        with pytest.raises(ModelError):
            tmfile.read(real[:length])


def test_real_file_with_a_flipped_structure_word_gives_a_graph_or_a_model_error(real):
    rng = random.Random(2)
    for _ in range(60):
        data = bytearray(real)
        start = rng.choice([rng.randrange(40_000), len(real) - rng.randrange(4, 600)]) & ~3
        struct.pack_into("<I", data, start, rng.choice(WORDS))
        read_or_refuse(bytes(data))
