# ruff: noqa: RUF009  (the calls in dataclasses declare fields, as dataclasses.field does)
from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from edgeface.errors import ModelError
from edgeface.formats import protobuf

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
# Protobuf's strings are UTF-8, which has no surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@dataclass
class Inner:
    number: int = protobuf.integer(1)
    name: str = protobuf.text(2)


@dataclass
class Outer:
    number: int = protobuf.integer(1)
    optional: int | None = protobuf.integer(2, default=None)
    numbers: list[int] = protobuf.integers(3)
    share: float = protobuf.real(4)
    shares: np.ndarray = protobuf.reals(5)
    name: str = protobuf.text(6)
    names: list[str] = protobuf.texts(7)
    raw: bytes = protobuf.blob(8)
    raws: list[bytes] = protobuf.blobs(9)
    inner: Inner | None = protobuf.record(10, Inner)
    inners: list[Inner] = protobuf.records(2000, Inner)


inner = st.builds(Inner, number=INT64, name=TEXT)
outer = st.builds(
    Outer,
    number=INT64,
    optional=st.none() | INT64,
    numbers=st.lists(INT64),
    share=FLOAT32,
    shares=st.lists(FLOAT32).map(lambda values: np.array(values, np.float32)),
    name=TEXT,
    names=st.lists(TEXT),
    raw=st.binary(),
    raws=st.lists(st.binary()),
    inner=st.none() | inner,
    inners=st.lists(inner),
)


def same(first, second):
    """Equality of Outer, whose array has no truth value."""
    ours, theirs = dict(vars(first)), dict(vars(second))
    assert_array_equal(ours.pop("shares"), theirs.pop("shares"))
    return ours == theirs


@given(outer)
def test_what_is_encoded_parses_to_the_same(message):
    assert same(protobuf.parse(Outer, protobuf.encode(message)), message)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_model_error(data):
    with contextlib.suppress(ModelError):
        protobuf.parse(Outer, data)


@given(outer, st.data())
def test_a_damaged_message_is_a_message_or_a_model_error(message, draw):
    data = bytearray(protobuf.encode(message) or b"\0")
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ModelError):
        protobuf.parse(Outer, bytes(data))


@given(st.lists(INT64), st.lists(FLOAT32), st.lists(st.binary()), TEXT, INT64)
def test_the_onnx_package_writes_what_we_read(ints, floats, strings, name, number):
    onnx = pytest.importorskip("onnx")
    theirs = onnx.AttributeProto(name=name, i=number, ints=ints, floats=floats, strings=strings)

    @dataclass
    class Attribute:
        name: str = protobuf.text(1)
        i: int = protobuf.integer(3)
        floats: np.ndarray = protobuf.reals(7)
        ints: list[int] = protobuf.integers(8)
        strings: list[bytes] = protobuf.blobs(9)

    ours = protobuf.parse(Attribute, theirs.SerializeToString())

    assert (ours.name, ours.i, ours.ints, ours.strings) == (name, number, ints, strings)
    assert_array_equal(ours.floats, np.array(floats, np.float32))
    back = onnx.AttributeProto.FromString(protobuf.encode(ours))
    assert (back.name, back.i, list(back.ints)) == (name, number, ints)
    assert (list(back.floats), list(back.strings)) == (floats, strings)


@pytest.mark.parametrize(
    ("data", "number"),
    [
        ("0800", 0),
        ("089601", 150),  # the example of protobuf's own documentation
        ("08feffffffffffffffff01", -2),
        ("08ffffffffffffffff7f", (1 << 63) - 1),
        ("08808000", 0),  # longer than needed, which is allowed
    ],
)
def test_varints_are_read_as_signed_64_bits(data, number):
    assert protobuf.parse(Outer, bytes.fromhex(data)).number == number


def test_repeated_numbers_are_read_packed_and_one_by_one():
    packed, single = bytes.fromhex("1a03018e02"), bytes.fromhex("1807")
    assert protobuf.parse(Outer, packed + single).numbers == [1, 270, 7]
    packed, single = bytes.fromhex("2a080000803f00000040"), bytes.fromhex("2d00004040")
    assert_array_equal(protobuf.parse(Outer, packed + single).shares, [1, 2, 3])


def test_unknown_fields_of_every_wire_type_are_skipped():
    unknown = bytes.fromhex("a00601" + "a1060102030405060708" + "a2060161" + "a50601020304")
    assert protobuf.parse(Outer, unknown + bytes.fromhex("0805")).number == 5


def test_an_absent_number_differs_from_zero_where_declared_so():
    assert protobuf.parse(Outer, b"").optional is None
    assert protobuf.encode(Outer(optional=0)) == bytes.fromhex("1000")
    assert protobuf.parse(Outer, bytes.fromhex("1000")).optional == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("08", "byte 1: a number is cut off"),
        ("0880", "byte 1: a number is cut off"),
        ("08" + "80" * 10 + "01", "byte 1: a number has more than 64 bits"),
        ("08ffffffffffffffffff02", "byte 1: a number has more than 64 bits"),
        ("00", "0 is no field number"),
        ("8080808010", "is no field number"),
        ("0b", "unknown wire type 3"),
        ("0f", "unknown wire type 7"),
        ("3205616263", "field 6 has 5 bytes, but 3 are left"),
        ("32ffffffffffffffffff01", "field 6 has 18446744073709551615 bytes, but 0 are left"),
        ("25000000", "field 4 has 4 bytes, but 3 are left"),
        # A nested message may not read past its own end, though the file goes on.
        ("520308808000000000", "number is cut off"),
        ("52031205610000", "field 2 has 5 bytes, but 1 are left"),
        ("3201ff", "Outer.name is not UTF-8"),
        ("08010802", "Outer.number is given twice"),
        ("52005200", "Outer.inner is given twice"),
        ("0a0101", "Outer.number is no integer: it has wire type 2"),
        ("3001", "Outer.name is no string: it has wire type 0"),
        ("2001", "Outer.share is no float: it has wire type 0"),
        ("2a03000000", "Outer.shares has 3 bytes, which is no number of floats"),
    ],
)
def test_malformed_bytes_are_refused_with_the_place(data, message):
    with pytest.raises(ModelError, match=message):
        protobuf.parse(Outer, bytes.fromhex(data))


def test_a_small_file_cannot_make_millions_of_objects():
    empty_message = bytes.fromhex("827d00")
    with pytest.raises(ModelError, match="more messages than any detector"):
        protobuf.parse(Outer, empty_message * (protobuf.MAX_RECORDS + 1))


def test_a_small_file_cannot_make_endless_numbers(monkeypatch):
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 100)
    packed = bytes.fromhex("1ae803") + bytes(488)
    with pytest.raises(ModelError, match="more fields than any detector"):
        protobuf.parse(Outer, packed)


def test_a_number_beyond_64_bits_is_the_callers_mistake():
    with pytest.raises(ValueError, match="does not fit into an int64"):
        protobuf.encode(Outer(number=1 << 63))
