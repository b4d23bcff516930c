"""Maps: NumPy's results, the edges of derivatives, errors. What is true of all ops is tested in `test_table.py`.

The oracles are NumPy's own functions, identities and constants from the literature for those NumPy lacks, and limits
worked out by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from derive import tangent
from sample import agree, kind
from table import BY_OP, SAMPLES
from table_elementwise import special

from treadle.ir import dtypes
from treadle.ir.dtypes import DTYPES, FLOATS, INTEGERS, DType, bool_, c64, c128, f32, f64, i32, i64
from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.location import Location, Origin, at
from treadle.ir.ops import OPS
from treadle.ir.ops import elementwise as ew
from treadle.ir.types import TensorType
from treadle.ir.value import Constant, Elementwise, Full, Parameter, Value

inf, nan = math.inf, math.nan

NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint,
    "sqrt": np.sqrt, "cbrt": np.cbrt, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log,
    "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "is_nan": np.isnan, "is_inf": np.isinf,
    "is_finite": np.isfinite, "signbit": np.signbit, "not": np.invert, "population_count": np.bitwise_count,
    "real": np.real, "imag": np.imag, "conj": np.conj, "pow": np.power, "mod": np.remainder, "rem": np.fmod,
    "floor_div": np.floor_divide, "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shift_left": np.left_shift,
    "shift_right": np.right_shift, "atan2": np.arctan2, "hypot": np.hypot, "logaddexp": np.logaddexp,
    "logaddexp2": np.logaddexp2, "copysign": np.copysign, "nextafter": np.nextafter, "ldexp": np.ldexp,
    "select": np.where, "clamp": np.clip,
}  # fmt: skip

# NumPy's own error, in last places; its f32 loops are several off, its complex ones more.
THEIRS = {"f16": 1.0, "f32": 4.0, "f64": 4.0, "c64": 40.0, "c128": 40.0}
# NumPy answers these by the length of the array and the CPU: which of two equal zeros an extremum is.
ZEROS_OF_EITHER_SIGN = frozenset(("maximum", "minimum", "fmax", "fmin", "clamp"))
NUMPYS_OWN = [dtype for dtype in DTYPES if dtype.kind != "float8" and dtype.name != "bf16"]


@pytest.mark.parametrize("op", NUMPY)
def test_values_are_numpys(op: str) -> None:
    """What a user computes without us is the definition: dtype of the result and every special value."""
    for sample in BY_OP[op]:
        arrays = sample.arrays()
        if any(dtypes.of(a.dtype) not in NUMPYS_OWN for a in arrays):
            continue
        with np.errstate(all="ignore"):
            want = np.asarray(NUMPY[op](*arrays))
        (got,) = evaluate(sample.build(), *arrays)
        exact = sample.ulp == 0
        if op in ZEROS_OF_EITHER_SIGN:
            got, want = (np.where(x == 0, np.zeros_like(x), x) for x in (got, want))
        if want.dtype.kind == "c":
            # A part of a product or quotient that overflows in between is infinite for one and NaN for another.
            fine = np.isfinite(got) & np.isfinite(want)
            got, want = np.where(fine, got, 0).astype(got.dtype), np.where(fine, want, 0).astype(want.dtype)
        agree(got, want, 0 if exact else THEIRS[dtypes.of(want.dtype).name], sample.atol, sample)


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversions_are_numpys(source: DType) -> None:
    """Conversions meet every value of every dtype at the borders of a program. Floats that do not fit an integer are
    left to `loops/scalars.py`, since there NumPy's answers depend on the array's length."""
    array = special(source)
    for to in DTYPES:
        with np.errstate(all="ignore"):
            inside = array
            if source.is_float or source.kind == "complex":
                wide = array.real.astype(np.float64)
                if to.is_integer:
                    info = np.iinfo(to.numpy)
                    inside = array[(wide > max(info.min, -(2.0**62))) & (wide < min(info.max, 2.0**62))]
            flat = inside.real if inside.dtype.kind == "c" and to.kind not in ("complex", "bool") else inside
            want = flat.astype(to.numpy)
            x = Parameter("x", TensorType(inside.shape, source))
            (got,) = evaluate(Graph("g", (x,), (ew.Convert(x, to),)), inside)
        agree(got.view(np.uint8), want.view(np.uint8), about=f"{source} to {to}")


def run(make: Callable[..., Value], *arrays: np.ndarray) -> np.ndarray:
    params = tuple(Parameter(f"x{i}", TensorType(a.shape, dtypes.of(a.dtype))) for i, a in enumerate(arrays))
    return evaluate(Graph("g", params, (make(*params),)), *arrays)[0]


def test_gamma_functions_meet_the_literature() -> None:
    """NumPy has no gamma function: constants and functional equations (DLMF 5.4, 5.5) are the second opinion."""
    gamma = 0.57721566490153286061
    x = np.array([1.0, 0.5, 2.0, 10.0, 0.25])
    quarter = -gamma - math.pi / 2 - 3 * math.log(2)
    want = [-gamma, -gamma - 2 * math.log(2), 1 - gamma, sum(1 / k for k in range(1, 10)) - gamma, quarter]
    np.testing.assert_allclose(run(ew.Digamma, x), want, rtol=4e-16, atol=1e-15)
    x = np.concatenate([np.linspace(-7.97, 20.0, 173), [1e-300, 1e5, 1e200, -5e-324]])
    psi = run(ew.Digamma, x)
    near = (np.abs(x) < 30) & (np.abs(x) > 1e-9)
    np.testing.assert_allclose(run(ew.Digamma, x[near] + 1), psi[near] + 1 / x[near], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(psi[-3:], [math.log(1e5) - 5e-6 - 1e-10 / 12, math.log(1e200), inf], rtol=1e-15)
    want = [math.log(abs(math.gamma(v))) for v in x[near]]
    np.testing.assert_allclose(run(ew.Lgamma, x[near]), want, rtol=1e-13, atol=1e-13)
    trigamma = run(ew.trigamma, np.array([1.0, 0.5, 2.0, -0.5, 40.0]))
    tail = math.pi**2 / 6 - sum(1 / k**2 for k in range(1, 40))
    want = [math.pi**2 / 6, math.pi**2 / 2, math.pi**2 / 6 - 1, math.pi**2 / 2 + 4, tail]
    np.testing.assert_allclose(trigamma, want, rtol=1e-13)


def test_error_functions_meet_the_literature() -> None:
    """erf by its Maclaurin series, erfc by its continued fraction, erfinv by inverting them (DLMF 7.6, 7.9)."""

    def series(x: float) -> float:
        term, total = x, x
        for n in range(1, 60):
            term *= -x * x / n
            total += term / (2 * n + 1)
        return 2 / math.sqrt(math.pi) * total

    def fraction(x: float) -> float:
        tail = 0.0
        for n in range(200, 0, -1):
            tail = n / 2 / (x + tail)
        return math.exp(-x * x) / math.sqrt(math.pi) / (x + tail)

    x = np.linspace(-2.0, 2.0, 41)
    np.testing.assert_allclose(run(ew.Erf, x), [series(v) for v in x], rtol=1e-13)
    x = np.linspace(2.0, 20.0, 37)
    np.testing.assert_allclose(run(ew.Erfc, x), [fraction(v) for v in x], rtol=1e-13)
    y = np.concatenate([np.linspace(-0.999, 0.999, 81), [1e-300, 1e-8, 1 - 1e-12]])
    np.testing.assert_allclose(run(ew.Erf, run(ew.Erfinv, y)), y, rtol=4e-16)
    agree(run(ew.Erfinv, np.array([1.0, -1.0, 0.0, -0.0, 1.5, nan])), np.array([inf, -inf, 0.0, -0.0, nan, nan]))
    agree(run(ew.Lgamma, np.array([0.0, -0.0, -3.0, inf, -inf, 1.0])), np.array([inf, inf, inf, inf, inf, 0.0]))
    agree(run(ew.Digamma, np.array([0.0, -0.0, -3.0, inf, -inf])), np.array([-inf, inf, nan, inf, nan]))
    agree(run(ew.Softplus, np.array([-inf, inf, -1e3, 1e3])), np.array([0.0, inf, 0.0, 1e3]))
    agree(run(ew.Logistic, np.array([-inf, inf, 0.0, 40.0, -800.0])), np.array([0.0, 1.0, 0.5, 1.0, 0.0]), ulp=1)
    agree(run(ew.Rsqrt, np.array([0.0, -0.0, inf, -1.0, 4.0])), np.array([inf, -inf, 0.0, nan, 0.5]))


# Operand, and what the limit of each partial derivative is there.
EDGES: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = [
    ("sqrt", (0.0,), (inf,)), ("sqrt", (-0.0,), (inf,)), ("sqrt", (inf,), (0.0,)),
    ("rsqrt", (0.0,), (-inf,)), ("rsqrt", (inf,), (0.0,)), ("cbrt", (0.0,), (inf,)), ("cbrt", (-inf,), (0.0,)),
    ("exp", (-inf,), (0.0,)), ("exp", (inf,), (inf,)), ("exp2", (-inf,), (0.0,)), ("expm1", (-inf,), (0.0,)),
    ("log", (0.0,), (inf,)), ("log", (inf,), (0.0,)), ("log2", (inf,), (0.0,)), ("log10", (inf,), (0.0,)),
    ("log1p", (-1.0,), (inf,)), ("log1p", (inf,), (0.0,)),
    ("asin", (1.0,), (inf,)), ("asin", (-1.0,), (inf,)), ("acos", (1.0,), (-inf,)), ("atan", (inf,), (0.0,)),
    ("asinh", (inf,), (0.0,)), ("asinh", (1e200,), (1e-200,)), ("acosh", (1.0,), (inf,)), ("acosh", (inf,), (0.0,)),
    ("acosh", (1e200,), (1e-200,)), ("atanh", (1.0,), (inf,)),
    ("sinh", (0.0,), (1.0,)), ("cosh", (0.0,), (0.0,)),
    ("tanh", (inf,), (0.0,)), ("tanh", (-inf,), (0.0,)), ("erf", (inf,), (0.0,)), ("erfc", (-inf,), (0.0,)),
    ("normal_cdf", (inf,), (0.0,)),
    ("times_normal_cdf", (inf,), (1.0,)),
    ("times_normal_cdf", (-inf,), (0.0,)),
    ("erfinv", (1.0,), (inf,)), ("lgamma", (inf,), (inf,)), ("digamma", (inf,), (0.0,)),
    ("logistic", (inf,), (0.0,)), ("logistic", (-inf,), (0.0,)),
    ("softplus", (inf,), (1.0,)), ("softplus", (-inf,), (0.0,)),
    ("maximum", (1.0, 1.0), (0.5, 0.5)), ("maximum", (inf, inf), (0.5, 0.5)), ("maximum", (-inf, 0.0), (0.0, 1.0)),
    ("maximum", (0.0, -0.0), (0.5, 0.5)), ("minimum", (1.0, 1.0), (0.5, 0.5)), ("minimum", (-inf, 0.0), (1.0, 0.0)),
    ("fmax", (nan, 1.0), (0.0, 1.0)), ("fmax", (1.0, nan), (1.0, 0.0)), ("fmin", (nan, 1.0), (0.0, 1.0)),
    ("hypot", (0.0, 0.0), (0.0, 0.0)), ("hypot", (inf, 1.0), (1.0, 0.0)), ("hypot", (2.0, -inf), (0.0, -1.0)),
    ("hypot", (1e200, 1e200), (math.sqrt(0.5), math.sqrt(0.5))),
    ("atan2", (0.0, 0.0), (0.0, 0.0)), ("atan2", (0.0, -1.0), (-1.0, 0.0)), ("atan2", (inf, 1.0), (0.0, 0.0)),
    ("atan2", (1e200, 1e200), (0.5e-200, -0.5e-200)),
    ("logaddexp", (-inf, -inf), (0.5, 0.5)), ("logaddexp", (-inf, 0.0), (0.0, 1.0)),
    ("logaddexp", (inf, 0.0), (1.0, 0.0)), ("logaddexp", (inf, inf), (0.5, 0.5)),
    ("logaddexp", (-inf, inf), (0.0, 1.0)), ("logaddexp2", (-inf, -inf), (0.5, 0.5)),
    ("logaddexp2", (-inf, 1.0), (0.0, 1.0)),
    ("pow", (0.0, 0.0), (0.0, 0.0)), ("pow", (0.0, 1.0), (1.0, 0.0)), ("pow", (0.0, 2.0), (0.0, 0.0)),
    ("pow", (0.0, 0.5), (inf, 0.0)), ("pow", (2.0, 0.0), (0.0, math.log(2.0))), ("pow", (inf, 0.0), (0.0, inf)),
    ("pow", (inf, -1.0), (0.0, 0.0)), ("pow", (inf, 1.0), (1.0, inf)), ("pow", (-2.0, 2.0), (-4.0, nan)),
    ("pow", (-2.0, 3.0), (12.0, nan)),
    ("clamp", (0.5, 0.0, 1.0), (1.0, 0.0, 0.0)), ("clamp", (2.0, 0.0, 1.0), (0.0, 0.0, 1.0)),
    ("clamp", (-1.0, 0.0, 1.0), (0.0, 1.0, 0.0)), ("clamp", (0.0, 0.0, 1.0), (0.5, 0.5, 0.0)),
    ("clamp", (inf, 0.0, 1.0), (0.0, 0.0, 1.0)), ("clamp", (0.0, 2.0, 1.0), (0.0, 0.0, 1.0)),
    ("mod", (7.0, 2.0), (1.0, -3.0)), ("mod", (-7.0, 2.0), (1.0, 4.0)), ("rem", (-7.0, 2.0), (1.0, 3.0)),
    ("ldexp", (0.0, 3), (8.0,)),
    ("copysign", (-2.0, 3.0), (-1.0,)), ("copysign", (0.0, -1.0), (0.0,)),
    ("div", (0.0, 2.0), (0.5, 0.0)), ("div", (1.0, inf), (0.0, 0.0)), ("mul", (0.0, inf), (inf, 0.0)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "at_point", "limits"), EDGES)
def test_partials_are_the_limits(op: str, at_point: tuple[float, ...], limits: tuple[float, ...]) -> None:
    """A NaN in one gradient poisons a whole training step; where a limit exists it is the derivative."""
    arrays = [np.asarray(x) for x in at_point]
    params = tuple(Parameter(f"x{i}", TensorType((), dtypes.of(a.dtype))) for i, a in enumerate(arrays))
    partials = [p for p in OPS[op](*params).partials() if p is not None]  # type: ignore[attr-defined]
    found = evaluate(Graph("g", params, tuple(partials)), *arrays)
    np.testing.assert_allclose([float(x) for x in found], limits, rtol=1e-14, atol=0)


@pytest.mark.parametrize("x", [0.0, -0.0, 2.0, -3.0])
def test_the_modulus_has_a_derivative_everywhere(x: float) -> None:
    """|x| at 0: the subgradient 0, for real and for complex numbers."""
    for dtype, t in ((f64, 1.5), (c128, 1.5 - 2j)):
        v, d = Parameter("x", TensorType((), dtype)), Parameter("t", TensorType((), dtype))
        found = ew.Abs(v).jvp((d,))
        assert found is not None
        (got,) = evaluate(Graph("g", (v, d), (found,)), np.asarray(x, dtype.numpy), np.asarray(t, dtype.numpy))
        assert got == np.sign(x) * np.real(t)


def _moved(graph: Graph, arrays: list[np.ndarray], h: float) -> np.ndarray:
    """The value when operand i moves by h*(i + 1)."""
    steps = itertools.count(1)
    return evaluate(graph, *[a + h * next(steps) if a.dtype == np.float64 else a for a in arrays])[0]


def derivative(value: Value, tangents: dict[int, Value]) -> Value | None:
    """Forward mode over a small graph, in the shortest form: the composition of single rules."""
    if id(value) in tangents:
        return tangents[id(value)]
    inner = tuple(derivative(v, tangents) for v in value.operands)
    found = None if all(t is None for t in inner) else tangent(value, inner)
    assert not isinstance(found, tuple)
    return found


@pytest.mark.parametrize("op", sorted({s.op for s in SAMPLES if s.smooth and issubclass(OPS[s.op], Elementwise)}))
def test_second_derivatives_are_slopes_of_the_first(op: str) -> None:
    """A rule is written in ops that have rules: hessians differentiate what the first derivative built."""
    for sample in BY_OP[op]:
        if not sample.smooth or sample.label != "smooth f64" or sample.op == "select":
            continue
        graph = sample.build()
        arrays = sample.arrays()
        moving = [p for p in graph.params if p.dtype is f64]
        tangents = {id(p): Full(1.0 + i, p.given) for i, p in enumerate(moving)}
        first = derivative(graph.results[0], tangents)  # type: ignore[arg-type]
        if first is None or first.dtype is not f64:
            continue
        second = derivative(first, tangents)  # type: ignore[arg-type]

        below, under, over, above = (
            _moved(graph.with_results((first,)), arrays, h) for h in (-2e-3, -1e-3, 1e-3, 2e-3)
        )
        want = (4 * (over - under) / 2e-3 - (above - below) / 4e-3) / 3
        got = np.zeros_like(want) if second is None else evaluate(graph.with_results((second,)), *arrays)[0]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6, err_msg=str(sample))


@pytest.mark.parametrize("dtype", [*FLOATS, c64, c128], ids=str)
def test_partials_keep_the_dtype(dtype: DType) -> None:
    """A partial is multiplied with a tangent of the operand's type, also in half precision."""
    for op, rows in BY_OP.items():
        cls = OPS[op]
        if not issubclass(cls, Elementwise) or dtype not in cls.accepts or cls.linear or cls.flat:
            continue
        if cls.jvp is not Elementwise.jvp:
            continue
        value = next(row for row in rows if row.label.startswith(f"special {dtype}")).build().results[0]
        assert isinstance(value, Elementwise)
        for partial in value.partials():
            assert partial is None or partial.type == value.operands[0].type, op


def test_a_square_has_its_second_derivative_at_zero() -> None:
    """Guards against 0 * inf in the first derivative must not flatten the second: (x**2)'' is 2 at 0 too."""
    x, y = Parameter("x", TensorType((), f64)), Parameter("y", TensorType((), f64))
    tangents: dict[int, Value] = {id(x): Full(1.0, x.given)}
    first = derivative(ew.Pow(x, y), tangents)
    assert first is not None
    second = derivative(first, tangents)
    assert second is not None
    for exponent, want in ((2.0, 2.0), (1.0, 0.0), (0.0, 0.0), (3.0, 0.0)):
        (got,) = evaluate(Graph("g", (x, y), (second,)), np.asarray(0.0), np.asarray(exponent))
        assert got == want, exponent


def param(text: str, label: str = "x") -> Parameter:
    return Parameter(label, kind(text))


# An op that cannot be built, its code, and a word of the message.
REFUSED: list[tuple[Callable[[], Value], str, str]] = [
    (lambda: ew.Exp(param("i32[3]")), "TD0114", "i32 is not accepted"),
    (lambda: ew.Not(param("f32[3]")), "TD0114", "f32 is not accepted"),
    (lambda: ew.Sqrt(param("f8e5m2[3]")), "TD0114", "f8e5m2"),
    (lambda: ew.Floor(param("c64[3]")), "TD0114", "c64"),
    (lambda: ew.Real(param("f32[3]")), "TD0114", "f32"),
    (lambda: ew.Complex(param("f16[3]"), param("f16[3]")), "TD0114", "f16"),
    (lambda: ew.Mod(param("c64[3]"), param("c64[3]")), "TD0114", "c64"),
    (lambda: ew.Maximum(param("f32[3]"), param("f64[3]")), "TD0115", "f32 and f64"),
    (lambda: ew.Select(param("bool[3]"), param("i32[3]"), param("i64[3]")), "TD0115", "i32 and i64"),
    (lambda: ew.Maximum(param("f32[3]"), param("f32[1]")), "TD0116", r"f32\[3\] and f32\[1\]"),
    (lambda: ew.Eq(param("f32[B]"), param("f32[C]")), "TD0116", r"f32\[B\] and f32\[C\]"),
    (lambda: ew.Select(param("bool[]"), param("f32[3]"), param("f32[3]")), "TD0116", "shapes differ"),
    (lambda: ew.Select(param("i8[3]"), param("f32[3]"), param("f32[3]")), "TD0131", "predicate is i8"),
    (lambda: ew.Ldexp(param("f32[3]"), param("f32[3]")), "TD0132", "exponent is f32"),
    (lambda: ew.Ldexp(param("i32[3]"), param("i32[3]")), "TD0114", "i32 is not accepted"),
    (lambda: ew.Bitcast(param("f32[3]"), i64), "TD0133", "32 bits"),
    (lambda: ew.Bitcast(param("bool[3]"), dtypes.u8), "TD0114", "bool"),
    (lambda: ew.Bitcast(param("i8[3]"), bool_), "TD0133", "bool"),
]


@pytest.mark.parametrize(("make", "code", "words"), REFUSED)
def test_wrong_operands_are_refused_where_they_were_written(make: Callable[[], Value], code: str, words: str) -> None:
    """An error names what was asked and found, has a stable code, and stands at the user's line."""
    with at(Origin(Location("net.py", 12, "loss"))), pytest.raises(TreadleError, match=words) as caught:
        make()
    assert caught.value.code == code
    assert "net.py:12" in str(caught.value)
    assert isinstance(caught.value, TypeError | ValueError)


def test_an_integer_power_fails_only_where_it_may() -> None:
    """An op that can fail is never hoisted or fused into a select, so a constant exponent must not count."""
    x = param("i32[3]")
    assert ew.Pow(x, param("i32[3]", "y")).can_fail
    assert ew.Pow(x, Full(-1, x.given)).can_fail
    assert not ew.Pow(x, Full(2, x.given)).can_fail
    assert not ew.Pow(x, Constant(np.array([0, 1, 2], np.int32))).can_fail
    assert ew.Pow(x, Constant(np.array([0, 1, -2], np.int32))).can_fail
    assert not ew.Pow(param("u32[3]"), param("u32[3]")).can_fail
    assert not ew.Pow(param("f32[3]"), param("f32[3]")).can_fail
    with at(Origin(Location("net.py", 7))):
        power = ew.Pow(x, Full(-1, x.given))
    with pytest.raises(ValueError, match="integers to negative integer powers") as caught:
        evaluate(Graph("g", (x,), (power,)), np.ones(3, np.int32))
    assert "net.py:7" in str(caught.value)
    (empty,) = evaluate(Graph("g", (), (ew.Pow(Full(2, kind("i32[0]")), Full(-1, kind("i32[0]"))),)))
    assert empty.shape == (0,)


def test_integers_have_no_derivative() -> None:
    """Tangents of integers do not exist; a rule that built floats from them would be a type error far away."""
    for op, rows in BY_OP.items():
        cls = OPS[op]
        if not issubclass(cls, Elementwise) or cls.linear or op in ("add", "sub", "mul", "neg"):
            continue
        for dtype in (i32, dtypes.u8, bool_):
            if dtype in cls.accepts and cls.jvp is Elementwise.jvp:
                value = next(row for row in rows if row.label.startswith(f"special {dtype}")).build().results[0]
                assert isinstance(value, Elementwise)
                assert all(p is None for p in value.partials()), op


def test_conversions_to_and_from_integers_carry_no_tangent() -> None:
    """A tangent of an integer would be an integer: rounded away, or refused far from here."""
    assert ew.Convert(param("f32[3]"), f64).linear == (0,)
    assert ew.Convert(param("c64[3]"), f32).linear == (0,)
    for source, to in (("f32", i32), ("i32", f32), ("bool", f32), ("f32", bool_)):
        value = ew.Convert(param(f"{source}[3]"), to)
        assert value.linear == ()
        assert value.jvp((None,)) is None and value.partials() == (None,)


def test_ldexp_takes_every_integer() -> None:
    """The exponent is clamped before it is narrowed: 2**40 + 1 must not come back as 1."""
    for dtype in INTEGERS:
        info = np.iinfo(dtype.numpy)
        exponents = np.array([0, 1, 5, info.max, info.min], dtype.numpy)
        for wide in (f32, f64, dtypes.bf16, dtypes.f16):
            got = run(ew.Ldexp, np.full(5, 0.75, wide.numpy), exponents)
            want = [math.ldexp(0.75, int(e)) if abs(int(e)) < 1000 else inf if e > 0 else 0.0 for e in exponents]
            with np.errstate(over="ignore"):
                agree(got, np.array(want).astype(wide.numpy))
