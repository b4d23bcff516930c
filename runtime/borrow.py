"""Arrays of other libraries as NumPy's, over the same memory.

NumPy reads DLPack itself, but not the element types that it does not know. Of those the descriptor is read here, by the
layout that the DLPack specification fixes, and the memory taken as integers and called by the type's name. The capsule
is kept, unconsumed, by the array that is made: with it the lender's own clean-up runs.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

# DLPack's codes of types (DLDataTypeCode) with their bits, as far as NumPy does not read them.
_TYPES = {
    (4, 16): "bfloat16", (9, 8): "float8_e4m3b11fnuz", (10, 8): "float8_e4m3fn", (11, 8): "float8_e4m3fnuz",
    (12, 8): "float8_e5m2", (13, 8): "float8_e5m2fnuz",
}  # fmt: skip
_CPU = 1


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Lent:
    """What an array over lent memory keeps alive."""

    def __init__(self, capsule: object, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def from_dlpack(lender: Any) -> Array:
    """The array that `lender` exports, without a copy; what NumPy or the lender say where it cannot be."""
    try:
        return np.from_dlpack(lender)
    except (BufferError, RuntimeError, TypeError) as error:
        if lender.__dlpack_device__()[0] != _CPU:
            raise
        capsule = lender.__dlpack__()
        found = _described(capsule)
        if found is None:
            raise error
        return found


def _described(capsule: object) -> Array | None:
    """The capsule's memory, where its type is one that NumPy does not read."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    name = _TYPES.get((tensor.code, tensor.bits))
    if name is None or tensor.lanes != 1 or tensor.device != _CPU:
        return None
    dtype = np.dtype(name)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    interface = {
        "version": 3,
        "typestr": f"<u{dtype.itemsize}",
        "shape": shape,
        "data": ((tensor.data or 0) + tensor.byte_offset, False),
        "strides": tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim)) if tensor.strides else None,
    }
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(_Lent(capsule, interface)).view(dtype)
