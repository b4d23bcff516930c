"""NumPy's universal functions on traced arrays: which op each is, and how its methods and keywords are read.

NumPy says which dtypes a call computes in (`promotion.loop`), the operands are converted and stretched to them, and the
rule of the ufunc builds the op. `reduce` and `accumulate` of those without a reduction of their own are scans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dtypes import FLOAT8, DType, bool_, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
from ...ir.errors import ArithmeticFault, InvalidValue, TypeMismatch, Unsupported
from ...ir.graph import Graph
from ...ir.ops import elementwise as e
from ...ir.ops.control import Scan, While
from ...ir.ops.movement import Concatenate, Slice
from ...ir.ops.reduce import Any as AnyReduction
from ...ir.types import TensorType
from ...ir.value import Add, Div, Full, Ge, Get, Gt, Le, Lt, Mul, Neg, Parameter, Sub, Value
from ...ir.value import lift as lift_number
from ..arrays import (
    broadcast_shapes,
    convert,
    described,
    dtype_argument,
    is_number,
    lift,
    operands,
    reshape,
    shape_of,
    typed,
)  # fmt: skip
from ..promotion import Described, loop
from ..trace import Weak, here
from ..tracer import Tracer, unwrap, wrap

Rule = Callable[..., "Value | tuple[Value, ...]"]


def _identity(x: Value) -> Value:
    return x


def _absolute(x: Value) -> Value:
    return x if x.dtype is bool_ else e.Abs(x)


def _square(x: Value) -> Value:
    return Mul(x, x)


def _reciprocal(x: Value) -> Value:
    if x.dtype.is_integer:
        # As NumPy: one over the number in double precision, its fraction lost.
        return convert(1.0 / convert(x, f64), x.dtype)
    return 1.0 / x


def _whole(op: type[Value]) -> Rule:
    """A rounding, which leaves integers alone."""
    return lambda x: x if x.dtype is bool_ or x.dtype.is_integer else op(x)


def _test(op: type[Value], of_integers: bool) -> Rule:
    """A test of floats, whose answer for integers is known."""

    def rule(x: Value) -> Value:
        if x.dtype is bool_ or x.dtype.is_integer:
            return Full(of_integers, x.tensor.with_dtype(bool_))
        return op(x)

    return rule


def _logical(op: type[Value]) -> Rule:
    return lambda *xs: op(*(convert(x, bool_) for x in xs))


def _scaled(factor: float) -> Rule:
    return lambda x: x * factor


def _conjugate(x: Value) -> Value:
    return e.Conj(x) if x.dtype.kind == "complex" else x


def _heaviside(x: Value, at_zero: Value) -> Value:
    zero, one = lift_number(0.0, x), lift_number(1.0, x)
    rest = e.Select(e.Eq(x, zero), at_zero, e.Select(e.IsNan(x), x, one))
    return e.Select(x < 0.0, zero, rest)


def _spacing(x: Value) -> Value:
    """The distance to the next number away from 0, with x's sign; of float16 NumPy gives the one to the next above."""
    above = lift_number(math.inf, x)
    outward = e.IsInf(x) if x.dtype is f16 else e.Ne(x, lift_number(0.0, x))
    return e.Nextafter(x, e.Select(outward, e.Copysign(above, x), above)) - x


def _modf(x: Value) -> tuple[Value, Value]:
    whole = e.Trunc(x)
    fraction = e.Select(e.IsInf(x), lift_number(0.0, x), x - whole)
    return e.Copysign(fraction, x), whole


_BITS: Final[Mapping[DType, tuple[DType, int, int]]] = {f16: (i16, 10, 15), f32: (i32, 23, 127), f64: (i64, 52, 1023)}


def _frexp(x: Value) -> tuple[Value, Value]:
    """The fraction in [0.5, 1) and the power of two, read off the bits; a subnormal is scaled up first."""
    if x.dtype not in _BITS:
        fraction, power = _frexp(convert(x, f32))
        assert isinstance(fraction, Value)
        return convert(fraction, x.dtype), power
    integer, mantissa, bias = _BITS[x.dtype]
    special = e.Or(e.Not(e.IsFinite(x)), e.Eq(x, lift_number(0.0, x)))
    small = e.Abs(x) < 2.0 ** (1 - bias)
    scaled = e.Select(small, x * 2.0**mantissa, x)
    bits = e.Bitcast(scaled, integer)
    field = 2 ** (integer.bits - 1 - mantissa) - 1
    exponent = e.And(e.ShiftRight(bits, lift_number(mantissa, bits)), lift_number(field, bits))
    shift = e.Select(small, lift_number(mantissa, bits), lift_number(0, bits))
    cleared = e.And(bits, lift_number(~(field << mantissa), bits))
    fraction = e.Bitcast(e.Or(cleared, lift_number((bias - 1) << mantissa, bits)), x.dtype)
    power = exponent - shift - (bias - 1)
    return e.Select(special, x, fraction), convert(e.Select(special, lift_number(0, bits), power), i32)


def _divmod(x: Value, y: Value) -> tuple[Value, Value]:
    return e.FloorDiv(x, y), e.Mod(x, y)


_UNSIGNED: Final[Mapping[DType, DType]] = {i8: u8, i16: u16, i32: u32, i64: u64}


def _magnitude(x: Value) -> Value:
    """|x| of the unsigned type, which holds that of the least integer, too."""
    return x if x.dtype.kind == "uint" else convert(e.Abs(x), _UNSIGNED[x.dtype])


def _euclid(x: Value, y: Value) -> Value:
    """The greatest common divisors of magnitudes, all elements together until every remainder is 0."""

    def step(a: Value, b: Value) -> tuple[Value, Value]:
        done = e.Eq(b, lift_number(0, b))
        remainder = e.Rem(a, e.Select(done, lift_number(1, b), b))
        return e.Select(done, a, b), e.Select(done, b, remainder)

    kind = x.tensor
    condition = _body(
        "unfinished", (kind, kind), lambda a, b: (AnyReduction(e.Ne(b, lift_number(0, b)), _all_axes(b)),)
    )
    return Get(While((), (x, y), condition, _body("euclid", (kind, kind), step)), 0)


def _gcd(x: Value, y: Value) -> Value:
    return convert(_euclid(_magnitude(x), _magnitude(y)), x.dtype)


def _lcm(x: Value, y: Value) -> Value:
    a, b = _magnitude(x), _magnitude(y)
    divisor = _euclid(a, b)
    whole = e.FloorDiv(a, e.Select(e.Eq(divisor, lift_number(0, divisor)), lift_number(1, divisor), divisor))
    return convert(whole * b, x.dtype)


def _all_axes(v: Value) -> tuple[int, ...]:
    return tuple(range(v.rank))


def _body(name: str, types: tuple[TensorType, ...], build: Callable[..., tuple[Value, ...]]) -> Graph:
    params = tuple(Parameter(f"p{i}", kind) for i, kind in enumerate(types))
    return Graph(name, params, build(*params))


def _compare(op: type[Value]) -> Rule:
    """A comparison: of complex numbers lexicographically, of a signed with an unsigned integer by value."""
    part: type[Value] = Lt if op in (Lt, Le) else Gt

    def rule(x: Value, y: Value) -> Value:
        if x.dtype.kind == "complex":
            real, imag = (e.Real(x), e.Real(y)), (e.Imag(x), e.Imag(y))
            if op is e.Eq or op is e.Ne:
                return op(x, y)
            numbers = e.Not(e.Or(e.IsNan(imag[0]), e.IsNan(imag[1])))
            return e.Or(e.And(part(*real), numbers), e.And(e.Eq(*real), op(*imag)))
        if x.dtype is not y.dtype:
            return _signed_unsigned(op, x, y)
        return op(x, y)

    return rule


def _signed_unsigned(op: type[Value], x: Value, y: Value) -> Value:
    """A comparison between i64 and u64: a negative number is less than all of the other kind."""
    signed_first = x.dtype is i64
    signed = x if signed_first else y
    negative = Lt(signed, lift_number(0, signed))
    plain = op(convert(x, u64), convert(y, u64))
    answer = op is e.Ne if op is e.Eq or op is e.Ne else (op in (Lt, Le)) is signed_first
    return e.Select(negative, lift_number(answer, plain), plain)


RULES: Final[Mapping[np.ufunc, Rule]] = {
    np.absolute: _absolute,
    np.add: Add,
    np.arccos: e.Acos,
    np.arccosh: e.Acosh,
    np.arcsin: e.Asin,
    np.arcsinh: e.Asinh,
    np.arctan: e.Atan,
    np.arctan2: e.Atan2,
    np.arctanh: e.Atanh,
    np.bitwise_and: e.And,
    np.bitwise_count: e.PopulationCount,
    np.bitwise_or: e.Or,
    np.bitwise_xor: e.Xor,
    np.cbrt: e.Cbrt,
    np.ceil: _whole(e.Ceil),
    np.conjugate: _conjugate,
    np.copysign: e.Copysign,
    np.cos: e.Cos,
    np.cosh: e.Cosh,
    np.deg2rad: _scaled(math.pi / 180.0),
    np.degrees: _scaled(180.0 / math.pi),
    np.divide: Div,
    np.divmod: _divmod,
    np.equal: _compare(e.Eq),
    np.exp: e.Exp,
    np.exp2: e.Exp2,
    np.expm1: e.Expm1,
    np.fabs: e.Abs,
    np.float_power: e.Pow,
    np.floor: _whole(e.Floor),
    np.floor_divide: e.FloorDiv,
    np.fmax: e.Fmax,
    np.fmin: e.Fmin,
    np.fmod: e.Rem,
    np.frexp: _frexp,
    np.gcd: _gcd,
    np.greater: _compare(Gt),
    np.greater_equal: _compare(Ge),
    np.heaviside: _heaviside,
    np.hypot: e.Hypot,
    np.invert: e.Not,
    np.isfinite: _test(e.IsFinite, True),
    np.isinf: _test(e.IsInf, False),
    np.isnan: _test(e.IsNan, False),
    np.lcm: _lcm,
    np.ldexp: e.Ldexp,
    np.left_shift: e.ShiftLeft,
    np.less: _compare(Lt),
    np.less_equal: _compare(Le),
    np.log: e.Log,
    np.log10: e.Log10,
    np.log1p: e.Log1p,
    np.log2: e.Log2,
    np.logaddexp: e.Logaddexp,
    np.logaddexp2: e.Logaddexp2,
    np.logical_and: _logical(e.And),
    np.logical_not: _logical(e.Not),
    np.logical_or: _logical(e.Or),
    np.logical_xor: _logical(e.Xor),
    np.maximum: e.Maximum,
    np.minimum: e.Minimum,
    np.modf: _modf,
    np.multiply: Mul,
    np.negative: Neg,
    np.nextafter: e.Nextafter,
    np.not_equal: _compare(e.Ne),
    np.positive: _identity,
    np.power: e.Pow,
    np.rad2deg: _scaled(180.0 / math.pi),
    np.radians: _scaled(math.pi / 180.0),
    np.reciprocal: _reciprocal,
    np.remainder: e.Mod,
    np.right_shift: e.ShiftRight,
    np.rint: e.Rint,
    np.sign: e.Sign,
    np.signbit: e.Signbit,
    np.sin: e.Sin,
    np.sinh: e.Sinh,
    np.spacing: _spacing,
    np.sqrt: e.Sqrt,
    np.square: _square,
    np.subtract: Sub,
    np.tan: e.Tan,
    np.tanh: e.Tanh,
    np.trunc: _whole(e.Trunc),
}
COMPARISONS: Final = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
_WEAK_OF: Final[Mapping[DType, Weak]] = {i64: "int", f64: "float"}


def elementwise(
    ufunc: np.ufunc,
    *inputs: Any,
    dtype: Any = None,
    signature: Any = None,
    casting: str = "same_kind",
    order: str = "K",
    subok: bool = True,
    where: Any = True,
    out: Any = None,
) -> Any:
    """The ufunc on operands that stretch to one shape; a tuple for those with two results."""
    refuse_out(out, ufunc.__name__)
    if where is not True:
        raise Unsupported(
            f"{ufunc.__name__}(where=) leaves elements undefined where the mask is false",
            code="TD0813",
            location=here(),
            edit=f"np.where(mask, np.{ufunc.__name__}(...), otherwise)",
        )
    rule = RULES.get(ufunc)
    if rule is None:
        raise not_traced(path_of(ufunc))
    given = operands(*inputs)
    kinds = tuple(map(described, given))
    takes, gives = loop(ufunc, kinds, dtype_argument(dtype), _signature(ufunc, signature), casting)
    shape = broadcast_shapes(*map(shape_of, given))
    if ufunc in COMPARISONS and len(given) == 2:
        known = _out_of_range(ufunc, given, kinds, takes)
        if known is not None:
            return wrap(Full(known, TensorType(shape, bool_)))
        takes = _by_value(given, kinds, takes)
    if ufunc is np.power and takes[0].kind == "int" and is_number(given[1]) and given[1] < 0:
        raise ArithmeticFault(
            "integers to negative integer powers are not allowed",
            code="TD0130",
            location=here(),
            edit="convert the base to a float first",
        )
    values = [typed(x, kind, shape) for x, kind in zip(given, takes, strict=True)]
    # fp8 is storage only: computed in f32, rounded to what NumPy would give.
    values = [convert(value, f32) if value.dtype in FLOAT8 else value for value in values]
    built = rule(*values)
    results = built if isinstance(built, tuple) else (built,)
    found = tuple(wrap(convert(value, kind)) for value, kind in zip(results, gives, strict=True))
    return found if isinstance(built, tuple) else found[0]


def _signature(ufunc: np.ufunc, signature: Any) -> tuple[DType | None, ...] | None:
    if signature is None:
        return None
    if isinstance(signature, str):
        before, _, after = signature.partition("->")
        signature = (*before, *after) if after else (*(None,) * ufunc.nin, *before)
    return tuple(dtype_argument(each) for each in signature)


def _out_of_range(
    ufunc: np.ufunc, given: list[Any], kinds: tuple[Described, ...], takes: tuple[DType, ...]
) -> bool | None:
    """The answer of a comparison with a Python int that the other operand's type cannot hold; None where it can."""
    for i in (0, 1):
        number, kind = given[i], takes[i]
        if kinds[i] is not int or not is_number(number) or not kind.is_integer:
            continue
        low, high = (
            (0, 2**kind.bits - 1) if kind.kind == "uint" else (-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
        )
        if low <= number <= high:
            continue
        above = number > high
        if ufunc in (np.equal, np.not_equal):
            return ufunc is np.not_equal
        # x < number, or number < x.
        return (ufunc in (np.less, np.less_equal)) is (above if i == 1 else not above)
    return None


def _by_value(given: list[Any], kinds: tuple[Described, ...], takes: tuple[DType, ...]) -> tuple[DType, ...]:
    """A traced Python int is compared by its value, which the other operand's type may not hold: in i64."""
    for i in (0, 1):
        if kinds[i] is int and not is_number(given[i]) and takes[i].is_integer:
            wide = takes[1 - i] if takes[1 - i] is u64 else i64
            return (i64, wide) if i == 0 else (wide, i64)
    return takes


def refuse_out(out: Any, name: str, edit: str = "bind the result: x = x + t instead of x += t or out=x") -> None:
    """Results are new arrays: TD0806 for `out=`."""
    if isinstance(out, tuple) and all(each is None for each in out):
        return
    if out is not None:
        what = "a traced array" if isinstance(out, Tracer) else "a concrete array"
        raise Unsupported(f"{name} was asked to write into {what}", code="TD0806", location=here(), edit=edit)


OUTSIDE: Final = "call it outside of the traced function, or write it in functions that are (docs/numpy.md)"


def path_of(function: Any) -> str:
    """How a user spells a function: `numpy.linalg.svd`. A ufunc of another library does not know its module."""
    name = getattr(function, "__name__", str(function))
    if isinstance(function, np.ufunc):
        return f"numpy.{name}" if getattr(np, name, None) is function else name
    module = str(getattr(function, "__module__", "") or "")
    return f"numpy.{name}" if not module or module.startswith(("_", "numpy._")) else f"{module}.{name}"


def not_traced(name: str) -> Unsupported:
    return Unsupported(f"{name} is not traced", code="TD0810", location=here(), edit=OUTSIDE)


def fast_power(x: Any, y: Any) -> Any:
    """`x ** y` for the exponents that NumPy's operator computes in another way; None for the others."""
    kind = described(x)
    if not is_number(y) or isinstance(y, bool | complex) or not isinstance(kind, DType):
        return None
    inexact = kind.is_float or kind.kind == "complex"
    # Of bools, squares are i8 where `power` gives i64; of a scalar NumPy takes `power`.
    squared = kind.is_integer or (kind is bool_ and lift(x).shape)
    if y == 2 and (inexact or (squared and isinstance(y, int))):
        return elementwise(np.square, x)
    if y == 1 and (inexact or (kind.is_integer and isinstance(y, int))):
        return lift(x)
    if inexact and y == 0.5 and kind.kind != "complex":
        return elementwise(np.sqrt, x)
    if inexact and y == -1:
        return elementwise(np.reciprocal, x)
    return None


def operator(ufunc: np.ufunc, operands: tuple[Any, ...]) -> Any:
    """What a Python operator gives. Weak numbers give weak numbers, as Python's do; arrays of Python give arrays."""
    if ufunc is np.power:
        found = fast_power(*operands)
        if found is not None:
            return found
    found = elementwise(ufunc, *operands)
    if ufunc not in COMPARISONS and all(isinstance(described(x), type) for x in operands):
        return tuple(_weak(each) for each in found) if isinstance(found, tuple) else _weak(found)
    return found


def _weak(x: Tracer) -> Tracer:
    kind: Weak | None = "complex" if x.value.dtype.kind == "complex" else _WEAK_OF.get(x.value.dtype)
    return Tracer(x.value, x.owner, kind)


def in_place(ufunc: np.ufunc, x: Tracer, y: Any, compute: Callable[..., Any]) -> Tracer:
    """`x += y`: the name is bound to the result in x's dtype and shape, where NumPy could have stored it (TD0821)."""
    if x.weak is not None:
        found = operator(ufunc, (x, y))
        assert isinstance(found, Tracer)
        return found
    mine = unwrap(x).dtype
    special = fast_power(x, y) if ufunc is np.power else None
    result = unwrap(compute(ufunc, x, y) if special is None else special)
    gives = result.dtype
    if not _storable(gives, mine):
        raise TypeMismatch(
            f"cannot store {gives} in place in {mine}",
            code="TD0821",
            location=here(),
            edit="bind a new array: x = x + y",
        )
    if result.shape != x.shape:
        raise InvalidValue(
            f"the result {result.type} does not fit in place into {x.value.type}",
            code="TD0821",
            location=here(),
            edit="bind a new array: x = x + y",
        )
    return wrap(convert(result, mine))


def _storable(dtype: DType, into: DType) -> bool:
    """Whether NumPy stores one in the other without being asked twice (`same_kind`)."""
    order = {"bool": 0, "uint": 1, "int": 2, "float8": 3, "float": 3, "complex": 4}
    if dtype is into:
        return True
    if into.kind == "uint" and dtype.kind == "int":
        return False
    return order[dtype.kind] <= order[into.kind]


# --- the methods of ufuncs ----------------------------------------------------------------------------------------


def outer(ufunc: np.ufunc, x: Any, y: Any, **kwargs: Any) -> Any:
    """The ufunc on every pair."""
    first, second = lift(x), lift(y)
    spread = wrap(reshape(unwrap(first), (*first.shape, *(1,) * second.ndim)), first.weak)
    return elementwise(ufunc, spread, second, **kwargs)


def fold(ufunc: np.ufunc, x: Tracer, dtype: Any = None, first: Any = None, mask: Value | None = None) -> Tracer:
    """The ufunc folded from the left along axis 0, beginning with `first`, else with the first element; only over what
    the mask, of x's shape, has true."""
    value, takes, kind = _folded(ufunc, x, dtype)
    if first is None:
        if type(value.shape[0]) is int and value.shape[0] == 0:
            raise InvalidValue(
                f"zero-size array to reduction operation {ufunc.__name__} which has no identity",
                code="TD0822",
                location=here(),
                edit="initial=, which is the result where nothing is there",
            )
        begin, rest = _first(value), _rest(value)
    else:
        begin, rest = typed(first, kind, value.shape[1:]), value
    return wrap(Get(_scan(ufunc, begin, rest, takes, False, mask), 0))


def prefixes(ufunc: np.ufunc, x: Tracer, dtype: Any = None) -> Tracer:
    """The ufunc folded from the left along axis 0, each state of it."""
    value, takes, _ = _folded(ufunc, x, dtype)
    if type(value.shape[0]) is int and value.shape[0] == 0:
        return wrap(value)
    begin = _first(value)
    found = Get(_scan(ufunc, begin, _rest(value), takes, True), 1)
    return wrap(Concatenate((reshape(begin, (1, *begin.shape)), found), 0))


def _folded(ufunc: np.ufunc, x: Tracer, dtype: Any) -> tuple[Value, tuple[DType, ...], DType]:
    takes, gives = loop(ufunc, (described(x),), dtype_argument(dtype), reduction=True)
    return convert(unwrap(x), gives[0]), takes, gives[0]


def _scan(
    ufunc: np.ufunc, begin: Value, rest: Value, takes: tuple[DType, ...], keep: bool, mask: Value | None = None
) -> Value:
    state, element = Parameter("state", begin.tensor), Parameter("x", begin.tensor)
    built = RULES[ufunc](convert(state, takes[0]), convert(element, takes[1]))
    assert isinstance(built, Value)
    step = convert(built, begin.dtype)
    if mask is None:
        body = Graph(ufunc.__name__, (state, element), (step, step) if keep else (step,))
        return Scan((), (begin,), (rest,), body, rest.shape[0])
    chosen = Parameter("chosen", begin.tensor.with_dtype(bool_))
    body = Graph(ufunc.__name__, (state, element, chosen), (e.Select(chosen, step, state),))
    return Scan((), (begin,), (rest, mask), body, rest.shape[0])


def _first(value: Value) -> Value:
    corner = Slice(value, (0,) * value.rank, (1, *value.shape[1:]), (1,) * value.rank)
    return reshape(corner, value.shape[1:])


def _rest(value: Value) -> Value:
    return Slice(value, (1, *(0,) * (value.rank - 1)), value.shape, (1,) * value.rank)
