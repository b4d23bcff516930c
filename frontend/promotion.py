"""Result types: NumPy's own answer for NumPy's dtypes, our table for bfloat16 and the fp8 kinds.

NumPy itself is asked which loop a ufunc would run (`resolve_dtypes`), so promotion, weak Python numbers and the
widening of sums are exactly those of the NumPy that is installed. Our own float types stand in as float32 while it
decides.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np

from ..ir.dtypes import FLOAT8, DType, bf16, c128, f64, i64, of, promote, weak_result
from ..ir.errors import TypeMismatch
from .trace import here

# What promotion sees of an operand: a dtype, or `int`, `float`, `complex` for a weak Python number.
Described: TypeAlias = DType | type

_OURS: Final = frozenset((bf16, *FLOAT8))
_STAND_IN: Final = np.dtype(np.float32)
_DEFAULT: Final[dict[type, DType]] = {int: i64, float: f64, complex: c128}
_RANK: Final[dict[type, int]] = {int: 0, float: 1, complex: 2}


@lru_cache(maxsize=4096)
def result_type(*operands: Described) -> DType:
    """The dtype in which the operands meet. Weak numbers alone meet in the dtype NumPy gives them."""
    strong: DType | None = None
    weak: type | None = None
    for operand in operands:
        if isinstance(operand, DType):
            strong = operand if strong is None else promote(strong, operand)
        elif weak is None or _RANK[operand] > _RANK[weak]:
            weak = operand
    if strong is None:
        return _DEFAULT[weak] if weak is not None else f64
    return strong if weak is None else weak_result(weak.__name__, strong)  # type: ignore[arg-type]


def default(weak: type) -> DType:
    """The dtype of a weak number that stands alone."""
    return _DEFAULT[weak]


def loop(
    ufunc: np.ufunc,
    operands: tuple[Described, ...],
    dtype: DType | None = None,
    signature: tuple[DType | None, ...] | None = None,
    casting: str = "same_kind",
    reduction: bool = False,
) -> tuple[tuple[DType, ...], tuple[DType, ...]]:
    """The dtypes that the ufunc takes and gives for these operands. TD0816 where NumPy has no loop for them."""
    found = _loop(ufunc, operands, dtype, signature, casting, reduction)
    if isinstance(found, str):
        if found.startswith("not supported for the input types"):
            given = " and ".join([f"a Python {x.__name__}" if isinstance(x, type) else x.name for x in operands])
            found = f"{given} {'are' if len(operands) > 1 else 'is'} not among what it takes"
        edit = _accepted(ufunc, operands)
        raise TypeMismatch(f"{ufunc.__name__}: {found}", code="TD0816", location=here(), edit=edit)
    return found


def _accepted(ufunc: np.ufunc, operands: tuple[Described, ...]) -> str:
    """What to hand to a ufunc that has no loop for the operands."""
    letters = {letter for kinds in ufunc.types for letter in kinds.partition("->")[0]}
    kinds = {"complex" if operand is complex else getattr(operand, "kind", "") for operand in operands}
    if not letters & set("efdg"):
        return "integers or bools, such as x.astype(int) or a comparison"
    if "complex" in kinds and not letters & set("FD"):
        return "abs(x), or x.real and x.imag"
    return "convert one of the operands with .astype"


@lru_cache(maxsize=4096)
def _loop(
    ufunc: np.ufunc,
    operands: tuple[Described, ...],
    dtype: DType | None,
    signature: tuple[DType | None, ...] | None,
    casting: str,
    reduction: bool,
) -> tuple[tuple[DType, ...], tuple[DType, ...]] | str:
    given: tuple[Described, ...] = operands
    if all(isinstance(operand, type) for operand in operands):
        # Asked to compare two Python integers NumPy would take them for objects, which may be of any size.
        given = tuple(_DEFAULT[operand] if isinstance(operand, type) else operand for operand in operands)
    ours: DType | None = None
    if any(operand in _OURS for operand in operands):
        met = result_type(*_meeting(ufunc, operands))
        ours = met if met in _OURS else None
        shown = _STAND_IN if ours is not None or met.kind == "complex" else met.numpy
        given = tuple(_replaced(ufunc, operand, i, ours is not None, shown) for i, operand in enumerate(operands))
    elif dtype is not None and dtype in _OURS:
        ours = dtype
    if all(isinstance(each, type) for each in given):
        # Numbers of Python alone are arrays of their own dtypes; of ints NumPy would compare objects.
        given = tuple(default(each) for each in given if isinstance(each, type))
    asked: list[Any] = [each if isinstance(each, type) else each.numpy for each in given]
    asked = [None, *asked, None] if reduction else asked + [None] * ufunc.nout
    options: dict[str, Any] = {"casting": casting}
    wanted: tuple[DType | None, ...] | None = signature
    if dtype is not None:
        # Of a reduction it is the first type, that of the result, which decides.
        wanted = (dtype, None, None) if reduction else (*(None,) * ufunc.nin, *(dtype,) * ufunc.nout)
    if wanted is not None:
        options["signature"] = tuple(None if d is None else _STAND_IN if d in _OURS else d.numpy for d in wanted)
    if reduction:
        options["reduction"] = True
    try:
        found = ufunc.resolve_dtypes(tuple(asked), **options)
        types = tuple(of(each) for each in found)
    except TypeError as error:
        return str(error).removeprefix(f"ufunc '{ufunc.__name__}' ")
    if ours is not None:
        types = tuple(ours if each.numpy == _STAND_IN else each for each in types)
    return types[: ufunc.nin], types[ufunc.nin :]


def _meeting(ufunc: np.ufunc, operands: tuple[Described, ...]) -> tuple[Described, ...]:
    """The operands that decide the type: an exponent of ldexp does not."""
    return operands[:1] if ufunc is np.ldexp else operands


def _replaced(ufunc: np.ufunc, operand: Described, position: int, ours: bool, shown: np.dtype[Any]) -> Described:
    """How an operand is shown to NumPy where ours take part: as the stand-in or the type in which all meet, and so are
    the integers beside them where that is one of ours."""
    if isinstance(operand, type):
        return operand
    if ufunc is np.ldexp and position == 1:
        return operand
    if operand in _OURS or (ours and operand.kind in ("bool", "int", "uint")):
        return of(shown)
    return operand
