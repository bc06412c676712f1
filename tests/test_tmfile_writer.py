from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from edgeface.errors import ModelError
from edgeface.formats import tmfile
from edgeface.formats.tmfile import rules
from edgeface.graph import (
    Add,
    Concat,
    Conv,
    LeakyRelu,
    MaxPool,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Transpose,
    Upsample,
    fuse_activations,
)
from tmfile_builder import Walker
from tmfile_graphs import (
    FLOAT32,
    INT8,
    INT32,
    UINT8,
    Maker,
    assert_equal_graphs,
    detector,
    pairs,
    pyramid,
)

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights" / "tmfile"
REAL = ["rfb320", "slim320", "rfb320-int8", "rfb320-uint8"]
TYPES = [FLOAT32, INT8, UINT8]


def real_file(name):
    path = WEIGHTS / f"{name}.tmfile"
    if not path.exists():
        pytest.skip(f"needs tmfile/{name}.tmfile of the shared model files, not in this checkout")
    return path.read_bytes()


def again(graph):
    return tmfile.read(tmfile.write(graph))


# What is written reads back


@pytest.mark.parametrize("name", REAL)
def test_real_network_comes_back_to_the_bit(name):
    graph = tmfile.read(real_file(name))
    assert_equal_graphs(again(graph), graph)


@pytest.mark.parametrize("name", REAL)
def test_real_network_is_written_the_same_after_a_round_trip(name):
    written = tmfile.write(tmfile.read(real_file(name)))
    assert tmfile.write(tmfile.read(written)) == written


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_operator_comes_back(dtype):
    graph = detector(dtype)
    assert {node.kind for node in graph.nodes} == {
        *("Conv", "Relu", "Add", "Concat", "Softmax", "Transpose", "Reshape")
    }
    assert_equal_graphs(again(graph), graph)


@pytest.mark.parametrize("size", [(18, 22), (19, 21), (8, 9)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_operator_of_a_pyramid_comes_back(dtype, size):
    graph = pyramid(dtype, size)
    assert {"LeakyRelu", "MaxPool", "Upsample", "Sigmoid"} < {node.kind for node in graph.nodes}
    assert_equal_graphs(again(graph), fuse_activations(graph))
    assert again(graph).resized(40, 33) is not None


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_equal_graphs_give_equal_bytes(dtype):
    graph = detector(dtype)
    shuffled = dict(reversed(graph.tensors.items()))
    assert tmfile.write(dataclasses.replace(graph, tensors=shuffled)) == tmfile.write(graph)
    assert tmfile.write(again(graph)) == tmfile.write(graph)


def test_reshape_keeps_the_size_to_be_inferred():
    graph = again(detector())
    assert Reshape((1, -1, 2)) in [node.op for node in graph.nodes]
    assert again(graph.resized(32, 24)).tensors["scores"].shape == (1, 12 * 16 * 3, 2)


def test_only_what_the_outputs_need_is_written():
    make = Maker()
    make.conv("unused", "input", 3)
    make.op(Relu(), "used", "input")
    graph = again(make.graph("used"))
    assert set(graph.tensors) == {"input", "used"}


def test_relu_behind_a_convolution_becomes_its_activation():
    make = Maker()
    make.op(Relu(), "relu", make.conv("conv", "input", 4))
    (node,) = again(make.graph()).nodes
    assert node.op.activation == "relu"


def test_relu_that_changes_the_scale_stays():
    make = Maker(INT8)
    make.op(Relu(), "relu", make.conv("conv", "input", 4), quantization=pairs(0.01))
    assert_equal_graphs(again(make.graph()), make.graph())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_value_between_sum_and_relu_has_the_scale_of_the_result(dtype):
    make = Maker(dtype)
    make.op(Add("relu"), "total", "input", "input")
    assert_equal_graphs(again(make.graph()), make.graph())
    total = parts_of(make.graph())["total/sum"]
    assert total == parts_of(make.graph())["total"]


def parts_of(graph):
    """What the file says of each tensor but its name: shape, scales, role and type."""
    walker = Walker(tmfile.write(graph))
    return {name: rest for name, *rest in walker.tensors}


def test_name_of_the_value_between_sum_and_relu_is_not_taken():
    make = Maker()
    make.op(Relu(), "total/sum", "input")
    make.op(Add("relu"), "total", "input", "total/sum")
    assert len(set(Walker(tmfile.write(make.graph())).names)) == 5  # 4 tensors, "total/relu"
    assert_equal_graphs(again(make.graph()), make.graph())


def test_node_without_a_name_gets_that_of_its_output():
    make = Maker()
    make.op(Relu(), "relu", "input", node_name="")
    assert again(make.graph()).nodes[0].name == "relu"


def test_many_nodes_of_one_long_name_are_read_back():
    """A shared name would be read so often that the reader took the file for a crafted one."""
    make = Maker()
    for i in range(500):
        make.op(Relu(), f"r{i}", f"r{i - 1}" if i else "input", node_name="n" * 1000)
    assert_equal_graphs(again(make.graph()), make.graph())


def test_names_are_kept_in_utf8():
    make = Maker()
    make.op(Relu(), "gesichter/größe", "input", node_name="顔")
    assert_equal_graphs(again(make.graph()), make.graph())


def test_constants_are_written_in_row_major_order():
    make = Maker()
    make.conv("conv", "input", 3)
    turned = np.asfortranarray(make.tensors["conv.weight"].data)
    make.change("conv.weight", data=turned)
    assert_array_equal(again(make.graph()).tensors["conv.weight"].data, turned)


# Quantisation


def test_bias_scale_that_is_the_product_takes_no_room():
    make = Maker(INT8)
    make.conv("conv", "input", 100, kernel=(1, 1))
    graph = make.graph()
    assert_equal_graphs(again(graph), graph)
    close = make.tensors["conv.bias"].quantization.scale * np.float32(1 + 2**-23)
    make.change("conv.bias", quantization=pairs(close))
    assert_equal_graphs(again(make.graph()), make.graph())  # but another is kept to the bit
    assert len(tmfile.write(make.graph())) - len(tmfile.write(graph)) == 4 + 100 * 16


def test_bias_without_scales_comes_back_with_the_product():
    make = Maker(INT8)
    make.conv("conv", "input", 4)
    full = make.graph()
    make.change("conv.bias", quantization=None)
    assert tmfile.write(dataclasses.replace(full, tensors=make.tensors)) == tmfile.write(full)


def two_convolutions_with_one_bias(scales, bias_scale=None):
    make = Maker(INT8)
    for name, scale in zip(("one", "two"), scales):
        make.conv(name, "input", 4)
        make.change(f"{name}.weight", quantization=pairs([scale] * 4))
    node = make.nodes[1]
    make.nodes[1] = dataclasses.replace(node, inputs=(*node.inputs[:2], "one.bias"))
    del make.tensors["two.bias"]
    make.change("one.bias", quantization=None if bias_scale is None else pairs([bias_scale] * 4))
    return make.graph("one", "two")


def test_bias_of_two_convolutions_keeps_its_scales_unless_both_have_that_product():
    scale = np.float32(0.01)
    product = np.float32(0.05) * scale
    graph = two_convolutions_with_one_bias([scale, scale], product)
    assert_equal_graphs(again(graph), graph)
    for scales in ([scale, np.nextafter(scale, 1)], [np.nextafter(scale, 1), scale]):
        graph = two_convolutions_with_one_bias(scales, product)
        assert_equal_graphs(again(graph), graph)


def test_bias_of_two_convolutions_with_unlike_products_is_refused():
    for bias_scale in (0.01 * 0.05, 0.02 * 0.05):
        graph = two_convolutions_with_one_bias([0.01, 0.02], bias_scale)
        refused(graph, "a bias 'one.bias' whose scale is not that of its input")
    graph = two_convolutions_with_one_bias([0.01, 0.02])
    refused(graph, "Conv 'two' shares its bias 'one.bias' with one of another scale")


def test_channels_with_one_scale_share_its_record():
    sizes = []
    for scales in (np.linspace(0.01, 0.02, 100), np.full(100, 0.01)):
        make = Maker(INT8)
        make.conv("conv", "input", 100, kernel=(1, 1), bias=False)
        make.change("conv.weight", quantization=pairs(scales))
        assert_equal_graphs(again(make.graph()), make.graph())
        sizes.append(len(tmfile.write(make.graph())))
    assert sizes[0] - sizes[1] == 99 * 12


def test_int8_weight_with_one_scale_gets_it_for_each_channel():
    """Tengine's int8 kernels read a list, which its loader makes of two scales or more."""
    make = Maker(INT8)
    make.conv("conv", "input", 4)
    make.change("conv.weight", quantization=pairs(0.01))
    make.change("conv.bias", quantization=pairs(np.float32(0.01) * np.float32(0.05)))
    graph = again(make.graph())
    assert_array_equal(graph.tensors["conv.weight"].quantization.scale, np.float32([0.01] * 4))
    assert_array_equal(graph.tensors["conv.bias"].quantization.scale.shape, (4,))
    assert tmfile.write(graph) == tmfile.write(make.graph())


def with_shared_scales(graph, steps):
    """Weights' scales rounded up to powers of 2**(1/steps). For the size only: values stay."""
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if not isinstance(node.op, Conv):
            continue
        data, weight, bias = (tensors[name] for name in node.inputs)
        exponents = np.ceil(np.log2(weight.quantization.scale) * steps) / steps
        scales = pairs(np.exp2(exponents))
        units = pairs(data.quantization.scale * scales.scale)
        tensors[weight.name] = dataclasses.replace(weight, quantization=scales)
        tensors[bias.name] = dataclasses.replace(bias, quantization=units)
    return dataclasses.replace(graph, tensors=tensors)


def test_real_files_are_smaller_than_tengine_writes_them():
    stock = {name: real_file(name) for name in REAL}
    sizes = {name: len(tmfile.write(tmfile.read(data))) for name, data in stock.items()}
    assert all(sizes[name] < len(data) for name, data in stock.items())
    assert sizes["rfb320-int8"] < 372_000  # stock: 438 700
    assert sizes["rfb320-uint8"] < 312_000  # stock: 320 556


def test_int8_network_whose_channels_share_scales_is_below_330_kilobytes():
    graph = with_shared_scales(tmfile.read(real_file("rfb320-int8")), steps=16)
    assert_equal_graphs(again(graph), graph)
    assert len(tmfile.write(graph)) < 330_000


# Every byte is meant


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_byte_is_of_an_object_or_zero(dtype):
    check_bytes(tmfile.write(detector(dtype)))


@pytest.mark.parametrize("name", REAL)
def test_every_byte_of_a_real_network_is_of_an_object_or_zero(name):
    check_bytes(tmfile.write(tmfile.read(real_file(name))))


def check_bytes(data):
    walker = Walker(data)
    assert not any(walker.unset)
    assert all(len(gap) < 4 and not any(gap) for gap in walker.gaps())
    assert all(walker.names)


@pytest.mark.parametrize("name", REAL)
def test_written_file_cut_short_is_refused(name):
    data, rng = tmfile.write(tmfile.read(real_file(name))), random.Random(1)
    for length in [len(data) - 1, *(rng.randrange(len(data)) for _ in range(300))]:
        with pytest.raises(ModelError):
            tmfile.read(data[:length])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_small_written_file_cut_at_any_byte_is_refused(dtype):
    data = tmfile.write(detector(dtype))
    for length in range(len(data)):
        with pytest.raises(ModelError):
            tmfile.read(data[:length])


# What is refused


def refused(graph, message):
    with pytest.raises(ModelError, match=message):
        tmfile.write(graph)


def test_int8_convolution_with_one_output_channel_is_refused():
    make = Maker(INT8)
    make.conv("conv", "input", 1)
    refused(make.graph(), "Conv 'conv' has one output channel in int8, and Tengine crashes")


@pytest.mark.parametrize("dtype", [FLOAT32, UINT8], ids=str)
def test_one_output_channel_is_fine_in_other_types(dtype):
    make = Maker(dtype)
    make.conv("conv", "input", 1)
    assert_equal_graphs(again(make.graph()), make.graph())


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.bool_, ">f4"])
def test_constant_of_another_type_is_refused_by_name(dtype):
    make = Maker()
    make.op(Add(), "sum", "input", make.constant("odd", np.ones((1, 4, 6, 8), dtype)))
    refused(make.graph(), f"tensor 'odd' is {np.dtype(dtype)}; a tmfile holds float32")


def test_computed_int32_is_refused():
    make = Maker(INT32)
    make.quantization = None
    make.op(Relu(), "relu", "input")
    make.change("input", quantization=None)
    make.change("relu", quantization=None)
    refused(make.graph(), "'input' is int32, which only constants may be")


def test_mixed_types_are_refused():
    make = Maker()
    make.op(Relu(), "relu", "input")
    make.change("relu", dtype=INT8, quantization=pairs(0.1))
    refused(make.graph(), "Relu 'relu' makes int8 'relu' from float32 'input'")


@pytest.mark.parametrize(
    ("shape", "op", "message"),
    [
        ((1, 1, 1, 1, 2, 3, 4, 4, 2), Relu(), r"'shape' has shape .* takes 1 to 8 dimensions"),
        ((1, 4, 6, 4, 2), Relu(), "Relu 'odd' has 5 dimensions; Tengine runs it with 1 to 4"),
        ((1, 4, 6, 4, 2), Softmax(1), "Softmax 'odd' has 5 dimensions; Tengine runs it with"),
        ((6, 32), Add(), "Add 'odd' has 2 dimensions; Tengine runs it with 3 to 4"),
        ((1, 4, 6, 4, 2), Concat(1), "Concat 'odd' has 5 dimensions; Tengine runs it with 1 to 4"),
        ((192,), Transpose((0,)), "Transpose 'odd' has 1 dimensions; Tengine runs it with 2 to 6"),
    ],
    ids=["9", "relu", "softmax", "add", "concat", "transpose"],
)
def test_dimensions_that_tengine_does_not_run_are_refused(shape, op, message):
    make = Maker()
    make.op(Reshape(shape), "shape", "input")
    make.op(op, "odd", *["shape"] * (2 if isinstance(op, (Add, Concat)) else 1))
    refused(make.graph(), message)


@pytest.mark.parametrize("dtype", [INT8, UINT8], ids=str)
def test_quantised_sum_or_convolution_with_a_slope_is_refused(dtype):
    """Rounded once here and twice there; a LeakyRelu of its own is written."""
    make = Maker(dtype)
    make.conv("conv", "input", 4, activation="leaky_relu", slope=0.1)
    refused(make.graph(), r"Conv 'conv' has a slope below 0 in u?int8")
    make = Maker(dtype)
    make.op(Add("leaky_relu", 0.1), "sum", "input", "input")
    refused(make.graph(), "Add 'sum' has activation leaky_relu")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (MaxPool((3, 3), pads=(1, 1, 0, 0)), r"'pool' has pads \(1, 1, 0, 0\); Tengine pads"),
        (MaxPool((3, 3), pads=(0, 0, 2, 2)), r"'pool' has pads \(0, 0, 2, 2\); Tengine pads"),
        (MaxPool((2, 2), (2, 1), (0, 0, 1, 1)), None),
        (MaxPool((6, 4), (2, 2), (0, 0, 1, 1)), "'pool' makes 1 of 6 pixels; Tengine would make 2"),
    ],
)
def test_padding_that_tengine_does_not_have_is_refused(op, message):
    make = Maker()  # 6x8
    make.op(op, "pool", "input")
    if message is None:
        assert_equal_graphs(again(make.graph()), make.graph())
    else:
        refused(make.graph(), message)


def test_upsampling_that_is_not_added_is_refused():
    make = Maker()
    small = make.op(MaxPool((2, 2), (2, 2)), "small", "input")
    make.op(Upsample(), "large", small, "input")
    refused(make.graph(), "Upsample 'large' is made as large as 'input', but not added to it")


def test_upsampling_of_which_tengine_takes_other_pixels_is_refused():
    """Where a position divided by the scale should be whole, and is a little less in float32."""
    sizes = [(size, made) for size in range(2, 60) for made in range(size + 1, 4 * size)]
    wrong = [pair for pair in sizes if not rules.takes_nearest(*pair, pair[1] / pair[0])]
    assert wrong
    (size, made), *_ = wrong
    make = Maker(shape=(1, 2, made, 8))
    small = make.op(MaxPool((made - size + 1, 1)), "small", "input")
    make.op(Add(), "sum", make.op(Upsample(), "large", small, "input"), "input")
    refused(make.graph(), f"'large' makes {made} of {size} pixels, of which Tengine")


@pytest.mark.parametrize("size", range(1, 200))
def test_upsampling_to_the_sizes_of_a_pyramid_is_never_refused(size):
    """A level is half of the next one, rounded up."""
    for made in (2 * size - 1, 2 * size):
        scale = made / size
        assert rules.takes_nearest(size, made, scale)
        assert rules.stretched(size, scale) == made


def test_sum_with_relu6_is_refused():
    make = Maker()
    make.op(Add("relu6"), "sum", "input", "input")
    refused(make.graph(), "Add 'sum' has activation relu6")


def test_computed_weight_is_refused():
    make = Maker(shape=(1, 2, 3, 3))
    make.op(Conv(), "conv", "input", make.op(Relu(), "weight", "input"))
    refused(make.graph(), "'conv' needs a constant for its weight or bias 'weight'")


def test_output_that_no_node_makes_is_refused():
    make = Maker()
    make.op(Relu(), "relu", "input")
    refused(make.graph("input", "relu"), "no node makes the output 'input'")


def test_output_listed_twice_is_refused():
    make = Maker()
    make.op(Relu(), "relu", "input")
    refused(make.graph("relu", "relu"), "the output 'relu' is listed 2 times")


def test_output_that_is_read_again_is_refused():
    make = Maker()
    make.op(Softmax(1), "scores", make.op(Relu(), "relu", "input"))
    refused(make.graph("relu", "scores"), "the output 'relu' is also read by Softmax 'scores'")


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_name_that_a_file_cannot_hold_is_refused(name):
    make = Maker()
    make.op(Relu(), name, "input")
    refused(make.graph(), "a tensor is named .*expected a text without NUL")
    make = Maker()
    make.op(Relu(), "relu", "input", node_name=name or "\0")
    refused(make.graph(), "a node is named")


def test_more_inputs_than_tengine_counts_are_refused():
    make = Maker()
    make.op(Concat(1), "joined", *["input"] * 256)
    refused(make.graph(), "'input' is read 256 times; Tengine counts to 255")
    make = Maker()
    inputs = ["input", make.op(Relu(), "relu", "input")]
    make.op(Concat(1), "joined", *inputs * 128)
    refused(make.graph(), "Concat 'joined' has 256 inputs; Tengine counts to 255")


def test_more_values_at_once_than_tengine_keeps_apart_are_refused():
    make = Maker()
    for i in range(64):
        make.op(Relu(), f"r{i}", "input")
    make.op(Concat(1), "joined", *(f"r{i}" for i in range(64)))
    refused(make.graph(), "65 values are alive at Concat 'joined'; Tengine keeps 64 apart")


def test_more_nodes_than_are_read_are_refused():
    make = Maker()
    for i in range(4096):
        make.op(Relu(), f"r{i}", f"r{i - 1}" if i else "input")
    refused(make.graph(), "the file would list 4097 nodes")


QUANTIZATIONS = [
    ("input", INT8, None, "tensor 'input' is int8, but has no scale"),
    ("input", INT8, pairs(0.1, 3), "'input' has a zero point that is not 0"),
    ("input", UINT8, pairs(0.1, 256), "'input' has zero point 256, which is no uint8"),
    ("input", INT8, pairs(0.0), "'input' has scale 0.0"),
    ("input", INT8, pairs(math.nan), "'input' has scale nan"),
    ("input", INT8, pairs([0.1] * 4), "'input' has 4 scales; expected 1"),
    ("input", FLOAT32, pairs(0.1), "tensor 'input' is float32 and has a scale"),
    ("conv.weight", UINT8, pairs([0.005] * 4, 120), "'conv.weight' has 4 scales; expected 1"),
    ("conv.weight", INT8, pairs([0.005] * 3), "'conv.weight' has 3 scales; expected 1 or 4"),
    ("conv.weight", INT8, pairs([0.005] * 4, 1), "'conv.weight' has a zero point that is not 0"),
    (
        "conv.bias",
        INT8,
        pairs([0.1] * 4),
        "a bias 'conv.bias' whose scale is not that of its input",
    ),
    ("conv.bias", INT8, pairs([0.1] * 4, 1), "'conv.bias' has a zero point that is not 0"),
    ("conv.bias", INT8, pairs([0.1] * 2), "'conv.bias' has 2 scales; expected 1 or 4"),
]


@pytest.mark.parametrize(("name", "dtype", "quantization", "message"), QUANTIZATIONS)
def test_quantisation_that_tengine_would_run_wrong_is_refused(name, dtype, quantization, message):
    make = Maker(dtype)
    make.conv("conv", "input", 4)
    make.change(name, quantization=quantization)
    refused(make.graph(), message)


def test_zero_points_of_another_number_are_refused():
    make = Maker(INT8)
    make.conv("conv", "input", 4)
    two = dataclasses.replace(pairs(0.1), zero_point=np.zeros(2, np.int32))
    make.change("input", quantization=two)
    refused(make.graph(), "'input' has 2 zero points; expected one a scale")


def test_value_with_a_scale_for_each_channel_is_refused_but_as_a_weight():
    make = Maker(INT8, shape=(1, 4, 6, 8))
    values = np.ones((2, 4, 6, 8), np.int8)
    make.constant("two", values, pairs([0.1, 0.2]))
    make.op(Concat(0), "joined", "input", "two")
    refused(make.graph(), "Concat 'joined' reads 'two', which has 2 scales; expected 1")


# Random graphs


@st.composite
def graphs(draw):
    """A few nodes, each over what came before; the outputs are what no node reads."""
    channels, height, width = (draw(st.integers(1, 5)) for _ in range(3))
    make = Maker(draw(st.sampled_from(TYPES)), shape=(1, channels, height, width))
    values = ["input"]
    for index in range(draw(st.integers(1, 8))):
        data = draw(st.sampled_from(values))
        values.append(add_node(draw, make, f"{index}{draw(st.text('aé/', max_size=3))}", data))
    read = {name for node in make.nodes for name in node.inputs}
    return make.graph(*(node.output for node in make.nodes if node.output not in read))


def add_conv(draw, make, name, data):
    channels, *size = make.tensors[data].shape[1:]
    groups = draw(st.sampled_from([n for n in range(1, 6) if channels % n == 0]))
    kernel = [draw(st.integers(1, min(3, limit))) for limit in size]
    pads = [draw(st.integers(0, kernel[axis] - 1)) for axis in (0, 1, 0, 1)]
    return make.conv(
        name,
        data,
        groups * draw(st.integers(2, 3)),
        kernel=kernel,
        bias=draw(st.booleans()),
        groups=groups,
        pads=tuple(pads),
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        **draw(st.sampled_from(ACTIVATIONS[: 4 if make.quantization is None else 3])),
    )


# The last is not written in integers.
ACTIVATIONS = [{"activation": name} for name in ("none", "relu", "relu6")]
ACTIVATIONS.append({"activation": "leaky_relu", "slope": 0.1})
SUMS = [Add(), Add("relu"), Add("leaky_relu", 0.25)]


def add_node(draw, make, name, data):
    shape = make.tensors[data].shape
    kinds = [
        "conv",
        "relu",
        "add",
        "concat",
        "softmax",
        "order",
        "shape",
        "pool",
        "sigmoid",
        "slope",
    ]
    kind = draw(st.sampled_from(kinds))
    if kind == "conv" and len(shape) == 4:
        return add_conv(draw, make, name, data)
    if kind == "pool" and len(shape) == 4:
        kernel = tuple(min(2, size) for size in shape[2:])
        return make.op(MaxPool(kernel), name, data)
    axis = draw(st.integers(0, len(shape) - 1))
    order = tuple(draw(st.permutations(range(len(shape)))))
    op, count = {
        "add": (draw(st.sampled_from(SUMS[: 3 if make.quantization is None else 2])), 2),
        "sigmoid": (Sigmoid(), 1),
        "slope": (LeakyRelu(0.1), 1),
        "concat": (Concat(axis), draw(st.integers(1, 3))),
        "softmax": (Softmax(axis), 1),
        "order": (Transpose(order), 1),
        "shape": (Reshape((1, -1, shape[-1])), 1),
    }.get(kind, (Relu(), 1))
    return make.op(op, name, *[data] * count)


@settings(max_examples=150, deadline=None)
@given(graph=graphs())
def test_random_graph_comes_back(graph):
    written = tmfile.write(graph)
    check_bytes(written)
    back = tmfile.read(written)
    assert_equal_graphs(back, fuse_activations(graph))
    assert tmfile.write(back) == written
