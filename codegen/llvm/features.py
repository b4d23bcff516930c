"""Which of a target's CPU features a module needs: what its saved form states, and exactly what it is compiled with.

LLVM may use every feature that is switched on, so code is made with no more than its text calls for: the level of
AVX2, or that of AVX-512 where it holds wider vectors or masked accesses, and beyond only what its intrinsics and
element types can use. A model without such kernels then runs where there is no AVX-512. On other architectures
nothing is left out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ...ir.target import LEVELS, Target

# Patterns begin with plain letters, which are searched for several times faster than anything else; and what is found
# is text, not tuples of it, of which there would be enough to set off the collector of cycles time and again.
_VECTOR: Final = re.compile(r"<\d+ x (?:i\d+|float|double|half|bfloat|ptr)>")
_BITS: Final = {"float": 32, "double": 64, "half": 16, "bfloat": 16, "ptr": 64}

# What tells of AVX-512 beside the width of vectors: accesses under masks are single instructions from there on, and so
# are choices between two scalar floats, of which sorting is made (it takes 1.4 times as long without).
_AVX512: Final = re.compile(r"llvm\.(?:x86\.avx512|masked\.)|select i1 [^,]+, (?:float|double)")

# Beyond the levels: where the text has none of these, the code generator has no use for the feature.
_FURTHER: Final[dict[str, re.Pattern[str]]] = {
    **dict.fromkeys(("avx512bf16", "avxneconvert"), re.compile(r"bf(?:16|loat\b)")),
    **dict.fromkeys(
        ("avx512vnni", "avxvnni", "avxvnniint8", "avxvnniint16"), re.compile(r"llvm\.x86\.\w+\.(?:vpdp|pmadd)")
    ),
    **dict.fromkeys(("avx512vbmi", "avx512vbmi2", "avx512bitalg", "gfni"), re.compile(r"<\d+ x i(?:8|16)>")),
    "avx512vpopcntdq": re.compile(r"llvm\.ct"),
    "avx512fp16": re.compile(r"half\b"),
    **dict.fromkeys(("amx-bf16", "amx-int8", "amx-tile"), re.compile(r"llvm\.x86\.t")),
}


def used(text: str, target: Target) -> Target:
    """The target with no more features than this module of LLVM text needs."""
    if target.arch != "x86-64":
        return target
    widest = max((_bits(vector) for vector in set(_VECTOR.findall(text))), default=0)
    level = LEVELS["avx512" if widest > 256 or _AVX512.search(text) else "avx2"]
    further = [feature for feature, told in _FURTHER.items() if feature in target.features and told.search(text)]
    wanted = frozenset((*level, *further))
    return replace(target, features=tuple(feature for feature in target.features if feature in wanted))


def _bits(vector: str) -> int:
    count, _, kind = vector[1:-1].partition(" x ")
    # Vectors of i1 are masks: they stand beside what they mask.
    return int(count) * (_BITS.get(kind) or (int(kind[1:]) if kind != "i1" else 0))
