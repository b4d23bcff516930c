"""Lent memory of types that NumPy does not read, described as the DLPack specification lays it out."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from treadle.runtime.borrow import from_dlpack


class Managed(ctypes.Structure):
    """DLManagedTensor, written down anew."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int), ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )  # fmt: skip


class Lender:
    """Lends an array of a type that NumPy cannot export, as other libraries do."""

    def __init__(self, array: Any, code: int, device: int = 1, offset: int = 0) -> None:
        self.array, self.device = array, device
        self.shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        self.strides = (ctypes.c_int64 * max(array.ndim, 1))(*[s // array.itemsize for s in array.strides])
        self.managed = Managed(
            array.ctypes.data - offset, device, 0, array.ndim, code, array.itemsize * 8, 1,
            ctypes.addressof(self.shape), ctypes.addressof(self.strides), offset,
        )  # fmt: skip

    def __dlpack__(self, **options: Any) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


TYPES = {
    "bfloat16": 4, "float8_e4m3b11fnuz": 9, "float8_e4m3fn": 10, "float8_e4m3fnuz": 11, "float8_e5m2": 12,
    "float8_e5m2fnuz": 13,
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_the_types_of_ml_dtypes_are_lent(name: str) -> None:
    x = np.arange(12).reshape(3, 4).astype(getattr(ml_dtypes, name))
    for array in (x, x.T, x[:, ::2], x[1], x[2, 3], x[:0]):
        lender = Lender(np.asarray(array), TYPES[name])
        found = from_dlpack(lender)
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found.astype(np.float32), np.asarray(array).astype(np.float32))
        assert array.size < 2 or np.shares_memory(found, array)


def test_an_offset_counts() -> None:
    x = np.arange(8).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(from_dlpack(Lender(x[3:], 4, offset=6)), x[3:])


# What is unknown, or elsewhere, is refused in the words of the first who refused.
@pytest.mark.parametrize(("code", "device"), [(5, 1), (99, 1), (4, 2)])
def test_what_cannot_be_read_is_refused(code: int, device: int) -> None:
    with pytest.raises((BufferError, RuntimeError, TypeError)):
        from_dlpack(Lender(np.ones(3, ml_dtypes.bfloat16), code, device))


# The capsule lives as long as the array, and no longer: its end is what tells the lender.
def test_the_capsule_is_kept_by_the_array() -> None:
    found = from_dlpack(Lender(np.ones(3, ml_dtypes.bfloat16), 4))
    base = found
    while isinstance(base, np.ndarray):
        base = base.base
    held = weakref.ref(base)
    del base
    assert held() is not None
    del found
    gc.collect()
    assert held() is None
