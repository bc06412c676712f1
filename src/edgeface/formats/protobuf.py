"""Protobuf's wire format in as many lines as ONNX needs: the boards have NumPy, but no protobuf.

A message is declared once, as a dataclass whose fields carry their numbers; `parse` and `encode`
both follow that declaration. The wire format is described at protobuf.dev/programming-guides/encoding.
Stricter than Google's parsers where leniency helps nobody: a singular field given twice, a varint
of more than 64 bits or a group is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

Record = TypeVar("Record")

# A two-byte field becomes a Python object of up to a kilobyte. These bounds keep a small crafted
# file from taking the memory of a board; the released networks need 4,000 records, 20,000 fields.
MAX_RECORDS = 1 << 17
MAX_FIELDS = 1 << 21

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_NUMBER = (1 << 29) - 1


class _Kind(Enum):
    INTEGER = "integer"
    REAL = "float"
    TEXT = "string"
    BLOB = "bytes"
    RECORD = "message"


@dataclass(frozen=True)
class _Slot:
    """What a declaration says about one field."""

    number: int
    kind: _Kind
    repeated: bool
    record: type[Any] | None = None


class _Field(NamedTuple):
    """One field as it lies in the file: a varint's value, or where the payload is."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


def integer(number: int, default: int | None = 0) -> Any:
    """An int32, int64 or enum field; None as default tells "absent" from "zero"."""
    return _single(number, _Kind.INTEGER, default)


def integers(number: int) -> Any:
    """Repeated int32 or int64: a list."""
    return _many(number, _Kind.INTEGER)


def real(number: int, default: float | None = 0.0) -> Any:
    """A float field."""
    return _single(number, _Kind.REAL, default)


def reals(number: int) -> Any:
    """Repeated float: a NumPy array."""
    return _many(number, _Kind.REAL)


def text(number: int, default: str | None = "") -> Any:
    """A string field, UTF-8."""
    return _single(number, _Kind.TEXT, default)


def texts(number: int) -> Any:
    """Repeated string: a list."""
    return _many(number, _Kind.TEXT)


def blob(number: int, default: bytes | None = b"") -> Any:
    """A bytes field, or a message to be left unread."""
    return _single(number, _Kind.BLOB, default)


def blobs(number: int) -> Any:
    """Repeated bytes: a list."""
    return _many(number, _Kind.BLOB)


def record(number: int, kind: type[Any]) -> Any:
    """An embedded message, None when absent."""
    return _single(number, _Kind.RECORD, None, kind)


def records(number: int, kind: type[Any]) -> Any:
    """Repeated embedded messages: a list."""
    return _many(number, _Kind.RECORD, kind)


def parse(kind: type[Record], data: bytes) -> Record:
    """The message in `data`; fields that its declaration does not name are skipped."""
    return _Reader(data).message(kind, 0, len(data))


def encode(message: object) -> bytes:
    """The message's bytes, fields in order of declaration; what equals its default is left out."""
    out = bytearray()
    for name, slot, default in _declared(type(message)):
        value = getattr(message, name)
        if len(value) if slot.repeated else value != default:
            out += _encoded(slot, value)
    return bytes(out)


class _Reader:
    """Every position is checked against the end of the enclosing message before it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.records_left = MAX_RECORDS
        self.fields_left = MAX_FIELDS

    def message(self, kind: type[Record], start: int, stop: int) -> Record:
        """One message; recursion is as deep as declarations nest, and they cannot name themselves."""
        self.records_left = _spend(self.records_left, 1, "messages")
        slots = _slots(kind)
        chunks: dict[int, list[Any]] = {}
        for field in self.fields(start, stop):
            if field.number not in slots:
                continue
            name, slot = slots[field.number]
            where = f"byte {field.start}: {kind.__name__}.{name}"
            if field.number in chunks and not slot.repeated:
                raise ModelError(f"{where} is given twice")
            chunks.setdefault(field.number, []).append(self.chunk(slot, field, where))
        values = [(slots[number], parts) for number, parts in chunks.items()]
        return kind(**{name: _joined(slot, parts) for (name, slot), parts in values})

    def fields(self, start: int, stop: int) -> Iterator[_Field]:
        while start < stop:
            field = self.field(start, stop)
            self.fields_left = _spend(self.fields_left, 1, "fields")
            yield field
            start = field.stop

    def field(self, at: int, stop: int) -> _Field:
        tag, start = self.varint(at, stop)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_NUMBER:
            raise ModelError(f"byte {at}: {number} is no field number")
        if wire == _VARINT:
            value, end = self.varint(start, stop)
            return _Field(number, wire, value, start, end)
        if wire == _BYTES:
            size, start = self.varint(start, stop)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise ModelError(f"byte {at}: field {number} has unknown wire type {wire}")
        if size > stop - start:
            raise ModelError(
                f"byte {at}: field {number} has {size} bytes, but {stop - start} are left"
            )
        return _Field(number, wire, 0, start, start + size)

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        """(unsigned value, position after it)."""
        value = 0
        for position in range(at, min(at + 10, stop)):
            byte = self.data[position]
            value |= (byte & 0x7F) << (7 * (position - at))
            if byte < 0x80:
                if value >> 64:
                    break
                return value, position + 1
        reason = "is cut off" if stop - at < 10 else "has more than 64 bits"
        raise ModelError(f"byte {at}: a number {reason}")

    def chunk(self, slot: _Slot, field: _Field, where: str) -> Any:
        """The field's values: a list, or an array of floats; several only where they come packed."""
        packed = slot.repeated and field.wire == _BYTES
        if slot.kind is _Kind.INTEGER and (packed or field.wire == _VARINT):
            return list(self.packed(field)) if packed else [_signed(field.value)]
        if slot.kind is _Kind.REAL and (packed or field.wire == _FIXED32):
            return _floats(self.data[field.start : field.stop], where)
        if slot.kind in (_Kind.INTEGER, _Kind.REAL) or field.wire != _BYTES:
            raise ModelError(f"{where} is no {slot.kind.value}: it has wire type {field.wire}")
        if slot.record is not None:
            return [self.message(slot.record, field.start, field.stop)]
        raw = self.data[field.start : field.stop]
        return [raw if slot.kind is _Kind.BLOB else _utf8(raw, where)]

    def packed(self, field: _Field) -> Iterator[int]:
        at = field.start
        while at < field.stop:
            value, at = self.varint(at, field.stop)
            self.fields_left = _spend(self.fields_left, 1, "fields")
            yield _signed(value)


def _spend(left: int, cost: int, what: str) -> int:
    if left < cost:
        raise ModelError(f"the file holds more {what} than any detector's does")
    return left - cost


def _signed(value: int) -> int:
    """Protobuf writes a negative int32 or int64 as its 64-bit two's complement."""
    return value - (1 << 64) if value >> 63 else value


def _floats(raw: bytes, where: str) -> NDArray[np.float32]:
    if len(raw) % 4:
        raise ModelError(f"{where} has {len(raw)} bytes, which is no number of floats")
    if not raw:
        return np.empty(0, np.float32)
    return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{where} is not UTF-8") from None


def _joined(slot: _Slot, parts: list[Any]) -> Any:
    if not slot.repeated:
        (value,) = parts[0]
        return float(value) if slot.kind is _Kind.REAL else value
    if slot.kind is _Kind.REAL:
        return np.concatenate(parts)
    return list(itertools.chain.from_iterable(parts))


def _encoded(slot: _Slot, value: Any) -> bytes:
    values = value if slot.repeated else [value]
    if slot.kind is _Kind.INTEGER:
        body = b"".join(map(_varint, values))
        return _delimited(slot, body) if slot.repeated else _tag(slot, _VARINT) + body
    if slot.kind is _Kind.REAL:
        body = struct.pack(f"<{len(values)}f", *values)
        return _delimited(slot, body) if slot.repeated else _tag(slot, _FIXED32) + body
    return b"".join(_delimited(slot, body) for body in _bodies(slot, values))


def _bodies(slot: _Slot, values: Iterable[Any]) -> Sequence[bytes]:
    if slot.kind is _Kind.TEXT:
        return [value.encode("utf-8") for value in values]
    if slot.kind is _Kind.RECORD:
        return [encode(value) for value in values]
    return list(values)


def _delimited(slot: _Slot, body: bytes) -> bytes:
    return _tag(slot, _BYTES) + _varint(len(body)) + body


def _tag(slot: _Slot, wire: int) -> bytes:
    return _varint(slot.number << 3 | wire)


def _varint(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} does not fit into an int64")
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _single(number: int, kind: _Kind, default: Any, record: type[Any] | None = None) -> Any:
    slot = _Slot(number, kind, repeated=False, record=record)
    return dataclasses.field(default=default, metadata={"slot": slot})


def _many(number: int, kind: _Kind, record: type[Any] | None = None) -> Any:
    slot = _Slot(number, kind, repeated=True, record=record)
    empty = functools.partial(np.empty, 0, np.float32) if kind is _Kind.REAL else list
    return dataclasses.field(default_factory=empty, metadata={"slot": slot})


def _declared(kind: type[Any]) -> Iterator[tuple[str, _Slot, Any]]:
    """(name, slot, default) of every declared field."""
    for field in dataclasses.fields(kind):
        yield field.name, field.metadata["slot"], field.default


_SLOTS: dict[Any, dict[int, tuple[str, _Slot]]] = {}  # filled on first use of each declaration


def _slots(kind: Any) -> dict[int, tuple[str, _Slot]]:
    if kind not in _SLOTS:
        _SLOTS[kind] = {slot.number: (name, slot) for name, slot, _ in _declared(kind)}
    return _SLOTS[kind]
