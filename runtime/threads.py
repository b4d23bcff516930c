"""The process's worker pool, from Python's side, and how many threads are worth having.

The pool itself is native code that arrives as object bytes: it is loaded once, created once, and never
unloaded, because its workers run in it until the process ends. A forked child has no workers, so it asks for
them again, of the code it inherited. Whoever runs with one thread never creates it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

from . import cgroup, loader

LOAD = Path("/proc/loadavg")

_lock = threading.Lock()
_code: loader.LoadedObject | None = None
_pool = 0  # the address of the process's pool; 0 until there is one
_workers = 0  # how many workers it was last asked for


def pool(object_bytes: Callable[[], bytes], workers: int) -> int:
    """The address of the process's pool, for at least `workers` threads beside the caller's; 0 if there is no
    memory for it, which programs take as "serial". `object_bytes` is asked for the pool's code once in a
    process.
    """
    global _code, _pool, _workers
    if workers > _workers:
        with _lock:
            if _code is None:
                _code = loader.load(object_bytes()).keep_forever()
            create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int32)(_code.address("treadle_pool_create"))
            _pool = create(workers) or 0
            _workers = max(_workers, workers) if _pool else 0
    return _pool


def default_threads() -> int:
    """As many threads as this process may run at once: the CPUs it is bound to, or its cgroup's quota if
    smaller."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup.cpus()
    return cpus if quota is None else max(1, min(cpus, quota))


def idle_processors(load: Path = LOAD) -> int:
    """How many processors nobody uses at this moment, as far as the kernel tells: its count of what is running has
    this thread in it."""
    processors = os.cpu_count() or 1
    try:
        running = int(load.read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        running = 1
    return max(0, processors - running)


def _forget() -> None:
    """In a forked child: the workers did not come along, nor will whoever held the lock release it."""
    global _lock, _workers
    _lock = threading.Lock()
    _workers = 0


os.register_at_fork(after_in_child=_forget)
