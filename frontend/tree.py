"""Nested containers as argument lists: `treadle.tree`.

A tree is a leaf, None, or a dict, list, tuple, NamedTuple, dataclass or registered container of trees. Two dicts with
the same keys in another order have one structure: keys are flattened in sorted order where they can be sorted (those
of an OrderedDict as they stand, since there the order is part of it). Structures compare, hash, and say where each leaf
stands (`params["w1"]`), which is how every message of ours names an argument.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import repeat
from typing import Any

from ..ir.classes import dataclass
from ..ir.errors import InvalidValue, TypeMismatch
from .userline import spoken

Flatten = Callable[[Any], tuple[Sequence[Any], Hashable]]
Unflatten = Callable[[Hashable, Sequence[Any]], Any]


class Static:
    """A value that is part of a structure, with its type: `1`, `1.0` and `True` are equal but do not trace alike."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and type(self.value) is type(other.value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        value = self.value
        # Slices can be hashed from Python 3.12 on.
        return hash((type(value), (value.start, value.stop, value.step) if type(value) is slice else value))

    def __repr__(self) -> str:
        return spelling(self.value)


def spelling(value: Any) -> str:
    """How a static value is shown: a function or class by its name, what is no more than its address by its type."""
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return name
    text = repr(value)
    return f"<{type(value).__name__}>" if " at 0x" in text else text


@dataclass(frozen=True, slots=True)
class TreeDef:
    """The structure of a tree. `kind` is "leaf", "none", "static", "dict", "list", "tuple", or a container class."""

    kind: Any
    keys: tuple[Hashable, ...] = ()
    children: tuple[TreeDef, ...] = ()

    @property
    def leaves(self) -> int:
        return 1 if self.kind == "leaf" else sum(child.leaves for child in self.children)

    @property
    def statics(self) -> list[Static]:
        """The static values in it, left to right."""
        if self.kind == "static":
            return [self.value]
        return [value for child in self.children for value in child.statics]

    @property
    def value(self) -> Static:
        """Of a static place: what stands there."""
        value = self.keys[0]
        assert isinstance(value, Static)
        return value

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree with this structure and these leaves; TD0610 when their number is wrong."""
        given = list(leaves)
        if len(given) != self.leaves:
            raise InvalidValue(
                f"the structure has {self.leaves} leaves, {len(given)} were given",
                code="TD0610",
                edit=f"give {self.leaves}, as td.tree.leaves does",
            )
        return _build(self, iter(given))

    def leaves_of(self, tree: Any, root: str = "") -> list[Any]:
        """The leaves of `tree` in the order of this structure, which was read back from JSON: where it has a dict, a
        dataclass with these fields serves too. TD0612 names the first place where they differ."""
        if self.kind == "leaf":
            return [tree]
        if self.kind == "static":
            if spelling(tree) != str(self):
                raise TypeMismatch(
                    f"{root} is {spelling(tree)}, and was {self} when it was compiled",
                    code="TD0612",
                    edit="pass the same kind of container, or make the argument static",
                )
            return []
        given = _children(tree)
        if not is_node(tree) or given.keys() != dict.fromkeys(self.keys).keys():
            raise TypeMismatch(
                f"{root} has the structure {structure(tree)}, not {self}",
                code="TD0612",
                edit="pass containers of the same kinds and keys",
            )
        steps = zip(_steps(self), self.keys, self.children, strict=True)
        return [leaf for step, key, child in steps for leaf in child.leaves_of(given[key], root + step)]

    def paths(self, root: str = "") -> list[str]:
        """Where each leaf stands, spelt as Python spells it after `root`."""
        if self.kind == "leaf":
            return [root]
        return [
            path for step, child in zip(_steps(self), self.children, strict=True) for path in child.paths(root + step)
        ]

    def to_json(self) -> Any:
        """As JSON: what an artifact stores. Classes become dicts or tuples of their fields when read back, static
        values their spelling."""
        if self.kind in ("leaf", "none"):
            return self.kind
        if self.kind == "static":
            known = self.value.value
            return {"static": [str(self), known] if isinstance(known, str | bool) else [str(self)]}
        children = [child.to_json() for child in self.children]
        if self.kind in ("list", "tuple"):
            return {self.kind: children}
        if self.kind in _registered or (isinstance(self.kind, type) and issubclass(self.kind, tuple)):
            return {"tuple": children}
        return {"dict": [[str(key), child] for key, child in zip(self.keys, children, strict=True)]}

    @staticmethod
    def from_json(text: Any) -> TreeDef:
        if isinstance(text, str):
            return LEAF if text == "leaf" else NONE
        ((kind, children),) = text.items()
        if kind == "static":
            spelt, *known = children
            return TreeDef("static", (Static(known[0] if known else _Spelt(spelt)),))
        if kind == "dict":
            keys = tuple(key for key, _ in children)
            return TreeDef("dict", keys, tuple(TreeDef.from_json(child) for _, child in children))
        return TreeDef(kind, tuple(range(len(children))), tuple(TreeDef.from_json(child) for child in children))

    def __str__(self) -> str:
        return self.shown(repeat("*"))

    def shown(self, leaves: Iterable[object]) -> str:
        """The structure with these in the places of its leaves: `{'a': f64[3], 'b': (i64[],)}`."""
        given = iter(leaves)
        match self.kind:
            case "leaf":
                return str(next(given))
            case "none":
                return "None"
            case "static":
                return repr(self.value)
        inside = [child.shown(given) for child in self.children]
        match self.kind:
            case "list":
                return f"[{', '.join(inside)}]"
            case "tuple":
                return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"
            case "dict":
                return f"{{{', '.join(f'{k!r}: {c}' for k, c in zip(self.keys, inside, strict=True))}}}"
        return f"{self.kind.__name__}({', '.join(f'{k}={c}' for k, c in zip(self.keys, inside, strict=True))})"


class _Spelt(str):
    """A static value read back from JSON: of it only the spelling is known."""

    def __repr__(self) -> str:
        return str(self)


LEAF = TreeDef("leaf")
NONE = TreeDef("none")
_registered: dict[type, tuple[Flatten, Unflatten]] = {}


def register(cls: type, flatten: Flatten, unflatten: Unflatten) -> type:
    """Make `cls` a container: `flatten(x) -> (children, data)`, `unflatten(data, children) -> x`; data is hashable."""
    _registered[cls] = (flatten, unflatten)
    return cls


def flatten(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None, is_static: Callable[[Any], bool] | None = None
) -> tuple[list[Any], TreeDef]:
    """The leaves, left to right, and the structure, of which static values are a part."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves, is_leaf, is_static)


def _flatten(
    tree: Any,
    leaves: list[Any],
    is_leaf: Callable[[Any], bool] | None,
    is_static: Callable[[Any], bool] | None = None,
) -> TreeDef:
    if is_leaf is not None and is_leaf(tree):
        leaves.append(tree)
        return LEAF
    if is_static is not None and is_static(tree):
        return TreeDef("static", (Static(tree),))
    kind = type(tree)
    if tree is None:
        return NONE
    if kind is dict or kind is OrderedDict:
        keys = _ordered(tree) if kind is dict else tuple(tree)
        return TreeDef(
            "dict" if kind is dict else kind,
            keys,
            tuple(_flatten(tree[key], leaves, is_leaf, is_static) for key in keys),
        )
    if kind is list or kind is tuple:
        name = "list" if kind is list else "tuple"
        return TreeDef(
            name, tuple(range(len(tree))), tuple(_flatten(child, leaves, is_leaf, is_static) for child in tree)
        )
    if kind in _registered:
        children, data = _registered[kind][0](tree)
        return TreeDef(kind, (data,), tuple(_flatten(child, leaves, is_leaf, is_static) for child in children))
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return TreeDef(kind, tuple(kind._fields), tuple(_flatten(child, leaves, is_leaf, is_static) for child in tree))
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind) if field.init)
        return TreeDef(kind, names, tuple(_flatten(getattr(tree, name), leaves, is_leaf, is_static) for name in names))
    leaves.append(tree)
    return LEAF


def _children(tree: Any) -> dict[Any, Any]:
    """The children of a container by the keys that its structure has once it was written as JSON."""
    kind = type(tree)
    if kind is dict or kind is OrderedDict:
        return {str(key): child for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return dict(enumerate(tree))
    if kind in _registered:
        return dict(enumerate(_registered[kind][0](tree)[0]))
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(tree, field.name) for field in dataclasses.fields(kind) if field.init}
    return {}


def is_node(value: Any) -> bool:
    """Whether `value` is a container: something that `flatten` opens."""
    kind = type(value)
    if value is None or kind in (dict, OrderedDict, list, tuple) or kind in _registered:
        return True
    return (issubclass(kind, tuple) and hasattr(kind, "_fields")) or dataclasses.is_dataclass(kind)


def _ordered(tree: dict[Hashable, Any]) -> tuple[Hashable, ...]:
    try:
        return tuple(sorted(tree))  # type: ignore[type-var]
    except TypeError:
        return tuple(tree)


def _steps(structure: TreeDef) -> list[str]:
    if structure.kind == "static":
        return []
    if structure.kind in ("dict", OrderedDict, "list", "tuple"):
        return [f"[{key!r}]" for key in structure.keys]
    if structure.kind in _registered:
        return [f"[{i}]" for i in range(len(structure.children))]
    return [f".{key}" for key in structure.keys]


def _build(structure: TreeDef, leaves: Any) -> Any:
    kind = structure.kind
    if kind == "leaf":
        return next(leaves)
    if kind == "none":
        return None
    if kind == "static":
        return structure.value.value
    children = [_build(child, leaves) for child in structure.children]
    if kind == "list":
        return children
    if kind == "tuple":
        return tuple(children)
    if kind == "dict" or kind is OrderedDict:
        return (dict if kind == "dict" else OrderedDict)(zip(structure.keys, children, strict=True))
    if kind in _registered:
        return _registered[kind][1](structure.keys[0], children)
    if issubclass(kind, tuple):
        return kind(*children)
    return kind(**{str(key): child for key, child in zip(structure.keys, children, strict=True)})


@spoken
def unflatten(structure: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of `structure` with `leaves`."""
    return structure.unflatten(leaves)


def structure(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> TreeDef:
    return flatten(tree, is_leaf)[1]


def leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    return flatten(tree, is_leaf)[0]


def paths(tree: Any, root: str = "") -> list[tuple[str, Any]]:
    """(path, leaf) pairs, left to right."""
    found, shape = flatten(tree)
    return list(zip(shape.paths(root), found, strict=True))


@spoken
def map(fn: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """`fn` on corresponding leaves of trees of one structure; TD0611 names the first place where they differ."""
    first, shape = flatten(tree, is_leaf)
    columns = [first]
    for other in rest:
        found, other_shape = flatten(other, is_leaf)
        if other_shape != shape:
            raise TypeMismatch(
                f"trees differ in structure: {shape} and {other_shape}",
                code="TD0611",
                edit="trees of the same containers, keys and lengths",
            )
        columns.append(found)
    return shape.unflatten(fn(*row) for row in zip(*columns, strict=True))


@spoken
def reduce(fn: Callable[[Any, Any], Any], tree: Any, initial: Any) -> Any:
    """Fold the leaves from the left."""
    result = initial
    for leaf in leaves(tree):
        result = fn(result, leaf)
    return result


__all__ = ["TreeDef", "flatten", "leaves", "map", "paths", "reduce", "register", "structure", "unflatten"]
