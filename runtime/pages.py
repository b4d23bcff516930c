"""Memory by the page, from the kernel itself: mapped, protected, given back.

Python's `mmap` objects cannot be protected anew or outlive their object, which code and blocks of results must.
"""

from __future__ import annotations

import ctypes
import mmap

MADV_HUGEPAGE = 14

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_FAILED = ctypes.c_void_p(-1).value

# Called on the way of every large result: no Python frame in between.
unmap = _libc.munmap
unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
protect = _libc.mprotect
protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
advise = _libc.madvise
advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def mapped(nbytes: int) -> int:
    """The address of fresh, private memory of whole pages, readable and writable; 0 where there is none."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _mmap(None, nbytes, protection, flags, -1, 0)
    return 0 if start is None or start == _FAILED else int(start)
