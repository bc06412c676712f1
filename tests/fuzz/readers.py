"""What must hold for any bytes given to a reader: the fuzz targets, as plain functions of bytes.

An exception that leaves one of them is a bug, and so is a crash. Nothing here needs atheris, so
that tests/test_fuzz.py calls the same functions.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import _core, model, networks
from edgeface import spec as specs
from edgeface.backends import native
from edgeface.errors import BackendError, ModelError
from edgeface.formats import onnx, protobuf, tmfile, torch_weights
from edgeface.formats.onnx.records import ModelProto

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.graph import Graph, Tensor

# What the targets run or build themselves stays small; what a file may ask for is the library's limit.
MAX_VALUES = 1 << 16
MAX_MULTIPLY_ADDS = 1 << 21
STORAGE_BYTES = 96  # of the storages that stand around a bare pickle


def read_tmfile(data: bytes) -> None:
    try:
        graph = tmfile.read(data)
    except ModelError:
        return
    check_returns(graph, tmfile.write, tmfile.read)
    written(onnx.write, graph)
    check_runs(graph)


def read_onnx(data: bytes) -> None:
    try:
        imported = onnx.load(data)
    except ModelError:
        return
    graph, metadata = imported.graph, imported.metadata
    check_returns(graph, lambda given: onnx.write(given, metadata), onnx.read)
    again = written(tmfile.write, graph)
    if again is not None:
        tmfile.read(again)  # what was written is readable
    check_runs(graph)


def read_torch_weights(data: bytes) -> None:
    """The bytes as a file, and as the pickle in a sound zip file: damage would fail its checksum."""
    for file in (data, around(data)):
        try:
            weights = torch_weights.read(file)
        except ModelError:
            continue
        for values in list(weights.values())[:64]:
            assert not values.flags.writeable
            assert values.nbytes <= len(file)
            values.tobytes()  # every value lies inside its storage
        try:
            networks.build(weights, networks.DEFAULT_SIZE)
        except ModelError:
            continue


def read_spec(data: bytes) -> None:
    try:
        spec = specs.from_json(data.decode("utf-8"))
    except (ModelError, UnicodeDecodeError):
        return
    text = specs.to_json(spec)
    assert specs.to_json(specs.from_json(text)) == text  # as text: NaN is not NaN
    count = spec.priors.count(spec.input.width, spec.input.height)
    names = (spec.heads.scores, spec.heads.boxes, spec.heads.landmarks or "")
    # model.load compares the names with the network's, which are UTF-8, before the core sees them.
    if count <= MAX_VALUES and is_utf8("".join(names)):
        priors = _core.make_priors(model.core_spec(spec))
        assert priors.shape == (count, 4)
        assert np.isfinite(priors).all()


# --- Properties ------------------------------------------------------------------------------------


def check_returns(
    graph: Graph, write: Callable[[Graph], bytes], read: Callable[[bytes], Graph]
) -> None:
    """A graph that was read is refused by the writer, or comes back as it was."""
    data = written(write, graph)
    if data is not None:
        assert_equal_graphs(read(data), graph)


def written(write: Callable[[Graph], bytes], graph: Graph) -> bytes | None:
    try:
        return write(graph)
    except ModelError:
        return None


def check_runs(graph: Graph) -> None:
    """The engine takes it or says why not; a small one is run once."""
    try:
        network = native.lower(graph)
    except BackendError:
        return
    work = sum(map(graph.multiply_adds, graph.nodes))
    values = sum(math.prod(tensor.shape) for tensor in graph.tensors.values())
    if values > MAX_VALUES or work > MAX_MULTIPLY_ADDS:
        return
    try:
        engine = _core.Engine(network, num_threads=1, isa="")
    except BackendError:
        return
    engine.input()[...] = 1
    engine.run()
    for name in graph.outputs:
        assert engine.output(name).size == math.prod(graph.tensors[name].shape)


def assert_equal_graphs(one: Graph, other: Graph) -> None:
    assert one.nodes == other.nodes
    assert (one.input, one.outputs) == (other.input, other.outputs)
    assert set(one.tensors) == set(other.tensors)
    for name, tensor in one.tensors.items():
        assert facts(tensor) == facts(other.tensors[name]), name


def facts(tensor: Tensor) -> tuple[Any, ...]:
    """All of a tensor, comparable to the bit; one scale for all channels is the same as one for each."""
    pairs, count = tensor.quantization, tensor.shape[0] if tensor.is_constant else 1
    scales = None
    if pairs is not None:
        both = (pairs.scale, pairs.zero_point)
        scales = tuple(np.broadcast_to(part, count).tobytes() for part in both)
    data = None if tensor.data is None else tensor.data.tobytes()
    return tensor.name, tensor.shape, tensor.dtype, data, scales


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- Help for the fuzzer ---------------------------------------------------------------------------


def around(program: bytes) -> bytes:
    """A zip file as torch.save writes it, with the program as its pickle and four storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/data.pkl"), program)
        for key in range(4):
            archive.writestr(zipfile.ZipInfo(f"a/data/{key}"), bytes(STORAGE_BYTES))
    return file.getvalue()


INTEGERS = (
    *(-(1 << 63), -(1 << 31), -4, -1, 0, 1, 2, 3, 4, 7, 64, 1 << 14, 1 << 16, 1 << 20, 1 << 30),
    *((1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1),
)
FACTORS = (0, -1, 0.5, 2, 3, 1000, 1e30, 1 << 31)
JSON_VALUES = (
    *(None, True, False, 0, 1, -1, 8, 64, 1 << 14, 1 << 64, 0.5, 1e39, math.nan, math.inf),
    *("", "rgb", "gray", "letterbox", "stride", "corners", "softmax", "\ud800", [], [1, 2], {}),
)
REALS = (0.0, -0.0, 1.0, 6.0, 1e-45, 3.4e38, math.inf, -math.inf, math.nan)


def mutated_onnx(data: bytes, seed: int) -> bytes | None:
    """A message with a few fields changed, every length around them right; None where it is no message."""
    try:
        message = protobuf.parse(ModelProto, data)
    except ModelError:
        return None
    draw = random.Random(seed)
    records = list(inside(message))
    texts = [text for record in records for text in vars(record).values() if isinstance(text, str)]
    for _ in range(draw.randint(1, 3)):
        record = draw.choice(records)
        field = draw.choice(dataclasses.fields(record))
        slot = field.metadata["slot"]
        value = getattr(record, field.name)
        setattr(record, field.name, changed(draw, slot, value, texts))
    return protobuf.encode(message)


def mutated_spec(data: bytes, seed: int) -> bytes | None:
    """JSON with one value changed; None where it is no JSON."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    draw = random.Random(seed)
    holder: Any = {"": values}
    key: Any = ""
    while isinstance(holder[key], (dict, list)) and holder[key] and draw.randint(0, 5):
        holder = holder[key]
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    old = holder[key]
    near = old * draw.choice(FACTORS) if isinstance(old, (int, float)) else [old, old]
    holder[key] = draw.choice((near, draw.choice(JSON_VALUES), near, [old]))
    if draw.randint(0, 9) == 0:
        del holder[key]
    return json.dumps(values).encode()


def inside(record: Any) -> Any:
    """The record and all that it holds."""
    yield record
    for value in vars(record).values():
        for part in value if isinstance(value, list) else [value]:
            if dataclasses.is_dataclass(part):
                yield from inside(part)


def changed(draw: random.Random, slot: Any, value: Any, texts: list[str]) -> Any:
    if not slot.repeated:
        return one_changed(draw, slot, value, texts)
    values = list(value)
    place = draw.randint(0, len(values))
    action = draw.randint(0, 3)
    if action == 0 and slot.record is None:
        values.insert(place, one_changed(draw, slot, None, texts))
    elif values:
        place %= len(values)
        if action == 1:
            del values[place]
        elif action == 2:
            values.insert(draw.randint(0, len(values)), values[place])
        elif slot.record is None:
            values[place] = one_changed(draw, slot, values[place], texts)
    return np.asarray(values, np.float32) if slot.kind.name == "REAL" else values


def one_changed(draw: random.Random, slot: Any, value: Any, texts: list[str]) -> Any:
    kind = slot.kind.name
    if kind == "INTEGER":
        near = (value or 0) + draw.randint(-3, 3)
        return draw.choice((near, draw.choice(INTEGERS))) if abs(near) < 1 << 62 else 0
    if kind == "REAL":
        return draw.choice(REALS)
    if kind == "TEXT":
        return draw.choice(texts)
    if kind == "RECORD":
        return value if draw.randint(0, 3) else None
    content = bytearray(value or b"")
    if content and draw.randint(0, 1):
        content[draw.randrange(len(content))] = draw.randrange(256)
    else:
        content[draw.randint(0, len(content)) :] = draw.randbytes(draw.randint(0, 9))
    return bytes(content)
