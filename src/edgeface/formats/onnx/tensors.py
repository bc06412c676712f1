"""Constants of a file as arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError
from ...graph import MAX_ELEMENTS
from .records import DTYPES, EXTERNAL, FLOAT, INT8, INT32, INT64, UINT8, TensorProto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MAX_RANK = 8
# The field that holds a type's values where raw_data does not.
_TYPED = {
    FLOAT: "float_data",
    UINT8: "int32_data",
    INT8: "int32_data",
    INT32: "int32_data",
    INT64: "int64_data",
}


def array(tensor: TensorProto, where: str) -> Array:
    """The tensor's values; `where` names it in errors."""
    if tensor.data_location == EXTERNAL or tensor.external_data:
        raise ModelError(f"{where} lies in another file; save the model with its weights inside")
    if tensor.data_type not in DTYPES:
        known = ", ".join(dtype.name for dtype in DTYPES.values())
        raise ModelError(f"{where} has data type {tensor.data_type}; supported are {known}")
    dims = tensor.dims
    # A zero must not hide an absurd size beside it: NumPy multiplies the others all the same.
    if len(dims) > MAX_RANK or min(dims, default=0) < 0:
        raise ModelError(f"{where} has bad dimensions {dims[: MAX_RANK + 1]}")
    if math.prod(max(size, 1) for size in dims) > MAX_ELEMENTS:
        raise ModelError(f"{where} is too large: {dims}")
    values = _stored(tensor, where)
    if values.size != math.prod(dims):
        raise ModelError(f"{where} has {values.size} values, but its dimensions are {dims}")
    return values.reshape(dims)


def _stored(tensor: TensorProto, where: str) -> Array:
    """The tensor's flat values, from the one field that holds them."""
    fields = ("raw_data", "float_data", "int32_data", "int64_data")
    filled = [name for name in fields if len(getattr(tensor, name))]
    dtype = DTYPES[tensor.data_type]
    if not filled:
        return np.empty(0, dtype.newbyteorder("="))
    if len(filled) > 1 or filled[0] not in ("raw_data", _TYPED[tensor.data_type]):
        raise ModelError(f"{where} of data type {tensor.data_type} is stored in {filled}")
    values = getattr(tensor, filled[0])
    if filled[0] == "raw_data":
        if len(values) % dtype.itemsize:
            raise ModelError(f"{where} has {len(values)} bytes, not a multiple of {dtype.itemsize}")
        return np.frombuffer(values, dtype).astype(dtype.newbyteorder("="), copy=False)
    wide = values if tensor.data_type == FLOAT else np.array(values, np.int64)
    return cast(wide, dtype.newbyteorder("="), where)


def cast(values: Array, dtype: np.dtype[Any], where: str) -> Array:
    """Values in another type; floats are cut towards zero, and nothing may wrap around."""
    if dtype.kind in "iu" and values.size:
        wide = values.dtype.kind == "f" and dtype.itemsize > 4
        limits = np.iinfo(np.int32 if wide else dtype)
        # Written so that a NaN fails it too.
        if not (values.min().item() >= limits.min and values.max().item() <= limits.max):
            raise ModelError(f"{where} has values that do not fit into {dtype}")
    return values.astype(dtype, copy=False)
