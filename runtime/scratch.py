"""Scratch memory that is kept for calls of the fast way, which take it in turn.

Whoever comes while it is taken goes the complete way, with memory of its own: waiting could deadlock, and the bits are
the same. It may be shared by any number of records, and by default the whole process shares one, which then is as
large as the largest program asked for. Taking is an atomic instruction of the dispatch routine, so without the routine
nothing is kept and nothing is taken.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from . import arena


class Native(NamedTuple):
    """The routine's own way to take a cell, which fails if it is taken, and to give it back."""

    take: Callable[[int], int]
    give: Callable[[int], None]


native: Native | None = None
_shared: Scratch | None = None


class Scratch:
    """Made large enough by `reserve`; a call that needs more than it has is not served the fast way."""

    def __init__(self, memory: arena.Arena | None = None) -> None:
        self._memory = memory or arena.shared()
        self._block: Any = None
        self._cell = (ctypes.c_int64 * 3)()  # whether taken, bytes, where: see `treadle_dispatch_take`
        self.address = ctypes.addressof(self._cell)

    @property
    def nbytes(self) -> int:
        return self._cell[1]

    def reserve(self, nbytes: int) -> bool:
        """Have at least that many bytes; false if a call is using the memory just now."""
        return (nbytes <= self.nbytes and self._block is not None) or self._change(nbytes)

    def trim(self) -> bool:
        """Give the memory back until the next `reserve`; false if a call is using it just now."""
        return self._block is None or self._change(None)

    def _change(self, nbytes: int | None) -> bool:
        if native is None:
            return False
        block = None if nbytes is None else self._memory.take(max(nbytes, 1))
        if not native.take(self.address):
            return False
        # Whoever took it holds the GIL or is us, so the other fields are ours to write.
        if nbytes is not None and nbytes <= self.nbytes and self._block is not None:
            block, nbytes = self._block, self.nbytes  # another thread was faster
        previous, self._block = self._block, block
        self._cell[1] = nbytes or 0
        self._cell[2] = 0 if block is None else ctypes.addressof(block)
        native.give(self.address)
        del previous
        return True


def shared() -> Scratch:
    """The process's."""
    global _shared
    if _shared is None:
        _shared = Scratch()
    return _shared
