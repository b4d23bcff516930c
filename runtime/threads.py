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

from . import loader

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
    quota = cgroup_cpus()
    return cpus if quota is None else max(1, min(cpus, quota))


def cgroup_cpus(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The CPU quota of this process's cgroup and of those above it, rounded up to whole CPUs; None without
    one."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2: one hierarchy
            base, read = root, _quota
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _quota_of_version_1
        else:
            continue
        # In a container the path may be that of the host, of which only the root is visible: look at both.
        place = base / path.strip("/")
        for directory in (place, *place.parents):
            if not directory.is_relative_to(base):
                break
            quota = read(directory)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota(directory: Path) -> int | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_of_version_1(directory: Path) -> int | None:
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else max(1, -(-quota // period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _forget() -> None:
    """In a forked child: the workers did not come along, nor will whoever held the lock release it."""
    global _lock, _workers
    _lock = threading.Lock()
    _workers = 0


os.register_at_fork(after_in_child=_forget)
