"""What this machine's CPU can do, as the kernel reports it, under the names that LLVM and our targets use."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

# Where LLVM's name is not the kernel's, apart from dots, dashes and underscores.
KERNEL_NAMES = {
    "64bit": "lm", "bmi": "bmi1", "crc32": "sse4_2", "lzcnt": "abm", "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch", "rdrnd": "rdrand", "sahf": "lahf_lm", "sha": "sha_ni", "sse3": "pni",
    "x87": "fpu",
    "dotprod": "asimddp", "fp-armv8": "fp", "fullfp16": "asimdhp", "lse": "atomics", "neon": "asimd",
}  # fmt: skip


@functools.cache
def identity(file: Path = Path("/proc/cpuinfo")) -> str:
    """What tells this CPU from others: its maker, model and features; "" when the kernel does not tell."""
    try:
        first = file.read_text().partition("\n\n")[0]
    except OSError:
        return ""
    told = r"^(?:vendor_id|cpu family|model|model name|stepping|flags|Features|CPU \w+)\s*:.*$"
    return "\n".join(re.findall(told, first, re.MULTILINE))


@functools.cache
def reported(file: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features of the first CPU, without punctuation."""
    try:
        lines = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(_plain(name) for name in lines.group(1).split()) if lines else frozenset()


def missing(features: Iterable[str], present: frozenset[str] | None = None) -> list[str]:
    """Those of `features` that this CPU lacks; all of them when the kernel does not tell."""
    present = reported() if present is None else present
    return [name for name in features if kernel_name(name) not in present]


def kernel_name(feature: str) -> str:
    """What the kernel calls a feature of LLVM's, without punctuation."""
    return _plain(KERNEL_NAMES.get(feature, feature))


def _plain(name: str) -> str:
    return re.sub(r"[._-]", "", name.lower())
