"""The machine that code is made for, as plain data, and its text form `x86-64:znver4+avx2+fma;cores=2`.

Passes and generators ask a target for lanes and abilities (`target.lanes(f32)`, `target.has("dot_i8")`), never for the
name of a CPU; only the strings handed to LLVM name one. The text says everything: two targets with the same text are
equal, and equal targets give equal code. What describes the machine this process runs on is `codegen/host.py`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Final, Literal

from .classes import dataclass
from .dtypes import DType
from .errors import InvalidValue, ParseError

Arch = Literal["x86-64", "arm64", "generic"]

# A level is a set of features that came together; its name may stand where a CPU's name stands.
_V1 = ("cmov", "cx8", "fxsr", "mmx", "sse", "sse2")
_V2 = (*_V1, "cx16", "popcnt", "sahf", "sse3", "ssse3", "sse4.1", "sse4.2")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LEVELS: Final[dict[str, tuple[Arch, str, tuple[str, ...]]]] = {
    "v128": ("generic", "x86-64", _V1),
    "sse2": ("x86-64", "x86-64", _V1),
    "sse4": ("x86-64", "x86-64-v2", _V2),
    "avx2": ("x86-64", "x86-64-v3", _V3),
    "avx512": ("x86-64", "x86-64-v4", _V4),
    "neon": ("arm64", "generic", ("neon", "fp-armv8")),
}
LEVELS: Final = {name: features for name, (_, _, features) in _LEVELS.items()}
_LEVEL_OF: Final = {(arch, cpu): (name, frozenset(features)) for name, (arch, cpu, features) in _LEVELS.items()}

# What LLVM's code generator may use unasked on x86-64. Each is switched on or off by name, because the name of a CPU
# promises features that a virtual machine may hide. Other features (aes, sha, ...) need intrinsics that we never emit.
X86_FEATURES: Final = (
    *_V4,
    "adx", "amx-bf16", "amx-int8", "amx-tile", "avx512bf16", "avx512bitalg", "avx512fp16", "avx512ifma",
    "avx512vbmi", "avx512vbmi2", "avx512vnni", "avx512vpopcntdq", "avxifma", "avxneconvert", "avxvnni",
    "avxvnniint16", "avxvnniint8", "fma4", "gfni", "sse4a", "tbm", "xop",
)  # fmt: skip
ARM_FEATURES: Final = ("neon", "fp-armv8", "fullfp16", "dotprod", "bf16", "i8mm", "lse", "sve", "sve2")
_SHORT: Final = {"vnni": "avx512vnni", "bf16": "avx512bf16", "fp16": "avx512fp16", "vbmi": "avx512vbmi"}

# LLVM ends the process over an x86-64 name that it does not know, so only these are let through.
CPU_NAMES: Final[dict[Arch, tuple[str, ...]]] = {
    "x86-64": (
        "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4",
        "nehalem", "westmere", "sandybridge", "ivybridge", "haswell", "broadwell", "skylake", "skylake-avx512",
        "cascadelake", "cooperlake", "cannonlake", "icelake-client", "icelake-server", "tigerlake", "rocketlake",
        "alderlake", "raptorlake", "meteorlake", "arrowlake", "lunarlake", "sapphirerapids", "emeraldrapids",
        "graniterapids", "gracemont", "sierraforest", "btver2", "bdver4", "znver1", "znver2", "znver3", "znver4",
        "znver5",
    ),
    "arm64": (
        "generic", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-a78", "neoverse-n1",
        "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1", "apple-m2", "apple-m3",
    ),
    "generic": ("x86-64",),
}  # fmt: skip

# What a generator may ask for, and the features of which one is enough. `generic` has none of them.
_ABILITIES: Final[dict[str, tuple[str, ...]]] = {
    "fma": ("fma", "neon"),  # one instruction with one rounding
    "f16c": ("f16c", "neon"),  # f16 to and from f32
    "round": ("sse4.1", "neon"),  # floor, ceil, trunc, rint
    "masks": ("avx512f", "sve"),  # loads and stores under a mask of any element width
    "gather": ("avx512f", "sve"),
    "scalef": ("avx512f",),  # x * 2**y
    "permute": ("avx2",),  # a table of up to 32 words in registers, eight to each
    "permute_wide": ("avx512f",),  # the same, sixteen to each
    "dot_i8": ("avx512vnni", "avxvnni", "i8mm"),  # 4 x u8*i8 into i32
    "dot_i16": ("sse2", "avx2"),  # 2 x i16*i16 into i32
    "dot_bf16": ("avx512bf16",),  # 2 x bf16*bf16 into f32, in the order that isa/ states
    "stream": ("sse2",),  # stores that pass the caches by
}

_SIZES: Final = {"l1": "l1_bytes", "l2": "l2_bytes", "l3": "l3_bytes"}
_COUNTS: Final = {"fma": "fma_pipes", "line": "line_bytes", "cores": "cores"}
_WIDTHS: Final = {"bits": "vector_bits", "registers": "vector_registers"}


@dataclass(frozen=True, slots=True)
class Target:
    """One machine. `features` are LLVM's names, sorted; sizes are bytes per core (L3: of all cores together)."""

    arch: Arch
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    fma_pipes: int = 2
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 32 << 20
    line_bytes: int = 64
    cores: int = 1

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector register."""
        return max(self.vector_bits // dtype.bits, 1)

    def has(self, ability: str) -> bool:
        """Whether the machine has that ability in hardware; the generic instruction set covers all of them by loops."""
        if ability not in _ABILITIES:
            raise InvalidValue(
                f"no target has an ability called {ability!r}",
                code="TD0540",
                edit=f"one of: {', '.join(sorted(_ABILITIES))}",
            )
        if self.arch == "generic":
            return False
        return any(feature in self.features for feature in _ABILITIES[ability])

    @property
    def triple(self) -> str:
        return "aarch64-unknown-linux-gnu" if self.arch == "arm64" else "x86_64-unknown-linux-gnu"

    @property
    def llvm_cpu(self) -> str:
        return self.cpu

    @property
    def llvm_features(self) -> str:
        """Every feature the code generator could use by itself, switched on or off by name."""
        universe = ARM_FEATURES if self.arch == "arm64" else X86_FEATURES
        mine = frozenset(self.features)
        return ",".join(f"{'+' if feature in mine else '-'}{feature}" for feature in universe)

    def __str__(self) -> str:
        level = _LEVEL_OF.get((self.arch, self.cpu))
        name, implied = level if level is not None and level[1] <= frozenset(self.features) else (self.cpu, frozenset())
        parts = [f"{self.arch}:{name}", *[feature for feature in self.features if feature not in implied]]
        text = "+".join(parts)
        plain = target_of(self.arch, self.cpu, self.features)
        for key, field in (*_SIZES.items(), *_COUNTS.items(), *_WIDTHS.items()):
            value = getattr(self, field)
            if value != getattr(plain, field):
                text += f";{key}={_size_text(value) if key in _SIZES else value}"
        return text


def target_of(arch: Arch, cpu: str, features: tuple[str, ...]) -> Target:
    """The target with these features, widths that follow from them, and middling caches."""
    if arch == "arm64":
        bits, registers = 128, 32
    elif "avx512f" in features:
        bits, registers = 512, 32
    elif "avx2" in features:
        bits, registers = 256, 16
    else:
        bits, registers = 128, 16
    return Target(arch, cpu, tuple(sorted(features)), bits, registers)


def _size_text(size: int) -> str:
    for shift, unit in ((30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


_TEXT: Final = re.compile(r"(?P<arch>[\w-]+):(?P<base>[\w.-]+)(?P<features>(?:\+[\w.-]+)*)(?P<keys>(?:;\w+=\w+)*)")
_SIZE: Final = re.compile(r"(\d+)([KMG]?)")


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Target:
    """The target that prints as this text. `x86-64:avx2`, `x86-64:avx512+vnni+bf16`, `arm64:neon`, `generic:v128`; the
    name of a level or of a CPU, further features, then sizes such as `;l2=2M;cores=8`."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ParseError(f"target {text!r} is not of the form ARCH:CPU+FEATURE;KEY=VALUE", code="TD0541")
    arch, base = match["arch"], match["base"]
    if arch not in CPU_NAMES:
        raise ParseError(f"target {text!r}: no architecture {arch!r}", code="TD0541", edit=", ".join(CPU_NAMES))
    named: list[str] = [_SHORT.get(f, f) if arch == "x86-64" else f for f in match["features"].split("+")[1:]]
    universe = ARM_FEATURES if arch == "arm64" else X86_FEATURES
    for feature in named:
        if feature not in universe:
            raise ParseError(f"target {text!r}: no feature {feature!r}", code="TD0541", edit=", ".join(universe))
    level = _LEVELS.get(base)
    if level is not None and level[0] == arch:
        _, cpu, implied = level
    elif base in CPU_NAMES[arch]:
        cpu, implied = base, ()
        if (arch, cpu) in _LEVEL_OF and not named:
            implied = _LEVELS[_LEVEL_OF[arch, cpu][0]][2]
    else:
        choices = [name for name, (of, _, _) in _LEVELS.items() if of == arch] + list(CPU_NAMES[arch])
        raise ParseError(f"target {text!r}: no CPU or level {base!r}", code="TD0541", edit=", ".join(choices))
    features = tuple(sorted(dict.fromkeys((*implied, *named))))
    target = target_of(arch, cpu, features)
    changes: dict[str, int] = {}
    for key, value in (pair.split("=") for pair in match["keys"].split(";")[1:]):
        field = _SIZES.get(key) or _COUNTS.get(key) or _WIDTHS.get(key)
        size = _SIZE.fullmatch(value)
        if field is None or size is None or (size[2] and key not in _SIZES):
            keys = (*_SIZES, *_COUNTS, *_WIDTHS)
            raise ParseError(f"target {text!r}: {key}={value} is not a size", code="TD0541", edit=", ".join(keys))
        changes[field] = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return replace(target, **changes) if changes else target  # type: ignore[arg-type]
