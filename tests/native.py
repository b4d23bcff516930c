"""Running kernels natively in tests: emit for a target, compile, load, call, compare with the loops evaluator.

The evaluator and the emitter were written apart from the same grammar, so each is the other's oracle; NumPy stands
behind both.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.host import host
from treadle.codegen.llvm.emit import FAIL_WORDS, NO_FAILURE, SITE_SHIFT, Module
from treadle.codegen.llvm.optimize import object_code
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import Kernel
from treadle.ir.target import Target
from treadle.runtime.loader import BLOCK_OPERATIONS, LoadedObject, load


def runs_here(target: Target) -> bool:
    mine = host()
    arch = "x86-64" if target.arch == "generic" else target.arch
    return mine.arch == arch and all(feature in mine.features for feature in target.features)


# The model targets whose code this machine runs, by name.
RUNNABLE = {name: target for name, target in MODELS.items() if runs_here(target)}


class Context(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("pool", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
    )


class Compiled:
    """Kernels of one module in memory."""

    def __init__(self, kernels: Sequence[Kernel], target: Target) -> None:
        module = Module(target)
        for kernel in kernels:
            module.add(kernel, linkage="external")
        self.kernels = {kernel.name: kernel for kernel in kernels}
        self.text = module.text()
        self.code = object_code(self.text, target.triple, target.llvm_cpu, target.llvm_features)
        self.loaded: LoadedObject = load(self.code, closed_list=frozenset(BLOCK_OPERATIONS))

    def __call__(
        self,
        name: str,
        args: Mapping[str, np.ndarray[Any, Any]],
        dims: Mapping[str, int],
        context: Context | None = None,
        margin: int = 64,
    ) -> tuple[dict[str, np.ndarray[Any, Any]], tuple[int, int, tuple[int, ...]] | None]:
        """The written arrays and the failure, like `evaluate`. Written arrays stand between margins of 0xA5 bytes that
        must come back untouched."""
        kernel = self.kernels[name]
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        guards: dict[str, np.ndarray[Any, Any]] = {}
        pointers = []
        for param in kernel.params:
            shape = tuple(size_of(dim, dims) for dim in param.shape)
            if param.role == "in":
                arrays[param.name] = against_the_wall(np.asarray(args[param.name]))
                assert arrays[param.name].shape == shape and arrays[param.name].dtype == param.dtype.numpy
                pointers.append(arrays[param.name].ctypes.data)
                continue
            count = int(np.prod(shape, dtype=np.int64)) * param.dtype.bytes
            raw = np.full(count + 2 * margin, 0xA5, np.uint8)
            inside = raw[margin : margin + count]
            if param.role == "inout":
                inside[:] = np.ascontiguousarray(args[param.name]).view(np.uint8).reshape(-1)
            guards[param.name] = raw
            arrays[param.name] = inside.view(param.dtype.numpy).reshape(shape)
            pointers.append(inside.ctypes.data)
        fail = (ctypes.c_int64 * FAIL_WORDS)(NO_FAILURE)
        context = context or Context(1, 1, None, None)
        function = ctypes.CFUNCTYPE(
            None,
            *[ctypes.c_void_p] * len(pointers),
            *[ctypes.c_int64] * len(kernel.dims),
            ctypes.c_void_p,
            ctypes.c_void_p,
        )(self.loaded.address(name))
        function(*pointers, *[dims[dim] for dim in kernel.dims], ctypes.addressof(context), ctypes.addressof(fail))
        for name_, raw in guards.items():
            assert (raw[:margin] == 0xA5).all(), f"written before {name_}"
            assert (raw[len(raw) - margin :] == 0xA5).all(), f"written behind {name_}"
        word, lock, *found = fail
        assert not lock
        failure = None
        if word != NO_FAILURE:
            failure = (word >> SITE_SHIFT, word & ((1 << SITE_SHIFT) - 1), tuple(found))
        return {param.name: arrays[param.name] for param in kernel.params if param.role != "in"}, failure


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def against_the_wall(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that ends where a page ends that may not be touched: a read behind it ends the process."""
    page = mmap.PAGESIZE
    pages = -(-max(array.nbytes, 1) // page)
    room = mmap.mmap(-1, (pages + 1) * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(room))
    assert _libc.mprotect(base + pages * page, page, 0) == 0
    start = pages * page - array.nbytes
    copy = np.frombuffer(room, np.uint8, array.nbytes, start).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def size_of(dim: object, dims: Mapping[str, int]) -> int:
    from treadle.ir.dims import evaluate as evaluate_dim

    return evaluate_dim(dim, dims)  # type: ignore[arg-type]


def same(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where two arrays agree: bit for bit, but any NaN is as good as another."""
    assert x.dtype == y.dtype and x.shape == y.shape
    if x.dtype.kind == "c":
        parts = [np.ascontiguousarray(a).reshape(-1).view(a.real.dtype).reshape(*a.shape, 2) for a in (x, y)]
        return np.asarray(same(*parts).all(-1))
    bytes_ = (x.size, x.dtype.itemsize)
    bits, other = (np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(bytes_) for a in (x, y))
    equal = (bits == other).all(-1).reshape(x.shape)
    if x.dtype.kind in "fV":
        with np.errstate(all="ignore"):
            equal = equal | (np.isnan(x.astype(np.float64)) & np.isnan(y.astype(np.float64)))
    return np.asarray(equal)


def check_against_evaluator(
    compiled: Compiled,
    name: str,
    args: Mapping[str, np.ndarray[Any, Any]],
    dims: Mapping[str, int],
    context: Context | None = None,
) -> None:
    """Native and evaluated agree on every written array and on whether and where the kernel fails."""
    expected, failed = evaluate(compiled.kernels[name], args, dims, isa.meanings())
    found, site = compiled(name, args, dims, context)
    assert (site[0] if site else None) == (failed[0] if failed else None)
    if site and failed and failed.found:
        assert site[2][: len(failed.found)] == failed.found
    for key, want in expected.items():
        agree = same(found[key], want)
        if not agree.all():
            where = tuple(int(axis[0]) for axis in np.nonzero(~np.atleast_1d(agree)))
            raise AssertionError(
                f"{name}: {key}{list(where)} is {np.atleast_1d(found[key])[where]!r}, "
                f"evaluated {np.atleast_1d(want)[where]!r}; {int((~agree).sum())} of {agree.size} differ"
            )
