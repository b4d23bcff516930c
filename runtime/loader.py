"""Turns object bytes into callable addresses of this process, without LLVM and without a linker.

The object is placed and resolved in ordinary memory, copied once into a fresh mapping, and only then made
executable: no page is ever writable and executable. Far names are taken from libc, and only those on a closed
list, because an object that needs more (libm, compiler-rt) is a defect of code generation that must not
depend on what this process happens to have loaded. Memory goes back when the last reference to the
`LoadedObject` goes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import weakref
from collections.abc import Mapping
from types import MappingProxyType

from . import elf
from .elf import Buffer
from .errors import BadObject
from .pages import mapped, protect, unmap
from .relocate import CODE, DATA, FIXED, READ, Plan, align

# What code generation may leave undefined: the block operations LLVM itself asks for, and the system calls of
# the thread pool and of the C interface. All in libc; none may fail to be there.
BLOCK_OPERATIONS = ("memcmp", "memcpy", "memmove", "memset")
SYSTEM = (
    "aligned_alloc", "clock_gettime", "free", "madvise", "malloc", "mmap", "munmap", "posix_memalign",
    "pthread_attr_destroy", "pthread_attr_init", "pthread_attr_setdetachstate", "pthread_attr_setstacksize",
    "pthread_create", "pthread_detach", "pthread_self", "pthread_setname_np", "pthread_sigmask",
    "sched_getaffinity", "sched_yield", "sigfillset", "syscall",
)  # fmt: skip
CLOSED_LIST = frozenset((*BLOCK_OPERATIONS, *SYSTEM))

HOST = {"x86_64": elf.X86_64, "AMD64": elf.X86_64, "aarch64": elf.AARCH64, "arm64": elf.AARCH64}.get(os.uname().machine)

_libc = ctypes.CDLL(None, use_errno=True)

_PROTECTION = {
    READ: mmap.PROT_READ,
    CODE: mmap.PROT_READ | mmap.PROT_EXEC,
    FIXED: mmap.PROT_READ,
}
_far_addresses: dict[str, int] = {}


class LoadedObject:
    """An object in memory. Addresses are good for as long as this is referenced, so keep it beside them."""

    def __init__(self, base: int, size: int, code_size: int, symbols: Mapping[str, int]) -> None:
        self.base = base
        self.size = size
        self.code_size = code_size
        self.closed = False
        self.symbols = MappingProxyType(dict(symbols))
        self._release = weakref.finalize(self, unmap, base, size)
        # At the end of the process threads may still run this code.
        self._release.atexit = False

    def address(self, name: str) -> int:
        """Where the symbol lies."""
        if self.closed:
            raise BadObject(f"{name!r} is asked of an object that was closed", code="TD0911")
        try:
            return self.symbols[name]
        except KeyError:
            raise BadObject(f"the object defines no {name!r}", code="TD0910") from None

    def close(self) -> None:
        """Unmap now. Nobody may be running the code, nor call it again."""
        self.closed = True
        self._release()

    def keep_forever(self) -> LoadedObject:
        """Never unmap: for code that threads of their own go on running."""
        self._release.detach()
        return self


def load(
    data: Buffer, *, symbols: Mapping[str, int] | None = None, closed_list: frozenset[str] = CLOSED_LIST
) -> LoadedObject:
    """Load the object. `symbols` are further far names and their addresses; every other undefined name
    must be on the closed list."""
    plan = Plan(data)
    if plan.machine != HOST:
        raise BadObject(
            f"an object for {elf.MACHINES[plan.machine]} cannot run on this {os.uname().machine}",
            code="TD0902",
        )
    given = symbols or {}
    strange = sorted(name for name in plan.far if name not in given and name not in closed_list)
    if strange:
        raise BadObject(f"undefined names off the closed list: {', '.join(strange)}", code="TD0909")
    page = mmap.PAGESIZE
    image = plan.place(0, page, {})
    size = max(align(image.end, page), page)
    contents = bytearray(size)
    pointers = image.fill(contents, {})
    base = mapped(size)
    if not base:
        raise MemoryError(f"{size} bytes for code")
    for place, symbol, addend in pointers:
        start = base if symbol is None else given[symbol] if symbol in given else far_address(symbol)
        struct.pack_into("<Q", contents, place, (start + addend) & 0xFFFFFFFFFFFFFFFF)
    ctypes.memmove(base, (ctypes.c_char * size).from_buffer(contents), size)
    # On aarch64 this first mapping as executable is also what makes the kernel bring the instruction cache up
    # to date.
    for group, (first, last) in image.spans.items():
        length = align(last, page) - first
        if group is not DATA and length and protect(base + first, length, _PROTECTION[group]):
            unmap(base, size)
            raise BadObject("this system does not let memory become executable", code="TD0912")
    defined = {s.name: base + image.offset(s) for s in plan.symbols if elf.exported(s) and s.section in plan.pieces}
    return LoadedObject(base, size, image.stubs - image.spans[CODE][0], defined)


def far_address(name: str) -> int:
    """Where libc has that function."""
    address = _far_addresses.get(name)
    if address is None:
        try:
            address = ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value or 0
        except AttributeError:
            raise BadObject(f"this system's libc has no {name!r}", code="TD0909") from None
        _far_addresses[name] = address
    return address
