"""The pipeline's work grows no faster than n log n: three times as many ops cost about three times as many calls.

Calls of Python functions are counted, not seconds, so that the answer is the same on every machine; what numpy does
inside one call is bounded by the number of calls here.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from random_graphs import OPEN_LOOPS, context

from treadle.ir.dims import Dim, DimName, symbol
from treadle.ir.dtypes import f32
from treadle.ir.graph import Graph
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.control import Scan
from treadle.ir.ops.elementwise import Exp, Tanh
from treadle.ir.ops.movement import Broadcast, Concatenate, Reshape, Slice
from treadle.ir.ops.reduce import Max, Sum
from treadle.ir.types import TensorType
from treadle.ir.value import Get, Parameter, Value
from treadle.passes.buffers import to_program


class Net:
    """A graph of about `n` ops over arrays of `rows` x 16."""

    def __init__(self, rows: Dim) -> None:
        self.kind = TensorType((rows, 16), f32)
        self.x = Parameter("x", self.kind)
        self.w = Parameter("w", TensorType((16, 16), f32))
        self.b = Parameter("b", TensorType((16,), f32))
        self.rng = random.Random(0)

    def linear(self, x: Value) -> Value:
        return Dot(x, self.w, (), (), (1,), (0,), None) + Broadcast(self.b, self.kind.shape, (1,))

    def graph(self, *results: Value) -> Graph:
        dims = tuple(DimName(name) for name in self.kind.names())
        return Graph("net", (self.x, self.w, self.b), results, dims)


def maps(n: int, rows: Dim) -> Graph:
    """A chain of maps with short skips."""
    net = Net(rows)
    values: list[Value] = [net.x]
    for _ in range(n // 4):
        values.append(Tanh(values[-1]) * 0.5 + net.rng.choice(values[-20:]))
    return net.graph(values[-1])


def layers(n: int, rows: Dim) -> Graph:
    """Products, softmax over rows, residuals."""
    net = Net(rows)
    values: list[Value] = [net.x]
    for _ in range(n // 11):
        y = net.linear(values[-1])
        e = Exp(y - Broadcast(Max(y, (1,)), net.kind.shape, (0,)))
        values.append(e / Broadcast(Sum(e, (1,)), net.kind.shape, (0,)) + net.rng.choice(values[-5:]))
    return net.graph(values[-1])


def tangle(n: int, rows: Dim) -> Graph:
    """Every value may read any before it: groups are hard to choose, and much is live at once."""
    net = Net(rows)
    values: list[Value] = [net.x]
    for _ in range(n // 3):
        values.append(Tanh(net.rng.choice(values)) + net.rng.choice(values))
    while len(values) > 1:
        rest = values[-1:] if len(values) % 2 else []
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + rest
    return net.graph(values[0])


def star(n: int, rows: Dim) -> Graph:
    """One value with very many readers, all of them joined at last."""
    net = Net(rows)
    return net.graph(Concatenate(tuple(Tanh(net.x * float(i + 1)) for i in range(n // 3)), 1))


def results(n: int, rows: Dim) -> Graph:
    """As many results as ops."""
    net = Net(rows)
    return net.graph(*(Tanh(net.linear(net.x * float(i + 1))) for i in range(n // 5)))


def unrolled(n: int, rows: Dim) -> Graph:
    """A recurrence written out, reading row after row."""
    net = Net(rows)
    state: Value = net.x
    for i in range(n // 6):
        row = Reshape(Slice(net.x, (i % 4, 0), (i % 4 + 1, 16), (1, 1)), (16,))
        state = Tanh(net.linear(state) + Broadcast(row, net.kind.shape, (1,)))
    return net.graph(state)


def loops(n: int, rows: Dim) -> Graph:
    """Many loops one after the other, each with a small body."""
    net = Net(rows)
    state: Value = net.x
    for _ in range(n // 6):
        a, w = Parameter("a", net.kind), Parameter("w", net.w.given)
        body = Graph("step", (w, a), (Tanh(Dot(a, w, (), (), (1,), (0,), None)) + a,), net.graph().dims)
        state = Get(Scan((net.w,), (state,), (), body, 3), 0)
    return net.graph(state)


def nested(n: int, rows: Dim) -> Graph:
    """One loop with a large body."""
    net = Net(rows)
    inner = layers(n, rows)
    body = Graph("step", (*inner.params[1:], inner.params[0]), inner.results, inner.dims)
    return net.graph(Get(Scan((net.w, net.b), (net.x,), (), body, 3), 0))


def calls(work: Callable[[], object]) -> int:
    """How many calls of Python functions `work` makes."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def compiled(graph: Graph) -> None:
    cx = context()
    to_program(OPEN_LOOPS.run(graph, cx)[-1].after, cx)


@pytest.mark.parametrize("rows", [8, symbol("B")], ids=str)
@pytest.mark.parametrize(
    "make", [maps, layers, tangle, star, results, unrolled, loops, nested], ids=lambda f: f.__name__
)
def test_work_is_nearly_linear(make: Callable[[int, Dim], Graph], rows: Dim) -> None:
    compiled(make(60, rows))  # whatever is made once is made now
    small, large = make(240, rows), make(720, rows)
    growth = calls(lambda: compiled(large)) / calls(lambda: compiled(small))
    assert growth < 3.9, f"{growth:.2f} times the calls for 3 times the ops"
