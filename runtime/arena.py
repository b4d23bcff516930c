"""Memory for results and for the scratch of programs, aligned to 64 bytes and used again.

A fresh 64 MiB result costs more in page faults than most programs cost in work, so a large result is a NumPy
array over a pooled block: when the last view of it dies, the block comes back, with its pages, and serves the
next result of about that size. Idle bytes are bounded (the block idle longest goes first) and `trim` gives
all of them back to the system. Small results are plain NumPy arrays, for malloc already keeps those warm.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cgroup
from .pages import MADV_HUGEPAGE, advise, mapped, unmap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    CharArray = ctypes.Array[ctypes.c_char]

# Below this malloc reuses memory without page faults; here a plain array is the faster one.
POOLED_BYTES = 256 << 10
HUGE_PAGE = 2 << 20
# From here on a block starts on a huge page and asks for them: an eighth of the faults at most is then small
# pages.
HUGE_BYTES = 4 << 20
PAGE = mmap.PAGESIZE


class Arena:
    """A bounded pool of aligned blocks. Any thread may take blocks, and drop them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        self.idle_bytes = 0
        self.used_bytes = 0
        self._lock = threading.RLock()  # a block may die, by garbage collection, while its own thread is in here
        self._idle: dict[int, int] = {}  # address -> size, longest idle first
        self._free: dict[int, list[int]] = {}  # size -> addresses, last used (so warmest) last
        self._types: dict[int, type[Any]] = {}
        _arenas.add(self)

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised C-contiguous array."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < POOLED_BYTES:
            return np.empty(shape, dtype)
        block: Any = self.take(nbytes)  # NumPy takes any buffer, but its stubs do not know that
        return np.ndarray(shape, dtype, block)

    def take(self, nbytes: int) -> CharArray:
        """A block of at least that many bytes, 64-byte aligned: a ctypes array, whose `ctypes.addressof`
        is where it lies and whose memory returns when it is dropped."""
        size = size_class(nbytes)
        kind = self._types.get(size) or self._type(size)
        address = 0
        with self._lock:
            self.used_bytes += size
            if free := self._free[size]:
                address = free.pop()
                del self._idle[address]
                self.idle_bytes -= size
        if not address:
            try:
                address = self._map(size)
            except BaseException:
                with self._lock:
                    self.used_bytes -= size
                raise
        block: CharArray = kind.from_address(address)
        return block

    def trim(self) -> int:
        """Give every idle block back to the system; returns the bytes given back."""
        with self._lock:
            before = self.idle_bytes
            self._shrink(0)
            return before

    def _give_back(self, address: int, size: int) -> None:
        with self._lock:
            self.used_bytes -= size
            self.idle_bytes += size
            self._idle[address] = size
            self._free[size].append(address)
            if self.idle_bytes > self.limit:
                self._shrink(self.limit)

    def _shrink(self, limit: int) -> None:
        while self.idle_bytes > limit:
            address = next(iter(self._idle))
            size = self._idle.pop(address)
            self._free[size].remove(address)
            self.idle_bytes -= size
            unmap(address, size)

    def _type(self, size: int) -> type[Any]:
        """The type of blocks of that size: the size of a ctypes array belongs to its type."""
        with self._lock:
            self._free.setdefault(size, [])
            give_back = self._give_back

            def drop(block: CharArray, where: Callable[[CharArray], int] = ctypes.addressof) -> None:
                give_back(where(block), size)

            fields = {"_type_": ctypes.c_char, "_length_": size, "__del__": drop}
            return self._types.setdefault(size, type("Block", (ctypes.Array,), fields))

    def _map(self, size: int) -> int:
        """Fresh memory: on a huge page from HUGE_BYTES on."""
        slack = HUGE_PAGE if size >= HUGE_BYTES else 0
        start = mapped(size + slack)
        if not start:
            self.trim()
            start = mapped(size + slack)
        if not start:
            raise MemoryError(f"no {size} bytes for a result or for scratch")
        if not slack:
            return start
        address = -(-start // HUGE_PAGE) * HUGE_PAGE
        if address > start:
            unmap(start, address - start)
        if address < start + slack:
            unmap(address + size, start + slack - address)
        advise(address, size, MADV_HUGEPAGE)
        return address


def size_class(nbytes: int) -> int:
    """The block size that serves `nbytes`: eight sizes to a doubling, in whole pages, so that at most an
    eighth, or a page, is spare."""
    if nbytes <= PAGE:
        return PAGE
    step = max(1 << (nbytes - 1).bit_length() - 4, PAGE)
    return -(-nbytes // step) * step


def default_limit() -> int:
    """An eighth of the memory this process may have: idle blocks must not crowd out what the user does
    next."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(physical, cgroup.memory_bytes() or physical) // 8


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()
_shared: Arena | None = None


def shared() -> Arena:
    """The process's arena."""
    global _shared
    if _shared is None:
        _shared = Arena()
    return _shared


def _renew_locks() -> None:
    # Another thread may have held a lock while the process forked; in the child nobody will release it.
    for arena in _arenas:
        arena._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
