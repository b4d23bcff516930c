"""Values and ops: immutable nodes, compared by identity, whose field schema gives printing, parsing and rebuilding.

An op is its own result. Fields annotated `Value` are operands, `Graph` are closed bodies, everything else is a plain
typed attribute. Only the ops that Python's operators spell live here (`x + y` must build `Add`, and `Add` is a
`Value`); everything else imports downward. `Value` never overloads `==` and `!=`, and has no truth value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, dataclass_transform

import numpy as np

from .classes import dataclass
from .dims import Dim
from .dtypes import ARITHMETIC, COMPLEX, FLOATS, NUMBERS, REALS, DType, bool_, i64, of
from .errors import InvalidValue, ShapeMismatch, TreadleError, TypeMismatch
from .location import Location, Origin, current_origin
from .loops.nodes import Binary, Const, Expr, Index, Select, Unary
from .structure import Structure, element, pointwise
from .types import Shape, TensorType, TupleType, Type

if TYPE_CHECKING:
    from .graph import Graph

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
FieldKind = Literal["operand", "operands", "body", "bodies", "attribute"]
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()
_E = TypeVar("_E", bound=TreadleError)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of an op; `annotation` is its type as written, by which the parser reads attributes."""

    name: str
    kind: FieldKind
    annotation: str
    default: Any = MISSING


_KINDS: Mapping[str, FieldKind] = {
    "Value": "operand",
    "tuple[Value, ...]": "operands",
    "Graph": "body",
    "tuple[Graph, ...]": "bodies",
}


def snake(name: str) -> str:
    """`BatchNorm` -> `batch_norm`: the name of an op in texts."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Kept(Generic[_T]):
    """A property that is computed once and from then on an attribute of its object, as `functools.cached_property` is,
    but without a lock: of two threads that compute it at once, either's tuple will do."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _T:
        found: _T = self.compute(instance)
        instance.__dict__[self.name] = found
        return found


@dataclass_transform(frozen_default=True, eq_default=False)
class Value:
    """Anything a graph computes. Subclasses are made dataclass-like: their annotated fields are their constructor.

    `type` is set when the value is built (never lazily); `location` is the user's line, `sequence` the number of the
    traced operation this value descends from.
    """

    name: ClassVar[str] = "value"
    schema: ClassVar[tuple[Field, ...]] = ()
    has_bodies: ClassVar[bool] = False
    __match_args__: ClassVar[tuple[str, ...]] = ()
    # Whether an execution may fail at run time; such an op is never hoisted, speculated or turned into a select.
    can_fail: ClassVar[bool] = False
    # The operands, by number, in which the op is linear. `joint` ops are linear in all of them together, as a sum is
    # (all tangents go in at once, zeros for absent ones); the others in each while the rest is held, as a product is.
    linear: ClassVar[tuple[int, ...]] = ()
    joint: ClassVar[bool] = False
    # Whether the derivative is zero wherever there is one: of what is constant in pieces, and of what yields integers
    # or bools. It is said, never assumed: an op that is neither flat nor has a derivative rule refuses to be derived.
    flat: ClassVar[bool] = False
    # Whether the value may be infinite where the operands are not; None: it is no sooner than an operand is. Beside
    # such factors a zero wins in derivatives, see `through`.
    unbounded: ClassVar[bool | None] = False

    if TYPE_CHECKING:
        type: Type = MISSING  # set by the constructor; declared so for the type checker alone
        origin: Origin
        location: Location | None = None
        sequence: int = 0

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or snake(cls.__name__)
        own = [
            Field(field, _KINDS.get(annotation, "attribute"), annotation, cls.__dict__.get(field, MISSING))
            for field, annotation in cls.__annotations__.items()
            if not annotation.startswith("ClassVar")
        ]
        inherited = [field for field in cls.schema if field.name not in {f.name for f in own}]
        cls.schema = (*inherited, *own)
        cls.has_bodies = any(field.kind in ("body", "bodies") for field in cls.schema)
        type.__setattr__(cls, "__match_args__", tuple(field.name for field in cls.schema))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self.__dict__
        schema = self.schema
        if len(args) > len(schema):
            raise TypeError(f"{self.name} takes {len(schema)} fields, {len(args)} were given")
        fields.update(zip(self.__match_args__, args))
        if len(args) < len(schema) or kwargs:
            for field in schema[len(args) :]:
                if field.name in kwargs:
                    fields[field.name] = kwargs.pop(field.name)
                elif field.default is not MISSING:
                    fields[field.name] = field.default
                else:
                    raise TypeError(f"{self.name}: field {field.name!r} is missing")
            if kwargs:
                raise TypeError(f"{self.name} has no field {next(iter(kwargs))!r}")
        origin = fields["origin"] = current_origin()
        fields["location"] = origin.location
        fields["sequence"] = origin.sequence
        fields["type"] = self.result()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self.name} is immutable; build a new one with replace()")

    def __bool__(self) -> bool:
        raise TypeError("a Value has no truth value; compare with `is`")

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in self.schema if f.kind == "attribute")
        return f"<{self.name}{' ' + shown if shown else ''} : {self.type}>"

    # What an op means. Families supply most of these; see the table in architecture, part 5.

    def result(self) -> Type:
        """The type of the result, or an error of ours at the user's line."""
        raise TypeError(f"{type(self).__name__} has no type rule")

    def evaluate(self, *operands: Any) -> Any:
        """The reference: operands and results are NumPy arrays (tuples of arrays for tuple types)."""
        raise TypeError(f"{type(self).__name__} has no reference")

    def structure(self) -> Structure | None:
        """Axes, reads, body and combine; None for irregular ops."""
        return None

    def failure(self) -> TreadleError:
        """The error that a run-time failure of this op raises; asked only of ops that `can_fail`."""
        raise TypeError(f"{type(self).__name__} cannot fail")

    def spared(self, wanted: Callable[[Shape], Value]) -> Value:
        """The same where `wanted(shape)`, a mask of any shape asked for, is true; where it is false nothing fails, and
        the result does not matter. Asked only of ops that `can_fail`."""
        raise TypeError(f"{type(self).__name__} cannot fail")

    # What every value can be asked.

    @property
    def tensor(self) -> TensorType:
        """The type, known to be a tensor's."""
        kind = self.type
        if isinstance(kind, TupleType):
            raise TypeMismatch(f"{self.name} yields a tuple; read one element with get", code="TD0110")
        return kind

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """The types of all results: the tuple's elements, or the one tensor."""
        kind = self.type
        return kind.elements if isinstance(kind, TupleType) else (kind,)

    @property
    def shape(self) -> Shape:
        kind = self.type
        return kind.shape if type(kind) is TensorType else self.tensor.shape

    @property
    def dtype(self) -> DType:
        kind = self.type
        return kind.dtype if type(kind) is TensorType else self.tensor.dtype

    @property
    def rank(self) -> int:
        return len(self.tensor.shape)

    # Every walk asks each value for its operands: they are put together once, and then an attribute like any other.
    @Kept
    def operands(self) -> tuple[Value, ...]:
        """All operands in field order, `tuple[Value, ...]` fields flattened."""
        found: list[Value] = []
        for field in self.schema:
            if field.kind == "operand":
                found.append(self.__dict__[field.name])
            elif field.kind == "operands":
                found.extend(self.__dict__[field.name])
        return tuple(found)

    @property
    def bodies(self) -> tuple[Graph, ...]:
        if not self.has_bodies:
            return ()
        found: list[Graph] = []
        for field in self.schema:
            if field.kind == "body":
                found.append(self.__dict__[field.name])
            elif field.kind == "bodies":
                found.extend(self.__dict__[field.name])
        return tuple(found)

    def attributes(self) -> tuple[tuple[str, Any], ...]:
        """(name, value) of the fields that are neither operands nor bodies."""
        return tuple([(f.name, self.__dict__[f.name]) for f in self.schema if f.kind == "attribute"])

    def with_operands(self, operands: tuple[Value, ...]) -> Self:
        """The same op on other operands (given flat, in the order of `operands`); itself when nothing changes."""
        mine = self.operands
        if len(operands) == len(mine):
            for a, b in zip(operands, mine, strict=True):
                if a is not b:
                    break
            else:
                return self
        rest = iter(operands)
        values: list[Any] = []
        for field in self.schema:
            old = self.__dict__[field.name]
            if field.kind == "operand":
                values.append(next(rest))
            elif field.kind == "operands":
                values.append(tuple(next(rest) for _ in old))
            else:
                values.append(old)
        return type(self)(*values)

    def refuse(self, message: str, *, code: str, error: Callable[..., _E], edit: str | None = None) -> _E:
        """An error of ours about this op, at the user's line: `raise self.refuse(...)`."""
        where = self.__dict__.get("location") or current_origin().location
        return error(f"{self.name}: {message}", code=code, location=where, edit=edit)

    # The arithmetic that Python's operators spell.

    def __add__(self, other: Operand) -> Value:
        return Add(self, lift(other, self))

    def __radd__(self, other: Scalar) -> Value:
        return Add(lift(other, self), self)

    def __sub__(self, other: Operand) -> Value:
        return Sub(self, lift(other, self))

    def __rsub__(self, other: Scalar) -> Value:
        return Sub(lift(other, self), self)

    def __mul__(self, other: Operand) -> Value:
        return Mul(self, lift(other, self))

    def __rmul__(self, other: Scalar) -> Value:
        return Mul(lift(other, self), self)

    def __truediv__(self, other: Operand) -> Value:
        return Div(self, lift(other, self))

    def __rtruediv__(self, other: Scalar) -> Value:
        return Div(lift(other, self), self)

    def __neg__(self) -> Value:
        return Neg(self)

    def __lt__(self, other: Operand) -> Value:
        return Lt(self, lift(other, self))

    def __le__(self, other: Operand) -> Value:
        return Le(self, lift(other, self))

    def __gt__(self, other: Operand) -> Value:
        return Gt(self, lift(other, self))

    def __ge__(self, other: Operand) -> Value:
        return Ge(self, lift(other, self))


Scalar = bool | int | float | complex
Operand = Value | Scalar


def lift(x: Operand, like: Value) -> Value:
    """A Python number as a constant of `like`'s type; values pass through."""
    return x if isinstance(x, Value) else Full(x, like.tensor)


def replace(op: Value, **changes: Any) -> Value:
    """The same op with some fields changed."""
    fields = {field.name: op.__dict__[field.name] for field in op.schema}
    unknown = changes.keys() - fields.keys()
    if unknown:
        raise TypeError(f"{op.name} has no field {sorted(unknown)[0]!r}")
    return type(op)(**(fields | changes))


def with_origin(op: Value, origin: Origin) -> Value:
    """Set where a value just built comes from. Only for values nobody else holds yet."""
    op.__dict__["origin"] = origin
    op.__dict__["location"] = origin.location
    op.__dict__["sequence"] = origin.sequence
    return op


class Parameter(Value):
    """What a graph is given. `label` is its name in texts."""

    label: str
    given: TensorType

    def result(self) -> Type:
        return self.given


class Full(Value):
    """Every element is `value`, a Python number that `dtype` can hold."""

    value: Scalar
    given: TensorType

    def result(self) -> Type:
        dtype = self.given.dtype
        kind = dtype.kind
        if kind == "complex":
            value: Scalar = complex(self.value)
        elif isinstance(self.value, complex):
            raise self.refuse(f"{self.value} is complex, {dtype} is not", code="TD0111", error=TypeMismatch)
        elif kind == "bool":
            value = bool(self.value)
        elif kind in ("int", "uint"):
            value = int(self.value)
            low, high = (0, 2**dtype.bits - 1) if kind == "uint" else _signed_range(dtype.bits)
            if not low <= value <= high or value != self.value:
                raise self.refuse(f"{self.value} does not fit {dtype}", code="TD0112", error=InvalidValue)
        else:
            value = float(dtype.numpy.type(self.value))
        self.__dict__["value"] = value
        return self.given

    def evaluate(self) -> Array:
        raise TypeError("the evaluator fills constants itself: the shape may hold names")

    def structure(self) -> Structure | None:
        return pointwise(self.shape, (), Const(self.value, self.dtype), self.dtype)


def _signed_range(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


class Constant(Value):
    """An array known at compile time, read-only and C-contiguous."""

    data: Array

    def result(self) -> Type:
        dtype = of(self.data.dtype)
        data = np.ascontiguousarray(self.data, dtype=dtype.numpy).reshape(self.data.shape)
        if data.flags.writeable:
            data = data.copy() if data is self.data or data.base is not None else data
            data.flags.writeable = False
        self.__dict__["data"] = data
        return TensorType(tuple(data.shape), dtype)

    def evaluate(self) -> Array:
        return self.data


class DimSize(Value):
    """A size, as an i64 scalar: what a symbolic extent becomes when it is computed with (the mean over `B`)."""

    dim: Dim

    def result(self) -> Type:
        return TensorType((), i64)

    def evaluate(self) -> Array:
        raise TypeError("the evaluator knows the sizes")

    def structure(self) -> Structure | None:
        return pointwise((), (), Index(self.dim), i64)


class Get(Value):
    """One element of a tuple."""

    x: Value
    index: int

    def result(self) -> Type:
        kind = self.x.type
        if not isinstance(kind, TupleType) or not 0 <= self.index < len(kind.elements):
            raise self.refuse(f"no element {self.index} in {kind}", code="TD0113", error=TypeMismatch)
        return kind.elements[self.index]

    def evaluate(self, x: tuple[Array, ...]) -> Array:
        return x[self.index]


class After(Value):
    """`x`, not computed before `dependencies`: the only way to state order in a graph."""

    x: Value
    dependencies: tuple[Value, ...]

    linear = (0,)
    unbounded = None

    def result(self) -> Type:
        return self.x.type

    def evaluate(self, x: Array, *dependencies: Array) -> Array:
        return x

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return cotangent if operand == 0 else None


class Elementwise(Value):
    """Maps: every operand and the result have one shape; the result at a position needs the operands there alone.

    Members write `evaluate` and `partials`; the scalar body is the loops function of the same name unless `scalar`
    is overridden. `accepts` lists the dtypes; all operands have the same one unless `result_dtype` says otherwise.
    """

    accepts: ClassVar[tuple[DType, ...]] = NUMBERS

    def result_dtype(self) -> DType:
        return self.operands[0].dtype

    def check_operands(self) -> None:
        """All operands agree in dtype and shape, and the dtype is accepted."""
        first, *rest = self.operands
        if first.dtype not in self.accepts:
            raise self.refuse(
                f"{first.dtype} is not accepted; it takes {', '.join(d.name for d in self.accepts)}",
                code="TD0114",
                error=TypeMismatch,
            )
        for other in rest:
            if other.dtype is not first.dtype:
                raise self.refuse(f"dtypes differ: {first.dtype} and {other.dtype}", code="TD0115", error=TypeMismatch)

    def result(self) -> Type:
        first, *rest = self.operands
        self.check_operands()
        for other in rest:
            if other.type is not first.type and other.shape != first.shape:
                raise self.refuse(f"shapes differ: {first.type} and {other.type}", code="TD0116", error=ShapeMismatch)
        dtype = self.result_dtype()
        return first.type if dtype is first.dtype else TensorType(first.shape, dtype)

    def scalar(self, *x: Expr) -> Expr:
        """The loop body on scalars."""
        return Unary(self.name, x[0]) if len(x) == 1 else Binary(self.name, x[0], x[1])

    def structure(self) -> Structure | None:
        dtypes = tuple(v.dtype for v in self.operands)
        body = self.scalar(*(element(i, dtype) for i, dtype in enumerate(dtypes)))
        return pointwise(self.shape, dtypes, body, self.dtype)

    def partials(self) -> tuple[Value | None, ...]:
        """d result / d operand for each operand, None where it is zero or not defined (integers, bool)."""
        if not self.flat:
            raise TypeError(f"{type(self).__name__} has no derivative rule")
        return tuple(None for _ in self.operands)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Value | None:
        """The tangent of the result, given those of the operands (None: zero)."""
        found: Value | None = None
        for partial, tangent in zip(self.partials(), tangents, strict=True):
            if partial is not None and tangent is not None:
                term = through(tangent, partial)
                found = term if found is None else found + term
        return found


def through(moved: Value, partial: Value) -> Value:
    """A tangent or cotangent times a partial derivative, which of sums and differences is 1 or -1.

    Where one of them may be infinite a zero wins: what is masked, and what does not move, has the derivative 0 also
    at the pole of a branch that is not taken.
    """
    if isinstance(partial, Full):
        if partial.value in (1, -1):
            return moved if partial.value == 1 else Neg(moved)
        return moved * partial
    return StrongMul(moved, partial) if may_be_infinite(moved) or may_be_infinite(partial) else moved * partial


def may_be_infinite(value: Value) -> bool:
    """Whether there is a pole or an overflow among the maps and moves that a value comes of; told once for each."""
    known = "_may_be_infinite"
    stack = [value]
    while stack:
        last = stack[-1]
        if known in last.__dict__:
            stack.pop()
            continue
        if last.unbounded is None:
            waiting = [operand for operand in last.operands if known not in operand.__dict__]
            if waiting:
                stack.extend(waiting)
                continue
            last.__dict__[known] = any(operand.__dict__[known] for operand in last.operands)
        else:
            last.__dict__[known] = last.unbounded
        stack.pop()
    found: bool = value.__dict__[known]
    return found


class BinaryElementwise(Elementwise):
    """A map of two operands. `commutes`: exchanged they give the same number."""

    x: Value
    y: Value

    commutes: ClassVar[bool] = False


class UnaryElementwise(Elementwise):
    """A map of one operand."""

    x: Value


class Add(BinaryElementwise):
    """Sum; integers wrap; `or` for bool."""

    accepts = ARITHMETIC
    unbounded = None
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.add(x, y)

    def scalar(self, *x: Expr) -> Expr:
        return Binary("or" if x[0].dtype is bool_ else "add", x[0], x[1])

    def partials(self) -> tuple[Value | None, ...]:
        one = lift(1, self)
        return (one, one)


class Sub(BinaryElementwise):
    """Difference; integers wrap."""

    unbounded = None

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.subtract(x, y)

    def partials(self) -> tuple[Value | None, ...]:
        return (lift(1, self), lift(-1, self))


class Mul(BinaryElementwise):
    """Product; integers wrap; `and` for bool."""

    accepts = ARITHMETIC
    unbounded = None
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.multiply(x, y)

    def scalar(self, *x: Expr) -> Expr:
        return Binary("and" if x[0].dtype is bool_ else "mul", x[0], x[1])

    def partials(self) -> tuple[Value | None, ...]:
        return (self.y, self.x)


class StrongMul(BinaryElementwise):
    """Product, but 0 instead of NaN where a factor is 0: how tangents meet derivatives that have poles (the strong
    zero of automatic differentiation)."""

    accepts = FLOATS + COMPLEX
    linear = (0, 1)
    unbounded = None

    def evaluate(self, x: Array, y: Array) -> Array:
        product = np.multiply(x, y)
        return np.where(((x == 0) | (y == 0)) & np.isnan(product), np.zeros_like(product), product)

    def scalar(self, *x: Expr) -> Expr:
        product = Binary("mul", x[0], x[1])
        parts: tuple[Expr, ...] = (product,)
        zero = Const(0.0, x[0].dtype)
        if product.dtype.kind == "complex":
            zero, parts = Const(0j, x[0].dtype), (Unary("real", product), Unary("imag", product))
        undefined: Expr = Unary("isnan", parts[0])
        for part in parts[1:]:
            undefined = Binary("or", undefined, Unary("isnan", part))
        none = Binary("or", Binary("eq", x[0], zero), Binary("eq", x[1], zero))
        return Select(Binary("and", none, undefined), zero, product)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return StrongMul(cotangent, self.y if operand == 0 else self.x)


class Div(BinaryElementwise):
    """True division of inexact numbers."""

    @property
    def unbounded(self) -> bool | None:  # type: ignore[override]  # not by a number
        return None if isinstance(self.y, Full) else True

    accepts = FLOATS + COMPLEX

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.divide(x, y)

    def partials(self) -> tuple[Value | None, ...]:
        return (1 / self.y, -self / self.y)


class Neg(UnaryElementwise):
    """Negation; integers wrap."""

    unbounded = None

    def evaluate(self, x: Array) -> Array:
        return np.negative(x)

    def partials(self) -> tuple[Value | None, ...]:
        return (lift(-1, self),)


class Comparison(BinaryElementwise):
    """A map to bool. Comparisons with NaN are false, except `ne`."""

    flat = True
    accepts = (bool_, *REALS)

    def result_dtype(self) -> DType:
        return bool_


class Lt(Comparison):
    """Whether x is less than y."""

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.less(x, y)


class Le(Comparison):
    """Whether x is at most y."""

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.less_equal(x, y)


class Gt(Comparison):
    """Whether x is greater than y."""

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.greater(x, y)


class Ge(Comparison):
    """Whether x is at least y."""

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.greater_equal(x, y)
