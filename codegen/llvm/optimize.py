"""LLVM text to object bytes or to assembly, in this process.

The text already says what the machine is to do (explicit vectors, explicit unrolling), and LLVM's own
optimisation pipeline was measured to add nothing to it but time; so none runs unless `pipeline` asks for one,
which hand-written scalar code does. Equal arguments give equal bytes: there is one context per compilation,
and nothing of the process, the clock or the machine enters. `generate.py` does it; llvmlite is imported by its
functions, because importing it costs tens of milliseconds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...ir.errors import CheckFailed, InvalidValue
from . import generate
from .generate import Job

# LLVM runs in one thread at a time (llvmlite sees to that), and a process that forks waits until it is idle: a child
# would inherit llvmlite's lock, held by a thread that it does not have.
_idle = threading.RLock()
os.register_at_fork(before=_idle.acquire, after_in_parent=_idle.release, after_in_child=_idle.release)


def object_code(text: str, triple: str, cpu: str, features: str, opt: int = 1, pipeline: int = 0) -> bytes:
    """The relocatable object of one module of LLVM text.

    `cpu` is one of LLVM's names, or empty; LLVM ends the process over an x86-64 name that it does not know.
    `features` is LLVM's list (`+avx2,+fma`). `opt` is the level of the code generator: 1, 2 and 3 were
    measured equal on kernels, 0 a third as fast. `pipeline` is the level of the pass pipeline before it, 0
    for none.
    """
    with _alone():
        return generate.object_code(Job(text, triple, cpu, features, opt, pipeline))


def assembly(text: str, triple: str, cpu: str, features: str, opt: int = 1, pipeline: int = 0) -> str:
    """The same code, as the assembly text that a person reads."""
    with _alone():
        return generate.assembly(Job(text, triple, cpu, features, opt, pipeline))


@contextmanager
def _alone() -> Iterator[None]:
    """No other thread in LLVM, and what it refuses said in our words."""
    with _idle:
        try:
            yield
        except generate.Refused as refused:
            # A triple comes from a target that a person may have written; the rest is our own text.
            kind = InvalidValue if refused.code == "TD0508" else CheckFailed
            raise kind(refused.message, code=refused.code) from None
