"""What this process's control group lets it use: in a container the machine's own figures promise too much.

Both versions of the file system are read, and the groups above ours too, since the tightest limit holds.
Where nothing can be read there is no limit to know of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpus(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The CPU quota, rounded up to whole CPUs; None without one."""
    quotas: list[int] = []
    for version, directory in groups("cpu", root, membership):
        try:
            if version == 2:
                quota, period = (directory / "cpu.max").read_text().split()
            else:
                quota = (directory / "cpu.cfs_quota_us").read_text()
                period = (directory / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0:
                quotas.append(max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(quotas, default=None)


def memory_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The limit of memory; None without one."""
    limits: list[int] = []
    for version, directory in groups("memory", root, membership):
        try:
            text = (directory / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text().strip()
            if text != "max":
                limits.append(int(text))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """The version and the directory of this process's group, and of all groups above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2 has one hierarchy
            version, base = 2, root
        elif controller in controllers.split(","):
            version, base = 1, root / controller
        else:
            continue
        # In a container the path may be the host's, of which only the root is visible: that is looked at too.
        place = base / path.strip("/")
        for directory in (place, *place.parents):
            if not directory.is_relative_to(base):
                break
            yield version, directory
