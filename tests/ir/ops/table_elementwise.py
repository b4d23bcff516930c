"""Rows of maps, and of the ops that `value.py` defines: special values of every dtype, shapes, and smooth points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sample import Inputs, Sample, around, draw, kind, random_inputs

from treadle.codegen.kernels.math_bounds import BOUNDS
from treadle.ir import dtypes
from treadle.ir.dtypes import DTYPES, FLOATS, INTEGERS, DType, bool_, f32, f64, i64
from treadle.ir.graph import from_function
from treadle.ir.ops import OPS
from treadle.ir.ops.control import Call
from treadle.ir.ops.elementwise import INTEGRAL
from treadle.ir.types import TensorType
from treadle.ir.value import After, Constant, DimSize, Elementwise, Full, Get, Value

# Correctly rounded on every target, or not rounded at all.
EXACT_ULP = 0.0
# What is in MATH of loops/nodes.py: 2.5 last places are promised, and the reference itself is rounded once.
SMOOTH_ULP = 3.0
# In units of the modulus: complex functions are composed of several real ones.
COMPLEX_ULP = 24.0

# Where random operands are drawn from, and where differences may tell the derivative. One pair per operand.
DOMAINS: dict[str, tuple[tuple[float, float], ...]] = {
    "sqrt": ((0.1, 9.0),),
    "rsqrt": ((0.1, 9.0),),
    "cbrt": ((0.1, 9.0),),
    "log": ((0.1, 9.0),),
    "log2": ((0.1, 9.0),),
    "log10": ((0.1, 9.0),),
    "log1p": ((-0.9, 9.0),),
    "asin": ((-0.9, 0.9),),
    "acos": ((-0.9, 0.9),),
    "acosh": ((1.1, 9.0),),
    "atanh": ((-0.9, 0.9),),
    "erfinv": ((-0.9, 0.9),),
    "erf": ((-3.0, 3.0),),
    "erfc": ((-3.0, 5.0),),
    "normal_cdf": ((-4.0, 3.0),),
    "times_normal_cdf": ((-4.0, 3.0),),
    "lgamma": ((0.2, 12.0),),
    "digamma": ((0.2, 12.0),),
    "tan": ((-1.4, 1.4),),
    "abs": ((0.2, 2.0),),
    "pow": ((0.2, 3.0), (-2.0, 3.0)),
    "div": ((-2.0, 2.0), (0.5, 2.0)),
    "mod": ((1.1, 1.9), (0.7, 0.8)),
    "rem": ((1.1, 1.3), (0.7, 0.8)),
    "maximum": ((0.0, 1.0), (1.1, 2.0)),
    "minimum": ((0.0, 1.0), (1.1, 2.0)),
    "fmax": ((1.1, 2.0), (0.0, 1.0)),
    "fmin": ((1.1, 2.0), (0.0, 1.0)),
    "clamp": ((0.0, 1.0), (-1.0, 0.4), (0.6, 2.0)),
    "copysign": ((0.2, 2.0), (0.2, 2.0)),
    "hypot": ((0.2, 2.0), (-2.0, 2.0)),
    "atan2": ((0.2, 2.0), (-2.0, 2.0)),
}

# Ops whose value is exactly defined: one rounding, or none.
EXACT = frozenset(
    """add sub mul strong_mul div neg lt le gt ge eq ne abs sign floor ceil trunc rint sqrt is_nan is_inf is_finite
    signbit not population_count real imag conj complex mod rem floor_div maximum minimum fmax fmin and or xor
    shift_left shift_right copysign nextafter ldexp select clamp finished convert
    bitcast""".split()
)

# Of complex numbers these are composed of several roundings.
COMPOSED = frozenset(("abs", "sign", "mul", "strong_mul", "div", "sqrt"))


def special(dtype: DType) -> np.ndarray:
    """The values of a dtype at which implementations go wrong."""
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        values = [0, 1, 2, 3, 5, 7, dtype.bits - 1, dtype.bits, info.max, info.max - 1]
        if dtype.kind == "int":
            values += [-1, -2, -3, -7, info.min, info.min + 1]
        return np.array(values, dtype.numpy)
    if dtype.kind == "complex":
        return _pairs(special(dtypes.real_of(dtype))[:9], dtype)
    values = [0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, -2.5, 2.0, 3.0, -0.75, 10.0]
    around_overflow_of_exp = [88.75, -87.5, 104.0, -745.5]
    subnormal, normal, greatest = _limits(dtype)
    values += [*around_overflow_of_exp, subnormal, -normal, greatest, -greatest]
    return np.array(values, np.float64).astype(dtype.numpy)


def _pairs(part: np.ndarray, dtype: DType) -> np.ndarray:
    made = np.empty((len(part), len(part)), dtype.numpy)
    made.real, made.imag = part[:, None], part[None, :]
    return made.ravel()


def _limits(dtype: DType) -> tuple[float, float, float]:
    """The least subnormal, the least normal and the greatest number."""
    table = {
        "f16": (2.0**-24, 2.0**-14, 65504.0),
        "bf16": (2.0**-133, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
        "f32": (2.0**-149, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
        "f64": (5e-324, 2.0**-1022, np.finfo(np.float64).max),
    }
    return table.get(dtype.name, (2.0**-6, 2.0**-6, 8.0))


def ulp_of(op: str, dtype: DType) -> float:
    if dtype.kind == "complex":
        return COMPLEX_ULP if op in COMPOSED or op not in EXACT else EXACT_ULP
    if op in EXACT or dtype in INTEGRAL:
        return EXACT_ULP
    # What the kernel may be off, and the reference by as much as one of its roundings.
    return max(SMOOTH_ULP, BOUNDS[op].of(dtype) + 1.0) if op in BOUNDS else SMOOTH_ULP


def atol_of(op: str, dtype: DType) -> float:
    """Near their zeros these lose the relative accuracy of the result, not the absolute one of their terms."""
    if op in ("lgamma", "digamma", "logaddexp", "logaddexp2") and dtype.is_float:
        return {"f32": 1e-6, "f64": 1e-15}.get(dtype.name, 0.0)
    return 0.0


def arity(op: str) -> int:
    return sum(field.kind == "operand" for field in OPS[op].schema)


def maps() -> list[str]:
    """The names of all maps, in the order of the chapters."""
    return [name for name, cls in OPS.items() if issubclass(cls, Elementwise)]


def operand_dtypes(op: str, dtype: DType) -> list[DType]:
    if op == "select":
        return [bool_, dtype, dtype]
    if op == "ldexp":
        return [dtype, i64]
    if op == "finished":
        return [dtype, bool_]
    return [dtype] * arity(op)


def _special_inputs(op: str, types: list[DType], domain: tuple[tuple[float, float], ...]) -> Inputs:
    """Every special value with every other one, then ordinary ones."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        values = [special(dtype) for dtype in types]
        if dtypes.of(values[-1].dtype).kind == "complex" and len(types) == 2:
            values = [v[:: 2 * i + 3] for i, v in enumerate(values)]
        if len(types) == 3:
            values = [v[:7] for v in values]
        grids = [grid.ravel() for grid in np.meshgrid(*values, indexing="ij")]
        drawn = [draw(rng, dtype, (16,), *domain[i]) for i, dtype in enumerate(types)]
        found = [np.concatenate([a, b]) for a, b in zip(grids, drawn, strict=True)]
        if op == "pow" and types[0].kind == "int":
            found[1] = np.abs(found[1]).astype(found[1].dtype)
            found[1][found[1] < 0] = 0
        return found

    return inputs


def _smooth_inputs(types: list[DType], domain: tuple[tuple[float, float], ...]) -> Inputs:
    return lambda rng: [draw(rng, dtype, (6,), *domain[i]) for i, dtype in enumerate(types)]


def of_map(op: str, attributes: tuple[object, ...] = (), accepts: tuple[DType, ...] = ()) -> list[Sample]:
    cls = OPS[op]

    def make(*operands: Value) -> Value:
        return cls(*operands, *attributes)

    rows: list[Sample] = []
    suffix = "".join(f" to {a}" for a in attributes)
    accepted = accepts or cls.accepts  # type: ignore[attr-defined]
    domain = DOMAINS.get(op, ((-2.0, 2.0),) * 3)
    for dtype in accepted:
        types = operand_dtypes(op, dtype)
        inputs = _special_inputs(op, types, domain)
        count = len(inputs(np.random.default_rng(0))[0])
        texts = [f"{t}[{count}]" for t in types]
        rows.append(
            Sample(op, f"special {dtype}{suffix}", around(make, *texts), inputs, ulp_of(op, dtype), atol_of(op, dtype))
        )
        if dtype.name in ("f64", "c128") and not cls.flat:
            texts = [f"{t}[6]" for t in types]
            drawn = _smooth_inputs(types, domain)
            bounds = ulp_of(op, dtype), atol_of(op, dtype)
            rows.append(Sample(op, f"smooth {dtype}", around(make, *texts), drawn, *bounds, smooth=True))
    first = f32 if f32 in accepted else accepted[0]
    types = operand_dtypes(op, first)
    for shape, sizes in (("", {}), ("0,3", {}), ("2,1,3", {}), ("B,4", {"B": 3}), ("B,C+1", {"B": 0, "C": 2})):
        texts = [f"{t}[{shape}]" for t in types]
        drawn, bounds = _shaped(op, texts, sizes), (ulp_of(op, first), atol_of(op, first))
        rows.append(Sample(op, f"shape [{shape}]{suffix}", around(make, *texts), drawn, *bounds, sizes=sizes))
    return rows


def _shaped(op: str, texts: list[str], sizes: dict[str, int]) -> Inputs:
    domain = DOMAINS.get(op, ((-2.0, 2.0),) * 3)

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        found = []
        for i, text in enumerate(texts):
            (array,) = random_inputs(text, low=domain[i][0], high=domain[i][1], sizes=sizes)(rng)
            found.append(np.abs(array).astype(array.dtype) if op == "pow" and i == 1 else array)
        return found

    return inputs


def _bitcasts() -> list[Sample]:
    rows = []
    for dtype in DTYPES:
        for to in DTYPES:
            if {dtype.kind, to.kind} & {"bool", "complex"} or dtype.bits != to.bits:
                continue
            rows += [row for row in of_map("bitcast", (to,), (dtype,)) if row.label.startswith("special")]
    return rows + [row for row in of_map("bitcast", (dtypes.i32,), (f32,)) if row.label.startswith("shape")]


def around_ends(dtype: DType) -> np.ndarray:
    """Floats on both sides of the ends of every integer type."""
    found = []
    for bits in (7, 8, 15, 16, 31, 32, 63, 64):
        end = 2.0**bits
        found += [sign * x for x in (end, end - 1, end + 1, end - 0.5, end + 0.75) for sign in (1.0, -1.0)]
    with np.errstate(over="ignore"):
        array = np.array(found).astype(dtype.numpy)
        return np.concatenate([array, np.nextafter(array, dtype.numpy.type(0))])


def _conversions() -> list[Sample]:
    rows = []
    for to in DTYPES:
        rows += [row for row in of_map("convert", (to,), DTYPES) if row.label.startswith("special")]
    for dtype in FLOATS:
        count = len(around_ends(dtype))
        rows += [
            Sample(
                "convert",
                f"ends {dtype} to {to}",
                around(lambda x, to=to: OPS["convert"](x, to), f"{dtype}[{count}]"),
                lambda rng, dtype=dtype: [around_ends(dtype)],
            )
            for to in INTEGERS
        ]
    for dtype, to in ((f64, dtypes.c128), (dtypes.c128, f64), (f64, f64)):
        build = around(lambda x, to=to: OPS["convert"](x, to), f"{dtype}[6]")
        rows.append(Sample("convert", f"smooth {dtype} to {to}", build, random_inputs(f"{dtype}[6]"), smooth=True))
    return rows + [row for row in of_map("convert", (dtypes.i32,), (f32,)) if row.label.startswith("shape")]


def _leaf(op: str, label: str, make: Callable[[], Value], sizes: dict[str, int] | None = None, *types: str) -> Sample:
    build = around(lambda *unused: make(), *types)
    return Sample(op, label, build, random_inputs(*types, sizes=sizes), sizes=sizes or {})


def _leaves() -> list[Sample]:
    """Constants and sizes, elements of tuples, order."""
    rows = []
    for dtype in DTYPES:
        values = special(dtype).tolist() if dtype.kind != "float8" else [0.0, 1.0, -2.5]
        rows += [
            _leaf("full", f"{number!r} {dtype}", lambda n=number, d=dtype: Full(n, TensorType((2,), d)))
            for number in values[:8]
        ]
        array = special(dtype)
        rows.append(_leaf("constant", f"special {dtype}", lambda a=array: Constant(a)))
        rows.append(_leaf("constant", f"few {dtype}", lambda a=array: Constant(a[:2])))
    rows.append(_leaf("full", "symbolic", lambda: Full(2.5, kind("f32[B,3]")), {"B": 2}, "f32[B]"))
    rows.append(_leaf("full", "of no element", lambda: Full(1, kind("i32[0,3]"))))
    rows.append(_leaf("constant", "scalar", lambda: Constant(np.float32(1.5))))
    rows.append(_leaf("constant", "of no element", lambda: Constant(np.zeros((0, 2)))))
    rows += [
        _leaf("dim_size", text, lambda t=text: DimSize(kind(f"f32[{t}]").shape[0]), {"B": 5}, "f32[B]")
        for text in ("B", "2*B + 1", "B // 2", "min(B, 3)")
    ]

    def get(x: Value, y: Value) -> Value:
        body = from_function("pair", [x.tensor, y.tensor], lambda a, b: (a + 1.0, b))
        return Get(Call((x, y), body), 1)

    rows.append(Sample("get", "of a call", around(get, "f32[2]", "i64[3]"), random_inputs("f32[2]", "i64[3]")))
    after = around(lambda x, y: After(x, (y,)), "f64[3]", "f64[2]")
    rows.append(Sample("after", "one", after, random_inputs("f64[3]", "f64[2]")))
    for dtype in DTYPES:
        types = (f"{dtype}[3]", "f32[2]")
        rows.append(Sample("after", dtype.name, around(lambda x, y: After(x, (y,)), *types), random_inputs(*types)))
    return rows


def samples() -> list[Sample]:
    rows = _leaves() + _conversions() + _bitcasts()
    for op in maps():
        if op == "finished":
            rows += [replace(row, inputs=_done(row.inputs)) for row in of_map(op, (3,))]
        elif op not in ("convert", "bitcast"):
            rows += of_map(op)
    return rows


def _done(inputs: Inputs) -> Inputs:
    """Loops that are: the others fail."""

    def found(rng: np.random.Generator) -> list[np.ndarray]:
        x, done = inputs(rng)
        return [x, np.ones_like(done)]

    return found
