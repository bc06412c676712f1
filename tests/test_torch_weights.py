from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edgeface.errors import ModelError
from edgeface.formats import torch_weights
from reference import SHARED, needs_shared

WEIGHTS = SHARED / "weights"
STORAGES = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
    "b1": "Bool",
}

# --- Files as torch.save writes them, made without torch -------------------------------------------


class Tensor:
    """Pickled as a tensor: the whole of an array, or what offset, shape and strides say of it."""

    def __init__(self, values, *, offset=0, shape=None, strides=None):
        self.blob = Blob(values.reshape(-1))
        self.offset = offset
        self.shape = values.shape if shape is None else shape
        # An array of bytes has the strides that count elements.
        self.strides = np.empty(values.shape, "u1").strides if strides is None else strides

    def __reduce_ex__(self, protocol):
        parts = (self.blob, self.offset, self.shape, self.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, parts


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, protocol):
        parts = (self.tensor, True, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_parameter, parts


class Blob:
    def __init__(self, base):
        self.base = base


class Pickler(pickle.Pickler):
    """Storages become references to what lies outside; those are kept, by key."""

    def __init__(self, file, protocol, *, legacy):
        super().__init__(file, protocol)
        self.legacy = legacy
        self.bases = {}  # key -> array

    def persistent_id(self, value):
        if not isinstance(value, Blob):
            return None
        base = value.base
        places = [known.ctypes.data for known in self.bases.values()]
        place = base.ctypes.data
        key = str(places.index(place) if place in places else len(places))
        self.bases[key] = base
        kind = getattr(sys.modules["torch"], f"{STORAGES[base.dtype.str[1:]]}Storage")
        return ("storage", kind, key, "cpu", base.size, *([None] if self.legacy else []))


@contextmanager
def torch_names():
    """Modules with what torch.save refers to, for the time of writing."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in STORAGES.values():
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType(compile("None", name, "eval"), {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield


def pickled(value, protocol=2, *, legacy=False):
    file = io.BytesIO()
    pickler = Pickler(file, protocol, legacy=legacy)
    with torch_names():
        pickler.dump(value)
    return file.getvalue(), pickler.bases


def save_zip(value, protocol=2, **changes):
    program, bases = pickled(value, protocol)
    return zipped(program, bases, **changes)


def zipped(program, bases, *, root="archive", extra=(), compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", program)
        archive.writestr(f"{root}/byteorder", "little")
        for key, base in bases.items():
            archive.writestr(f"{root}/data/{key}", base.tobytes())
        archive.writestr(f"{root}/version", "3\n")
        for name, content in extra:
            archive.writestr(name, content)
    return file.getvalue()


def save_stream(value, protocol=2):
    program, bases = pickled(value, protocol, legacy=True)
    return stream(program, bases)


def stream(program, bases, *, magic=torch_weights.MAGIC, version=1001, little=True, keys=None):
    system = {"protocol_version": version, "little_endian": little, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (magic, version, system))
    listed = pickle.dumps(sorted(bases) if keys is None else keys, 2)
    blobs = [struct.pack("<q", bases[key].size) + bases[key].tobytes() for key in sorted(bases)]
    return head + program + listed + b"".join(blobs)


SAVES = [pytest.param(save_zip, id="zip"), pytest.param(save_stream, id="stream")]


def network():
    random_values = np.random.default_rng(3)
    return {
        "conv.weight": random_values.normal(size=(4, 3, 3, 3)).astype("f4"),
        "conv.bias": random_values.normal(size=4).astype("f4"),
        "norm.num_batches_tracked": np.array(77, "i8"),
    }


def state_dict(arrays):
    return OrderedDict((name, Tensor(values)) for name, values in arrays.items())


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert_array_equal(found[name], values)


# --- What is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_are_those_that_were_saved(save, protocol):
    assert_same(torch_weights.read(save(state_dict(network()), protocol)), network())


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("kind", STORAGES)
def test_every_type_of_number_keeps_its_type(save, kind):
    values = np.arange(6).reshape(2, 3).astype(kind)
    assert_same(torch_weights.read(save({"x": Tensor(values)})), {"x": values})


@pytest.mark.parametrize("save", SAVES)
def test_tensors_may_be_views_of_one_storage(save):
    base = np.arange(24, dtype="f4")
    saved = {
        "part": Tensor(base, offset=6, shape=(6,), strides=(1,)),
        "turned": Tensor(base, shape=(4, 6), strides=(1, 4)),
        "second": Tensor(base, offset=1, shape=(2, 3), strides=(12, 2)),
        "number": Tensor(base, offset=23, shape=(), strides=()),
    }
    found = torch_weights.read(save(saved))
    assert_array_equal(found["part"], base[6:12])
    assert_array_equal(found["turned"], base.reshape(6, 4).T)
    assert_array_equal(found["second"], [[1, 3, 5], [13, 15, 17]])
    assert found["number"] == 23
    assert np.shares_memory(found["part"], found["turned"])


@pytest.mark.parametrize("save", SAVES)
def test_arrays_are_aligned_and_cannot_be_written_to(save):
    for values in torch_weights.read(save(state_dict(network()))).values():
        assert values.flags.aligned
        assert not values.flags.writeable


@pytest.mark.parametrize("save", SAVES)
def test_parameters_are_tensors(save):
    values = np.arange(3, dtype="f4")
    found = torch_weights.read(save({"x": Parameter(Tensor(values))}))
    assert_same(found, {"x": values})


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1, 7: [None, True]}},
        lambda state: {"model": state, "best": -1.5},
        lambda state: {"net": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.model.{name}": v for name, v in state.items()}},
    ],
)
def test_what_training_wraps_around_the_weights_is_taken_off(save, wrap):
    found = torch_weights.read(save(wrap(state_dict(network()))))
    assert_same(found, network())


def test_a_prefix_that_not_all_names_have_stays():
    arrays = {"model.0.bias": np.ones(2, "f4"), "head.bias": np.ones(2, "f4")}
    assert_same(torch_weights.read(save_zip(state_dict(arrays))), arrays)


@pytest.mark.parametrize("save", SAVES)
def test_the_versions_of_modules_are_dropped(save):
    state = state_dict(network())
    state._metadata = OrderedDict({"": {"version": 1}})
    assert_same(torch_weights.read(save(state)), network())


@needs_shared
@pytest.mark.parametrize(
    ("file", "count", "first", "shape"),
    [
        ("ultraface/version-RFB-320.pth", 244, "base_net.0.0.weight", (16, 3, 3, 3)),
        ("ultraface-landmark/slim_Final.pth", 198, "conv1.0.weight", (16, 3, 3, 3)),
        ("retinaface/mobilenet0.25_Final.pth", 300, "body.stage1.0.0.weight", (8, 3, 3, 3)),
        ("retinaface/mobilenetV1X0.25_pretrain.tar", 164, "stage1.0.0.weight", (8, 3, 3, 3)),
    ],
)
def test_released_files_are_read(file, count, first, shape):
    found = torch_weights.read((WEIGHTS / file).read_bytes())
    assert len(found) == count
    assert next(iter(found)) == first
    assert found[first].shape == shape
    assert all(np.isfinite(values).all() for values in found.values())


# --- What is refused: programs -----------------------------------------------------------------------


class Call:
    """Pickled as the call of any function."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


HOSTILE = [
    (os.system, f"{os.system.__module__}.system"),
    (eval, "builtin.*eval"),
    (exec, "builtin.*exec"),
    (getattr, "builtin.*getattr"),
    (__import__, "builtin.*__import__"),
    (open, "open"),
    (pickle.loads, "pickle.loads"),
    (np.load, "numpy.*load"),
    (OrderedDict.fromkeys, "getattr"),
]


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("function", "named"), HOSTILE)
def test_functions_are_refused_by_name(save, protocol, function, named):
    state = state_dict(network())
    state["x"] = Call(function, "a")
    with pytest.raises(ModelError, match=f"asks for .*{named}.*: refused"):
        torch_weights.read(save(state, protocol))


@pytest.mark.parametrize("save", SAVES)
def test_nothing_is_run(save, tmp_path):
    touched = tmp_path / "touched"
    state = {"state_dict": state_dict(network()), "x": Call(open, str(touched), "w")}
    with pytest.raises(ModelError, match="refused"):
        torch_weights.read(save(state))
    assert not touched.exists()


def test_a_pickled_module_is_refused_with_advice():
    program = b"\x80\x02ctorch.nn.modules.conv\nConv2d\n)\x81."
    with pytest.raises(ModelError, match=r"torch.nn.modules.conv.Conv2d: .*model.state_dict"):
        torch_weights.read(zipped(program, {}))


SYSTEM = b"cos\nsystem\n"
FLOATS = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"(S'ls'\nios\nsystem\n.", "instruction"),  # INST
        (b"(" + SYSTEM + b"S'ls'\no.", "os.system"),  # OBJ
        (b"ccollections\nOrderedDict\n)\x81.", "instruction"),  # NEWOBJ
        (b"ccollections\nOrderedDict\n)}\x92.", "instruction"),  # NEWOBJ_EX
        (b"\x82\x01.", "instruction"),  # EXT1
        (b"P0\n.", "instruction"),  # PERSID
        (b"F1.5\n.", "instruction"),
        (b"ccollections\nOrderedDict\n)R)R.", "calls what is no function"),
        (b"ccollections\nOrderedDict\n]R.", "calls what is no function"),
        (FLOATS + b")R.", "calls what is no function"),
        (b"ccollections\nOrderedDict\n(K\x01tR.", "fills an OrderedDict"),
        (b"ccollections\nOrderedDict.fromkeys\n)R.", "OrderedDict.fromkeys: refused"),
        (b"ctorch\n_utils._rebuild_tensor_v2\n)R.", None),
        (b"c__builtin__\nexec\n.", "__builtin__.exec: refused"),
        (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "os.system: refused"),
        (b"]]\x93.", "asks for"),
        (b"cos\nsystem", "does not end"),
        (b"c\xff\n\xff\n.", "no UTF-8"),
        (REBUILD + b")R.", "too few parts"),
        (REBUILD + b"(K\x00K\x00))tR.", "no storage"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "parameter of no tensor"),
        (b"ctorch._utils\n_rebuild_parameter\n]}bR.", "attributes"),
        (b"]}b.", "attributes of what is no dictionary"),
        (b"K\x01Q.", "no plain storage"),
        (b"(tQ.", "no plain storage"),
        (b"(]]]]]tQ.", "no plain storage"),
        (b"(X\x07\x00\x00\x00storageK\x01K\x01K\x01K\x01tQ.", "no plain storage"),
        (b"].", "no dictionary of tensors"),
        (b"}.", "no dictionary of tensors"),
        (b"K\x01.", "no dictionary of tensors"),
        (b"}X\x01\x00\x00\x00aK\x01s.", "is no tensor"),
        (b"}K\x05K\x01s.", "5 is no tensor"),
        (b"}]K\x01s.", "key that is no text"),
        (b"}NK\x01s.", "key that is no text"),
        (b"}(K\x01u.", "sets items"),
        (b"]K\x01K\x01s.", "sets items"),
        (b"}K\x01a.", "appends to what is no list"),
        (b"t.", "mark that it never set"),
        (b"u.", "mark that it never set"),
        (b"K\x01(\x85.", "never made"),
        (b"s.", "never made"),
        (b"R.", "never made"),
        (b"Q.", "never made"),
        (b"b.", "never made"),
        (b"q\x00.", "never made"),
        (b".", "never made"),
        (b"h\x00.", "remembers no value 0"),
        (b"j\xff\xff\xff\xff.", "remembers no value"),
        (b"X\xff\xff\xff\xffa.", "breaks off"),
        (b"\x8a\xff\x01.", "breaks off"),
        (b"X\x01\x00\x00\x00\xff.", "no UTF-8"),
        (b"", "breaks off"),
    ],
)
def test_other_programs_are_refused(program, message):
    for data in (zipped(program, {}), stream(program, {})):
        with pytest.raises(ModelError, match=message):
            torch_weights.read(data)


@pytest.mark.parametrize(
    "program",
    [
        b"]" * 200_000 + b"a" * 199_999 + b".",  # deep
        b"K\x00" + b"\x85" * 200_000 + b".",
        b"]q\x00h\x00a.",  # holds itself
        b"}q\x00X\x05\x00\x00\x00modelh\x00s.",
        b"]q\x00" + b"h\x00h\x00\x86q\x00" * 10_000 + b".",  # 2 to the 10,000 in the end
        b"}]q\x00" + b"h\x00h\x00\x86q\x00" * 1000 + b"K\x01s.",
        b"}X\x01\x00\x00\x00a]q\x00" + b"h\x00h\x00\x86q\x00" * 1000 + b"s.",
    ],
)
def test_knotted_programs_are_refused(program):
    with pytest.raises(ModelError):
        torch_weights.read(zipped(program, {}))


@pytest.mark.parametrize("instruction", [b"}", b"N"])
def test_a_pickle_has_a_limit(instruction):
    data = zipped(instruction * (4 << 20) + b".", {})
    tracemalloc.start()
    with pytest.raises(ModelError, match="too long"):
        torch_weights.read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A byte of it makes an object of at most some 100 bytes, and a place on the stack.
    assert peak < (torch_weights.MAX_PICKLE_BYTES << 7) + 2 * len(data)


@pytest.mark.parametrize("place", range(5))
def test_values_whose_text_is_endless_are_refused_anywhere_in_a_stream(place):
    bomb = b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 1000
    values = (torch_weights.MAGIC, 1001, {"little_endian": True}, {}, [])
    parts = [pickle.dumps(value, 2) for value in values]
    parts[place] = bomb + b"."
    with pytest.raises(ModelError):
        torch_weights.read(b"".join(parts))
    parts[place] = bomb + b"](h\x00e."  # in a list
    with pytest.raises(ModelError):
        torch_weights.read(b"".join(parts))


# --- What is refused: tensors ------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (25,), (1,)),
        (1, (24,), (1,)),
        (24, (1,), (1,)),
        (24, (), ()),
        (0, (4, 6), (7, 1)),
        (0, (5, 5), (0, 1)),
        (0, (1 << 30,), (0,)),
        (0, (2,), (1 << 29,)),
        (0, (1 << 20, 1 << 20), (0, 0)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(save, offset, shape, strides):
    values = Tensor(np.arange(24, dtype="f4"), offset=offset, shape=shape, strides=strides)
    with pytest.raises(ModelError, match="outside its storage of 24 values"):
        torch_weights.read(save({"x": values}))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (0,), (1,)),
        (0, (2, 2), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (1 << 200,), (0,)),
        (1 << 64, (1,), (1,)),
        (0.0, (2,), (1,)),
        (True, (2,), (1,)),
        (0, [2], [1]),
        (0, ("2",), (1,)),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(save, offset, shape, strides):
    values = Tensor(np.arange(24, dtype="f4"), offset=offset, shape=shape, strides=strides)
    with pytest.raises(ModelError, match="cannot be"):
        torch_weights.read(save({"x": values}))


def declared(*sizes, key="0"):
    """A pickle with tensors of one number, whose storages are declared to have these sizes."""
    items = b""
    for index, size in enumerate(sizes):
        key_text = struct.pack("<I", len(key)) + key.encode()
        storage = b"(X\x07\x00\x00\x00storage" + FLOATS + b"X" + key_text + b"N" + size + b"tQ"
        items += b"X\x01\x00\x00\x00" + bytes([97 + index])
        items += REBUILD + b"(" + storage + b"K\x00K\x01\x85K\x01\x85tR"
    return b"}(" + items + b"u."


@pytest.mark.parametrize("container", [zipped, stream])
@pytest.mark.parametrize(
    ("program", "message"),
    [
        (declared(b"K\x04", b"K\x05"), "declared twice"),
        (declared(b"K\x05"), "storage '0'"),
        (declared(b"K\x03"), "storage '0' has"),
        (declared(b"K\x04", key="1"), "storage"),
        (declared(b"J\xff\xff\xff\xff"), "no plain storage"),
        (declared(b"\x8a\x09" + b"\x7f" * 9), "no plain storage"),
        (declared(b"J\x00\x00\x00\x40"), "storage '0'"),
        (declared(b"\x88"), "no plain storage"),
    ],
)
def test_storages_are_what_the_pickle_says(container, program, message):
    four = {"0": np.arange(4, dtype="f4")}
    assert list(torch_weights.read(container(declared(b"K\x04"), four))["a"]) == [0]
    with pytest.raises(ModelError, match=message):
        torch_weights.read(container(program, four))


# --- What is refused: containers ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80", b"\x00" * 99, b"GGUF", bytes(512)])
def test_other_files_are_refused(data):
    with pytest.raises(ModelError):
        torch_weights.read(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 5}, "not one that torch.save wrote"),
        ({"version": 1000}, "protocol is not 1001"),
        ({"little": False}, "little-endian"),
        ({"keys": []}, "lacks storage '0'"),
        ({"keys": ["0", "1", "2", "0"]}, "twice"),
        ({"keys": ["0", "1", "2", "9"]}, "no tensor"),
        ({"keys": ["0", "1", "2", [1]]}, "no tensor"),
        ({"keys": "012"}, "does not list"),
    ],
)
def test_damaged_streams_are_refused(changes, message):
    program, bases = pickled(state_dict(network()), legacy=True)
    with pytest.raises(ModelError, match=message):
        torch_weights.read(stream(program, bases, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
        ({"root": "a/b"}, "0 pickles"),
        ({"extra": [("other/data.pkl", b"")]}, "2 pickles"),
        ({"extra": [("archive/constants.pkl", b"")]}, "TorchScript"),
        ({"extra": [(f"{i}", b"") for i in range(1 << 14)]}, "entries"),
    ],
)
def test_odd_zip_files_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        torch_weights.read(save_zip(state_dict(network()), **changes))


def test_big_endian_zip_files_are_refused():
    data = save_zip(state_dict(network())).replace(b"little", b"bigger")
    with pytest.raises(ModelError):  # its checksum is wrong too
        torch_weights.read(data)
    program, bases = pickled(state_dict(network()))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "big")
        for key, base in bases.items():
            archive.writestr(f"a/data/{key}", base.tobytes())
    with pytest.raises(ModelError, match="little-endian"):
        torch_weights.read(file.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_a_zip_file_is_refused():
    extra = [("archive/data/0", b"\x00" * 432)]
    with pytest.raises(ModelError, match="a name twice"):
        torch_weights.read(save_zip(state_dict(network()), extra=extra))


@pytest.mark.parametrize("key", ["../../../etc/hostname", "/etc/hostname", "", "0/../0", "\x00"])
def test_a_key_is_no_path(key):
    with pytest.raises(ModelError, match="lacks storage"):
        torch_weights.read(zipped(declared(b"K\x04", key=key), {"0": np.arange(4, dtype="f4")}))


def test_a_checksum_is_checked():
    data = bytearray(save_zip(state_dict(network())))
    place = bytes(data).index(network()["conv.bias"].tobytes())
    data[place] ^= 1
    with pytest.raises(ModelError, match="damaged"):
        torch_weights.read(bytes(data))


def directory(data, **changes):
    """The zip file with other values in the central directory's entry of its largest storage."""
    fields = {
        "flags": (8, "<H"),
        "method": (10, "<H"),
        "compressed": (20, "<I"),
        "size": (24, "<I"),
    }
    place = data.rindex(b"archive/data/0") - 46
    data = bytearray(data)
    for name, value in changes.items():
        offset, form = fields[name]
        struct.pack_into(form, data, place + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0xFFFFFFF0}, "compressed or encrypted"),
        ({"size": 0xFFFFFFF0, "compressed": 0xFFFFFFF0}, "claims to hold"),
        ({"size": 400, "compressed": 400}, "has 400 bytes"),
        ({"flags": 1}, "encrypted"),
        ({"method": 8}, "compressed"),
        ({"method": 14}, "compressed"),
        ({"size": 0xFFFFFFFF}, "damaged|compressed"),
    ],
)
def test_a_zip_file_cannot_claim_more_than_it_has(changes, message):
    data = save_zip(state_dict(network()))
    assert directory(data) == data
    with pytest.raises(ModelError, match=message):
        torch_weights.read(directory(data, **changes))


def test_a_directory_of_millions_is_not_opened():
    data = save_zip(state_dict(network())) + b"PK\x01\x02" * (1 << 22)
    tracemalloc.start()
    with pytest.raises(ModelError, match="entries"):
        torch_weights.read(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# --- Damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVES)
def test_truncation_anywhere_is_a_model_error(save):
    data = save(state_dict(network()))
    for size in itertools.chain(range(0, len(data) - 1, 3), [len(data) - 1]):
        with pytest.raises(ModelError):
            torch_weights.read(data[:size])


def damaged(data, generator):
    data = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 5])):
        place = generator.randrange(len(data))
        what = generator.randrange(4)
        if what == 0:
            data[place] ^= 1 << generator.randrange(8)
        elif what == 1:
            data[place] = generator.choice(b"\x00\x01\x7f\x80\xff.()tQRcbu}]h\x85")
        elif what == 2:
            del data[place : place + generator.randrange(1, 9)]
        else:
            source = generator.randrange(len(data))
            data[place:place] = data[source : source + generator.randrange(1, 20)]
    return bytes(data)


def read_or_refused(data):
    try:
        found = torch_weights.read(data)
    except ModelError:
        return
    assert all(values.nbytes <= len(data) for values in found.values())


@pytest.mark.parametrize("save", SAVES)
def test_damage_is_read_or_a_model_error(save):
    generator = random.Random(7)
    whole = save(
        OrderedDict({"x": Tensor(np.arange(9, dtype="f4")), "y": Tensor(np.ones(2, "f8"))})
    )
    for _ in range(4000):
        read_or_refused(damaged(whole, generator))


def test_damaged_pickles_in_sound_zip_files_are_read_or_a_model_error():
    generator = random.Random(8)
    program, bases = pickled(OrderedDict({"x": Tensor(np.arange(9, dtype="f4"))}))
    for _ in range(3000):
        read_or_refused(zipped(damaged(program, generator), bases))
