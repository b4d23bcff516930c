"""Sums of products: matmul and its kin, tensordot, einsum. All are one op, `Dot`, between the axes they name.

Batch axes that only one operand has stay free axes of the product, so a stack of rows times one matrix is one large
product and not a batch of small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dims import Dim, SymbolicDim, product, show
from ...ir.dtypes import FLOAT8, DType, f32, i64
from ...ir.errors import InvalidValue, ShapeMismatch
from ...ir.ops import elementwise as e
from ...ir.ops.contract import Dot
from ...ir.ops.indexing import Gather
from ...ir.ops.movement import Concatenate, Iota
from ...ir.ops.reduce import Sum
from ...ir.types import TensorType
from ...ir.value import Mul, Value
from ..arrays import (
    axes_of,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    dtype_argument,
    entries,
    expand,
    lift,
    permute,
    reshape,
    static_int,
    typed,
)  # fmt: skip
from ..edits import operands
from ..promotion import loop, result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .reductions import sum_
from .shaping import cut, diagonal, ravel
from .ufuncs import elementwise, refuse_out
from .ufuncs import outer as ufunc_outer


def _wrong(message: str, edit: str | None = None) -> ShapeMismatch:
    return ShapeMismatch(message, code="TD0824", location=here(), edit=edit)


_EACH: Final = "a label for each axis; ... stands for those that have none"
_LABELS: Final = "a label of its own for each size; operands are transposed by the order of their labels"


def _apart(what: str, x: Value, i: int, y: Value, j: int) -> ShapeMismatch:
    """Two axes that are summed over together, and differ in size."""
    named = operands()
    left, right = named or (str(x.type), str(y.type))
    m, n = show(x.shape[i]), show(y.shape[j])
    first, second = named or ("the first operand", "the second operand")
    if y.rank == 2 and y.shape[1 - j] == x.shape[i]:
        edit = f"transpose {second}" if named is None else f"{second}.T instead of {second}"
    elif x.rank == 2 and x.shape[1 - i] == y.shape[j]:
        edit = f"transpose {first}" if named is None else f"{first}.T instead of {first}"
    else:
        edit = f"give both axes one size: {m} on axis {j} of {second}, or {n} on axis {i} of {first}"
    return _wrong(f"{what}: contracted axes differ: {left} has {m} (axis {i}), {right} has {n} (axis {j})", edit)


def _met(a: Any, b: Any) -> tuple[Value, Value]:
    """Both operands in the dtype in which they meet; a Python number is an array, so it is not weak."""
    x, y = unwrap(lift(a)), unwrap(lift(b))
    kind = result_type(x.dtype, y.dtype)
    return convert(x, kind), convert(y, kind)


def contract(
    x: Value,
    y: Value,
    x_batch: Sequence[int],
    y_batch: Sequence[int],
    x_contract: Sequence[int],
    y_contract: Sequence[int],
) -> Value:
    """`Dot`, where fp8 is multiplied in f32; without axes to sum over, a plain product."""
    if x.dtype in FLOAT8:
        found = contract(convert(x, f32), convert(y, f32), x_batch, y_batch, x_contract, y_contract)
        return convert(found, x.dtype)
    for i, j in zip(x_contract, y_contract, strict=True):
        if x.shape[i] != y.shape[j]:
            raise _apart("dot", x, i, y, j)
    if not x_contract:
        free_x = [i for i in range(x.rank) if i not in x_batch]
        free_y = [i for i in range(y.rank) if i not in y_batch]
        batch = len(x_batch)
        x = permute(x, (*x_batch, *free_x))
        y = permute(y, (*y_batch, *free_y))
        shape = (*x.shape, *y.shape[batch:])
        left = broadcast(reshape(x, (*x.shape, *(1,) * len(free_y))), shape)
        right = reshape(y, (*y.shape[:batch], *(1,) * len(free_x), *y.shape[batch:]))
        return Mul(left, broadcast(right, shape))
    return Dot(x, y, tuple(x_batch), tuple(y_batch), tuple(x_contract), tuple(y_contract))


def product_of(x: Value, y: Value) -> Value:
    """`x @ y` for operands of at least two axes and one dtype; batch axes stretch."""
    lead = max(x.rank, y.rank) - 2
    x_off, y_off = lead - (x.rank - 2), lead - (y.rank - 2)
    shape = broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x_batch, y_batch, x_only, y_only = [], [], [], []
    x_drop, y_drop, both = [], [], []
    for i in range(lead):
        in_x, in_y = i >= x_off, i >= y_off
        one_x = in_x and _is_one(x.shape[i - x_off]) and not (in_y and _is_one(y.shape[i - y_off]))
        one_y = in_y and _is_one(y.shape[i - y_off]) and not (in_x and _is_one(x.shape[i - x_off]))
        if one_x and in_y:
            x_drop.append(i - x_off)
        if one_y and in_x:
            y_drop.append(i - y_off)
        if in_x and in_y and not one_x and not one_y:
            both.append(i)
            x_batch.append(i - x_off)
            y_batch.append(i - y_off)
        elif in_x and not (one_x and in_y):
            x_only.append(i)
        else:
            y_only.append(i)
    x_batch = [axis - sum(d < axis for d in x_drop) for axis in x_batch]
    y_batch = [axis - sum(d < axis for d in y_drop) for axis in y_batch]
    x = reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in x_drop))
    y = reshape(y, tuple(n for i, n in enumerate(y.shape) if i not in y_drop))
    found = contract(x, y, x_batch, y_batch, (x.rank - 1,), (y.rank - 2,))
    order = [*both, *x_only, lead, *y_only, lead + 1]
    assert len(shape) == lead
    return permute(found, [order.index(i) for i in range(lead + 2)])


def _is_one(dim: Dim) -> bool:
    return type(dim) is int and dim == 1


def matmul(x1: Any, x2: Any, /, out: Any = None, **options: Any) -> Tracer:
    refuse_out(out, "matmul")
    x, y = lift(x1), lift(x2)
    if x.ndim == 0 or y.ndim == 0:
        raise _wrong("matmul: a scalar is not an operand of @", "* instead of @")
    takes, gives = loop(np.matmul, (described(x), described(y)), dtype_argument(options.get("dtype")))
    a, b = typed(x, takes[0]), typed(y, takes[1])
    left, right = a.rank == 1, b.rank == 1
    if a.shape[-1] != b.shape[0 if right else -2]:
        raise _apart("matmul", a, a.rank - 1, b, 0 if right else b.rank - 2)
    found = contract(a, b, (), (), (a.rank - 1,), (0 if right else b.rank - 2,)) if left or right else product_of(a, b)
    return wrap(convert(found, gives[0]))


def vecdot(x1: Any, x2: Any, /, out: Any = None, *, axis: Any = -1, **options: Any) -> Tracer:
    refuse_out(out, "vecdot")
    x, y = lift(x1), lift(x2)
    takes, gives = loop(np.vecdot, (described(x), described(y)), dtype_argument(options.get("dtype")))
    a, b = typed(x, takes[0]), typed(y, takes[1])
    if a.rank == 0 or b.rank == 0:
        raise _wrong("vecdot: operands need at least one dimension", "* instead of vecdot")
    a, b = _last(a, axis), _last(b, axis)
    if a.dtype.kind == "complex":
        a = e.Conj(a)
    if a.shape[-1] != b.shape[-1]:
        raise _apart("vecdot", a, a.rank - 1, b, b.rank - 1)
    return wrap(convert(_rows(a, b), gives[0]))


def _last(value: Value, axis: Any) -> Value:
    number = axis_of(axis, value.rank)
    return permute(value, (*(i for i in range(value.rank) if i != number), number))


def _rows(a: Value, b: Value) -> Value:
    """Products of rows: the leading axes go together."""
    lead = broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = broadcast(a, (*lead, a.shape[-1])), broadcast(b, (*lead, b.shape[-1]))
    batch = range(len(lead))
    return contract(a, b, tuple(batch), tuple(batch), (len(lead),), (len(lead),))


def matvec(x1: Any, x2: Any, /, out: Any = None, **options: Any) -> Tracer:
    refuse_out(out, "matvec")
    x, y = lift(x1), lift(x2)
    takes, gives = loop(_MATVEC, (described(x), described(y)))
    a, b = typed(x, takes[0]), typed(y, takes[1])
    if a.rank < 2 or b.rank < 1 or a.shape[-1] != b.shape[-1]:
        raise _wrong(f"matvec: {a.type} and {b.type} do not go together", "a vector as long as the matrix has columns")
    found = product_of(a, expand(b, (b.rank,)))
    return wrap(convert(reshape(found, found.shape[:-1]), gives[0]))


def vecmat(x1: Any, x2: Any, /, out: Any = None, **options: Any) -> Tracer:
    refuse_out(out, "vecmat")
    x, y = lift(x1), lift(x2)
    takes, gives = loop(_VECMAT, (described(x), described(y)))
    a, b = typed(x, takes[0]), typed(y, takes[1])
    if a.rank < 1 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise _wrong(f"vecmat: {a.type} and {b.type} do not go together", "a vector as long as the matrix has rows")
    if a.dtype.kind == "complex":
        a = e.Conj(a)
    found = product_of(expand(a, (a.rank - 1,)), b)
    return wrap(convert(reshape(found, (*found.shape[:-2], found.shape[-1])), gives[0]))


_MATVEC: Final[Any] = getattr(np, "matvec", None)  # from NumPy 2.2 on
_VECMAT: Final[Any] = getattr(np, "vecmat", None)
GUFUNCS: Final[Mapping[Any, Callable[..., Tracer]]] = {
    np.matmul: matmul,
    np.vecdot: vecdot,
    _MATVEC: matvec,
    _VECMAT: vecmat,
}


def dot(a: Any, b: Any, out: Any = None) -> Tracer:
    refuse_out(out, "dot")
    x, y = _met(a, b)
    if x.rank == 0 or y.rank == 0:
        found: Tracer = elementwise(np.multiply, wrap(x), wrap(y))
        return found
    return wrap(contract(x, y, (), (), (x.rank - 1,), (max(y.rank - 2, 0),)))


def vdot(a: Any, b: Any, /) -> Tracer:
    x, y = _met(a, b)
    if x.dtype.kind == "complex":
        x = e.Conj(x)
    size_x, size_y = x.tensor.size, y.tensor.size
    if size_x != size_y:
        raise _wrong(f"vdot: {show(size_x)} and {show(size_y)} elements", "@ for other shapes than equal ones")
    return wrap(contract(reshape(x, (size_x,)), reshape(y, (size_y,)), (), (), (0,), (0,)))


def inner(a: Any, b: Any, /) -> Tracer:
    x, y = _met(a, b)
    if x.rank == 0 or y.rank == 0:
        found: Tracer = elementwise(np.multiply, wrap(x), wrap(y))
        return found
    return wrap(contract(x, y, (), (), (x.rank - 1,), (y.rank - 1,)))


def outer(a: Any, b: Any, out: Any = None) -> Tracer:
    refuse_out(out, "outer")
    found: Tracer = ufunc_outer(np.multiply, ravel(a), ravel(b))
    return found


def tensordot(a: Any, b: Any, axes: Any = 2) -> Tracer:
    x, y = _met(a, b)
    if isinstance(axes, int | np.integer):
        count = int(axes)
        x_axes: Sequence[Any] = tuple(range(x.rank - count, x.rank))
        y_axes: Sequence[Any] = tuple(range(count))
    else:
        first, second = entries(axes, "axes", 2)
        x_axes = tuple(first) if isinstance(first, tuple | list) else (first,)
        y_axes = tuple(second) if isinstance(second, tuple | list) else (second,)
    if len(x_axes) != len(y_axes):
        raise _wrong(f"tensordot: {len(x_axes)} and {len(y_axes)} axes are summed", "as many axes of each")
    return wrap(contract(x, y, (), (), axes_of(tuple(x_axes), x.rank), axes_of(tuple(y_axes), y.rank)))


def kron(a: Any, b: Any) -> Tracer:
    x, y = _met(a, b)
    rank = max(x.rank, y.rank)
    x, y = expand(x, range(rank - x.rank)), expand(y, range(rank - y.rank))
    left: list[Dim] = [n for size in x.shape for n in (size, 1)]
    right: list[Dim] = [n for size in y.shape for n in (1, size)]
    whole: list[Dim] = [n for pair in zip(x.shape, y.shape, strict=True) for n in pair]
    found = Mul(broadcast(reshape(x, tuple(left)), tuple(whole)), broadcast(reshape(y, tuple(right)), tuple(whole)))
    return wrap(reshape(found, tuple(m * n for m, n in zip(x.shape, y.shape, strict=True))))


def trace(a: Any, offset: Any = 0, axis1: Any = 0, axis2: Any = 1, dtype: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "trace")
    return sum_(diagonal(a, offset, axis1, axis2), -1, dtype)


def cross(a: Any, b: Any, axisa: Any = -1, axisb: Any = -1, axisc: Any = -1, axis: Any = None) -> Tracer:
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = _met(a, b)
    x, y = _last(x, axisa), _last(y, axisb)
    widths = (x.shape[-1], y.shape[-1])
    if any(width not in (2, 3) for width in widths):
        raise _wrong(
            f"cross: vectors of {show(widths[0])} and {show(widths[1])} elements, of 2 or 3 are needed",
            "axisa= and axisb= name the axes of the vectors",
        )
    lead = broadcast_shapes(x.shape[:-1], y.shape[:-1])

    def parts(v: Value) -> list[Value]:
        v = broadcast(v, (*lead, v.shape[-1]))
        size = static_int(v.shape[-1], "the width")
        return [reshape(cut(v, len(lead), i, i + 1), lead) for i in range(size)]

    p, q = parts(x), parts(y)
    third = p[0] * q[1] - p[1] * q[0]
    if widths == (2, 2):
        return wrap(third)
    if len(p) == 2:
        found = [p[1] * q[2], -(p[0] * q[2]), third]
    elif len(q) == 2:
        found = [-(p[2] * q[1]), p[2] * q[0], third]
    else:
        found = [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], third]
    joined = Concatenate(tuple(expand(v, (len(lead),)) for v in found), len(lead))
    place = axis_of(axisc, joined.rank)
    order = list(range(len(lead)))
    order.insert(place, len(lead))
    return wrap(permute(joined, order))


# --- einsum -------------------------------------------------------------------------------------------------------


def einsum(
    *operands: Any, out: Any = None, dtype: Any = None, order: Any = "K", casting: str = "safe", optimize: Any = False
) -> Tracer:
    refuse_out(out, "einsum")
    terms, output, xs = _subscripts(operands)
    given = [unwrap(lift(x)) for x in xs]
    kind = dtype_argument(dtype) or result_type(*(value.dtype for value in given))
    values = [convert(value, kind) for value in given]
    labelled = [_labelled(value, term) for value, term in zip(values, terms, strict=True)]
    return wrap(_contracted(labelled, output, kind))


Labelled = tuple[Value, str]


def _subscripts(operands: Sequence[Any]) -> tuple[list[str], str, list[Tracer]]:
    """The labels of each operand and of the result, every ellipsis spelt out by letters of its own, and the
    operands."""
    if operands and isinstance(operands[0], str):
        text, xs = operands[0].replace(" ", ""), [lift(x) for x in operands[1:]]
    else:
        text, xs = _from_lists(operands)
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise _wrong(f"einsum: {len(terms)} terms in {text!r} for {len(xs)} operands", "a term for each operand")
    used = {c for c in text if c.isalpha()}
    free = [c for c in map(chr, range(0x3B1, 0x3B1 + 64)) if c not in used]
    depth = 0
    for term, x in zip(terms, xs, strict=True):
        named = len(term.replace("...", ""))
        if "..." in term:
            depth = max(depth, x.ndim - named)
        elif named != x.ndim:
            raise _wrong(f"einsum: the term {term!r} names {named} axes of {x.value.type}", _EACH)
    dots = "".join(free[:depth])
    spelt = []
    for term, x in zip(terms, xs, strict=True):
        count = x.ndim - len(term.replace("...", ""))
        if count < 0:
            raise _wrong(f"einsum: the term {term!r} names more axes than {x.value.type} has", _EACH)
        spelt.append(term.replace("...", dots[depth - count :] if count else ""))
    if arrow:
        output = right.replace("...", dots)
    else:
        letters = sorted(c for c in used if left.count(c) == 1)
        output = dots + "".join(letters)
    for c in output:
        if output.count(c) > 1:
            raise _wrong(f"einsum: the label {c!r} repeats in the output of {text!r}", "each label once behind ->")
        if not any(c in term for term in spelt):
            raise _wrong(
                f"einsum: the output label {c!r} is in no operand of {text!r}", "labels of the operands behind ->"
            )
    for c in "".join(spelt):
        if not c.isalpha():
            raise _wrong(f"einsum: {c!r} in {text!r} is not a label", "letters, commas, ... and ->")
    return spelt, output, xs


def _from_lists(operands: Sequence[Any]) -> tuple[str, list[Tracer]]:
    """The form with lists of numbers or Ellipsis after each operand."""

    def term(items: Sequence[Any]) -> str:
        return "".join("..." if item is Ellipsis else chr(0x400 + int(item)) for item in items)

    count = len(operands) // 2
    terms = [*operands[1 : 2 * count : 2], *(operands[-1:] if len(operands) % 2 else ())]
    if not count or not all(isinstance(each, list | tuple) for each in terms):
        raise _wrong("einsum: no subscripts", "np.einsum('ij,jk->ik', x, y), for example")
    xs = [lift(operands[2 * i]) for i in range(count)]
    text = ",".join(term(operands[2 * i + 1]) for i in range(count))
    return (f"{text}->{term(operands[-1])}" if len(operands) % 2 else text), xs


def _labelled(value: Value, term: str) -> Labelled:
    """An operand with each label once: repeated labels are a diagonal."""
    while len(set(term)) != len(term):
        c = next(c for c in term if term.count(c) > 1)
        first = term.index(c)
        second = term.index(c, first + 1)
        sizes = value.shape[first], value.shape[second]
        if sizes[0] != sizes[1]:
            raise _wrong(f"einsum: the label {c!r} stands for {show(sizes[0])} and {show(sizes[1])}", _LABELS)
        rest = [i for i in range(value.rank) if i not in (first, second)]
        place = Iota(TensorType((sizes[0],), i64), 0)
        value = Gather(permute(value, (first, second, *rest)), (place, place), (0, 1), "promised", 0, True)
        term = c + "".join(term[i] for i in rest)
    return value, term


def _contracted(items: list[Labelled], output: str, kind: DType) -> Value:
    items = _without_ones(items)
    sizes: dict[str, Dim] = {}
    for value, term in items:
        for c, n in zip(term, value.shape, strict=True):
            if sizes.setdefault(c, n) != n:
                raise _wrong(f"einsum: the label {c!r} stands for {show(sizes[c])} and {show(n)}", _LABELS)
    for i, j in _path(items, output):
        x, y = items[i], items[j]
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        wanted = set(output).union(*(term for _, term in rest))
        items = [*rest, _pair(x, y, wanted)]
    ((value, term),) = items
    value, term = _summed((value, term), set(output))
    return permute(value, [term.index(c) for c in output])


def _without_ones(items: list[Labelled]) -> list[Labelled]:
    """A label that is 1 in one operand and more in another stretches: it is dropped where it is 1."""
    wide = {c for value, term in items for c, n in zip(term, value.shape, strict=True) if not _is_one(n)}
    found = []
    for value, term in items:
        kept = [i for i, (c, n) in enumerate(zip(term, value.shape, strict=True)) if not (_is_one(n) and c in wide)]
        found.append((reshape(value, tuple(value.shape[i] for i in kept)), "".join(term[i] for i in kept)))
    return found


def _path(items: list[Labelled], output: str) -> list[tuple[int, int]]:
    """Which pair to join next, as positions in the list at that time: NumPy's greedy order, names counted as 32."""
    if len(items) < 2:
        return []
    if len(items) == 2:
        return [(0, 1)]
    letters = {
        c: chr(ord("a") + i) if i < 26 else chr(ord("A") + i - 26)
        for i, c in enumerate(dict.fromkeys("".join(t for _, t in items)))
    }
    shapes = [tuple(32 if isinstance(n, SymbolicDim) else n for n in value.shape) for value, _ in items]
    text = ",".join("".join(letters[c] for c in term) for _, term in items) + "->" + "".join(letters[c] for c in output)
    fakes = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    steps = np.einsum_path(text, *fakes, optimize="greedy")[0][1:]
    # NumPy may join more than two at a step; they are then joined from the left, the sum standing last in the list.
    path: list[tuple[int, int]] = []
    count = len(items)
    for step in steps:
        order = sorted(step)
        here_ = order[0]
        for k, other in enumerate(order[1:]):
            path.append((here_, other - k) if k == 0 else (other - k - 1, count - 1))
            count -= 1
            here_ = count - 1
    return path


def _summed(item: Labelled, wanted: set[str]) -> Labelled:
    value, term = item
    axes = tuple(i for i, c in enumerate(term) if c not in wanted)
    if not axes:
        return item
    value = convert(Sum(convert(value, f32), axes), value.dtype) if value.dtype in FLOAT8 else Sum(value, axes)
    return value, "".join(c for c in term if c in wanted)


def _pair(x: Labelled, y: Labelled, wanted: set[str]) -> Labelled:
    """Two operands joined: labels nobody else wants are summed over."""
    x = _summed(x, wanted | set(y[1]))
    y = _summed(y, wanted | set(x[1]))
    (a, left), (b, right) = x, y
    shared = [c for c in left if c in right]
    for c in shared:
        if a.shape[left.index(c)] != b.shape[right.index(c)]:
            m, n = a.shape[left.index(c)], b.shape[right.index(c)]
            raise _wrong(f"einsum: the label {c!r} stands for {show(m)} and {show(n)}", _LABELS)
    batch = [c for c in shared if c in wanted]
    summed = [c for c in shared if c not in wanted]
    found = contract(
        a, b, [left.index(c) for c in batch], [right.index(c) for c in batch],
        [left.index(c) for c in summed], [right.index(c) for c in summed],
    )  # fmt: skip
    term = "".join(batch) + "".join(c for c in left if c not in shared) + "".join(c for c in right if c not in shared)
    return found, term


def einsum_path(*operands: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """NumPy's own, on arrays of these shapes."""

    def fake(x: Any) -> Any:
        if not isinstance(x, Tracer):
            return x
        return np.broadcast_to(np.zeros((), x.dtype), tuple(static_int(n, "a size") for n in x.shape))

    return np.einsum_path(*map(fake, operands), optimize=optimize)


def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Tracer:
    refuse_out(out, "multi_dot")
    xs = [lift(x) for x in arrays]
    if len(xs) < 2:
        raise InvalidValue(
            "Expecting at least two arrays.",
            code="TD0822",
            location=here(),
            edit="the array itself, where there is one",
        )
    if any(x.ndim != 2 for x in xs[1:-1]) or any(x.ndim not in (1, 2) for x in (xs[0], xs[-1])):
        raise _wrong(
            f"multi_dot: {', '.join(str(x.value.type) for x in xs)} are not all matrices",
            "matrices, and a vector at either end; x[i] of a stack, or td.vmap",
        )
    sizes = [product(x.shape) for x in xs]
    if len(xs) > 3 and any(isinstance(size, SymbolicDim) for size in sizes):
        found = xs[0]
        for x in xs[1:]:
            found = dot(found, x)
        return found
    return _chain(xs)


def _chain(xs: list[Tracer]) -> Tracer:
    """The order with the fewest multiplications."""
    if len(xs) == 2:
        return dot(*xs)
    ends = [1 if xs[0].ndim == 1 else xs[0].shape[0], *(x.shape[0] for x in xs[1:])]
    ends.append(1 if xs[-1].ndim == 1 else xs[-1].shape[1])
    numbers = [32 if isinstance(n, SymbolicDim) else n for n in ends]
    count = len(xs)
    cost: dict[tuple[int, int], tuple[int, int]] = {(i, i): (0, i) for i in range(count)}
    for length in range(2, count + 1):
        for i in range(count - length + 1):
            j = i + length - 1
            cost[i, j] = min(
                (cost[i, k][0] + cost[k + 1, j][0] + numbers[i] * numbers[k + 1] * numbers[j + 1], k)
                for k in range(i, j)
            )

    def build(i: int, j: int) -> Tracer:
        if i == j:
            return xs[i]
        k = cost[i, j][1]
        return dot(build(i, k), build(k + 1, j))

    return build(0, count - 1)


def matrix_power(a: Any, n: Any) -> Tracer:
    x = lift(a)
    power = static_int(n, "n")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise _wrong(
            f"matrix_power: the last two axes of {x.value.type} are not square", "** for powers of the elements"
        )
    if power == 0:
        from .creation import eye

        return wrap(broadcast(convert(unwrap(eye(x.shape[-1])), x.value.dtype), x.shape))
    if power < 0:
        from .solve import inv

        return matrix_power(inv(x), -power)
    found: Tracer | None = None
    square = x
    while power:
        if power & 1:
            found = square if found is None else matmul(found, square)
        power >>= 1
        if power:
            square = matmul(square, square)
    assert found is not None
    return found


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.cross: cross,
    np.dot: dot,
    np.einsum: einsum,
    np.einsum_path: einsum_path,
    np.inner: inner,
    np.kron: kron,
    np.linalg.cross: lambda x1, x2, /, *, axis=-1: cross(x1, x2, axis=axis),
    np.linalg.matmul: matmul,
    np.linalg.matrix_power: matrix_power,
    np.linalg.multi_dot: multi_dot,
    np.linalg.outer: lambda x1, x2, /: outer(x1, x2),
    np.linalg.tensordot: lambda x1, x2, /, *, axes=2: tensordot(x1, x2, axes),
    np.linalg.trace: lambda x, /, *, offset=0, dtype=None: trace(x, offset, -2, -1, dtype),
    np.linalg.vecdot: vecdot,
    np.outer: outer,
    np.tensordot: tensordot,
    np.trace: trace,
    np.vdot: vdot,
}
