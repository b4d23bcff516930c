"""What statements mention and write, found by walking them once before emission."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from ...ir.dims import Dim, names
from ...ir.loops.nodes import (
    Alloc,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fail,
    Fma,
    For,
    If,
    Index,
    Let,
    Load,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    While,
)


def walk(stmts: Iterable[Stmt]) -> Iterator[Stmt]:
    """Every statement, outer before inner."""
    for stmt in stmts:
        yield stmt
        match stmt:
            case For(body=body) | While(body=body):
                yield from walk(body)
            case If(_, then, otherwise):
                yield from walk(then)
                yield from walk(otherwise)
            case Let() | Store() | Alloc() | Fail():
                pass
            case _:
                assert_never(stmt)


def uses(stmts: Iterable[Stmt]) -> dict[str, None]:
    """Every name that the statements mention, bound outside or inside, in order of appearance."""
    found: dict[str, None] = {}
    for stmt in stmts:
        for name in _mentioned(stmt):
            found[name] = None
    return found


def _mentioned(stmt: Stmt) -> Iterator[str]:
    match stmt:
        case Let(_, value):
            yield from _mentioned_by(value)
        case Store(buffer, index, value, _):
            yield buffer
            for dim in index:
                yield from names(dim)
            yield from _mentioned_by(value)
        case Alloc():
            for dim in stmt.shape:
                yield from names(dim)
        case For(_, start, stop, _, _, body):
            yield from names(start)
            yield from names(stop)
            for inner in body:
                yield from _mentioned(inner)
        case While(body, condition):
            for inner in body:
                yield from _mentioned(inner)
            yield from _mentioned_by(condition)
        case If(condition, then, otherwise):
            yield from _mentioned_by(condition)
            for inner in (*then, *otherwise):
                yield from _mentioned(inner)
        case Fail(when, _, found):
            for expr in (when, *found):
                yield from _mentioned_by(expr)
        case _:
            assert_never(stmt)


def _mentioned_by(expr: Expr) -> Iterator[str]:
    match expr:
        case Const():
            pass
        case Var(name):
            yield name
        case Index(dim):
            yield from names(dim)
        case Load(buffer, index):
            yield buffer
            for dim in index:
                yield from names(dim)
        case Unary(_, x) | Cast(x, _, _):
            yield from _mentioned_by(x)
        case Binary(_, x, y):
            yield from _mentioned_by(x)
            yield from _mentioned_by(y)
        case Fma(x, y, z) | Select(x, y, z):
            yield from _mentioned_by(x)
            yield from _mentioned_by(y)
            yield from _mentioned_by(z)
        case Call(_, args):
            for arg in args:
                yield from _mentioned_by(arg)
        case _:
            assert_never(expr)


def register_widths(stmts: Iterable[Stmt]) -> dict[str, int]:
    """The lanes in which each register array is best held: those of the widest vector loop that walks its last axis."""
    widths: dict[str, int] = {}

    def see(name: str, index: tuple[Dim, ...], loop: For | None) -> None:
        if loop is None or not index or isinstance(index[-1], int):
            return
        if loop.step == 1 and ((loop.var,), 1) in index[-1].terms:
            widths[name] = max(widths.get(name, 0), loop.lanes)

    def within(expr: Expr, loop: For | None) -> None:
        match expr:
            case Load(name, index):
                see(name, index, loop)
            case Unary(_, x) | Cast(x, _, _):
                within(x, loop)
            case Binary(_, x, y):
                within(x, loop)
                within(y, loop)
            case Fma(x, y, z) | Select(x, y, z):
                within(x, loop)
                within(y, loop)
                within(z, loop)
            case Call(_, args):
                for arg in args:
                    within(arg, loop)
            case Const() | Var() | Index():
                pass
            case _:
                assert_never(expr)

    def visit(stmts: Iterable[Stmt], loop: For | None) -> None:
        for stmt in stmts:
            match stmt:
                case Store(name, index, value, _):
                    see(name, index, loop)
                    within(value, loop)
                case Let(_, value):
                    within(value, loop)
                case Fail(when, _, found):
                    for expr in (when, *found):
                        within(expr, loop)
                case For(body=body):
                    visit(body, stmt if stmt.kind == "vector" else loop)
                case While(body, condition):
                    visit(body, loop)
                    within(condition, loop)
                case If(condition, then, otherwise):
                    within(condition, loop)
                    visit(then, loop)
                    visit(otherwise, loop)
                case Alloc():
                    pass
                case _:
                    assert_never(stmt)

    visit(stmts, None)
    return widths
