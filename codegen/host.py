"""This machine as a Target: CPU and features as LLVM sees them, cores this process may use, caches from the kernel.

Everything is read once per process. What LLVM says is a text that can be kept: asking costs the import of llvmlite.
On a machine whose name LLVM does not know well, the features decide: the code is the same, only its scheduling is for
a middling CPU. The core count is the smaller of the affinity mask and the quota of the control group, because a thread
beyond either only waits.
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import replace
from pathlib import Path

from ..ir.errors import Unsupported
from ..ir.target import ARM_FEATURES, CPU_NAMES, X86_FEATURES, Arch, Target, target_of
from .cpus import FMA_PIPES

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_GROUPS = Path("/sys/fs/cgroup")


@functools.cache
def described() -> str:
    """The name of this CPU and its features, as LLVM has them."""
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {','.join(sorted(k for k, v in llvm.get_host_cpu_features().items() if v))}"


@functools.cache
def host(description: str | None = None) -> Target:
    """The running machine; `description` is what `described` says, where that is known. Raises `Unsupported` (TD0542)
    on an architecture there is no code for."""
    arch = _arch(platform.machine())
    name, _, listed = (description or described()).partition(" ")
    present = frozenset(listed.split(","))
    universe = ARM_FEATURES if arch == "arm64" else X86_FEATURES
    features = tuple(sorted(feature for feature in universe if feature in present))
    if arch == "arm64":
        features = tuple(sorted({*features, "neon", "fp-armv8"}))  # both are part of the architecture
    target = target_of(arch, _cpu_name(arch, name, features), features)
    sizes = cache_sizes(_CACHES)
    return replace(
        target,
        fma_pipes=FMA_PIPES.get(target.cpu, target.fma_pipes),
        cores=core_count(),
        l1_bytes=sizes.get("l1", target.l1_bytes),
        l2_bytes=sizes.get("l2", target.l2_bytes),
        l3_bytes=sizes.get("l3", target.l3_bytes if not sizes else 0),
        line_bytes=sizes.get("line", target.line_bytes),
    )


def _arch(machine: str) -> Arch:
    if machine in ("x86_64", "AMD64"):
        return "x86-64"
    if machine in ("aarch64", "arm64"):
        return "arm64"
    raise Unsupported(f"treadle makes no code for {machine} machines", code="TD0542", edit="use x86-64 or arm64")


def _cpu_name(arch: Arch, name: str, features: tuple[str, ...]) -> str:
    if name in CPU_NAMES[arch]:
        return name
    if arch == "arm64":
        return "generic"
    if "avx512vl" in features:
        return "x86-64-v4"
    return "x86-64-v3" if "avx2" in features else "x86-64"


def core_count() -> int:
    """CPUs this process may keep busy: its affinity mask, or the quota of its control group if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cgroup_quota(_GROUPS, _read(Path("/proc/self/cgroup")))
    return max(1, min(allowed, int(quota)) if quota is not None else allowed)


def cgroup_quota(root: Path, membership: str) -> float | None:
    """CPUs granted by the tightest control group on the way to `root`, None where there is no limit.

    `membership` is the text of /proc/self/cgroup. Inside a container the path it names may not exist; the root then
    holds the container's own limit.
    """
    tightest: float | None = None
    for line in membership.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = base / path.lstrip("/")
        for directory in dict.fromkeys((group, *group.parents)):
            if base in (directory, *directory.parents):
                granted = _quota(directory)
                if granted is not None and (tightest is None or granted < tightest):
                    tightest = granted
    return tightest


def _quota(directory: Path) -> float | None:
    """The limit written in one group's directory: version 2's `cpu.max`, or version 1's two files."""
    words = _read(directory / "cpu.max").split()
    if len(words) != 2:
        words = [_read(directory / f"cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
    try:
        quota, period = float(words[0]), float(words[1])
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def cache_sizes(directory: Path) -> dict[str, int]:
    """Bytes of the data caches that one core sees, `l1`, `l2`, `l3` and `line`; absent where the kernel is silent."""
    sizes: dict[str, int] = {}
    for index in sorted(directory.glob("index*")):
        if _read(index / "type").strip() == "Instruction":
            continue
        level, size, line = (_read(index / part).strip() for part in ("level", "size", "coherency_line_size"))
        if level in ("1", "2", "3") and size[:-1].isdigit():
            unit = {"K": 10, "M": 20, "G": 30}.get(size[-1])
            sizes[f"l{level}"] = int(size) if unit is None else int(size[:-1]) << unit
        if level == "1" and line.isdigit():
            sizes["line"] = int(line)
    return sizes


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
