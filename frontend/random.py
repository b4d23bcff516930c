"""Random numbers from explicit keys: `treadle.random`.

A key is a uint32 array of two words; nothing else is state. The bits come from Threefry-2x32 (Salmon et al., SC 2011),
counted by element, so a draw depends on its key and shape alone: the same under vmap as in a loop, on any number of
threads, computed once or again. Never use a key for two draws: `split` it first (KeyReuseWarning otherwise).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.dims import Dim, SymbolicDim, product
from ..ir.dtypes import DType, f32, f64, i64, of, u8, u16, u32, u64
from ..ir.errors import InvalidValue, ShapeMismatch, TypeMismatch, Unsupported
from ..ir.evaluate import evaluate
from ..ir.ops.elementwise import Bitcast, Clamp, Convert, Erfc, Erfinv, Exp, Log, Maximum, Mod, Or, ShiftRight, Sqrt
from ..ir.ops.indexing import ArgSort, Gather, SearchSorted
from ..ir.ops.movement import Reshape, Slice
from ..ir.ops.random import FoldIn, RandomBits, key_of
from ..ir.ops.random import split as split_value
from ..ir.ops.reduce import ArgMax, CumSum
from ..ir.types import Shape, TensorType
from ..ir.value import Lt, Value, lift
from . import keys
from .arrays import broadcast, size_value, static_dim, static_shape
from .arrays import lift as lift_array
from .keys import KeyReuseWarning
from .sizes import plain
from .trace import LeafSpec, current, here, operation
from .tracer import Tracer, trace_to_graph, unwrap, wrap

_BITS = {8: u8, 16: u16, 32: u32, 64: u64}


def _anywhere(build: Callable[..., Value]) -> Callable[..., Any]:
    """Make `build`, which takes values and gives one, callable on arrays, inside a trace and outside of one (there it
    is traced and evaluated by NumPy). The first parameter of a draw is its key, which is used up by it."""
    draws = next(iter(inspect.signature(build).parameters)) == "key" and build.__name__ != "fold_in"

    @functools.wraps(build)
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is not None:
            with operation():
                if draws:
                    keys.use(_key(args[0] if args else kwargs["key"]))
                return wrap(build(*plain(args), **plain(kwargs)))
        if draws and args and isinstance(args[0], np.ndarray):
            keys.use_array(args[0])
        arrays = [i for i, a in enumerate(args) if isinstance(a, np.ndarray | np.generic) or hasattr(a, "__dlpack__")]
        given = [np.asarray(args[i]) for i in arrays]

        def flat(*tracers: Tracer) -> Any:
            rebuilt = list(args)
            for i, tracer in zip(arrays, tracers, strict=True):
                rebuilt[i] = tracer
            return call(*rebuilt, **kwargs)

        specs = [LeafSpec("array", TensorType(a.shape, of(a.dtype)), f"argument {i}") for i, a in enumerate(given)]
        traced = trace_to_graph(flat, specs, lambda tracers: (tracers, {}), build.__name__)
        return evaluate(traced.graph, *given)[0]

    return call


def _value(x: Any) -> Value:
    return unwrap(lift_array(x))


def _key(key: Any) -> Value:
    try:
        value = _value(key)
    except Unsupported:  # NumPy's generators above all
        raise TypeMismatch(
            f"{type(key).__name__} is not a key", code="TD0730", location=here(), edit="td.random.key(seed)"
        ) from None
    if value.dtype is not u32 or value.rank != 1 or value.shape[0] != 2:
        raise TypeMismatch(
            f"{value.type} is not a key", code="TD0730", location=here(), edit="td.random.key(seed), or td.random.split"
        )
    return value


def _float(dtype: Any) -> DType:
    found = of(dtype)
    if found.kind != "float":
        raise TypeMismatch(f"{found} is no float", code="TD0731", location=here(), edit="dtype=np.float32")
    return found


@_anywhere
def key(seed: Any) -> Value:
    """A key from an integer: uint32[2]."""
    value = _value(seed)
    return key_of(value if value.dtype.is_integer else Convert(value, i64))


PRNGKey = key


@_anywhere
def split(key: Any, num: int = 2) -> Value:
    """`num` new keys: uint32[num, 2]. The old key must not be used again."""
    return split_value(_key(key), num)


@_anywhere
def fold_in(key: Any, data: Any) -> Value:
    """A new key from a key and an integer: as many independent streams as there are integers."""
    value = _value(data)
    return FoldIn(_key(key), value if value.dtype.is_integer else Convert(value, i64))


@_anywhere
def bits(key: Any, shape: Sequence[int] = (), dtype: Any = "uint32") -> Value:
    """Unsigned integers all of whose bits are random."""
    return RandomBits(_key(key), static_shape(shape), of(dtype))


def _unit(key: Value, shape: Shape, dtype: DType) -> Value:
    """Uniform in [0, 1): the mantissa's bits behind the exponent of 1, less 1. Half floats are rounded from f32,
    down."""
    wide = f64 if dtype is f64 else f32
    word, mantissa, one = (u64, 52, 0x3FF << 52) if wide is f64 else (u32, 23, 0x7F << 23)
    drawn = RandomBits(key, shape, word)
    shifted = ShiftRight(drawn, lift(word.bits - mantissa, drawn))
    value = Bitcast(Or(shifted, lift(one, drawn)), wide) - 1.0
    if dtype is wide:
        return value
    # Rounding to a half float must not reach 1.
    kept = {"f16": 10, "bf16": 7}[dtype.name] + 1
    steps = Convert(value * float(2**kept), i64)
    return Convert(Convert(steps, f32) * float(2.0**-kept), dtype)


@_anywhere
def uniform(key: Any, shape: Sequence[int] = (), dtype: Any = "float32", low: Any = 0.0, high: Any = 1.0) -> Value:
    """Uniform floats in [low, high)."""
    unit = _unit(_key(key), static_shape(shape), _float(dtype))
    return _scaled(unit, low, high)


def _scaled(unit: Value, low: Any, high: Any) -> Value:
    if isinstance(low, int | float) and isinstance(high, int | float):
        return unit if (low, high) == (0, 1) else Maximum(unit * (high - low) + low, lift(low, unit))
    below, above = (broadcast(Convert(_value(x), unit.dtype), unit.shape) for x in (low, high))
    return Maximum(unit * (above - below) + below, below)


def _normal(key: Value, shape: Shape, dtype: DType) -> Value:
    """By the inverse of the error function on the open interval (-1, 1)."""
    wide = f64 if dtype is f64 else f32
    # The smallest step of `_unit` above -1: erfinv(-1) is infinite.
    edge = float(np.nextafter(wide.numpy.type(-1.0), wide.numpy.type(0.0)))
    unit = _unit(key, shape, wide)
    value = Erfinv(Maximum(unit * 2.0 - 1.0, lift(edge, unit))) * math.sqrt(2.0)
    return value if dtype is wide else Convert(value, dtype)


@_anywhere
def normal(key: Any, shape: Sequence[int] = (), dtype: Any = "float32") -> Value:
    """Standard normal floats."""
    return _normal(_key(key), static_shape(shape), _float(dtype))


@_anywhere
def truncated_normal(key: Any, low: float, high: float, shape: Sequence[int] = (), dtype: Any = "float32") -> Value:
    """Standard normal floats that lie in [low, high]."""
    if not low < high:
        raise InvalidValue(
            f"truncated_normal: {low} is not below {high}", code="TD0732", location=here(), edit="bounds in their order"
        )
    to = _float(dtype)
    # In a tail the bounds lie close together below 1: there f32 would leave a few values only. The lower tail is
    # drawn, where the numbers are dense about 0, and turned over.
    tail = min(abs(low), abs(high)) if low * high > 0 else 0.0
    wide = f64 if to is f64 or tail > 1.0 else f32
    mirrored = low > 0
    below, above = (-high, -low) if mirrored else (low, high)
    unit = _unit(_key(key), static_shape(shape), wide)
    if tail > 1.0:
        chance = _scaled(unit, 0.5 * math.erfc(-below / math.sqrt(2)), 0.5 * math.erfc(-above / math.sqrt(2)))
        value = _quantile(chance)
    else:
        value = Erfinv(_scaled(unit, math.erf(below / math.sqrt(2)), math.erf(above / math.sqrt(2)))) * math.sqrt(2.0)
    inside = Clamp(-value if mirrored else value, lift(low, value), lift(high, value))
    return inside if to is wide else Convert(inside, to)


def _quantile(chance: Value) -> Value:
    """Where the normal distribution function has a small value p: from the tail's leading terms, by Newton's steps on
    log p, whose derivative is the hazard of the tail."""
    logarithm = Log(chance)
    t = Sqrt(logarithm * -2.0)
    value = -(t - Log(t * math.sqrt(2.0 * math.pi)) / t)
    for _ in range(4):
        half = 0.5 * Erfc(value * -math.sqrt(0.5))
        density = Exp(value * value * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
        value = value - (Log(half) - logarithm) * half / density
    return value


@_anywhere
def bernoulli(key: Any, p: Any = 0.5, shape: Sequence[int] | None = None) -> Value:
    """True with probability `p`, a number or an array that fits `shape`."""
    chance = _value(p)
    chance = Convert(chance, f32) if chance.dtype.kind != "float" else chance
    sizes = chance.shape if shape is None else static_shape(shape)
    wide = f64 if chance.dtype is f64 else f32
    return Lt(_unit(_key(key), sizes, wide), broadcast(Convert(chance, wide), sizes))


def _gumbel(key: Value, shape: Shape, dtype: DType) -> Value:
    wide = f64 if dtype is f64 else f32
    unit = _unit(key, shape, wide)
    positive = Maximum(unit, lift(float(np.finfo(wide.numpy).tiny), unit))
    value = -Log(-Log(positive))
    return value if dtype is wide else Convert(value, dtype)


@_anywhere
def gumbel(key: Any, shape: Sequence[int] = (), dtype: Any = "float32") -> Value:
    """Standard Gumbel floats, -log(-log(u))."""
    return _gumbel(_key(key), static_shape(shape), _float(dtype))


@_anywhere
def exponential(key: Any, shape: Sequence[int] = (), dtype: Any = "float32") -> Value:
    """Exponential floats of rate 1."""
    to = _float(dtype)
    wide = f64 if to is f64 else f32
    value = -Log(lift(1.0, unit := _unit(_key(key), static_shape(shape), wide)) - unit)
    return value if to is wide else Convert(value, to)


@_anywhere
def categorical(key: Any, logits: Any, axis: int = -1) -> Value:
    """Indices along `axis` with probabilities softmax(logits), int64; by the Gumbel trick."""
    value = _value(logits)
    noisy = value + _gumbel(_key(key), value.shape, value.dtype)
    return ArgMax(noisy, axis % value.rank)


@_anywhere
def randint(key: Any, shape: Sequence[int], low: Any, high: Any, dtype: Any = "int64") -> Value:
    """Integers in [low, high); the bias of the remainder is below 2**-32 for ranges below 2**32."""
    for bound in (low, high):
        if isinstance(bound, SymbolicDim):
            raise TypeMismatch(
                f"randint: a bound is the size {bound}, which is not known while tracing",
                code="TD0201",
                location=here(),
                edit="low + td.random.choice(key, high - low, shape) instead of td.random.randint",
            )
    if not low < high:
        raise InvalidValue(
            f"randint: no integer lies in [{low}, {high})",
            code="TD0732",
            location=here(),
            edit="a higher bound; it is not drawn itself",
        )
    drawn = RandomBits(_key(key), static_shape(shape), u64)
    found: Value = Convert(Mod(drawn, lift(high - low, drawn)), of(dtype)) + low
    return found


def _order(key: Value, count: Dim) -> Value:
    """A permutation of range(count): the order of as many random words (ties, of chance 2**-64 a pair, by position)."""
    return ArgSort(RandomBits(key, (count,), u64), 0)


@_anywhere
def permutation(key: Any, x: Any) -> Value:
    """`range(x)` for an integer, else the rows of an array, in random order."""
    if isinstance(x, int | np.integer | SymbolicDim):
        return _order(_key(key), static_dim(x, "x"))
    value = _value(x)
    return Gather(value, (_order(_key(key), value.shape[0]),), (0,), "promised")


@_anywhere
def choice(key: Any, x: Any, shape: Sequence[int] = (), replace: bool = True, p: Any = None) -> Value:
    """Elements of `x` (rows of an array, or range(x)) in `shape`, with or without replacement, with chances `p`."""
    sizes = static_shape(shape)
    given = None if isinstance(x, int | np.integer | SymbolicDim) else _value(x)
    count = static_dim(x, "x") if given is None else given.shape[0]
    total = product(sizes)
    word = _key(key)
    if not replace:
        if isinstance(count, int) and isinstance(total, int) and total > count:
            raise ShapeMismatch(
                f"choice: {total} of {count} without replacement",
                code="TD0733",
                location=here(),
                edit="replace=True, or fewer draws",
            )
        if p is None:
            order = _order(word, count)
        else:
            # The order of Gumbel-perturbed log chances is a draw without replacement (Efraimidis and Spirakis 2006).
            chances = Log(_value(p))
            order = ArgSort(chances + _gumbel(word, chances.shape, chances.dtype), 0, True)
        picked: Value = Reshape(Slice(order, (0,), (total,), (1,)), sizes)
    elif p is None:
        drawn = RandomBits(word, sizes, u64)
        size = broadcast(Convert(size_value(count), u64), sizes)
        picked = Convert(Mod(drawn, size), i64)
    else:
        sums = CumSum(_value(p), 0)
        picked = SearchSorted(sums, _unit(word, sizes, sums.dtype), "right")
    return picked if given is None else Gather(given, (picked,), (0,), "clip")


__all__ = [
    "bernoulli", "bits", "categorical", "choice", "exponential", "fold_in", "gumbel", "key", "normal", "permutation",
    "randint", "split", "truncated_normal", "uniform",
]  # fmt: skip


__all__ = [
    "KeyReuseWarning", "PRNGKey", "bernoulli", "bits", "categorical", "choice", "exponential", "fold_in", "gumbel",
    "key", "normal", "permutation", "randint", "split", "truncated_normal", "uniform",
]  # fmt: skip
