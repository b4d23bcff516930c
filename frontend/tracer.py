"""The traced array: what a function being traced computes with, and what may and may not be asked of it.

It answers NumPy's own protocols, so plain NumPy code builds a graph. What needs the numbers themselves (`if`,
`float()`, an index of a concrete array) is refused at the user's line with the edit that keeps it in the graph. Python
numbers stay weak in promotion, as NumPy has it; that weakness lives here and never in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Final, NoReturn

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import Dim, DimName, SymbolicDim
from ..ir.dtypes import DType
from ..ir.errors import InvalidValue, TreadleError, TypeMismatch, UnknownName, Unsupported
from ..ir.graph import Graph
from ..ir.location import Location, Origin, at
from ..ir.types import Shape, TensorType
from ..ir.value import Parameter, Value
from ..passes.remat import Told, told
from . import edits, randomness, tree
from .sizes import plain, read
from .trace import Captured, LeafSpec, Trace, Weak, closed, current, here, leaked, operation
from .tree import TreeDef
from .userline import definition, doing, ours, trimmed

_NO_VALUE: Final[Any] = np._NoValue  # how NumPy spells an argument that was not given


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    from .functions import call

    return call(function, args, kwargs)


def _operator(ufunc: np.ufunc, *operands: Any) -> Any:
    from .functions import apply_operator

    return apply_operator(ufunc, operands)


def _in_place(ufunc: np.ufunc, x: Any, y: Any) -> Any:
    from .functions import apply_in_place

    return apply_in_place(ufunc, x, y)


class Tracer:
    """A traced array. `value` is what the graph computes, `weak` the kind of Python number it stands for, if it
    does."""

    __slots__ = ("__weakref__", "owner", "value", "weak")
    __array_priority__ = 1000.0

    def __init__(self, value: Value, owner: Trace | None, weak: Weak | None = None) -> None:
        self.value = value
        self.owner = owner
        self.weak = weak

    # What is known while tracing.

    @property
    def tensor(self) -> TensorType:
        return self.value.tensor

    @property
    def shape(self) -> Shape:
        return read(self.value.shape)  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype.numpy

    @property
    def ndim(self) -> int:
        return self.value.rank

    @property
    def size(self) -> Dim:
        return read((self.value.tensor.size,))[0]  # type: ignore[no-any-return]

    @property
    def itemsize(self) -> int:
        return self.value.dtype.bytes

    @property
    def nbytes(self) -> Dim:
        return read((self.value.tensor.bytes,))[0]  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        return "cpu"

    def __repr__(self) -> str:
        made = f" from {self.value.location}" if self.value.location is not None else ""
        return f"<traced {self.value.type}{made}>"

    def __format__(self, spec: str) -> str:
        if spec:
            raise self._refuse("formatted with " + repr(spec), "TD0802", "print it after the call, or print its .shape")
        return repr(self)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeMismatch("len() of a traced scalar", code="TD0804", location=here(), edit="use x.size")
        size = self.shape[0]
        if isinstance(size, SymbolicDim):
            raise self._refuse(
                f"asked for its length {size} as an integer", "TD0804", "use x.shape[0], which may be a name"
            )
        return size

    # NumPy's protocols.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .functions import call_ufunc

        return call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _call(function, *args, **kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        from . import numpy as namespace

        return namespace

    # What needs the numbers, refused.

    def _refuse(self, what: str, code: str, edit: str, kind: type[TreadleError] = TypeMismatch) -> TreadleError:
        if self.owner is not None and not self.owner.live:
            return leaked(self.value)
        refusal = kind(
            f"a traced {self.value.type} is not known while tracing and was {what}",
            code=code,
            location=here(),
            edit=edit,
        )
        trace = current()
        if trace is not None:
            trace.session.refused = refusal
        return refusal

    def __bool__(self) -> bool:
        raise self._refuse("asked whether it is true", "TD0801", edits.for_truth())

    def __float__(self) -> float:
        raise self._number("float")

    def __int__(self) -> int:
        raise self._number("int")

    def __complex__(self) -> complex:
        raise self._number("complex")

    def __trunc__(self) -> int:
        raise self._number("int")

    def _number(self, kind: str) -> TreadleError:
        if doing() == "store":
            return self._stored()
        return self._refuse(f"asked for a Python {kind}", "TD0802", edits.for_number(kind))

    def _stored(self) -> TreadleError:
        return self._refuse("stored into a concrete array", "TD0806", edits.STORED)

    def __index__(self) -> int:
        raise self._refuse("asked for a Python integer", "TD0803", edits.for_integer())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        if doing() == "store":
            raise self._stored()
        what, edit = edits.for_elements()
        raise self._refuse(what, "TD0800", edit)

    def __dlpack__(self, **kwargs: Any) -> NoReturn:
        raise self._refuse(
            "asked for its memory (DLPack)", "TD0815", "return it, and export what the compiled function gives"
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __reduce__(self) -> NoReturn:
        raise self._refuse("pickled", "TD0815", "return it, and pickle what the compiled function gives")

    def __copy__(self) -> Tracer:
        return self

    def __deepcopy__(self, memo: Any) -> Tracer:
        return self

    def __hash__(self) -> int:
        raise self._refuse(
            "hashed", "TD0814", "key on something known while tracing: a static argument, a shape, a name"
        )

    def __iter__(self) -> Iterator[Tracer]:
        if self.ndim == 0:
            raise TypeMismatch(
                "a traced scalar cannot be iterated over", code="TD0804", location=here(), edit="x[None] has one axis"
            )
        size = self.shape[0]
        if isinstance(size, SymbolicDim):
            raise self._refuse(
                f"iterated over, and its length {size} is not a number",
                "TD0804",
                "td.lax.scan or td.lax.map over the leading axis",
            )
        return (self[i] for i in range(size))

    def __contains__(self, item: Any) -> bool:
        raise self._refuse("searched with `in`", "TD0801", "(x == item).any() is a traced bool")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise self._refuse("assigned to in part", "TD0805", "x = x.at[i].set(v) instead of x[i] = v")

    def __delitem__(self, index: Any) -> None:
        raise self._refuse("deleted in part", "TD0805", "x = np.delete(x, i)")

    def item(self, *args: Any) -> NoReturn:
        edit = "leave out .item(): a traced scalar computes as it is"
        raise self._refuse("asked for a Python number by .item()", "TD0802", edit)

    def tolist(self) -> NoReturn:
        raise self._refuse("asked for a list", "TD0800", "iterate over it, or return it")

    tobytes = tofile = dump = dumps = tolist

    # Operators.

    def __add__(self, other: Any) -> Any:
        return _operator(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _operator(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _operator(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _operator(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return _operator(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _operator(np.multiply, other, self)

    def __truediv__(self, other: Any) -> Any:
        return _operator(np.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _operator(np.true_divide, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _operator(np.floor_divide, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _operator(np.floor_divide, other, self)

    def __mod__(self, other: Any) -> Any:
        return _operator(np.remainder, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _operator(np.remainder, other, self)

    def __divmod__(self, other: Any) -> Any:
        return _operator(np.divmod, self, other)

    def __rdivmod__(self, other: Any) -> Any:
        return _operator(np.divmod, other, self)

    def __pow__(self, other: Any) -> Any:
        return _operator(np.power, self, other)

    def __rpow__(self, other: Any) -> Any:
        return _operator(np.power, other, self)

    def __matmul__(self, other: Any) -> Any:
        return _operator(np.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _operator(np.matmul, other, self)

    def __and__(self, other: Any) -> Any:
        return _operator(np.bitwise_and, self, other)

    def __rand__(self, other: Any) -> Any:
        return _operator(np.bitwise_and, other, self)

    def __or__(self, other: Any) -> Any:
        return _operator(np.bitwise_or, self, other)

    def __ror__(self, other: Any) -> Any:
        return _operator(np.bitwise_or, other, self)

    def __xor__(self, other: Any) -> Any:
        return _operator(np.bitwise_xor, self, other)

    def __rxor__(self, other: Any) -> Any:
        return _operator(np.bitwise_xor, other, self)

    def __lshift__(self, other: Any) -> Any:
        return _operator(np.left_shift, self, other)

    def __rlshift__(self, other: Any) -> Any:
        return _operator(np.left_shift, other, self)

    def __rshift__(self, other: Any) -> Any:
        return _operator(np.right_shift, self, other)

    def __rrshift__(self, other: Any) -> Any:
        return _operator(np.right_shift, other, self)

    def __neg__(self) -> Any:
        return _operator(np.negative, self)

    def __pos__(self) -> Any:
        return _operator(np.positive, self)

    def __abs__(self) -> Any:
        return _operator(np.absolute, self)

    def __invert__(self) -> Any:
        return _operator(np.invert, self)

    def __eq__(self, other: object) -> Any:
        return _operator(np.equal, self, other)

    def __ne__(self, other: object) -> Any:
        return _operator(np.not_equal, self, other)

    def __lt__(self, other: Any) -> Any:
        return _operator(np.less, self, other)

    def __le__(self, other: Any) -> Any:
        return _operator(np.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return _operator(np.greater, self, other)

    def __ge__(self, other: Any) -> Any:
        return _operator(np.greater_equal, self, other)

    def __round__(self, digits: int | None = None) -> Any:
        return _call(np.round, self, 0 if digits is None else digits)

    # In place: the name is bound to a new value of the old dtype; nothing is written.

    def __iadd__(self, other: Any) -> Any:
        return _in_place(np.add, self, other)

    def __isub__(self, other: Any) -> Any:
        return _in_place(np.subtract, self, other)

    def __imul__(self, other: Any) -> Any:
        return _in_place(np.multiply, self, other)

    def __itruediv__(self, other: Any) -> Any:
        return _in_place(np.true_divide, self, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return _in_place(np.floor_divide, self, other)

    def __imod__(self, other: Any) -> Any:
        return _in_place(np.remainder, self, other)

    def __ipow__(self, other: Any) -> Any:
        return _in_place(np.power, self, other)

    def __imatmul__(self, other: Any) -> Any:
        return _in_place(np.matmul, self, other)

    def __iand__(self, other: Any) -> Any:
        return _in_place(np.bitwise_and, self, other)

    def __ior__(self, other: Any) -> Any:
        return _in_place(np.bitwise_or, self, other)

    def __ixor__(self, other: Any) -> Any:
        return _in_place(np.bitwise_xor, self, other)

    def __ilshift__(self, other: Any) -> Any:
        return _in_place(np.left_shift, self, other)

    def __irshift__(self, other: Any) -> Any:
        return _in_place(np.right_shift, self, other)

    # Elements.

    def __getitem__(self, index: Any) -> Any:
        from .indexing import getitem

        with operation():
            return getitem(self, plain(index))

    @property
    def at(self) -> Any:
        """`x.at[i].set(v)`, `.add`, `.multiply`, `.min`, `.max`, `.get`: a new array with some elements changed."""
        from .indexing import At

        return At(self)

    # The methods of ndarray.

    def astype(
        self, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True
    ) -> Tracer:
        from .functions.creation import astype

        with operation():
            return astype(self, dtype, casting=casting)

    def view(self, dtype: Any = None, type: Any = None) -> Tracer:
        from .functions.creation import view

        with operation():
            return view(self, dtype)

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Any:
        return _call(np.reshape, self, shape[0] if len(shape) == 1 else shape, order)

    def transpose(self, *axes: Any) -> Any:
        given = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)) else axes or None
        return _call(np.transpose, self, given)

    @property
    def T(self) -> Any:
        return _call(np.transpose, self)

    @property
    def mT(self) -> Any:
        return _call(np.matrix_transpose, self)

    @property
    def real(self) -> Any:
        return _call(np.real, self)

    @property
    def imag(self) -> Any:
        return _call(np.imag, self)

    @property
    def flat(self) -> Any:
        return _call(np.ravel, self)

    def flatten(self, order: str = "C") -> Any:
        return _call(np.ravel, self, order)

    def ravel(self, order: str = "C") -> Any:
        return _call(np.ravel, self, order)

    def squeeze(self, axis: Any = None) -> Any:
        return _call(np.squeeze, self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        return _call(np.swapaxes, self, axis1, axis2)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
        return _call(np.diagonal, self, offset, axis1, axis2)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Any:
        return _call(np.trace, self, offset, axis1, axis2, dtype, out)

    def repeat(self, repeats: Any, axis: int | None = None) -> Any:
        return _call(np.repeat, self, repeats, axis)

    def copy(self, order: str = "C") -> Tracer:
        return self

    def conj(self) -> Any:
        return _operator(np.conjugate, self)

    conjugate = conj

    def sum(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, initial: Any = _NO_VALUE,
        where: Any = _NO_VALUE,
    ) -> Any:  # fmt: skip
        return _call(np.sum, self, axis, dtype, out, keepdims, initial, where)

    def prod(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, initial: Any = _NO_VALUE,
        where: Any = _NO_VALUE,
    ) -> Any:  # fmt: skip
        return _call(np.prod, self, axis, dtype, out, keepdims, initial, where)

    def max(
        self,
        axis: Any = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NO_VALUE,
        where: Any = _NO_VALUE,
    ) -> Any:
        return _call(np.max, self, axis, out, keepdims, initial, where)

    def min(
        self,
        axis: Any = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NO_VALUE,
        where: Any = _NO_VALUE,
    ) -> Any:
        return _call(np.min, self, axis, out, keepdims, initial, where)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = _NO_VALUE) -> Any:
        return _call(np.all, self, axis, out, keepdims, where=where)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = _NO_VALUE) -> Any:
        return _call(np.any, self, axis, out, keepdims, where=where)

    def mean(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = _NO_VALUE
    ) -> Any:
        return _call(np.mean, self, axis, dtype, out, keepdims, where=where)

    def var(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
        where: Any = _NO_VALUE, mean: Any = _NO_VALUE, correction: Any = _NO_VALUE,
    ) -> Any:  # fmt: skip
        return _call(np.var, self, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction)

    def std(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
        where: Any = _NO_VALUE, mean: Any = _NO_VALUE, correction: Any = _NO_VALUE,
    ) -> Any:  # fmt: skip
        return _call(np.std, self, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction)

    def ptp(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _call(np.ptp, self, axis, out, keepdims)

    def argmax(self, axis: int | None = None, out: Any = None, *, keepdims: bool = False) -> Any:
        return _call(np.argmax, self, axis, out, keepdims=keepdims)

    def argmin(self, axis: int | None = None, out: Any = None, *, keepdims: bool = False) -> Any:
        return _call(np.argmin, self, axis, out, keepdims=keepdims)

    def cumsum(self, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
        return _call(np.cumsum, self, axis, dtype, out)

    def cumprod(self, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
        return _call(np.cumprod, self, axis, dtype, out)

    def round(self, decimals: int = 0, out: Any = None) -> Any:
        return _call(np.round, self, decimals, out)

    def clip(self, min: Any = None, max: Any = None, out: Any = None, **kwargs: Any) -> Any:
        return _call(np.clip, self, min, max, out, **kwargs)

    def dot(self, b: Any, out: Any = None) -> Any:
        return _call(np.dot, self, b, out)

    def argsort(self, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: bool | None = None) -> Any:
        return _call(np.argsort, self, axis, kind, order, stable=stable)

    def argpartition(self, kth: Any, axis: int | None = -1, kind: str = "introselect", order: Any = None) -> Any:
        return _call(np.argpartition, self, kth, axis, kind, order)

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> Any:
        return _call(np.searchsorted, self, v, side, sorter)

    def take(self, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Any:
        return _call(np.take, self, indices, axis, out, mode)

    def choose(self, choices: Any, out: Any = None, mode: str = "raise") -> Any:
        return _call(np.choose, self, choices, out, mode)

    def compress(self, condition: Any, axis: int | None = None, out: Any = None) -> Any:
        return _call(np.compress, condition, self, axis, out)

    def nonzero(self) -> Any:
        return _call(np.nonzero, self)

    def _changes_itself(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._refuse(
            "changed in place",
            "TD0805",
            "bind a new array: x = np.sort(x), x = np.full_like(x, v), x = x.at[i].set(v), x = np.partition(x, k)",
        )

    sort = partition = fill = put = itemset = resize = byteswap = setflags = setfield = _changes_itself

    def __getattr__(self, name: str) -> Any:
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            raise TypeMismatch(
                f"a traced array has no {name}: it has no memory of its own",
                code="TD0815",
                location=here(),
                edit="read it outside of the jitted function",
            )
        if name.startswith("__"):
            raise AttributeError(f"a traced array has no attribute {name!r}")
        raise UnknownName(
            f"a traced array has no attribute {name!r}",
            code="TD0825",
            location=here(),
            edit="use a NumPy function of the array",
        )


@dataclass(frozen=True)
class Traced:
    """A function as a graph. `outer` are values of enclosing traces: the graph's first parameters stand for them."""

    graph: Graph
    out_tree: TreeDef
    out_weak: tuple[Weak | None, ...]
    captured: tuple[Captured, ...]
    outer: tuple[Value, ...] = ()
    choices: tuple[Told, ...] = ()

    @property
    def out_types(self) -> tuple[TensorType, ...]:
        return self.graph.result_types


def unwrap(x: Tracer) -> Value:
    """The value of a traced array; TD0807 when its trace has ended."""
    if x.owner is not None and not x.owner.live:
        raise leaked(x.value)
    return x.value


def wrap(value: Value, weak: Weak | None = None) -> Tracer:
    """A value of the running trace as a traced array."""
    return Tracer(value, current(), weak)


Build = Callable[[list[Tracer]], tuple[Sequence[Any], dict[str, Any]]]


def trace_to_graph(
    fn: Callable[..., Any], specs: Sequence[LeafSpec], rebuild: Build, name: str, dims: tuple[DimName, ...] = ()
) -> Traced:
    """Run `fn` on traced arrays of these types. `rebuild` puts the leaves into `fn`'s arguments."""
    outermost = current() is None
    before = randomness.snapshot() if outermost else None
    try:
        traced = _trace(fn, specs, rebuild, name, dims)
    except TreadleError as error:
        raise trimmed(error) from None
    except Exception as error:
        found = ours(error)
        if found is None:
            raise
        raise trimmed(found) from None
    if outermost and before is None and randomness.snapshot() is not None:
        # The module was loaded on the way: only now can it be said whether its generators have seeds.
        return trace_to_graph(fn, specs, rebuild, name, dims)
    if outermost and randomness.changed(before):
        where = randomness.locate(lambda: _trace(fn, specs, rebuild, name, dims), before)
        raise Unsupported(
            "numpy.random was used inside a traced function: its numbers would be drawn once and then be constants",
            code="TD0809",
            location=where,
            edit="draw before the call and pass the numbers in, or use td.random with a key",
        )
    return traced


def trace_inner(
    fn: Callable[..., Any], types: Sequence[TensorType | LeafSpec], name: str, labels: Sequence[str] = ()
) -> Traced:
    """Trace a function of flat traced arrays, as transforms and control flow need their bodies: a closed graph, whose
    first parameters are the values of enclosing traces that it uses (`outer`)."""
    specs = [
        each if isinstance(each, LeafSpec) else LeafSpec("array", each, labels[i] if i < len(labels) else f"p{i}")
        for i, each in enumerate(types)
    ]
    return _trace(fn, specs, lambda tracers: (tracers, {}), name, ())


def _trace(
    fn: Callable[..., Any], specs: Sequence[LeafSpec], rebuild: Build, name: str, dims: tuple[DimName, ...]
) -> Traced:
    from .arrays import lift

    begin = definition(fn)
    name = name if name.isidentifier() else "function"  # a lambda's name is none in texts
    with Trace(name) as trace:
        trace.session.dims.update((dim.name, dim) for dim in dims)
        with at(Origin(begin, trace.session.sequence)):
            trace.params = tuple(Parameter(spec.path, spec.type) for spec in specs)
        tracers = [Tracer(p, trace, spec.weak) for p, spec in zip(trace.params, specs, strict=True)]
        args, kwargs = rebuild(tracers)
        try:
            with told(trace.session.choices):
                out = fn(*args, **kwargs)
        except Exception as error:
            refused = trace.session.behind(error)
            if refused is None:
                raise
            raise refused from None
        leaves, out_tree = tree.flatten(out, is_static=_returned_as_it_is)
        results: list[Tracer] = []
        with at(Origin(begin, trace.session.sequence + 1)):
            for leaf, path in zip(leaves, out_tree.paths("result"), strict=True):
                try:
                    results.append(lift(leaf))
                except TreadleError as error:
                    if error.code == "TD0807":
                        raise
                    raise _not_an_array(leaf, path, name, begin) from None
            values = [unwrap(result) for result in results]
            graph, outer = closed(name, trace.params, values, trace, dims)
        if trace.parent is None and any(value.has_bodies for value in graph.ops):
            from ..passes.autodiff_custom import without_rules

            graph = without_rules(graph)
        captured, choices = tuple(trace.session.captured), tuple(trace.session.choices)
    return Traced(graph, out_tree, tuple(result.weak for result in results), captured, outer, choices)


def _returned_as_it_is(leaf: Any) -> bool:
    """What is no data and holds none: it stands in the result's structure."""
    return isinstance(leaf, str | bytes | type | Enum | np.dtype | DType)


def _not_an_array(leaf: Any, path: str, name: str, where: Location | None) -> TypeMismatch:
    return TypeMismatch(
        f"{name}: {path} is a {type(leaf).__name__}, which is neither an array nor a number nor a container of them",
        code="TD0808",
        location=where,
        edit="return arrays, numbers, texts, None, and dicts, lists, tuples or registered containers of them",
    )


def dtype_of(x: Any) -> DType:
    """The dtype of a traced array."""
    return unwrap(x).dtype


__all__ = [
    "InvalidValue", "LeafSpec", "Traced", "Tracer", "dtype_of", "trace_inner", "trace_to_graph", "unwrap", "wrap",
]  # fmt: skip
