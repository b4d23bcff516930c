"""What this machine can do at most, by the loops of `codegen/llvm/limits.py`, made native and run.

Floats, integers and bytes are counted as BLAS and STREAM do: a multiply-add is two operations, a byte read or written
is one byte, and lines that a plain store reads first are not counted.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..codegen.host import host
from ..codegen.llvm.limits import MEMORY, NAMES, accumulators, dot, module
from ..codegen.llvm.optimize import object_code
from ..runtime import arena, loader

TURNS = 100_000  # of a register loop in one call: some hundred microseconds
MIB = 1 << 20
TRIAD_BYTES = 128 * MIB  # of each of three arrays; the largest last-level cache of a server part is a few times less
READ_BYTES = 256 * MIB


@functools.cache
def code() -> loader.LoadedObject:
    target = host()
    return loader.load(object_code(module(target), target.triple, target.llvm_cpu, target.llvm_features))


def exists(kind: str) -> bool:
    return kind in MEMORY or dot(kind, host()) is not None


def work(kind: str) -> float:
    """Operations or bytes of one call on one processor."""
    if kind == "read":
        return float(READ_BYTES)
    if kind in MEMORY:
        return 3.0 * TRIAD_BYTES
    given = dot(kind, host())
    assert given is not None, kind
    return float(TURNS * accumulators(host()) * given.work)


def kernel(kind: str) -> Callable[[], None]:
    """One call of the limit's loop, over memory of its own."""
    address = code().address(NAMES[kind])
    if kind in MEMORY:
        function = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 3)(address)
        count = (READ_BYTES if kind == "read" else TRIAD_BYTES) // 4
        sizes = (1024, count, 1024) if kind == "read" else (count, count, count)
        arrays = [_filled(size) for size in sizes]
        pointers = [array.ctypes.data for array in arrays]

        def run() -> None:
            function(count, *pointers)
            _ = arrays  # held as long as the function is

        return run
    registers = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)
    seeds = _filled(4096)

    def turn() -> None:
        registers(TURNS, seeds.ctypes.data)

    return turn


def _filled(count: int) -> np.ndarray[Any, Any]:
    """Aligned memory that is really there: pages never written are all one page of zeros."""
    array: np.ndarray[Any, Any] = np.frombuffer(memoryview(arena.shared().take(4 * count)), np.float32, count)
    array.fill(0.5)
    return array


@functools.cache
def rate(kind: str, rounds: int = 5) -> float:
    """Operations or bytes per second of that loop on one processor, the best of some rounds."""
    run = kernel(kind)
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return work(kind) / min(seconds)
