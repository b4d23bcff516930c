"""Element types, their NumPy twins, and the promotion table.

NumPy's own types promote exactly as NumPy does (NEP 50). For bfloat16 and the fp8 kinds, which NumPy does not know,
the rules are ours: integers never widen them, bf16 with f16 is f32, different fp8 kinds meet in f32. Weak Python
scalars are the tracer's affair; `weak_result` says what they become.
"""

from __future__ import annotations

import sys
from typing import Any, Final, Literal, NoReturn

import numpy as np

from .errors import Unsupported

Kind = Literal["bool", "int", "uint", "float", "float8", "complex"]


class DType:
    """One element type. There is exactly one object per type, so identity is equality."""

    __slots__ = ("bits", "kind", "name", "numpy")

    name: str
    numpy: np.dtype[Any]
    kind: Kind
    bits: int

    def __init__(self, name: str, numpy: type[np.generic] | None, kind: Kind, bits: int) -> None:
        values = {"name": name, "kind": kind, "bits": bits} | ({} if numpy is None else {"numpy": np.dtype(numpy)})
        for slot, value in values.items():
            object.__setattr__(self, slot, value)

    def __getattr__(self, attribute: str) -> Any:
        # Comes here only for what is not set: the NumPy twin of a type of ml_dtypes, whose import costs 4 ms.
        if attribute != "numpy":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")
        twin = _twin(self)
        object.__setattr__(self, "numpy", twin)
        return twin

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError(f"{self.name} is immutable")

    @property
    def bytes(self) -> int:
        return (self.bits + 7) // 8

    @property
    def is_float(self) -> bool:
        return self.kind in ("float", "float8")

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        return self.kind not in ("uint", "bool")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return (named, (self.name,))

    def __lt__(self, other: DType) -> bool:
        return DTYPES.index(self) < DTYPES.index(other)


bool_ = DType("bool", np.bool_, "bool", 8)
i8 = DType("i8", np.int8, "int", 8)
i16 = DType("i16", np.int16, "int", 16)
i32 = DType("i32", np.int32, "int", 32)
i64 = DType("i64", np.int64, "int", 64)
u8 = DType("u8", np.uint8, "uint", 8)
u16 = DType("u16", np.uint16, "uint", 16)
u32 = DType("u32", np.uint32, "uint", 32)
u64 = DType("u64", np.uint64, "uint", 64)
f16 = DType("f16", np.float16, "float", 16)
bf16 = DType("bf16", None, "float", 16)
f32 = DType("f32", np.float32, "float", 32)
f64 = DType("f64", np.float64, "float", 64)
c64 = DType("c64", np.complex64, "complex", 64)
c128 = DType("c128", np.complex128, "complex", 128)
f8e4m3fn = DType("f8e4m3fn", None, "float8", 8)
f8e5m2 = DType("f8e5m2", None, "float8", 8)
f8e4m3fnuz = DType("f8e4m3fnuz", None, "float8", 8)
f8e5m2fnuz = DType("f8e5m2fnuz", None, "float8", 8)
f8e4m3b11fnuz = DType("f8e4m3b11fnuz", None, "float8", 8)

DTYPES: tuple[DType, ...] = (
    bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64, c64, c128,
    f8e4m3fn, f8e5m2, f8e4m3fnuz, f8e5m2fnuz, f8e4m3b11fnuz,
)  # fmt: skip
INTEGERS: tuple[DType, ...] = (i8, i16, i32, i64, u8, u16, u32, u64)
SIGNED: tuple[DType, ...] = (i8, i16, i32, i64)
FLOATS: tuple[DType, ...] = (f16, bf16, f32, f64)
FLOAT8: tuple[DType, ...] = (f8e4m3fn, f8e5m2, f8e4m3fnuz, f8e5m2fnuz, f8e4m3b11fnuz)
COMPLEX: tuple[DType, ...] = (c64, c128)
INEXACT: tuple[DType, ...] = FLOATS + COMPLEX
REALS: tuple[DType, ...] = INTEGERS + FLOATS
NUMBERS: tuple[DType, ...] = REALS + COMPLEX
ARITHMETIC: tuple[DType, ...] = (bool_, *NUMBERS)  # everything a kernel may compute with; fp8 is storage only

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
# What ml_dtypes calls its own.
_TWINS: Final = {
    bf16: "bfloat16", f8e4m3fn: "float8_e4m3fn", f8e5m2: "float8_e5m2", f8e4m3fnuz: "float8_e4m3fnuz",
    f8e5m2fnuz: "float8_e5m2fnuz", f8e4m3b11fnuz: "float8_e4m3b11fnuz",
}  # fmt: skip
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES if dtype not in _TWINS}


def _twin(dtype: DType) -> np.dtype[Any]:
    import ml_dtypes

    twin: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _TWINS[dtype]))
    return twin


def named(name: str) -> DType:
    """The dtype of that short name (`f32`). `KeyError` for another one."""
    return _BY_NAME[name]


def is_name(name: str) -> bool:
    return name in _BY_NAME


def of(numpy_dtype: object) -> DType:
    """The dtype of a NumPy dtype or anything `np.dtype` takes. Byte order is ignored: we compute in native order.

    A string means what NumPy says (`i8` has eight bytes there); our short names (`bf16`, `f32`) serve where NumPy has
    no meaning. Texts of graphs name dtypes by `named`. Raises `Unsupported` (TD0101) for object, string, datetime,
    longdouble and record types.
    """
    if isinstance(numpy_dtype, DType):
        return numpy_dtype
    try:
        given = np.dtype(numpy_dtype)  # type: ignore[call-overload]
    except TypeError:
        return _only_ours(numpy_dtype)
    found = _BY_NUMPY.get(given) or _BY_NUMPY.get(given.newbyteorder("="))
    if found is None and "ml_dtypes" in sys.modules:
        found = {dtype.numpy: dtype for dtype in _TWINS}.get(given)
    if found is None:
        # `f16` and the like: NumPy counts bytes, and means a longdouble.
        bits = _BY_NAME.get(numpy_dtype) if isinstance(numpy_dtype, str) else None
        raise Unsupported(
            f"dtype {given} is not supported",
            code="TD0101",
            edit=f"write {str(bits.numpy)!r}: NumPy counts the bytes in {numpy_dtype!r}"
            if bits is not None
            else "a dtype of numbers instead, for example by .astype(np.float64)",
        )
    return found


def _only_ours(given: object) -> DType:
    """The dtype of a string that NumPy does not know."""
    if isinstance(given, str):
        if given in _BY_NAME:
            return _BY_NAME[given]
        if given in _TWINS.values():
            return next(dtype for dtype, name in _TWINS.items() if name == given)
    from difflib import get_close_matches

    near = get_close_matches(given, [*_BY_NAME, *map(str, _BY_NUMPY)], 1) if isinstance(given, str) else ()
    raise Unsupported(
        f"{given!r} is no dtype",
        code="TD0101",
        edit=f"did you mean {near[0]}?" if near else "a dtype, such as np.float32",
    )


_OURS = frozenset((bf16, *FLOAT8))


def promote(a: DType, b: DType) -> DType:
    """The type in which `a` and `b` meet: NumPy's table for NumPy's types, ours for bf16 and fp8."""
    if a is b:
        return a
    if a in _OURS or b in _OURS:
        return _promote_ours(a, b)
    return _BY_NUMPY[np.promote_types(a.numpy, b.numpy)]


def _promote_ours(a: DType, b: DType) -> DType:
    if a not in _OURS:
        a, b = b, a
    if b.kind in ("bool", "int", "uint"):
        return a
    if b.kind == "complex":
        return b
    if a.kind == "float8" and b.kind == "float8":
        return f32
    if a.kind == "float8":
        return b
    return {f16: f32, f32: f32, f64: f64}.get(b, a)  # a is bf16; an fp8 kind beside it stays bf16


def weak_result(kind: Literal["bool", "int", "float", "complex"], other: DType) -> DType:
    """The type of an operation between a weak Python scalar of `kind` and an array of type `other` (NEP 50)."""
    if kind == "bool":
        return other
    if kind == "int":
        return i64 if other is bool_ else other
    if kind == "float":
        return other if other.kind in ("float", "float8", "complex") else f64
    if other.kind == "complex":
        return other
    return c64 if other in (f16, bf16, f32) or other.kind == "float8" else c128


def real_of(dtype: DType) -> DType:
    """The type of the parts of a complex type; other types are their own."""
    return {c64: f32, c128: f64}.get(dtype, dtype)


def complex_of(dtype: DType) -> DType:
    """The complex type whose parts hold `dtype`."""
    return dtype if dtype.kind == "complex" else (c128 if dtype is f64 or dtype.is_integer else c64)


# Digits of the significand, and the exponent of the largest number.
_FLOATS = {
    "f16": (11, 15), "bf16": (8, 127), "f32": (24, 127), "f64": (53, 1023),
    "f8e4m3fn": (4, 8), "f8e5m2": (3, 15), "f8e4m3fnuz": (4, 7), "f8e5m2fnuz": (3, 15), "f8e4m3b11fnuz": (4, 4),
}  # fmt: skip
_LEAST = {
    "f16": -24, "bf16": -133, "f32": -149, "f64": -1074,
    "f8e4m3fn": -9, "f8e5m2": -16, "f8e4m3fnuz": -10, "f8e5m2fnuz": -17, "f8e4m3b11fnuz": -13,
}  # fmt: skip


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every number of `narrow` is one of `wide`."""
    if wide is narrow or narrow is bool_:
        return True
    if wide.kind == "complex":
        part = real_of(wide)
        return holds(part, real_of(narrow))
    if narrow.kind == "complex" or wide is bool_:
        return False
    if narrow.is_integer:
        digits = narrow.bits - (narrow.kind == "int")
        if wide.is_integer:
            return digits <= wide.bits - (wide.kind == "int") and (wide.kind == "int" or narrow.kind == "uint")
        # The least integer is a power of two, so only its exponent counts.
        return digits <= _FLOATS[wide.name][0] and digits <= _FLOATS[wide.name][1]
    if wide.is_integer:
        return False
    (more, higher), (digits, high) = _FLOATS[wide.name], _FLOATS[narrow.name]
    # The kinds without infinity or without -0.0 are storage, which is converted from and not to.
    return wide.kind == "float" and digits <= more and high <= higher and _LEAST[wide.name] <= _LEAST[narrow.name]


def accumulator(dtype: DType) -> DType:
    """The type in which sums of `dtype` are kept: f32 for the half floats, the type itself otherwise."""
    return f32 if dtype.is_float and dtype.bits < 32 else dtype
