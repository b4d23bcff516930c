"""Composition: what a value is at a position, and what disappears on the way."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import graph_of, tensor

from treadle.codegen.lower import rules
from treadle.codegen.lower.compose import Composer, Source
from treadle.ir.dims import symbol
from treadle.ir.dtypes import f32, i32
from treadle.ir.errors import Unsupported
from treadle.ir.graph import Graph, failing
from treadle.ir.loops.nodes import Const, Let, Load
from treadle.ir.loops.text import show_expr, show_stmt
from treadle.ir.ops.control import Call
from treadle.ir.ops.elementwise import Exp, Pow
from treadle.ir.ops.movement import Broadcast, Concatenate, Pad, Reshape, Reverse, Slice, Transpose
from treadle.ir.program import KernelDef
from treadle.ir.value import Constant, Full, Get

AT = symbol("i"), symbol("j")


def composed(graph: Graph, ranges: dict[str, tuple[int, int]] | None = None) -> tuple[list[str], str, Composer]:
    """The lets and the scalar of the first result at (i, j)."""
    composer = Composer(Source(KernelDef("k", graph)), ranges=ranges or {}, rules=rules())
    value = composer.at(graph.results[0], AT)
    return [show_stmt(stmt) for stmt in composer.out], show_expr(value), composer


# Movement is arithmetic on positions: nothing of it is left but the place of a load.
def test_movement_disappears() -> None:
    graph = graph_of([tensor(8, 6)], lambda x: Slice(Reverse(Transpose(x, (1, 0)), (0,)), (1, 2), (5, 8), (2, 3)))
    assert composed(graph)[:2] == ([], "p0[18*j + 16 - 2*i]")


# Splitting and joining axes cancels where the ranges say so.
def test_reshapes_cancel() -> None:
    graph = graph_of([tensor(8, 6)], lambda x: Reshape(Reshape(x, (4, 12)), (8, 6)))
    assert composed(graph, {"i": (0, 8), "j": (0, 6)})[1] == "p0[6*i + j]"


# What two ops read is computed once; what one op reads stays in its place.
def test_sharing() -> None:
    lets, value, _ = composed(graph_of([tensor(8, 6)], lambda x: Exp(x) * (Exp(x) + 1.0)))
    assert value == "exp(p0[j + 6*i]) * (exp(p0[j + 6*i]) + 1.0)" or "v" in value  # two nodes, so two values
    shared = graph_of([tensor(8, 6)], lambda x: (lambda e: e * (e + 1.0))(Exp(x)))
    lets, value, composer = composed(shared)
    assert len(lets) == 1 and isinstance(composer.out[0], Let) and value == "v * (v + 1.0)"


# A padding that the loops' ranges decide leaves no condition, and is not noted as a place to cut.
def test_decided_paddings() -> None:
    graph = graph_of([tensor(5, 9)], lambda x: Pad(x, Full(1.5, tensor()), (1, 2), (3, 4), (0, 0)))
    lets, value, composer = composed(graph, {"i": (1, 6), "j": (2, 11)})
    assert (lets, value, list(composer.undecided)) == ([], "p0[9*i + j - 11]", [])
    lets, value, composer = composed(graph, {"i": (6, 9), "j": (0, 15)})
    assert composer.at(graph.results[0], AT) == Const(1.5, f32)
    _, _, composer = composed(graph, {"i": (0, 9), "j": (0, 15)})
    assert len(composer.undecided) == 2 and composer.has_variables


# Of a concatenation whose operand is known at every position only that operand is read.
def test_decided_concatenation() -> None:
    graph = graph_of([tensor(5, 9), tensor(5, 4)], lambda x, y: Concatenate((x, y), 1))
    assert composed(graph, {"i": (0, 5), "j": (9, 13)})[1] == "p1[4*i + j - 9]"


# Constants: equal elements are one literal, others a table in the code.
def test_constants() -> None:
    same = graph_of([tensor(2, 3)], lambda x: x * Constant(np.full((2, 3), 2, np.float32)))
    assert composed(same)[1] == "p0[3*i + j] * 2.0"
    graph = graph_of([tensor(2, 3)], lambda x: x * Broadcast(Constant(np.arange(3, dtype=np.float32)), (2, 3), (1,)))
    _, value, composer = composed(graph)
    assert value == "p0[3*i + j] * c[j]" and len(composer.source.tables) == 1


# Complex numbers that differ in one part are not one number; fp8 and complex numbers that differ stand in no table.
def test_constants_that_code_does_not_hold() -> None:
    for dtype in (np.complex128, np.complex64):
        for last in (1 + 2j, 2 + 1j):
            data = np.array([1 + 1j, last], dtype)
            with pytest.raises(Unsupported, match="TD0431"):
                composed(graph_of([tensor(2, 2)], lambda x, data=data: Broadcast(Constant(data), (2, 2), (1,))))
        same = Constant(np.full(2, 1 + 1j, dtype))
        value = composed(graph_of([tensor(2, 2)], lambda x, same=same: Broadcast(same, (2, 2), (1,))))[1]
        assert value == show_expr(Const(1 + 1j, same.dtype))


# A chain far longer than Python's stack is composed.
def test_long_chains() -> None:
    def chain(x):  # type: ignore[no-untyped-def]
        for _ in range(5000):
            x = x + 1.0
        return x

    graph = graph_of([tensor(2, 3)], chain)
    composer = Composer(Source(KernelDef("k", graph)), rules=rules())
    assert composer.at(graph.results[0], AT).dtype is f32


# An operand that is overwritten is read into a name, so that no later statement sees the new element.
def test_updated_operands_are_read_first() -> None:
    graph = graph_of([tensor(2, 3)], lambda x: x + 1.0)
    composer = Composer(Source(KernelDef("k", graph, ((0, 0),))), rules=rules())
    composer.at(graph.results[0], AT)
    assert isinstance(composer.out[0], Let) and isinstance(composer.out[0].value, Load)


# Failure sites are numbered by the order of the ops; what a body holds follows its op.
def test_failure_sites() -> None:
    power = graph_of([tensor(3, dtype=i32), tensor(3, dtype=i32)], lambda x, y: Pow(x, y))
    graph = graph_of(
        [tensor(3, dtype=i32), tensor(3, dtype=i32)], lambda x, y: Pow(Get(Call((Pow(x, y), y), power), 0), x)
    )
    found = list(failing(graph))
    assert [value.name for value in found] == ["pow", "pow", "pow"]
    assert found[1] is power.results[0] and found[2] is graph.results[0]
