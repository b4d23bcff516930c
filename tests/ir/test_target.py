"""Targets as texts and data: what prints is what was meant, and abilities follow from features alone."""

from __future__ import annotations

import dataclasses

import pytest

from treadle.codegen import cpus
from treadle.ir.dtypes import bf16, bool_, f32, f64, i8
from treadle.ir.errors import InvalidValue, ParseError
from treadle.ir.target import CPU_NAMES, Target, parse

TARGETS = {**cpus.MODELS, **{name: cpus.cpu(name) for name in cpus.names()}}


# The text is part of cache keys and of what users type: it must say everything, and say it one way.
@pytest.mark.parametrize("name", TARGETS)
def test_texts_round_trip(name: str) -> None:
    target = TARGETS[name]
    assert parse(str(target)) == target
    assert str(parse(str(target))) == str(target)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("x86-64:avx2", "x86-64:avx2"),
        ("x86-64:x86-64-v3", "x86-64:avx2"),
        ("x86-64:avx512+vnni+bf16", "x86-64:avx512+avx512bf16+avx512vnni"),
        ("generic:v128", "generic:v128"),
        ("arm64:neon+i8mm", "arm64:neon+i8mm"),
        ("x86-64:avx2;cores=8;l2=2048K;l1=1000", "x86-64:avx2;l1=1000;l2=2M;cores=8"),
        ("x86-64:avx512;bits=256", "x86-64:avx512;bits=256"),
    ],
)
def test_texts_are_normalised(text: str, printed: str) -> None:
    assert str(parse(text)) == printed


# The whole of a target is in its text, whatever field is changed.
def test_every_field_is_printed() -> None:
    base = parse("x86-64:avx2")
    for field in dataclasses.fields(Target):
        value = getattr(base, field.name)
        if isinstance(value, int):
            changed = dataclasses.replace(base, **{field.name: value * 2})
            assert parse(str(changed)) == changed != base


@pytest.mark.parametrize(
    "text",
    [
        "avx2",
        "vax:780",
        "x86-64:z80",  # LLVM would end the process over this one
        "x86-64:avx2+vnmi",
        "x86-64:avx2;cores=many",
        "x86-64:avx2;cores=2M",
        "x86-64:avx2;wheels=4",
        "arm64:avx2",
        "x86-64:",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert caught.value.code == "TD0541"


def test_lanes() -> None:
    lanes = {name: [TARGETS[name].lanes(dtype) for dtype in (i8, bool_, bf16, f32, f64)] for name in cpus.MODELS}
    assert lanes["generic"] == lanes["neon"] == [16, 16, 8, 4, 2]
    assert lanes["avx2"] == [32, 32, 16, 8, 4]
    assert lanes["avx512"] == [64, 64, 32, 16, 8]


def test_abilities() -> None:
    def able(name: str) -> list[str]:
        abilities = ("fma", "f16c", "round", "masks", "gather", "scalef", "dot_i8", "dot_i16", "dot_bf16")
        return [ability for ability in abilities if TARGETS[name].has(ability)]

    assert able("generic") == []
    assert able("avx2") == ["fma", "f16c", "round", "dot_i16"]
    assert able("avx512") == ["fma", "f16c", "round", "masks", "gather", "scalef", "dot_i16"]
    assert able("avx512+vnni+bf16") == [*able("avx512")[:-1], "dot_i8", "dot_i16", "dot_bf16"]
    assert able("neon") == ["fma", "f16c", "round"]
    with pytest.raises(InvalidValue, match="telepathy"):
        parse("x86-64:avx2").has("telepathy")


# A virtual machine may hide what the CPU's name promises, so every feature is switched on or off by name.
def test_llvm_is_told_every_feature() -> None:
    features = parse("x86-64:znver4+sse+sse2").llvm_features.split(",")
    assert "+sse2" in features and "-avx512f" in features and "-avx2" in features
    for target in TARGETS.values():
        assert target.llvm_cpu in CPU_NAMES[target.arch]
        assert len({feature[1:] for feature in target.llvm_features.split(",")}) == target.llvm_features.count(",") + 1
