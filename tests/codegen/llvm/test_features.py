"""The CPU features that a module states: those its text calls for, and of the target's own only."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import treadle as td
from treadle.codegen.cpus import MODELS, cpu
from treadle.codegen.llvm.features import used
from treadle.frontend.compile import Compilation
from treadle.runtime import artifact
from treadle.runtime import cpu as running


@pytest.mark.parametrize(
    ("line", "stated", "unstated"),
    [
        ("%x = add i64 %a, %b", "avx2", "avx512f"),
        ("%x = fadd <8 x float> %a, %b", "avx2", "avx512f"),
        ("%x = fadd <16 x float> %a, %b", "avx512f avx512vl", "avx512bf16 avx512vbmi"),
        ("%x = fadd <8 x double> %a, %b", "avx512f", "gfni"),
        ("%x = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %p)", "avx512vl", "avx512vnni"),
        ("%x = select i1 %c, float %a, float %b", "avx512f", "avx512bf16"),
        ("%x = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %a)", "avx512bf16", "avx512vnni"),
        ("%x = call <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32> %a)", "avx512vnni", "avx512bf16"),
        ("%x = add <64 x i8> %a, %b", "avx512vbmi gfni", "avx512vnni"),
        ("%x = and <64 x i1> %a, %b", "avx2", "avx512f"),
    ],
)
def test_what_a_line_calls_for(line: str, stated: str, unstated: str) -> None:
    found = used(line, cpu("znver5")).features
    assert set(stated.split()) <= set(found)
    assert not set(unstated.split()) & set(found)


# A target gets no feature by it that it has not, and its lanes stay what they are.
@pytest.mark.parametrize("name", MODELS)
def test_no_more_than_the_target_has(name: str) -> None:
    target = MODELS[name]
    found = used("fadd <16 x float> @llvm.masked.load half bfloat <64 x i8> llvm.x86.avx512.vpdp", target)
    assert set(found.features) <= set(target.features) and found.vector_bits == target.vector_bits
    if target.arch != "x86-64":
        assert found == target


# What the code states is what the file states: a model without wide kernels loads where AVX-512 is absent, one with
# them is refused by name.
@pytest.mark.skipif(bool(running.missing(MODELS["avx512"].features)), reason="AVX-512 is needed to make the models")
def test_models_state_what_they_use(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, wide = np.arange(4), np.ones(100, np.float32)
    narrow = td.jit(lambda n: n * 3 // 2)
    narrow.compile(whole).save(tmp_path / "narrow.so")
    td.jit(np.exp).compile(wide).save(tmp_path / "wide.so")
    older = frozenset(name for name in running.reported() if not name.startswith("avx512"))
    monkeypatch.setattr(running, "reported", lambda: older)
    assert "avx512f" not in artifact.read(tmp_path / "narrow.so").manifest["cpu_features"]
    np.testing.assert_array_equal(td.load(tmp_path / "narrow.so")(whole), whole * 3 // 2)
    with pytest.raises(Exception, match="avx512f"):
        td.load(tmp_path / "wide.so")


# The instructions of short floats are stated by the programs that use them, and by no other.
def test_short_floats_state_their_instructions() -> None:
    target = cpu("znver5")

    def features(x) -> tuple[str, ...]:
        return Compilation(td.jit(lambda x: x @ x).trace(x).graph, target).object_code()[1]

    square = np.ones((64, 64), np.float32)
    assert "avx512bf16" not in features(square)
    assert "avx512bf16" in features(square.astype(ml_dtypes.bfloat16))
