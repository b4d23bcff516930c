"""Algebra that is true of numbers, where it is also true of floats to the last bit.

Each rule reads as the line in the textbook; where that line is not true of floats, a comment says why, and the rule
asks for integers or for the option `exact=False`. Two things are no difference: which NaN a NaN is, and in which order
a reduction adds, which no graph prescribes. Rules make a graph smaller or cheaper and none goes back, so they settle.
Nothing happens to ops that no rule names, nor to complex products, where 1 * x is not x once x has an infinite part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import Dim, known_le, product
from ..ir.dtypes import DType, accumulator, bool_, f32, holds, i32, i64
from ..ir.graph import Graph, Uses, inline
from ..ir.location import at
from ..ir.ops.contract import Dot
from ..ir.ops.control import Scan, Switch, While
from ..ir.ops.elementwise import (
    Abs,
    And,
    Bitcast,
    Clamp,
    Complex,
    Conj,
    Convert,
    Eq,
    FloorDiv,
    Fmax,
    Fmin,
    Imag,
    IsNan,
    Maximum,
    Minimum,
    Ne,
    Not,
    Or,
    Pow,
    Real,
    Rounding,
    Rsqrt,
    Select,
    ShiftLeft,
    ShiftRight,
    Sqrt,
    Xor,
)
from ..ir.ops.families import Movement, Reduction
from ..ir.ops.movement import Broadcast, Concatenate, Pad, Reshape, Reverse, Slice, StopGradient, Transpose
from ..ir.ops.reduce import All, Any, Max, Min, Sum
from ..ir.structure import highest, lowest
from ..ir.types import Shape, TensorType
from ..ir.value import (
    Add,
    After,
    DimSize,
    Div,
    Elementwise,
    Full,
    Ge,
    Get,
    Gt,
    Le,
    Lt,
    Mul,
    Neg,
    Scalar,
    StrongMul,
    Sub,
    Value,
    lift,
    replace,
)
from .manager import Context, graph_pass
from .rewrite import in_bodies, rewrite


@dataclass(frozen=True)
class IdentityOptions:
    """`exact=False` allows what is true of numbers but not of every float: other roundings, other signs of zero, and
    products with 0 that forget infinities and NaN."""

    exact: bool = True


@graph_pass(options=IdentityOptions())
def identities(graph: Graph, cx: Context, options: IdentityOptions) -> Graph:
    """Apply algebra that is true of numbers until nothing changes."""

    def rule(value: Value) -> Value | None:
        found = moved_number(value)
        if found is None:
            found = simpler(value, options.exact)
        return before_broadcast(value) if found is None else found

    return joined(rewrite(graph, rule), options.exact)


def joined(graph: Graph, exact: bool) -> Graph:
    """Rules that take up what an operand computes, and so would have it computed twice if anybody else reads it."""
    uses = Uses(graph)
    memo: dict[int, Value] = {id(param): param for param in graph.params}
    changed = False
    for value in graph.ops:
        with at(value.origin):
            found = value.with_operands(tuple(memo[id(operand)] for operand in value.operands))
            if value.bodies:
                found = in_bodies(found, lambda body: joined(body, exact))
            elif value.operands and uses.only(value.operands[0]):
                found = first_given(taken_up(found, exact), found)
        changed |= found is not value
        memo[id(value)] = found
    return graph.with_results([memo[id(result)] for result in graph.results]) if changed else graph


def first_given(a: Value | None, b: Value) -> Value:
    return b if a is None else a


def taken_up(value: Value, exact: bool) -> Value | None:
    match value:
        case Transpose(Dot() as x, permutation):
            return exchanged(x, permutation)
        # A half float is rounded between two sums, and not within one.
        case Reduction(Reduction(y, inner) as x, axes) if type(x) is type(value):
            if accumulator(x.dtype) is x.dtype or isinstance(x, Max | Min) or not exact:
                outside = [axis for axis in range(y.rank) if axis not in inner]
                return replace(value, x=y, axes=(*inner, *(outside[axis] for axis in axes)))
    return None


# --- numbers ------------------------------------------------------------------------------------------------------


def is_number(v: Value, number: Scalar) -> bool:
    """Whether every element of `v` is known to be `number`; 0.0 is not -0.0."""
    if not isinstance(v, Full) or isinstance(v.value, complex) or isinstance(number, complex):
        return False
    return v.value == number and math.copysign(1, v.value) == math.copysign(1, number)


def is_integral(v: Value) -> bool:
    """Arithmetic of these wraps, and is as associative as that of numbers."""
    return v.dtype is bool_ or v.dtype.is_integer


def is_real(v: Value) -> bool:
    return v.dtype.kind != "complex"


def computed(op: str, x: Scalar, y: Scalar, dtype: DType) -> Scalar:
    """x op y in the arithmetic of `dtype`."""
    functions = {"add": np.add, "mul": np.multiply, "sub": np.subtract, "div": np.divide}
    with np.errstate(all="ignore"):
        found = functions[op](np.asarray(x).astype(dtype.numpy), np.asarray(y).astype(dtype.numpy)).astype(dtype.numpy)
    exact: Scalar = float(found) if dtype.is_float else found.item()
    return exact


def moved_number(value: Value) -> Value | None:
    """Wherever the elements of a fill go, they are the same."""
    if not isinstance(value, Movement):
        return None
    first, *rest = value.operands
    if isinstance(first, Full) and all(isinstance(x, Full) and _same_number(x, first) for x in rest):
        return Full(first.value, value.tensor)
    return None


def _same_number(x: Full, y: Full) -> bool:
    return repr(x.value) == repr(y.value)


def before_broadcast(value: Value) -> Value | None:
    """A map of what is repeated is computed once and repeated: f(broadcast(x), 2) = broadcast(f(x, 2))."""
    # What can fail must not run where the repetition has no element.
    if not isinstance(value, Elementwise) or value.can_fail:
        return None
    repeated = [x for x in value.operands if isinstance(x, Broadcast)]
    if not repeated or not all(isinstance(x, Broadcast | Full) for x in value.operands):
        return None
    first = repeated[0]
    if first.x.rank == first.rank or any(x.axes != first.axes or x.to != first.to for x in repeated):
        return None
    inner = tuple(
        x.x if isinstance(x, Broadcast) else Full(x.value, x.tensor.with_shape(first.x.shape))  # type: ignore[attr-defined]
        for x in value.operands
    )
    return Broadcast(value.with_operands(inner), first.to, first.axes)


# --- arithmetic ---------------------------------------------------------------------------------------------------


@singledispatch
def simpler(value: Value, exact: bool) -> Value | None:
    """What a value is equal to and cheaper as; None where no rule says so."""
    return None


@simpler.register
def _(value: Add, exact: bool) -> Value | None:
    # x + 0.0 is not x for x = -0.0; x + -0.0 is.
    match value:
        case Add(Full(), y) if not isinstance(y, Full):
            return Add(y, value.x)
        case Add(x, y) if is_number(y, 0) and (is_integral(x) or not exact):
            return x
        case Add(x, y) if is_number(y, -0.0):
            return x
        case Add(x, Neg(y)):
            return x - y
        case Add(Neg(x), y):
            return y - x
        case Add(Add(x, Full(a)), Full(b)) if is_integral(x) or not exact:
            return Add(x, lift(computed("add", a, b, x.dtype), x))
    return None


@simpler.register
def _(value: Sub, exact: bool) -> Value | None:
    # 0.0 - x is not -x for x = 0.0; -0.0 - x is. x - x is NaN for infinities.
    match value:
        case Sub(x, y) if is_number(y, 0) or (is_number(y, -0.0) and not exact):
            return x
        case Sub(x, y) if is_number(x, -0.0) or (is_number(x, 0) and (is_integral(y) or not exact)):
            return -y
        case Sub(x, Neg(y)):
            return x + y
        case Sub(x, y) if x is y and (is_integral(x) or not exact):
            return lift(0, x)
    return None


@simpler.register
def _(value: Mul, exact: bool) -> Value | None:
    if not is_real(value):
        return None
    # x * 0.0 is not 0.0 for negative x, infinities and NaN.
    match value:
        case Mul(Full(), y) if not isinstance(y, Full):
            return Mul(y, value.x)
        case Mul(x, y) if is_number(y, 1):
            return x
        case Mul(x, y) if is_number(y, -1):
            return -x
        case Mul(x, y) if is_number(y, 0) and (is_integral(x) or not exact):
            return y
        case Mul(Neg(x), Neg(y)):
            return x * y
        case Mul(Neg(x), Full(c)):
            return x * lift(computed("sub", 0 if is_integral(x) else -0.0, c, x.dtype), x)
        case Mul(Mul(x, Full(a)), Full(b)) if is_integral(x) or not exact:
            return Mul(x, lift(computed("mul", a, b, x.dtype), x))
        case Mul(x, y) if x.dtype is bool_ and x is y:
            return x
    return None


@simpler.register
def _(value: StrongMul, exact: bool) -> Value | None:
    # Beside a number that is neither 0 nor infinite the product is never NaN for the zero's sake.
    match value:
        case StrongMul(Full(), y) if not isinstance(y, Full):
            return StrongMul(y, value.x)
        case StrongMul(x, Full(c)) if not isinstance(c, complex) and c != 0 and math.isfinite(c):
            return x * value.y
    return None


@simpler.register
def _(value: Div, exact: bool) -> Value | None:
    if not is_real(value):
        return None
    match value:
        case Div(x, y) if is_number(y, 1):
            return x
        case Div(x, y) if is_number(y, -1):
            return -x
        case Div(Neg(x), Neg(y)):
            return x / y
        case Div(Neg(x), Full(float(c))):
            return x / lift(-c, x)
        # Other inverses are rounded, and x times them is not x / c.
        case Div(x, Full(float(c))) if _has_inverse(c, x.dtype) or not (exact or c == 0):
            return x * lift(computed("div", 1.0, c, x.dtype), x)
        case Div(x, y) if x is y and not exact:
            return lift(1, x)
        case Div(x, Sqrt(y)) if is_number(x, 1) and not exact:
            return Rsqrt(y)
    return None


def _has_inverse(c: float, dtype: DType) -> bool:
    """Whether 1 / c is a number of the dtype: c is a power of two, and not too small."""
    if not math.isfinite(c) or abs(math.frexp(c)[0]) != 0.5:
        return False
    inverse = computed("div", 1.0, c, dtype)
    return isinstance(inverse, float) and math.isfinite(inverse) and inverse * c == 1


@simpler.register
def _(value: Neg, exact: bool) -> Value | None:
    # -(x - y) is not y - x for x = y, whose difference is 0.0 both ways.
    match value:
        case Neg(Neg(x)):
            return x
        case Neg(Sub(x, y)) if is_integral(x) or not exact:
            return y - x
        case Neg(Mul(x, Full(float(c)))):
            return x * lift(-c, x)
        case Neg(Div(x, Full(float(c)))):
            return x / lift(-c, x)
    return None


@simpler.register
def _(value: Pow, exact: bool) -> Value | None:
    match value:
        case Pow(x, Full(c)) if is_real(x) and not isinstance(c, complex):
            return power(x, c, exact)
    return None


def power(x: Value, exponent: float, exact: bool) -> Value | None:
    """x**exponent by products where that is as good: always for integers; for floats where it rounds once."""
    if exponent == 0:
        return lift(1, x)  # NaN**0 is 1 too
    if is_integral(x) and 0 < exponent <= 64:
        return repeated_product(x, int(exponent))
    if exponent == 1:
        return x
    if exponent == 2:
        return x * x
    if exponent == -1 and not is_integral(x):
        return 1.0 / x
    if exact or is_integral(x):
        return None
    if exponent == 0.5:  # of -inf: NaN here, inf there; of -0.0: -0.0 here, 0.0 there
        return Sqrt(x)
    if exponent == -0.5:
        return Rsqrt(x)
    if exponent == int(exponent) and abs(exponent) <= 8:
        product = repeated_product(x, abs(int(exponent)))
        return product if exponent > 0 else 1.0 / product
    return None


def repeated_product(x: Value, times: int) -> Value:
    found: Value | None = None
    while times:
        if times & 1:
            found = x if found is None else found * x
        times >>= 1
        if times:
            x = x * x
    assert found is not None
    return found


@simpler.register
def _(value: FloorDiv, exact: bool) -> Value | None:
    match value:
        case FloorDiv(x, y) if is_number(y, 1) and is_integral(x):
            return x
    return None


@simpler.register
def _(value: Abs, exact: bool) -> Value | None:
    match value:
        case Abs(Neg(x)) if x.dtype.kind != "uint":
            return Abs(x)
        case Abs(Abs(_) as x):
            return x
        case Abs(x) if x.dtype.kind == "uint":
            return x
    return None


@simpler.register
def _(value: Rounding, exact: bool) -> Value | None:
    match value.x:
        case Rounding() as x:
            return x
        case Convert(y) as x if is_integral(y):
            return x
    return None


# --- order and logic ----------------------------------------------------------------------------------------------


@simpler.register(Maximum)
@simpler.register(Minimum)
@simpler.register(Fmax)
@simpler.register(Fmin)
def _(value: Maximum | Minimum | Fmax | Fmin, exact: bool) -> Value | None:
    x, y = value.x, value.y
    if x is y:
        return x
    if not is_real(x):
        return None
    greatest = isinstance(value, Maximum | Fmax)
    neutral, winner = lowest(x.dtype), highest(x.dtype)
    if not greatest:
        neutral, winner = winner, neutral
    for one, other in ((x, y), (y, x)):
        # Fmax and Fmin of NaN and a bound give the bound; the extremum of NaN and the winner gives NaN.
        if is_number(other, neutral) and (is_integral(x) or isinstance(value, Maximum | Minimum)):
            return one
        if is_number(other, winner) and (is_integral(x) or isinstance(value, Fmax | Fmin)):
            return other
    return None


@simpler.register
def _(value: Clamp, exact: bool) -> Value | None:
    match value:
        case Clamp(x, low, high) if is_number(low, lowest(x.dtype)):
            return Minimum(x, high)
        case Clamp(x, low, high) if is_number(high, highest(x.dtype)):
            return Maximum(x, low)
    return None


def _ones(dtype: DType) -> Scalar:
    """All bits set."""
    return True if dtype is bool_ else -1 if dtype.kind == "int" else 2**dtype.bits - 1


@simpler.register(And)
@simpler.register(Or)
@simpler.register(Xor)
def _(value: And | Or | Xor, exact: bool) -> Value | None:
    x, y = value.x, value.y
    if isinstance(x, Full) and not isinstance(y, Full):
        return type(value)(y, x)
    ones, none = is_number(y, _ones(x.dtype)), is_number(y, 0)
    match value:
        case And() | Or() if x is y:
            return x
        case Xor() if x is y:
            return lift(0, x)
        case And() if ones or none:
            return x if ones else y
        case Or() if ones or none:
            return y if ones else x
        case Xor() if ones or none:
            return Not(x) if ones else x
    return None


@simpler.register(ShiftLeft)
@simpler.register(ShiftRight)
def _(value: ShiftLeft | ShiftRight, exact: bool) -> Value | None:
    return value.x if is_number(value.y, 0) else None


@simpler.register
def _(value: Not, exact: bool) -> Value | None:
    # Of floats, not (x < y) is not x >= y: NaN is neither.
    match value:
        case Not(Not(x)):
            return x
        case Not(Eq(x, y)):
            return Ne(x, y)
        case Not(Ne(x, y)):
            return Eq(x, y)
        case Not(Lt(x, y)) if is_integral(x):
            return x >= y
        case Not(Le(x, y)) if is_integral(x):
            return x > y
        case Not(Gt(x, y)) if is_integral(x):
            return x <= y
        case Not(Ge(x, y)) if is_integral(x):
            return x < y
    return None


@simpler.register(Eq)
@simpler.register(Ne)
def _(value: Eq | Ne, exact: bool) -> Value | None:
    x, y, equal = value.x, value.y, isinstance(value, Eq)
    if x is y and is_integral(x):
        return Full(equal, value.tensor)
    if x is y and is_real(x) and not equal:
        return IsNan(x)
    if isinstance(x, Full) and not isinstance(y, Full):
        return type(value)(y, x)
    if x.dtype is bool_ and isinstance(y, Full):
        return x if bool(y.value) is equal else Not(x)
    return None


@simpler.register(Lt)
@simpler.register(Gt)
@simpler.register(Le)
@simpler.register(Ge)
def _(value: Lt | Gt | Le | Ge, exact: bool) -> Value | None:
    x, y = value.x, value.y
    if x is y and (isinstance(value, Lt | Gt) or is_integral(x)):
        return Full(isinstance(value, Le | Ge), value.tensor)
    if x.dtype.kind == "uint" and is_number(y, 0) and isinstance(value, Lt | Ge):
        return Full(isinstance(value, Ge), value.tensor)
    return None


@simpler.register
def _(value: Select, exact: bool) -> Value | None:
    match value:
        case Select(Full(chosen), x, y):
            return x if chosen else y
        case Select(_, x, y) if x is y:
            return x
        case Select(_, Full() as x, Full() as y) if _same_number(x, y):
            return x
        case Select(p, x, y) if x.dtype is bool_ and is_number(x, True) and is_number(y, False):
            return p
        case Select(p, x, y) if x.dtype is bool_ and is_number(x, False) and is_number(y, True):
            return Not(p)
        case Select(Not(p), x, y):
            return Select(p, y, x)
        case Select(p, Select(q, x, _), y) if p is q:
            return Select(p, x, y)
        case Select(p, x, Select(q, _, y)) if p is q:
            return Select(p, x, y)
    return None


# --- types --------------------------------------------------------------------------------------------------------


def _strays(x: DType, through: DType, to: DType) -> bool:
    """Whether integers made of numbers outside their range depend on the way: they wrap, except those made of floats;
    and what is made of NaN in eight bits is special."""
    return to.is_integer and (x.kind == "float8" or (x.is_integer and not through.is_integer and not holds(to, x)))


@simpler.register
def _(value: Convert, exact: bool) -> Value | None:
    match value:
        case Convert(x, to) if x.dtype is to:
            return x
        # Nothing is lost on the way there. (Rounding twice is not rounding once.)
        case Convert(Convert(x, through), to) if holds(through, x.dtype) and not _strays(x.dtype, through, to):
            return Convert(x, to)
        # Integers keep their low bits, whatever the order in which high ones are cut off.
        case Convert(Convert(x, through), to) if (
            x.dtype.is_integer and through.is_integer and to.is_integer and to.bits <= through.bits
        ):
            return Convert(x, to)
    return None


@simpler.register
def _(value: Bitcast, exact: bool) -> Value | None:
    match value:
        case Bitcast(x, to) if x.dtype is to:
            return x
        case Bitcast(Bitcast(x), to):
            return Bitcast(x, to)
    return None


@simpler.register
def _(value: Real, exact: bool) -> Value | None:
    match value.x:
        case Complex(x, _):
            return x
        case Conj(x):
            return Real(x)
    return None


@simpler.register
def _(value: Imag, exact: bool) -> Value | None:
    return value.x.im if isinstance(value.x, Complex) else None


@simpler.register
def _(value: Conj, exact: bool) -> Value | None:
    return value.x.x if isinstance(value.x, Conj) else None


@simpler.register
def _(value: Complex, exact: bool) -> Value | None:
    match value:
        case Complex(Real(x), Imag(y)) if x is y:
            return x
    return None


@simpler.register
def _(value: DimSize, exact: bool) -> Value | None:
    return Full(value.dim, TensorType((), i64)) if isinstance(value.dim, int) else None


# --- movement -----------------------------------------------------------------------------------------------------


@simpler.register
def _(value: StopGradient, exact: bool) -> Value | None:
    return value.x  # derivatives have been taken before graphs are made cheaper


@simpler.register
def _(value: Broadcast, exact: bool) -> Value | None:
    match value:
        case Broadcast(x, to) if x.shape == to:
            return x
        case Broadcast(Full(number), to):
            return Full(number, value.tensor)
        case Broadcast(Broadcast(x, _, inner), to, outer):
            return Broadcast(x, to, tuple(outer[axis] for axis in inner))
    return None


@simpler.register
def _(value: Reshape, exact: bool) -> Value | None:
    match value:
        case Reshape(x, to) if x.shape == to:
            return x
        case Reshape(Reshape(x), to):
            return Reshape(x, to)
        case Reshape(Broadcast(x), to) if x.rank == 0:
            return Broadcast(x, to, ())
    return None


@simpler.register
def _(value: Transpose, exact: bool) -> Value | None:
    match value:
        case Transpose(x, permutation) if permutation == tuple(range(x.rank)):
            return x
        case Transpose(Transpose(x, inner), outer):
            return Transpose(x, tuple(inner[axis] for axis in outer))
        case Transpose(Broadcast(x, _, axes), permutation):
            places = tuple(permutation.index(axis) for axis in axes)
            order = tuple(sorted(range(x.rank), key=places.__getitem__))
            return Broadcast(Transpose(x, order), value.shape, tuple(places[i] for i in order))
    return None


def exchanged(dot: Dot, permutation: tuple[int, ...]) -> Value | None:
    """(x y)ᵀ = yᵀ xᵀ: the product with its operands exchanged, if the permutation does just that to its axes."""
    batch, rows = len(dot.x_batch), len(dot.x_free)
    end = batch + rows
    if permutation != (*range(batch), *range(end, dot.rank), *range(batch, end)):
        return None
    return Dot(dot.y, dot.x, dot.y_batch, dot.x_batch, dot.y_contract, dot.x_contract, dot.accumulate)


def _along_axis(rank: int, axis: int, here: Dim, elsewhere: Dim) -> Shape:
    return tuple(here if i == axis else elsewhere for i in range(rank))


@simpler.register
def _(value: Slice, exact: bool) -> Value | None:
    match value:
        case Slice(x) if value.shape == x.shape:  # every step is 1 then, or there is at most one element
            return x
        case Slice(Slice() as inner):
            return slice_of_slice(value, inner)
        case Slice(Broadcast(x, _, axes), start, stop, step):
            begin, end = tuple(start[i] for i in axes), tuple(stop[i] for i in axes)
            return Broadcast(Slice(x, begin, end, tuple(step[i] for i in axes)), value.shape, axes)
        case Slice(Pad() as pad):
            return slice_of_pad(value, pad)
        case Slice(Concatenate(xs, axis) as whole):
            for x, offset in zip(xs, whole.offsets, strict=True):
                last = offset + x.shape[axis]
                if known_le(offset, value.start[axis]) and known_le(value.stop[axis], last):
                    back = _along_axis(value.rank, axis, offset, 0)
                    return Slice(x, _less(value.start, back), _less(value.stop, back), value.step)
    return None


def _less(a: Shape, b: Shape) -> Shape:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _plus(a: Shape, b: Shape) -> Shape:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def slice_of_slice(outer: Slice, inner: Slice) -> Value | None:
    stop: list[Dim] = []
    start = tuple(a + b * step for a, b, step in zip(inner.start, outer.start, inner.step, strict=True))
    step = tuple(a * b for a, b in zip(inner.step, outer.step, strict=True))
    for axis, size in enumerate(outer.shape):
        if step[axis] == 1:
            stop.append(inner.start[axis] + outer.stop[axis])
        elif isinstance(size, int):
            stop.append(start[axis] + (size - 1) * step[axis] + 1 if size else start[axis])
        else:
            return None  # how many steps there are is not known
    return Slice(inner.x, start, tuple(stop), step)


def slice_of_pad(value: Slice, pad: Pad) -> Value | None:
    """What is cut out of the padded array lies in what was padded."""
    if any(pad.interior):
        return None
    for start, stop, low, size in zip(value.start, value.stop, pad.low, pad.x.shape, strict=True):
        if not (known_le(low, start) and known_le(stop, low + size)):
            return None
    return Slice(pad.x, _less(value.start, pad.low), _less(value.stop, pad.low), value.step)


def _no_more_than(dims: Sequence[Dim], limit: int) -> bool:
    return all(known_le(dim, limit) for dim in dims)


def _no_less_than(dims: Sequence[Dim], limit: int) -> bool:
    return all(known_le(limit, dim) for dim in dims)


@simpler.register
def _(value: Pad, exact: bool) -> Value | None:
    match value:
        case Pad(x) if any(value.interior):
            return None
        case Pad(x, _, low, high) if not any(_differs(dim, 0) for dim in (*low, *high)):
            return x
        case Pad(x, _, low, high) if _no_more_than((*low, *high), 0):
            return Slice(x, _less((0,) * x.rank, low), _plus(x.shape, high), (1,) * x.rank)
        case Pad(Pad(x, a) as inner, b, low, high) if a is b or a_number(a, b):
            if _no_less_than((*low, *high, *inner.low, *inner.high), 0):
                return Pad(x, a, _plus(inner.low, low), _plus(inner.high, high), inner.interior)
    return None


def a_number(a: Value, b: Value) -> bool:
    """Whether both are known, and the same."""
    return isinstance(a, Full) and isinstance(b, Full) and _same_number(a, b)


def _differs(a: Dim, b: Dim) -> bool:
    return not (isinstance(a, int) and isinstance(b, int) and a == b)


@simpler.register
def _(value: Concatenate, exact: bool) -> Value | None:
    xs, axis = value.xs, value.axis
    if len(xs) == 1:
        return xs[0]
    parts: list[Value] = []
    for x in xs:
        nested = x.xs if isinstance(x, Concatenate) and x.axis == axis else (x,)
        for part in nested:
            if part.shape[axis] == 0 and isinstance(part.shape[axis], int):
                continue
            joined = neighbours(parts[-1], part, axis) if parts else None
            if joined is None:
                parts.append(part)
            else:
                parts[-1] = joined
    if not parts:
        return xs[0]
    same = len(parts) == len(xs) and all(a is b for a, b in zip(parts, xs, strict=True))
    return None if same else Concatenate(tuple(parts), axis)


def neighbours(a: Value, b: Value, axis: int) -> Value | None:
    """Two pieces as one: fills of one number, and slices of which one begins where the other ends."""
    match a, b:
        case Full(x), Full() if a_number(a, b):
            return Full(x, a.tensor.with_shape(_plus(a.shape, _along_axis(a.rank, axis, b.shape[axis], 0))))
        case Slice(x, start, stop, step), Slice(y) if x is y and set(step) == {1} == set(b.step):
            rest = [i for i in range(a.rank) if i != axis]
            if stop[axis] == b.start[axis] and all((start[i], stop[i]) == (b.start[i], b.stop[i]) for i in rest):
                return Slice(x, start, tuple(b.stop[i] if i == axis else end for i, end in enumerate(stop)), step)
    return None


@simpler.register
def _(value: Reverse, exact: bool) -> Value | None:
    match value:
        case Reverse(x, axes) if any(_is_one(x.shape[axis]) for axis in axes):
            return Reverse(x, tuple(axis for axis in axes if not _is_one(x.shape[axis])))
        case Reverse(x, ()):
            return x
        case Reverse(Reverse(x, inner), outer):
            return Reverse(x, tuple(axis for axis in range(x.rank) if (axis in inner) != (axis in outer)))
    return None


def _is_one(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 1


# --- reductions and products --------------------------------------------------------------------------------------


@simpler.register
def _(value: Reduction, exact: bool) -> Value | None:
    x, axes = value.x, value.axes
    # The sum of -0.0 alone is 0.0, since sums begin with that.
    if not axes and value.type == x.type and (not isinstance(value, Sum) or is_integral(x) or not exact):
        return x
    kept = [axis for axis in range(x.rank) if axis not in axes]
    match x:
        case Transpose(y, permutation):
            if [permutation[axis] for axis in kept] == sorted(permutation[axis] for axis in kept):
                return replace(value, x=y, axes=tuple(permutation[axis] for axis in axes))
        case Broadcast():
            return reduced_copies(value, x, exact)
    return None


def reduced_copies(value: Reduction, x: Broadcast, exact: bool) -> Value | None:
    """Copies add up to a product, and their extremum is any one of them; what is not reduced is repeated afterwards."""
    copies = tuple(axis for axis in value.axes if axis not in x.axes)
    own = tuple(i for i, axis in enumerate(x.axes) if axis in value.axes)
    kept = [axis for axis in range(x.rank) if axis not in value.axes]
    if not all(isinstance(x.shape[axis], int) and x.shape[axis] for axis in copies):
        return None
    inner: Value = replace(value, x=x.x, axes=own)
    if copies and isinstance(value, Sum):
        # n * x is rounded once, the sum of n copies at every step; and the sum of copies of -0.0 is 0.0.
        if not is_integral(x) and exact:
            return None
        number = math.prod(int(x.shape[axis]) for axis in copies)
        inner = inner if x.dtype is bool_ else inner * lift(computed("mul", 1, number, x.dtype), inner)
    elif copies and not isinstance(value, Max | Min | Any | All):
        return None
    return Broadcast(inner, value.shape, tuple(kept.index(axis) for axis in x.axes if axis in kept))


@simpler.register
def _(value: Dot, exact: bool) -> Value | None:
    match value:
        case Dot(Transpose(x, permutation)) if _in_order(permutation, value.x_free):
            batch, contract = (tuple(permutation[i] for i in axes) for axes in (value.x_batch, value.x_contract))
            return replace(value, x=x, x_batch=batch, x_contract=contract)
        case Dot(_, Transpose(y, permutation)) if _in_order(permutation, value.y_free):
            batch, contract = (tuple(permutation[i] for i in axes) for axes in (value.y_batch, value.y_contract))
            return replace(value, y=y, y_batch=batch, y_contract=contract)
        # Products of narrow numbers are exact in the wide type, in which they are summed either way.
        case Dot(Convert(x, to), Convert(y), accumulate=None) if _sums_wide(x.dtype, y.dtype, to):
            return replace(value, x=x, y=y, accumulate=to)
        case Dot(_, Broadcast()):
            return shared_operand(value)
        case Dot(Reshape(Transpose() as x), y) if not isinstance(y, Transpose):
            parts = taken_apart(x.shape, value.x.shape, value.x_contract)
            if parts is not None:
                x_axes, contract, sizes = parts
                y_axes, y_contract, shape = taken_apart_alike(y.shape, value.y_contract, sizes)
                batch, y_batch = (
                    tuple([axes[i][0] for i in given])
                    for axes, given in ((x_axes, value.x_batch), (y_axes, value.y_batch))
                )
                y = Reshape(y, shape)
                return Dot(x, y, batch, y_batch, contract, y_contract, value.accumulate)
    return None


Axes = tuple[tuple[int, ...], ...]


def taken_apart(
    parts: Shape, whole: Shape, contract: tuple[int, ...]
) -> tuple[Axes, tuple[int, ...], tuple[Shape, ...]] | None:
    """Which axes of `parts` each axis of `whole` joins, those that are contracted, and the sizes of these; None where
    other axes are joined too. A product over joined axes is one over all of them, so they need not be joined."""
    axes: list[tuple[int, ...]] = []
    at = 0
    for number, size in enumerate(whole):
        first = at
        while at < len(parts) and (at == first or product(parts[first:at]) != size):
            at += 1
        if product(parts[first:at]) != size or (at - first != 1 and number not in contract):
            return None
        axes.append(tuple(range(first, at)))
    if at != len(parts) or all(len(axes[number]) == 1 for number in contract):
        return None
    sizes = tuple([tuple([parts[axis] for axis in axes[number]]) for number in contract])
    return tuple(axes), tuple([axis for number in contract for axis in axes[number]]), sizes


def taken_apart_alike(
    whole: Shape, contract: tuple[int, ...], sizes: tuple[Shape, ...]
) -> tuple[Axes, tuple[int, ...], Shape]:
    """The axes of `whole`, those that are contracted in parts of the given sizes: which they become, which of these
    are contracted, and the shape."""
    shape: list[Dim] = []
    axes: list[tuple[int, ...]] = []
    for number, size in enumerate(whole):
        parts = sizes[contract.index(number)] if number in contract else (size,)
        axes.append(tuple(range(len(shape), len(shape) + len(parts))))
        shape += parts
    return tuple(axes), tuple([axis for number in contract for axis in axes[number]]), tuple(shape)


def _in_order(permutation: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    moved = [permutation[axis] for axis in axes]
    return moved == sorted(moved)


def _sums_wide(x: DType, y: DType, to: DType) -> bool:
    if to is f32:
        return x is y and x.kind == "float" and x.bits == 16
    return to is i32 and x.is_integer and y.is_integer and max(x.bits, y.bits) < 32


def shared_operand(dot: Dot) -> Value | None:
    """A batch of products with one and the same matrix is one product with more rows."""
    y = dot.y
    assert isinstance(y, Broadcast)
    pairs = tuple(zip(dot.x_batch, dot.y_batch, strict=True))
    shared = [i for i, j in pairs if j not in y.axes]
    # The result has the remaining batch axes first, then the free axes of x in x's order.
    batch = [(i, j) for i, j in pairs if i not in shared]
    free = sorted((*shared, *dot.x_free))
    if not shared or any(j not in y.axes for j in (*dot.y_contract, *dot.y_free)):
        return None
    if [i for i, _ in batch] + free != [*dot.x_batch, *dot.x_free]:
        return None
    return Dot(
        dot.x,
        y.x,
        tuple(i for i, _ in batch),
        tuple(y.axes.index(j) for _, j in batch),
        dot.x_contract,
        tuple(y.axes.index(j) for j in dot.y_contract),
        dot.accumulate,
    )


# --- order and control --------------------------------------------------------------------------------------------


@simpler.register
def _(value: After, exact: bool) -> Value | None:
    match value:
        case After(x, ()):
            return x
        case After(After(x, earlier), later):
            return After(x, (*earlier, *later))
    return None


@simpler.register
def _(value: Get, exact: bool) -> Value | None:
    i = value.index
    match value.x:
        case Switch(Full(chosen), args, branches):
            branch = branches[min(max(int(chosen.real), 0), len(branches) - 1)]
            return inline(branch.with_results((branch.results[i],)), args)[0]
        case While(_, carry, condition) if is_number(condition.results[0], False):
            return carry[i]
        case Scan(_, carry, length=0):
            return carry[i] if i < len(carry) else lift(0, value)
        case Scan(length=1) as scan:
            return one_step(scan, i)
    return None


def one_step(scan: Scan, index: int) -> Value:
    """A loop of one step is its body."""
    number = (Full(0, TensorType((), i64)),) if scan.counted else ()
    xs = (Reshape(x, x.shape[1:]) for x in scan.xs)
    body = scan.body.with_results((scan.body.results[index],))
    (found,) = inline(body, (*number, *scan.consts, *scan.carry, *xs))
    return found if index < len(scan.carry) else Reshape(found, (1, *found.shape))
