"""The fuzz targets on some hundred damaged files, so that they stay true; and what limits a file's appetite."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from edgeface import ModelError, _core, model
from edgeface import spec as specs
from edgeface.formats import onnx, protobuf, tmfile, torch_weights
from edgeface.formats.onnx import decoding, reader
from edgeface.formats.onnx.records import DimensionProto, ModelProto
from edgeface.graph import (
    MAX_BYTES,
    MAX_ELEMENTS,
    Concat,
    Conv,
    Graph,
    Node,
    Relu,
    Tensor,
    infer_shape,
)
from fuzz import readers, seeds
from reference import core_spec, detector_graph, detector_spec

DAMAGED = 150  # of each target; some milliseconds each
TARGETS = {
    "tmfile": readers.read_tmfile,
    "onnx": readers.read_onnx,
    "torch_weights": readers.read_torch_weights,
    "spec": readers.read_spec,
}
MUTATORS = {"onnx": readers.mutated_onnx, "spec": readers.mutated_spec}


def damaged(data, draw):
    """A few bytes changed, and sometimes a piece cut out or given twice."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed))
        changed[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    start, stop = sorted(draw.randrange(len(changed)) for _ in range(2))
    cut, twice = changed[:start] + changed[stop:], changed[:stop] + changed[start:]
    return bytes(draw.choice((changed, changed, cut, twice)))


# --- Targets ---------------------------------------------------------------------------------------


def read_weights(data):
    """A file, or the bare pickle of one."""
    try:
        return torch_weights.read(data)
    except ModelError:
        return torch_weights.read(readers.around(data))


READS = {
    "tmfile": tmfile.read,
    "onnx": onnx.read,
    "torch_weights": read_weights,
    "spec": lambda data: specs.from_json(data.decode()),
}


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_is_a_sound_file(target):
    for data in seeds.MADE[target]().values():
        assert READS[target](data)
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_seeds_are_read_or_a_model_error(target):
    draw = random.Random(7)
    files = list(seeds.MADE[target]().values())
    for _ in range(DAMAGED):
        TARGETS[target](damaged(draw.choice(files), draw))


@pytest.mark.parametrize("target", MUTATORS)
def test_files_with_changed_fields_are_read_or_a_model_error(target):
    draw = random.Random(11)
    files = list(seeds.MADE[target]().values())
    for seed in range(DAMAGED):
        data = MUTATORS[target](draw.choice(files), seed)
        assert data is not None
        TARGETS[target](data)


def test_what_is_no_message_and_no_json_is_left_to_the_fuzzer():
    assert readers.mutated_onnx(b"\xff", 1) is None
    assert readers.mutated_spec(b"{", 1) is None


def test_a_target_fails_where_a_graph_does_not_come_back(monkeypatch):
    files = seeds.tmfiles()
    monkeypatch.setattr(tmfile, "write", lambda _: files["built"])
    with pytest.raises(AssertionError):
        readers.read_tmfile(files["float32"])


# --- Limits: a clear error, before memory is taken ---------------------------------------------------


@pytest.mark.parametrize("suffix", [".tmfile", ".onnx", ".pth", ".pt"])
def test_a_file_beyond_any_model_is_not_read(tmp_path, suffix):
    path = tmp_path / f"huge{suffix}"
    with path.open("wb") as file:
        file.truncate(model.MAX_FILE_BYTES + 1)  # a hole: takes no space
    with pytest.raises(ModelError, match=rf"huge\{suffix}: 1073741825 bytes; expected at most"):
        model.read_graph(path)


def changed_onnx(change):
    message = protobuf.parse(ModelProto, seeds.onnx_files()["small"])
    change(message)
    return protobuf.encode(message)


def test_an_input_beyond_any_detector_is_refused():
    def enlarge(message):
        sizes = (1, 1, 1 << 15, (1 << 15) + 1)
        message.graph.input[0].type.tensor_type.shape.dim = [DimensionProto(size) for size in sizes]

    with pytest.raises(ModelError, match="input 'input' is too large"):
        onnx.read(changed_onnx(enlarge))
    shape = (1, 1, 1 << 15, (1 << 15) + 1)
    with pytest.raises(ModelError, match="input 'x' has shape"):
        Graph((), {"x": Tensor("x", shape)}, "x", ("x",))


def test_values_beyond_any_detector_are_refused():
    node = Node(Concat(1), "wide", ("x",) * 3, "y")
    with pytest.raises(ModelError, match=r"Concat 'wide' would make a tensor of shape"):
        infer_shape(node, [(1, MAX_ELEMENTS // 2, 1, 1)] * 3)


def test_a_network_beyond_any_detector_is_refused_whatever_its_parts():
    shape = (1, 1, 1 << 14, 1 << 14)  # 2**28 values, each tensor well below MAX_ELEMENTS
    names = [f"y{i}" for i in range(16)]
    nodes = tuple(Node(Relu(), name, ("x",), name) for name in names)
    tensors = {name: Tensor(name, shape) for name in ("x", *names)}
    with pytest.raises(ModelError, match=r"are 17\.0 GiB together; expected at most 8 GiB"):
        Graph(nodes, tensors, "x", tuple(names))
    # To the byte: 8 values of 2**30 bytes are allowed, and nothing more.
    kept = {name: tensors[name] for name in ("x", *names[:7])}
    Graph(nodes[:7], kept, "x", tuple(names[:7]))
    one = Tensor("one", (1,), np.dtype(np.int8), np.ones(1, np.int8))
    with pytest.raises(ModelError, match="a smaller input size takes less"):
        Graph(nodes[:7], {**kept, "one": one}, "x", tuple(names[:7]))
    assert MAX_BYTES == 1 << 33


def test_an_input_size_that_makes_a_network_too_large_is_refused():
    names = ("x", "a", "b", "c")
    nodes = tuple(Node(Relu(), y, (x,), y) for x, y in zip(names, names[1:]))
    graph = Graph(nodes, {name: Tensor(name, (1, 3, 8, 8)) for name in names}, "x", ("c",))
    assert graph.resized(1 << 14, 1 << 13).input_size == (1 << 14, 1 << 13)  # 6 GiB
    with pytest.raises(ModelError, match=r"are 12\.0 GiB together"):
        graph.resized(1 << 14, 1 << 14)


def test_a_node_with_more_inputs_than_any_detector_has_is_refused():
    def add(message):
        message.graph.node[0].input = ["input"] * (reader.MAX_INPUTS + 1)

    with pytest.raises(ModelError, match="has 65 inputs, over the limit of 64"):
        onnx.read(changed_onnx(add))


@pytest.mark.parametrize(
    ("count", "steps"), [(decoding.MAX_PRIORS + 1, 1), (8, decoding.MAX_TAIL + 1)]
)
def test_a_longer_decode_than_any_detector_has_is_refused(count, steps):
    names = ["raw", *(f"value{i}" for i in range(steps))]
    tail = [
        decoding.Step("Exp", "the Exp", (read,), made, np.exp)
        for read, made in zip(names, names[1:])
    ]
    shapes = dict.fromkeys(names, (1, count, 4))
    with pytest.raises(ModelError, match="'boxes' is made by Exp"):
        decoding.identify("boxes", names[-1], tail, {}, shapes)


def test_a_spec_beyond_any_input_is_refused():
    spec = detector_spec(detector_graph())
    for change in ({"width": specs.MAX_SIZE + 1}, {"height": specs.MAX_SIZE + 1}):
        with pytest.raises(ModelError, match="is beyond 16384"):
            dataclasses.replace(spec.input, **change)
    with pytest.raises(ModelError, match="end at 16384"):
        dataclasses.replace(spec.priors, strides=(specs.MAX_SIZE + 1, 16))


# --- Found by fuzzing and by reading for it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "far",
    [
        {"dilation": (1, (1 << 31) - 1), "pads": (0, 0, 0, (1 << 31) - 1)},
        {"stride": (1, 1 << 40)},
        {"dilation": (1 << 40, 1)},
    ],
)
def test_a_window_far_beyond_the_image_is_refused(far):
    kernel = (1, 2) if "pads" in far else (1, 1)
    with pytest.raises(ModelError, match="Conv 'y'"):
        infer_shape(Node(Conv(**far), "y", ("x", "w"), "y"), [(1, 1, 1, 100), (1, 1, *kernel)])


def test_boxes_of_infinite_area_are_left_out():
    spec = core_spec(encoding="corners", activation="none")
    count = len(_core.make_priors(spec))
    boxes = np.tile(np.float32([0, 0, 1e25, 1e25]), (count, 1))
    assert len(_core.decode(np.full((count, 1), 0.9, np.float32), boxes, None, spec, 0.5)) == 0


def test_more_priors_than_the_network_has_rows_are_refused_before_they_are_made(tmp_path):
    graph = detector_graph()
    path = tmp_path / "small.onnx"
    path.write_bytes(onnx.write(graph))
    spec = detector_spec(graph)
    many = dataclasses.replace(spec.priors, strides=(1,), min_sizes=((8.0,) * 40_000,))
    with pytest.raises(ModelError, match="priors"):
        model.load(path, dataclasses.replace(spec, priors=many))


def test_a_spec_beyond_any_other_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    text = specs.to_json(detector_spec(detector_graph()))
    path.write_text(text + " " * (1 << 24))
    with pytest.raises(ModelError, match="bytes"):
        specs.read(path)
