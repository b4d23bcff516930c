"""No choice may depend on the order of a set, on an address, on a hash or on a clock.

Sets of strings and of objects come out in a different order in every process, so a compiler that walks one
makes different code from the same program. The reader below finds the walks in the three rooms that make
choices; a set may be asked (`in`, `len`, `|`, `sorted`), never walked. It errs on the strict side: a name or
attribute that is anywhere said to be a set is taken for one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ir", "passes", "codegen")

SET_TYPES = ("set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet")
SET_METHODS = ("union", "intersection", "difference", "symmetric_difference")
# Their result does not depend on the order in which they read.
ORDERLESS = ("set", "frozenset", "sorted", "len", "any", "all", "min", "max", "bool", "isinstance", "Counter")
# They hand the order on.
WALKERS = ("list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "chain", "deque")
CLOCKS = ("time", "datetime", "random", "secrets", "uuid")
# Files that may read a clock, for the report and never for a choice.
TIMED = ("passes/manager.py",)


def is_set_annotation(node: ast.expr | None) -> bool:
    match node:
        case ast.Name(id=name):
            return name in SET_TYPES
        case ast.Attribute(attr=name):
            return name in SET_TYPES
        case ast.Subscript(value=value):
            return is_set_annotation(value)
        case ast.BinOp(left=left, right=right):
            return is_set_annotation(left) or is_set_annotation(right)
        case ast.Constant(value=str(text)):
            return text.split("[")[0].strip() in SET_TYPES
        case _:
            return False


class Declared(ast.NodeVisitor):
    """Functions and attributes whose annotation says that they are sets."""

    def __init__(self) -> None:
        self.functions: set[str] = set()
        self.attributes: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if is_set_annotation(node.returns):
            properties = {"property", "cached_property"}
            marked = any(isinstance(d, ast.Name) and d.id in properties for d in node.decorator_list)
            (self.attributes if marked else self.functions).add(node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if is_set_annotation(kind):
                    self.attributes.add(name)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Attribute) and is_set_annotation(node.annotation):
            self.attributes.add(node.target.attr)
        self.generic_visit(node)


class Walks:
    """Finds the places in one file where a set is walked."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self.found: list[tuple[int, str]] = []

    def read(self, tree: ast.AST) -> list[tuple[int, str]]:
        self.scope(tree, frozenset())
        return sorted(self.found)

    def scope(self, owner: ast.AST, outer: frozenset[str]) -> None:
        """A module or function: which of its names are sets, then every expression in it."""
        names = set(outer)
        if isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = owner.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                names.discard(argument.arg)
                if is_set_annotation(argument.annotation):
                    names.add(argument.arg)
        inner = list(self.own_nodes(owner))
        for _ in range(2):  # twice: `b = a` may stand above the line that makes `a` a set
            for node in inner:
                match node:
                    case ast.Assign(targets=targets, value=value):
                        for target in targets:
                            if isinstance(target, ast.Name) and self.is_set(value, names):
                                names.add(target.id)
                    case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                        if is_set_annotation(kind):
                            names.add(name)
                    case ast.NamedExpr(target=ast.Name(id=name), value=value):
                        if self.is_set(value, names):
                            names.add(name)
        for node in inner:
            self.judge(node, names)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                self.scope(node, frozenset(names))

    def own_nodes(self, owner: ast.AST) -> Iterator[ast.AST]:
        """Everything below `owner`; nested functions themselves, not what is in them."""
        for child in ast.iter_child_nodes(owner):
            yield child
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from self.own_nodes(child)

    def is_set(self, node: ast.expr, names: set[str]) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id=name)):
                return name in ("set", "frozenset") or name in self.declared.functions
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                if name in SET_METHODS or (name == "copy" and self.is_set(value, names)):
                    return True
                return name in self.declared.functions
            case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return any(self.is_set(side, names) or self.is_keys(side) for side in (left, right))
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_set(body, names) or self.is_set(orelse, names)
            case ast.Name(id=name):
                return name in names
            case ast.Attribute(attr=name):
                return name in self.declared.attributes
            case ast.NamedExpr(value=value):
                return self.is_set(value, names)
            case _:
                return False

    def is_keys(self, node: ast.expr) -> bool:
        """`a.keys() & b.keys()` is a set, though each side has an order."""
        return isinstance(node, ast.Call) and called(node.func) == "keys"

    def judge(self, node: ast.AST, names: set[str]) -> None:
        def walked(expression: ast.expr, how: str) -> None:
            if self.is_set(expression, names):
                self.found.append((expression.lineno, f"{how} walks the set `{ast.unparse(expression)}`"))

        match node:
            case ast.For(iter=over) | ast.AsyncFor(iter=over):
                walked(over, "for")
            case ast.ListComp(generators=generators) | ast.DictComp(generators=generators):
                for generator in generators:
                    walked(generator.iter, "a comprehension")
            case ast.GeneratorExp(generators=generators):
                if not getattr(node, "orderless", False):
                    for generator in generators:
                        walked(generator.iter, "a generator")
            case ast.Starred(value=value):
                if not getattr(node, "orderless", False):
                    walked(value, "*")
            case ast.Set(elts=elements):
                mark(elements)
            case ast.Assign(targets=[ast.Tuple() | ast.List()], value=value):
                walked(value, "unpacking")
            case ast.Call(func=function, args=arguments, keywords=keywords):
                name = called(function)
                if name in ORDERLESS:
                    mark(arguments)
                if name in WALKERS:
                    for argument in arguments:
                        walked(argument, f"{name}()")
                if name in ("join", "fromkeys", "extend", "from_iterable") and arguments:
                    walked(arguments[0], f"{name}()")
                if name == "pop" and not arguments and isinstance(function, ast.Attribute):
                    walked(function.value, "pop()")
                if name in ("sorted", "min", "max", "sort"):
                    for keyword in keywords:
                        if keyword.arg == "key" and asks_identity(keyword.value):
                            self.found.append((node.lineno, f"{name}() by address or hash"))
            case _:
                pass


def called(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def mark(arguments: list[ast.expr]) -> None:
    """What stands directly in an orderless reader may walk a set; marked on the way down, before judging."""
    for argument in arguments:
        argument.orderless = True  # type: ignore[attr-defined]


def asks_identity(key: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id in ("id", "hash") for node in ast.walk(key))


def walks_in(source: str) -> list[str]:
    tree = ast.parse(source)
    declared = Declared()
    declared.visit(tree)
    return [text for _, text in Walks(declared).read(tree)]


@cache
def package() -> dict[Path, ast.Module]:
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return {file: ast.parse(file.read_text(encoding="utf-8"), str(file)) for file in files}


def test_no_set_is_walked() -> None:
    """Two processes with different hash seeds must make the same bytes."""
    declared = Declared()
    for tree in package().values():
        declared.visit(tree)
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for file, tree in package().items()
        for line, text in Walks(declared).read(tree)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_clock_is_read() -> None:
    """A measured number may enter only through the text of a Target, which is part of the cache key."""
    wrong = []
    for file, tree in package().items():
        if str(file.relative_to(ROOT)) in TIMED:
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    taken = [alias.name.partition(".")[0] for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    taken = [module.partition(".")[0]]
                case _:
                    continue
            wrong += [f"{file.relative_to(ROOT)}:{node.lineno}: {name}" for name in taken if name in CLOCKS]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "s = set()\nfor x in s: pass",
        "def f(s: set[int]): return [x for x in s]",
        "def f(s: 'frozenset[int]'): return {x: 1 for x in s}",
        "def f(a, b): return list(set(a) | b)",
        "def g() -> set[int]: ...\nfor x in g(): pass",
        "class C:\n    live: set[str]\ndef f(c): return ','.join(c.live)",
        "s = {1}\nt = tuple(x for x in s)",
        "s = {1}\ns.pop()",
        "s = {1}\na, = s",
        "s = {1}\nt = [*s]",
        "def f(a, b): return [k for k in a.keys() & b.keys()]",
        "s = {1}\ndef f(): return list(s)",
        "def f(values): return sorted(values, key=id)",
        "def f(values): return max(values, key=lambda v: (v.size, hash(v)))",
        "def f(a): return next(iter(a.difference(a)))",
    ],
)
def test_a_walk_is_found(source: str) -> None:
    """The reader must know the ways a set is walked, or the test above says nothing."""
    assert len(walks_in(source)) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "s = set()\nif 1 in s: s.add(2)",
        "s = {1}\nfor x in sorted(s): pass",
        "s = {1}\nlargest = max(x + 1 for x in s)",
        "s = {1}\nt = {x + 1 for x in s} | frozenset(y for y in s)",
        "s = {1}\nt = {*s, 2}",
        "d = {1: 2}\nfor x in d: pass",
        "d = {1: 2}\nfor x in d.keys(): pass",
        "def f(s: list[int]): return [x for x in s]",
        "s = {1}\ndef f(s): return list(s)",
        "s = {1}\nok = any(x > 1 for x in s) and len(s) < 3",
    ],
)
def test_asking_a_set_is_allowed(source: str) -> None:
    """Membership, size and sorted order are the same in every process."""
    assert walks_in(source) == []
