"""A handful of CPUs by hand, and the model targets that tests compile for.

The figures a generator needs and no operating system tells: how many multiply-adds a core starts per cycle at full
vector width. Everything else about the running machine is read by `host.py`.
"""

from __future__ import annotations

from typing import Final

from ..ir.target import Target, parse

# Multiply-add instructions of full width per cycle. Zen 4 cuts a 512-bit one in two halves, hence 1.
FMA_PIPES: Final[dict[str, int]] = {
    "haswell": 2, "broadwell": 2, "skylake": 2, "skylake-avx512": 2, "cascadelake": 2, "icelake-server": 2,
    "icelake-client": 1, "tigerlake": 1, "rocketlake": 1, "sapphirerapids": 2, "emeraldrapids": 2,
    "graniterapids": 2, "znver1": 1, "znver2": 2, "znver3": 2, "znver4": 1, "znver5": 2, "neoverse-n1": 2,
    "neoverse-n2": 2, "neoverse-v1": 4, "neoverse-v2": 4, "apple-m1": 4, "apple-m2": 4,
}  # fmt: skip

_V4: Final = "avx+avx2+avx512bw+avx512cd+avx512dq+avx512f+avx512vl+bmi+bmi2+cmov+cx16+cx8+f16c+fma+fxsr+lzcnt+mmx" \
    "+movbe+popcnt+sahf+sse+sse2+sse3+sse4.1+sse4.2+ssse3"  # fmt: skip
_ICE: Final = "avx512bitalg+avx512ifma+avx512vbmi+avx512vbmi2+avx512vnni+avx512vpopcntdq+gfni"

_CPU_TEXTS: Final[dict[str, str]] = {
    "haswell": "x86-64:haswell+avx+avx2+bmi+bmi2+cmov+cx16+cx8+f16c+fma+fxsr+lzcnt+mmx+movbe+popcnt+sahf+sse+sse2"
    "+sse3+sse4.1+sse4.2+ssse3;l2=256K;l3=8M",
    "skylake-avx512": f"x86-64:skylake-avx512+{_V4};l3=24M",
    "icelake-server": f"x86-64:icelake-server+{_V4}+{_ICE};l1=48K;l2=1280K",
    "sapphirerapids": f"x86-64:sapphirerapids+{_V4}+{_ICE}+avx512bf16+avx512fp16+avxvnni+amx-bf16+amx-int8+amx-tile"
    ";l1=48K;l2=2M",
    "znver4": f"x86-64:znver4+{_V4}+{_ICE}+avx512bf16+sse4a;fma=1",
    "znver5": f"x86-64:znver5+{_V4}+{_ICE}+avx512bf16+avxvnni+sse4a;l1=48K",
    "neoverse-n1": "arm64:neoverse-n1+dotprod+fp-armv8+fullfp16+lse+neon;l1=64K",
    "apple-m1": "arm64:apple-m1+dotprod+fp-armv8+fullfp16+lse+neon;fma=4;l1=128K;l2=12M;l3=0;line=128",
}

# What kernels are generated, evaluated and, where the machine allows, run for in tests.
_MODEL_TEXTS: Final[dict[str, str]] = {
    "generic": "generic:v128",
    "avx2": "x86-64:avx2",
    "avx512": "x86-64:avx512",
    "avx512+vnni+bf16": "x86-64:avx512+vnni+bf16",
    "neon": "arm64:neon",
}

MODELS: Final[dict[str, Target]] = {name: parse(text) for name, text in _MODEL_TEXTS.items()}


def cpu(name: str) -> Target:
    """The CPU of that name; `KeyError` for one that is not described here."""
    return parse(_CPU_TEXTS[name])


def names() -> tuple[str, ...]:
    return tuple(_CPU_TEXTS)
