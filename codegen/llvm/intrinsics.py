"""The intrinsics we call, by name and type, and the only outside names an object may leave undefined.

An intrinsic stands here only if LLVM turns it into instructions on every target we use it for; those that would become
a call into a maths or compiler library (`llvm.fma` without FMA, `llvm.floor` without SSE4.1, half conversions without
F16C) are opened by `scalars.py` into arithmetic instead.
"""

from __future__ import annotations

from typing import Final

# What the loader and the system's own C library supply. Everything else undefined is a bug.
UNDEFINED: Final = ("memcpy", "memmove", "memset")
# The pool and the artifact's C interface use these as well.
UNDEFINED_OF_POOL: Final = (
    "free", "madvise", "malloc", "mmap", "munmap", "posix_memalign", "pthread_attr_destroy", "pthread_attr_init",
    "pthread_attr_setdetachstate", "pthread_attr_setstacksize", "pthread_create", "pthread_sigmask", "sched_yield",
    "sigfillset", "syscall",
)  # fmt: skip


def declaration(result: str, name: str, types: tuple[str, ...]) -> str:
    """The line that declares one intrinsic."""
    return f"declare {result} @{name}({', '.join(types)})"
