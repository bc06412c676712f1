"""Weights as torch.save writes them -> arrays, without PyTorch and without unpickling.

A pickle is a program that may call anything. Here a machine of our own runs the few instructions
that a dictionary of tensors needs, on values of its own; what such a program asks for by name is
looked up in a table of a dozen entries, never imported, and the rest is refused by its name.

Both containers are read: the zip file of PyTorch 1.6 and later, and the older stream of pickles
with the storages behind them. Everything outside the pickles is little endian in both.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ModelError
from ..graph import MAX_ELEMENTS

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# The largest pickle of these networks has 54 KB; one byte of it makes at most one object.
MAX_PICKLE_BYTES = 1 << 20
MAX_MEMBERS = 1 << 14  # of a zip file: one for each tensor and a few more
MAX_RANK = 8
# What checkpoints of training runs keep their weights under, beside the epoch and the optimizer.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.")  # of DataParallel, of Lightning


def read(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a saved state dict by name, read-only and in the file's types.

    A checkpoint around the state dict is opened, and a prefix that all names share is taken off.

    Raises:
        ModelError: The file is damaged, or asks for more than tensors.
    """
    if data.startswith(b"PK\x03\x04"):
        found, blobs = _from_zip(data)
    elif data.startswith(b"\x80"):
        found, blobs = _from_stream(data)
    else:
        raise ModelError("this is no file of PyTorch, or one from before PyTorch 0.1.10")
    tensors = _named_tensors(found)
    return {name: tensor.view(blobs) for name, tensor in tensors.items()}


# --- Values ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    """A flat run of numbers that tensors are views of; its bytes lie outside the pickle."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, checked to lie inside it; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, blobs: Mapping[str, bytes]) -> NDArray[Any]:
        size = self.storage.dtype.itemsize
        # NumPy compares offset and strides with the buffer once more.
        values: NDArray[Any] = np.ndarray(
            self.shape,
            self.storage.dtype,
            blobs[self.storage.key],
            self.offset * size,
            [stride * size for stride in self.strides],
        )
        return values


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(message)


class _Function(NamedTuple):
    """What stands in for a function that the pickle may call."""

    name: str
    call: Callable[[tuple[Any, ...]], object]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    _require(not arguments, "the pickle fills an OrderedDict while it makes it")
    return {}


def _rebuild_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    """From storage, offset, shape, strides; what follows matters in training only."""
    _require(len(arguments) >= 4, "the pickle makes a tensor of too few parts")
    storage, offset, shape, strides = arguments[:4]
    _require(isinstance(storage, _Storage), "the pickle makes a tensor of no storage")
    numbers = _are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)
    fit = numbers and len(shape) == len(strides) <= MAX_RANK and 0 not in shape
    _require(fit, "the pickle makes a tensor of a shape or place that cannot be")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    # No larger than its storage either: a stride of 0 would make much of little.
    inside = last < storage.count and math.prod(shape) <= storage.count
    place = f"shape {shape}, strides {strides} and offset {offset}"
    _require(inside, f"a tensor of {place} lies outside its storage of {storage.count} values")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> _Tensor:
    tensor = arguments[0] if arguments else None
    if not isinstance(tensor, _Tensor):
        raise ModelError("the pickle makes a parameter of no tensor")
    return tensor


def _are_counts(values: object) -> bool:
    """Whether it is a tuple of whole numbers that no size or stride exceeds."""
    return isinstance(values, tuple) and all(
        type(value) is int and 0 <= value <= MAX_ELEMENTS for value in values
    )


_STORAGES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}

_FUNCTIONS = (
    _Function("collections.OrderedDict", _ordered_dict),
    _Function("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    _Function("torch._utils._rebuild_parameter", _rebuild_parameter),
)

# All that a pickle may ask for by name.
_ADMITTED: dict[str, object] = {
    **{function.name: function for function in _FUNCTIONS},
    **{f"torch.{kind}Storage": np.dtype(dtype) for kind, dtype in _STORAGES.items()},
}


def _named_tensors(found: object) -> dict[str, _Tensor]:
    """The state dict in what the pickle made."""
    for _ in WRAPPERS:  # as often at most: a dictionary may hold itself
        inner = [found[key] for key in WRAPPERS if key in found] if isinstance(found, dict) else []
        if not inner or not isinstance(inner[0], dict):
            break
        found = inner[0]
    if not isinstance(found, dict) or not found:
        raise ModelError("the file holds no dictionary of tensors; save model.state_dict()")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ModelError(f"{name!r:.60} is no tensor; save model.state_dict() alone")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name[len(prefix) :]: tensor for name, tensor in found.items()}
    return found


# --- The pickle machine ----------------------------------------------------------------------------


class _Machine:
    """Runs one pickle, from `position` in the data to its end."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.end = min(len(data), position + MAX_PICKLE_BYTES)
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        while True:
            start = self.position
            code = self.take(1)
            if code == b".":
                return self.pop()
            if code not in _INSTRUCTIONS:
                raise ModelError(
                    f"the pickle has instruction {code!r} at byte {start}, which no weights need"
                )
            _INSTRUCTIONS[code](self)

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > self.end:
            raise ModelError(f"the pickle breaks off at byte {self.end}, or is too long")
        return self.data[start : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def long(self) -> int:
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def text(self, form: str) -> str:
        return _decoded(self.take(self.number(form)))

    def line(self) -> str:
        stop = self.data.find(b"\n", self.position, self.end)
        _require(stop >= 0, "a name in the pickle does not end")
        return _decoded(self.take(stop + 1 - self.position)[:-1])

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        _require(bool(self.stack), "the pickle takes a value that it never made")
        return self.stack.pop()

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        _require(bool(self.marked), "the pickle goes back to a mark that it never set")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def join(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def put(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def get(self, index: int) -> None:
        _require(index in self.memo, f"the pickle remembers no value {index}")
        self.push(self.memo[index])

    def set_items(self, values: list[Any]) -> None:
        target = self.pop()
        pairs = isinstance(target, dict) and len(values) % 2 == 0
        _require(pairs, "the pickle sets items of what is no dictionary")
        for key, value in zip(values[::2], values[1::2]):
            _require(type(key) in (str, int), "the pickle has a key that is no text or number")
            target[key] = value
        self.push(target)

    def extend(self, values: list[Any]) -> None:
        target = self.pop()
        _require(isinstance(target, list), "the pickle appends to what is no list")
        target.extend(values)
        self.push(target)

    def named(self, module: object, name: object) -> None:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
        if full not in _ADMITTED:
            raise ModelError(
                f"the file asks for {full:.120}: refused, only tensors of plain numbers are read; "
                "save model.state_dict()"
            )
        self.push(_ADMITTED[full])

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        callable_ = isinstance(function, _Function) and type(arguments) is tuple
        _require(callable_, "the pickle calls what is no function")
        self.push(function.call(arguments))

    def build(self) -> None:
        """Drops the attributes of a dictionary: a state dict's versions of its modules."""
        self.pop()
        target = self.pop()
        _require(isinstance(target, dict), "the pickle sets attributes of what is no dictionary")
        self.push(target)

    def load_storage(self) -> None:
        """From ("storage", type, key, device, count); the old form has a view behind, None."""
        parts = self.pop()
        fits = type(parts) is tuple and len(parts) in (5, 6)
        fits = fits and isinstance(parts[0], str) and parts[0] == "storage"
        fits = fits and isinstance(parts[1], np.dtype) and isinstance(parts[2], str)
        fits = fits and _are_counts(parts[4:5]) and (len(parts) == 5 or parts[5] is None)
        _require(fits, "the pickle refers to something outside that is no plain storage")
        storage = _Storage(parts[2], parts[1], parts[4])
        known = self.storages.setdefault(storage.key, storage)
        _require(known == storage, f"storage {storage.key!r:.40} is declared twice, differently")
        self.push(storage)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"the pickle has the text {data[:40]!r}, which is no UTF-8") from None


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": lambda m: m.push(m.long()),
    b"\x8c": lambda m: m.push(m.text("<B")),
    b"X": lambda m: m.push(m.text("<I")),
    b"(": lambda m: m.mark(),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.join(1),
    b"\x86": lambda m: m.join(2),
    b"\x87": lambda m: m.join(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": lambda m: m.named(*[m.pop(), m.pop()][::-1]),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.load_storage(),
}


# --- The containers --------------------------------------------------------------------------------


def _from_stream(data: bytes) -> tuple[object, dict[str, bytes]]:
    """Magic number, protocol, facts about the machine, the object, its storages' keys; then those."""
    position, parts = 0, []
    storages: dict[str, _Storage] = {}
    for _ in range(5):
        machine = _Machine(data, position)
        parts.append(machine.run())
        position = machine.position
        storages.update(machine.storages)
        _require(parts[0] == MAGIC, "this pickle is not one that torch.save wrote")
    _, protocol, system, found, keys = parts
    _require(protocol == PROTOCOL, f"the file's protocol is not {PROTOCOL}")
    little = isinstance(system, dict) and system.get("little_endian") is True
    _require(little, "the file was not written by a little-endian machine")
    _require(isinstance(keys, list), "the file does not list its storages")
    return found, _stream_blobs(data, position, keys, storages)


def _stream_blobs(
    data: bytes, position: int, keys: list[Any], storages: dict[str, _Storage]
) -> dict[str, bytes]:
    """Each storage's bytes, which follow their count."""
    blobs: dict[str, bytes] = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in blobs:
            raise ModelError("the file lists a storage twice, or one that no tensor is made of")
        start, position = position + 8, position + 8 + storage.size
        _require(position <= len(data), f"the file ends inside of storage {storage.key!r:.40}")
        (count,) = struct.unpack_from("<q", data, start - 8)
        _require(count == storage.count, f"storage {storage.key!r:.40} has {count} values")
        blobs[storage.key] = data[start:position]  # a copy, and so an aligned one
    for key in storages:
        _require(key in blobs, f"the file lacks storage {key!r:.40}")
    return blobs


def _from_zip(data: bytes) -> tuple[object, dict[str, bytes]]:
    import zipfile  # here, because it brings many modules

    # zipfile makes an object of some 500 bytes for each entry before anyone can count them.
    entries = data.count(b"PK\x01\x02")
    _require(entries <= MAX_MEMBERS, f"the zip file has {entries} entries; {MAX_MEMBERS} at most")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _from_archive(archive, len(data))
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise ModelError(f"the zip file is damaged: {error}") from None


def _from_archive(archive: zipfile.ZipFile, limit: int) -> tuple[object, dict[str, bytes]]:
    root = _root(archive.namelist())
    members = _members(archive, limit)
    if f"{root}byteorder" in members:
        little = archive.read(members[f"{root}byteorder"]) == b"little"
        _require(little, "the file was not written by a little-endian machine")
    machine = _Machine(archive.read(members[f"{root}data.pkl"]))
    found = machine.run()
    blobs = {}
    for key, storage in machine.storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise ModelError(f"the zip file lacks storage {key!r:.40}")
        size = f"storage {key!r:.40} has {member.file_size} bytes; {storage.size} expected"
        _require(member.file_size == storage.size, size)
        blobs[key] = archive.read(member)
    return found, blobs


def _root(names: list[str]) -> str:
    """The folder that everything of a saved file lies in."""
    roots = [name[: -len("data.pkl")] for name in names if name.split("/")[1:] == ["data.pkl"]]
    _require(len(roots) == 1, f"the zip file has {len(roots)} pickles of weights, not one")
    program = f"{roots[0]}constants.pkl" in names
    _require(not program, "this is a TorchScript program; save model.state_dict()")
    return roots[0]


def _members(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    """The files inside by name: stored as they are, and together no larger than the whole."""
    members = {info.filename: info for info in archive.infolist()}
    _require(len(members) == len(archive.infolist()), "the zip file has a name twice")
    for name, info in members.items():
        plain = info.compress_type == 0 and info.flag_bits & 1 == 0
        plain = plain and info.file_size == info.compress_size
        _require(plain, f"{name!r:.60} in the zip file is compressed or encrypted")
    total = sum(info.file_size for info in members.values())
    _require(total <= limit, f"the zip file claims to hold {total} bytes in its {limit}")
    return members
