"""What the arguments of a call are: whose parameter each is, which steer the trace, and what the rest is made of.

A call is bound to the function's own signature, so defaults stay the function's. What is static (bool, str, None,
enums, dtypes, callables, and whatever was declared so) becomes part of the key, also inside containers; everything else
is opened into leaves, each described by its type. Every refusal names the argument by its path (`params['w'][0]`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import Dim, DimName, SymbolicDim, names, parse
from ..ir.dtypes import DType, of
from ..ir.errors import InvalidValue, TypeMismatch, Unsupported
from ..ir.types import TensorType
from ..runtime.borrow import from_dlpack
from . import tree
from .sizes import Size
from .trace import LeafSpec
from .tracer import Tracer, unwrap
from .tree import Static, TreeDef
from .userline import spoken, unknown_name

if TYPE_CHECKING:
    from .jit import State

# Argument types that are static unless said otherwise: they steer the trace, they are not data.
_STATIC = (bool, str, bytes, type, Enum, np.dtype, DType, slice)
_WEAK = {int: "int", float: "float", complex: "complex"}
_WEAK_TYPES = {"int": "i64", "float": "f64", "complex": "c128"}


class ShapeDtype:
    """Stands for an array where only its type matters. Shape entries are ints or names (`"B"`, `"2*B + 1"`)."""

    __slots__ = ("dtype", "shape")

    @spoken
    def __init__(self, shape: Sequence[int | str | SymbolicDim], dtype: Any) -> None:
        given = (shape,) if isinstance(shape, int | str | SymbolicDim | Size) else shape
        self.shape: tuple[Dim, ...] = tuple(map(_extent, given))
        self.dtype = of(dtype)

    @property
    def type(self) -> TensorType:
        return TensorType(self.shape, self.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeDtype) and (self.shape, self.dtype) == (other.shape, other.dtype)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"ShapeDtype({self.type})"


def _extent(size: Any) -> Dim:
    if isinstance(size, str):
        return parse(size)
    if isinstance(size, Size):
        return size.dim
    if isinstance(size, SymbolicDim):
        return size
    try:
        number = int(size.__index__())
    except AttributeError:
        raise TypeMismatch(
            f"a size is an int or a name, not a {type(size).__name__}", code="TD0625", edit='("B", 784), for example'
        ) from None
    if number < 0:
        raise InvalidValue(f"a size of {number}", code="TD0625", edit="0 or more elements, or a name")
    return number


@dataclass(frozen=True, slots=True)
class Key:
    """What decides which compiled program a call needs. `constants` are the digests of `constant_argnames`."""

    structure: TreeDef
    leaves: tuple[tuple[str, TensorType], ...]
    static: tuple[tuple[str, Static], ...]
    constants: tuple[tuple[str, TreeDef, bytes], ...] = ()


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])


def bind_call(state: State, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name. What was not given is left to the function's own default."""
    free = [p for p in state.signature.parameters.values() if p.name not in state.bound]
    try:
        given = state.signature.replace(parameters=free).bind(*args, **kwargs)
    except TypeError as error:
        known = [p.name for p in free]
        wrong = [name for name in kwargs if name not in known]
        if wrong and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in free):
            raise unknown_name(f"argument of {state.name}", wrong[0], known, TypeMismatch) from None
        raise TypeMismatch(f"{state.name}: {error}", code="TD0620", edit=f"it takes {spelt(free)}") from None
    return dict(given.arguments)


def spelt(parameters: Sequence[inspect.Parameter]) -> str:
    """`(x, *, scale=2.0)`: the parameters that are still free, which need not be a whole signature."""
    return str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters], __validate_parameters__=False))


def call_of(state: State, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the function for these values by parameter name."""
    ordered = {name: values[name] for name in state.signature.parameters if name in values}
    call = inspect.BoundArguments(state.signature, ordered)
    return call.args, call.kwargs


def split(state: State, arguments: Mapping[str, Any]) -> tuple[Key, list[Any], list[LeafSpec]]:
    """The cache key of a call, its dynamic leaves, and their specs."""
    settings = state.settings
    static: list[tuple[str, Static]] = []
    constants: list[tuple[str, TreeDef, bytes]] = []
    leaves: list[Any] = []
    labels: list[str] = []
    children = []
    specs: list[LeafSpec] = []
    for name, value in arguments.items():
        if name in settings.static or (name not in settings.donate and is_static(value)):
            static.append((name, _hashable(state, name, value)))
            continue
        if name in settings.constant:
            constants.append((name, *content(value, name, state.name)))
            continue
        found, structure = flatten(value, name)
        labels.append(name)
        children.append(structure)
        for path, leaf in zip(structure.paths(name), found, strict=True):
            specs.append(leaf_spec(leaf, path, state.name))
        for each in structure.statics:
            _hashable(state, name, each.value)
        leaves += found
    whole = TreeDef("dict", tuple(labels), tuple(children))
    key = Key(whole, tuple((spec.kind, spec.type) for spec in specs), tuple(static), tuple(constants))
    return key, leaves, specs


def flatten(value: Any, name: str) -> tuple[list[Any], TreeDef]:
    """The dynamic leaves of one argument; what is static in it is part of the structure."""
    try:
        return tree.flatten(value, lambda x: isinstance(x, ShapeDtype), is_static)
    except RecursionError:
        raise TypeMismatch(
            f"{name} contains itself, or nests deeper than Python can follow",
            code="TD0622",
            edit="pass a container without cycles",
        ) from None


def is_static(value: Any) -> bool:
    return isinstance(value, _STATIC) or (
        callable(value) and not hasattr(value, "__array__") and not tree.is_node(value)
    )


def _hashable(state: State, name: str, value: Any) -> Static:
    static = Static(value)
    try:
        hash(static)
    except TypeError:
        raise TypeMismatch(
            f"{state.name}: static argument {name} of type {type(value).__name__} is not hashable",
            code="TD0621",
            edit=_hashable_instead(value, name),
        ) from None
    return static


def _hashable_instead(value: Any, name: str) -> str:
    """What to pass as a static argument instead."""
    if hasattr(value, "__array__"):
        return f"leave {name} out of the static arguments: arrays are traced"
    match value:
        case list():
            return f"pass a tuple instead of a list, or leave {name} out of the static arguments"
        case dict():
            return f"pass tuple({name}.items()), or leave {name} out of the static arguments"
        case set():
            return f"pass frozenset({name})"
        case tuple() | frozenset():
            return "tuples instead of the lists inside"
    return f"give {type(value).__name__} a __hash__, as @dataclass(frozen=True) does, with hashable fields"


def leaf_spec(leaf: Any, path: str, function: str) -> LeafSpec:
    """What the trace must know of one leaf. TD0622 for what is no number, array or container."""
    kind = type(leaf)
    if kind is np.ndarray:
        return LeafSpec("array", _type_of(leaf, path, function), path)
    if kind is ShapeDtype:
        return LeafSpec("array", leaf.type, path)
    if kind in _WEAK:
        weak = _WEAK[kind]
        return LeafSpec(weak, TensorType((), of(_WEAK_TYPES[weak])), path)
    if kind is Tracer:
        unwrap(leaf)  # it is of no running trace: that is said
    if isinstance(leaf, bool):  # only where it is donated, hence data
        return LeafSpec("array", TensorType((), of("bool")), path)
    if isinstance(leaf, np.ma.MaskedArray | np.matrix):
        raise Unsupported(
            f"{function}: {path} is a {kind.__name__}, whose meaning would be lost",
            code="TD0820",
            edit="pass a plain array: np.asarray(x), x.filled(v)",
        )
    if isinstance(leaf, np.generic | np.ndarray):
        return LeafSpec("array", _type_of(leaf, path, function), path)
    if hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array_interface__") or hasattr(leaf, "__array__"):
        return LeafSpec("array", _type_of(as_numpy(leaf, path, function), path, function), path)
    root = path.split("[")[0].split(".")[0]
    raise TypeMismatch(
        f"{function}: {path} is of type {kind.__name__}, which is neither a number, an array nor a container of them",
        code="TD0622",
        edit=f"make it static: td.jit(static_argnames={root!r}), or register its type with td.tree.register",
    )


def _type_of(array: Any, path: str, function: str) -> TensorType:
    try:
        return TensorType(array.shape, of(array.dtype))
    except Unsupported as error:
        ragged = array.dtype == object and any(isinstance(x, np.ndarray | list | tuple) for x in array.flat)
        raise Unsupported(
            f"{function}: {path} is an array of {array.dtype}, which is not supported"
            + (": its rows differ in length" if ragged else ""),
            code=error.code,
            edit="pad the rows to one length, or pass them as a list of arrays" if ragged else error.edit,
        ) from None


def as_numpy(leaf: Any, path: str, function: str) -> np.ndarray[Any, Any]:
    """A NumPy view of an array of another library, without a copy where DLPack allows."""
    import ml_dtypes  # noqa: F401  # NumPy then knows the types by name that others may lend

    reason: Exception | None = None
    for attribute, read in (
        ("__dlpack__", from_dlpack), ("__array_interface__", np.asarray), ("__array__", np.asarray)
    ):  # fmt: skip
        if hasattr(leaf, attribute):
            try:
                found: np.ndarray[Any, Any] = read(leaf)
                return found
            except Exception as error:  # whatever the other library raises
                reason = reason or error
    raise TypeMismatch(
        f"{function}: {path} is a {type(leaf).__name__} that does not give its memory to NumPy: {reason}",
        code="TD0626",
        edit="detach it and copy it to the CPU first",
    )


def content(value: Any, name: str, function: str) -> tuple[TreeDef, bytes]:
    """What decides whether two constant arguments are the same: structure, and dtypes, shapes and bytes as a digest."""
    import hashlib

    leaves, structure = flatten(value, name)
    digest = hashlib.sha256()
    for path, leaf in zip(structure.paths(name), leaves, strict=True):
        spec = leaf_spec(leaf, path, function)
        array = np.asarray(leaf)
        digest.update(f"{spec.kind} {spec.type} {array.dtype.str};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return structure, digest.digest()


def declared_dims(promised: Sequence[DimName], specs: Sequence[LeafSpec]) -> tuple[DimName, ...]:
    """The symbolic names in the arguments' types, with the promises of `dims=`."""
    known = {dim.name: dim for dim in promised}
    found = sorted({name for spec in specs for dim in spec.type.shape for name in names(dim)})
    return tuple(known.get(name, DimName(name)) for name in found)


def names_of(signature: inspect.Signature, given: Any, what: str, function: str) -> tuple[str, ...]:
    """Parameter names from names or positions, as `static_argnames` and its kin take them."""
    if given is None:
        return ()
    parameters = list(signature.parameters)
    found = []
    try:
        several = (given,) if isinstance(given, str | int) else tuple(given)
    except TypeError:
        raise TypeMismatch(
            f"{what} takes names or positions of parameters, not a {type(given).__name__}",
            code="TD0625",
            edit="a name, a position or a tuple of them",
        ) from None
    for each in several:
        if isinstance(each, bool) or not isinstance(each, int | str):
            raise TypeMismatch(
                f"{what}: {each!r} is neither the name nor the position of a parameter",
                code="TD0625",
                edit="its name, or its position as a number",
            )
        if isinstance(each, int):
            if not -len(parameters) <= each < len(parameters):
                raise InvalidValue(
                    f"{what}: {function}{spelt(list(signature.parameters.values()))} has no parameter number {each}",
                    code="TD0623",
                    edit="count the parameters from 0, or name them",
                )
            found.append(parameters[each])
        elif each not in parameters:
            raise unknown_name(f"parameter in {what} of {function}", each, parameters)
        else:
            found.append(each)
    return tuple(found)


def dims_of(given: Any) -> tuple[DimName, ...]:
    """`dims={"B": (1, 64)}`, `{"B": DimName(...)}`, or `{"B": (1, 64, 8)}` (low, high, multiple)."""
    found = []
    if given is not None and not isinstance(given, Mapping):
        raise TypeMismatch(f"dims is a {type(given).__name__}", code="TD0625", edit='dims={"B": (1, 64)}')
    for name, promise in (given or {}).items():
        match promise:
            case DimName(name=own) if own == name:
                found.append(promise)
            case (int(low), int() | None as high, *rest) if all(isinstance(r, int) for r in rest) and len(rest) < 2:
                found.append(DimName(name, low, high, rest[0] if rest else 1))
            case _:
                raise InvalidValue(
                    f"dims: what is promised of {name!r} is {promise!r}",
                    code="TD0625",
                    edit=f"dims={{{name!r}: (1, 64)}}, the least and the greatest, or (8, 64, 8) with a divisor",
                )
    return tuple(found)
