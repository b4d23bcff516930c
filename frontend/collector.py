"""Python's collector of cycles rests while a program is compiled.

A compilation makes many objects that stay, and each time their number has grown by a quarter the collector reads all of
them, and all of the user's: a twentieth of the time for a program of hundreds of kernels, in which it finds little.
What is not part of a cycle is freed as ever. It stays off where the user has switched it off, and several threads may
compile.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_compilations = 0
_enabled = False  # whether the collector was at work before the first of them


@contextmanager
def resting() -> Iterator[None]:
    """No collection inside, unless somebody asks for one."""
    global _compilations, _enabled
    with _lock:
        if not _compilations:
            _enabled = gc.isenabled()
        _compilations += 1
    try:
        gc.disable()
        yield
    finally:
        with _lock:
            _compilations = max(0, _compilations - 1)
            if _enabled and not _compilations:
                gc.enable()


def _wake() -> None:
    """In a forked child: nobody else compiles there, nor will release the lock."""
    global _lock, _compilations
    _lock = threading.Lock()
    if _compilations and _enabled:
        gc.enable()
    _compilations = 0


os.register_at_fork(after_in_child=_wake)
