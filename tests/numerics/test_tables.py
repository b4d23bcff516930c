"""Every polynomial of the kernels is the one that Remez' exchange gives: no coefficient is a misprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from remez import TABLES

from treadle.codegen.kernels import math_exp, math_gamma, math_log, math_power, math_root, math_special, math_trig
from treadle.ir.dtypes import f32, f64

Numbers = Sequence[float]
SHORT, LONG = math_exp.SHORT, math_exp.LONG
PLAIN: Final[dict[str, Numbers]] = {
    "EXP_F32": SHORT.exp,
    "EXP_F64": LONG.exp,
    "EXPM1_F32": (1.0, *SHORT.expm1),
    "EXPM1_F64": (1.0, *LONG.expm1),
    "EXP2_F32": SHORT.exp2,
    "EXP2_F64": LONG.exp2,
    "SINH_F32": SHORT.sinh,
    "SINH_F64": LONG.sinh,
    "LOG_F32": (1.0, *math_log.LOG_F32),
    "ATANH_F64": math_log.ATANH_F64,
    "SIN_F32": math_trig.SIN[f32],
    "SIN_F64": math_trig.SIN[f64],
    "SIN_QUARTER_F64": math_trig.SIN_QUARTER,
    "COS_QUARTER_F64": math_trig.COS_QUARTER,
    "SIN_SHORT": math_trig.SIN_SHORT,
    "COS_SHORT": math_trig.COS_SHORT,
    "ASIN_F32": math_trig.ASIN[f32],
    "ASIN_F64": math_trig.ASIN[f64],
    "ATAN_F32": math_trig.ATAN[f32],
    "ATAN_F64": math_trig.ATAN[f64],
    "ATANH_SHORT": math_power.ATANH_SHORT,
    "ATANH_REST": math_power.ATANH_REST,
    "EXP2_SHORT": math_power.EXP2_SHORT,
    "CBRT": math_root.CBRT,
    "LGAMMA": math_gamma.LGAMMA,
    "STIRLING": math_gamma.STIRLING,
    "DIGAMMA": math_gamma.DIGAMMA,
    "DIGAMMA_FAR": math_gamma.DIGAMMA_FAR,
    "ERFC": math_special.ERFC,
    "ERF_NEAR": math_special.ERF_NEAR,
}
# One row per coefficient in the kernels, one per piece here.
PIECES: Final[dict[str, Sequence[Numbers]]] = {
    "ERF_F32": math_special.ERF_F32,
    "ERF_F64": math_special.ERF_F64,
    "ERFC_F32": math_special.ERFC_F32,
    "NORMAL_F32": math_special.NORMAL_F32,
    "GELU_F32": math_special.GELU_F32,
    "TANH_F32": math_exp.TANH_F32,
    "ERFINV": math_special.ERFINV,
    "ERFINV_F32": math_special.ERFINV_F32,
}


def test_every_table_is_here() -> None:
    assert set(TABLES) == {*PLAIN, *PIECES}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_coefficients(name: str) -> None:
    assert tuple(TABLES[name]()[0]) == tuple(PLAIN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECES)
def test_pieces(name: str) -> None:
    made = [row for row, _ in TABLES[name]()]
    kept = [list(piece) for piece in zip(*PIECES[name])]
    assert made == kept[: len(made)] and len(kept) - len(made) <= 1
