"""Operands as the graph wants them: concrete arrays and numbers lifted, dtypes met, shapes stretched explicitly.

The graph broadcasts nothing by itself: here is where axes of size 1 are dropped and repeated along the others. A name
never stretches, whatever its value may be at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..ir.dims import Dim, SymbolicDim, show
from ..ir.dtypes import DType, bool_, i64, of
from ..ir.errors import InvalidValue, ShapeMismatch, TreadleError, TypeMismatch, Unsupported
from ..ir.ops.elementwise import Convert
from ..ir.ops.movement import Broadcast, Reshape, Transpose
from ..ir.types import Shape, TensorType
from ..ir.value import Array, Constant, DimSize, Full, Value
from .promotion import Described, default, result_type
from .sizes import Size
from .trace import current, here
from .tracer import Tracer, unwrap, wrap

WEAK: dict[str, type] = {"int": int, "float": float, "complex": complex}

# Asked of every operand of every operation: `isinstance(x, A | B)` would make the union anew each time.
_ARRAYS = (np.ndarray, np.generic)
_WHOLE = (int, SymbolicDim, Size)
_OWN_TYPE = (SymbolicDim, Size, np.generic)
_PYTHONS = (int, float, complex)
_NUMBERS = (*_PYTHONS, np.generic)
_TYPED = (np.generic, bool)


def is_traced(x: Any) -> bool:
    """Whether `x` is a traced array or a symbolic size."""
    return type(x) is Tracer or isinstance(x, SymbolicDim | Size)


def any_traced(x: Any) -> bool:
    """Whether a traced array or a symbolic size is in `x`, or in the lists, tuples and dicts it is made of."""
    kind = type(x)
    if kind is Tracer or kind is Size or kind is SymbolicDim:
        return True
    if kind is list or kind is tuple:
        return any(map(any_traced, x))
    if kind is dict:
        return any(map(any_traced, x.values()))
    if kind is slice:
        return any_traced((x.start, x.stop, x.step))
    return False


def is_number(x: Any) -> bool:
    """Whether `x` is a Python number, which is weak in promotion."""
    return isinstance(x, _PYTHONS) and not isinstance(x, np.generic)


def concrete(x: Any) -> Array:
    """Anything that is not traced as a NumPy array; masked arrays and matrices are refused (TD0820)."""
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        raise Unsupported(
            f"a {type(x).__name__} beside traced arrays",
            code="TD0820",
            location=here(),
            edit="use a plain array: np.asarray(x), x.filled(v)",
        )
    try:
        return np.asarray(x)
    except ValueError as error:
        if not isinstance(x, list | tuple):
            raise
        raise InvalidValue(
            f"a {type(x).__name__} that is no array: {error}",
            code="TD0819",
            location=here(),
            edit="give all rows one length",
        ) from None


def lift(x: Any) -> Tracer:
    """Anything an operand may be, as a traced array."""
    if type(x) is Tracer:
        unwrap(x)
        return x
    if isinstance(x, np.generic):
        return wrap(Full(x.item(), TensorType((), of(x.dtype))))
    if isinstance(x, bool):
        return wrap(Full(x, TensorType((), bool_)))
    if isinstance(x, int | float | complex):
        kind = int if isinstance(x, int) else float if isinstance(x, float) else complex
        return wrap(Full(x, TensorType((), default(kind))), kind.__name__)  # type: ignore[arg-type]
    if isinstance(x, SymbolicDim | Size):
        return wrap(DimSize(x.dim if isinstance(x, Size) else x), "int")
    if isinstance(x, list | tuple) and any_traced(x):
        return _stacked(x)
    array = concrete(x)
    of(array.dtype)
    trace = current()
    return wrap(Constant(array.copy()) if trace is None else trace.constant(array))


def _stacked(items: Sequence[Any]) -> Tracer:
    """A list with traced arrays in it, as `np.array` would read it."""
    from .functions.joining import stack

    return stack([lift(item) for item in items])


def described(x: Any) -> Described:
    """What promotion sees of an operand."""
    if type(x) is Tracer:
        return WEAK[x.weak] if x.weak is not None else unwrap(x).dtype
    if type(x) is float:
        return float
    if isinstance(x, _ARRAYS):
        return of(x.dtype)
    if isinstance(x, bool):
        return bool_
    if isinstance(x, _WHOLE):
        return int
    if isinstance(x, float):
        return float
    if isinstance(x, complex):
        return complex
    return lift(x).value.dtype


def operands(*xs: Any) -> list[Any]:
    """The operands with what has no dtype of its own (lists, foreign arrays) lifted, numbers left as they are."""
    return [x if type(x) is Tracer or is_number(x) or isinstance(x, _OWN_TYPE) else lift(x) for x in xs]


def shape_of(x: Any) -> Shape:
    return x.value.shape if type(x) is Tracer else x.shape if isinstance(x, _ARRAYS) else ()


def typed(x: Any, dtype: DType, shape: Shape | None = None) -> Value:
    """An operand as a value of that dtype, stretched to `shape` if given. Python numbers are rounded once, to
    `dtype`."""
    if type(x) is Tracer:
        value = unwrap(x)
    elif type(x) is float or isinstance(x, _NUMBERS):
        rounded = isinstance(x, _TYPED) or (isinstance(x, complex) and dtype.kind != "complex")
        number: Any = np.asarray(x).astype(dtype.numpy).item() if rounded else x
        return Full(number, TensorType(() if shape is None else shape, dtype))
    else:
        value = unwrap(lift(x))
    if value.dtype is not dtype:
        value = convert(value, dtype)
    return value if shape is None or value.shape == shape else broadcast(value, shape)


def together(*xs: Any) -> list[Value]:
    """The operands in the dtype and the shape in which they meet."""
    given = operands(*xs)
    dtype = result_type(*map(described, given))
    shape = broadcast_shapes(*map(shape_of, given))
    return [typed(x, dtype, shape) for x in given]


def convert(value: Value, dtype: DType) -> Value:
    """`value` in `dtype`; itself when it is that already."""
    if value.dtype is dtype:
        return value
    if isinstance(value, Full):
        with np.errstate(all="ignore"):
            number = np.asarray(value.value, value.dtype.numpy).astype(dtype.numpy).item()
        return Full(number, value.tensor.with_dtype(dtype))
    return Convert(value, dtype)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape in which the shapes meet, by NumPy's rule; TD0817 names two that do not go together."""
    several = [shape for shape in shapes if shape]
    if not several or all(shape == several[0] for shape in several):
        return several[0] if several else ()
    rank = max(map(len, shapes), default=0)
    found: list[Dim] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            if type(dim) is int and dim == 1:
                continue
            if type(found[i]) is int and found[i] == 1:
                found[i] = dim
            elif found[i] != dim:
                shown = " ".join(f"({', '.join(map(show, each))}{',' if len(each) == 1 else ''})" for each in shapes)
                raise ShapeMismatch(
                    f"operands could not be broadcast together with shapes {shown}: {show(found[i])} and {show(dim)}",
                    code="TD0817",
                    location=here(),
                    edit=_broadcast_edit(shapes),
                )
    return tuple(found)


def _broadcast_edit(shapes: Sequence[Shape]) -> str:
    if any(isinstance(dim, SymbolicDim) for shape in shapes for dim in shape):
        return "give equal sizes the same name; a name never stands for a size that stretches"
    return "sizes that are equal or 1, counted from the last axis: x[:, None] puts an axis of 1 behind those of x"


def broadcast(value: Value, shape: Shape) -> Value:
    """`value` stretched to `shape`, by NumPy's rule. TD0817 where it does not stretch to it."""
    if value.shape == shape:
        return value
    if isinstance(value, Full) and broadcast_shapes(value.shape, shape) == shape:
        return Full(value.value, TensorType(shape, value.dtype))
    offset = len(shape) - value.rank
    kept: list[int] = []
    for i, dim in enumerate(value.shape):
        if offset >= 0 and dim == shape[offset + i]:
            kept.append(i)
        elif offset < 0 or type(dim) is not int or dim != 1:
            raise ShapeMismatch(
                f"({', '.join(map(show, value.shape))}) does not stretch to ({', '.join(map(show, shape))})",
                code="TD0817",
                location=here(),
                edit=_broadcast_edit((value.shape, shape)),
            )
    squeezed = reshape(value, tuple(value.shape[i] for i in kept))
    return Broadcast(squeezed, shape, tuple(offset + i for i in kept))


def reshape(value: Value, shape: Shape) -> Value:
    if value.shape == shape:
        return value
    if isinstance(value, Full):
        return Full(value.value, TensorType(shape, value.dtype))
    return Reshape(value, shape)


def permute(value: Value, permutation: Iterable[int]) -> Value:
    order = tuple(permutation)
    return value if order == tuple(range(value.rank)) else Transpose(value, order)


def expand(value: Value, axes: Iterable[int]) -> Value:
    """`value` with axes of size 1 at these positions of the result."""
    shape = list(value.shape)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return reshape(value, tuple(shape))


def axis_of(axis: Any, rank: int, what: str = "axis") -> int:
    """An axis counted from the front; TD0822 outside, TD0812 where it is traced."""
    number = static_int(axis, what)
    if not -rank <= number < rank:
        raise AxisOutOfRange(
            f"{what} {number} is outside an array of {rank} dimensions",
            code="TD0822",
            location=here(),
            edit=f"an axis from {-rank} to {rank - 1}" if rank else "a scalar has no axes: leave it out",
        )
    return number % rank


class AxisOutOfRange(InvalidValue, np.exceptions.AxisError):
    """An axis that is not there: what NumPy raises, and ours."""

    def __str__(self) -> str:
        return InvalidValue.__str__(self)


def entries(given: Any, what: str, count: int | None = None) -> tuple[Any, ...]:
    """The entries of an argument that is a sequence, of so many; TD0822 where it is not."""
    try:
        found = tuple(given)
    except TreadleError:
        raise
    except TypeError:
        found = None
    if found is None or (count is not None and len(found) != count):
        wanted = "a tuple" if count is None else f"a tuple of {count}"
        raise InvalidValue(f"{what} is {given!r}", code="TD0822", location=here(), edit=f"{wanted} instead")
    return found


def axes_of(axis: Any, rank: int) -> tuple[int, ...]:
    """The axes that an `axis` argument names: all for None."""
    if axis is None:
        return tuple(range(rank))
    if isinstance(axis, tuple | list):
        found = tuple(axis_of(each, rank) for each in axis)
        if len(set(found)) != len(found):
            raise InvalidValue(
                f"duplicate value in 'axis': {tuple(axis)}", code="TD0822", location=here(), edit="each axis once"
            )
        return found
    return (axis_of(axis, rank),)


def static_int(x: Any, what: str) -> int:
    """A number that must be known while tracing; TD0812 where it is traced."""
    if type(x) is Tracer:
        raise not_static(x, what)
    try:
        return int(x.__index__())
    except TreadleError:
        raise  # a size
    except (AttributeError, TypeError):
        raise TypeMismatch(
            f"{what} is a {type(x).__name__}, an integer is needed", code="TD0812", location=here(), edit="give an int"
        ) from None


def not_static(x: Any, what: str) -> TypeMismatch:
    return TypeMismatch(
        f"{what} is a traced {x.value.type}, and must be known while tracing",
        code="TD0812",
        location=here(),
        edit="make the argument static (static_argnames=), or compute it from shapes and Python numbers",
    )


def static_dim(x: Any, what: str) -> Dim:
    """A size: an int or a symbolic one."""
    if isinstance(x, Size):
        return x.dim
    return x if isinstance(x, SymbolicDim) else static_int(x, what)


def static_shape(shape: Any, what: str = "a shape") -> Shape:
    """A shape argument: a size, or a sequence of sizes."""
    if type(shape) is Tracer and shape.ndim == 0:
        raise not_static(shape, what)
    if isinstance(shape, SymbolicDim | Size) or not hasattr(shape, "__iter__"):
        return (static_dim(shape, what),)
    return tuple(static_dim(dim, what) for dim in shape)


def known(x: Any, what: str) -> Array:
    """An array that must be known while tracing, as NumPy's."""
    if any_traced(x):
        raise not_static(lift(x), what)
    return concrete(x)


def size_value(dim: Dim) -> Value:
    """A size as an i64 scalar."""
    return Full(dim, TensorType((), i64)) if type(dim) is int else DimSize(dim)


def dtype_argument(dtype: Any) -> DType | None:
    """A `dtype=` argument; Python's `int`, `float`, `bool`, `complex` are NumPy's defaults."""
    return None if dtype is None else of(dtype)
