"""Rows of control flow: none, one and many trips, both ways round, selectors outside the branches, carries that change
places, loops in loops, failures inside, every dtype carried, symbolic sizes and lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sample import Inputs, Sample, around, draw, kind, random_inputs
from table_reduce import tied

from treadle.ir.dims import parse as size
from treadle.ir.dtypes import DTYPES, i64
from treadle.ir.graph import Graph, from_function
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.control import Call, Checkpoint, Group, Scan, Switch, While
from treadle.ir.ops.elementwise import Convert, Eq, FloorDiv, Rem, Select, Sin, Tanh
from treadle.ir.ops.indexing import Gather
from treadle.ir.ops.movement import Broadcast, Transpose
from treadle.ir.ops.reduce import Sum
from treadle.ir.types import TensorType, TupleType, Type
from treadle.ir.value import Full, Get, Lt, Value

Make = Callable[..., Value]
NUMBER = TensorType((), i64)
ROUNDING = 16.0  # steps that each round once or call a smooth function
ATOL = {"f32": 1e-6, "f64": 1e-14}  # terms of about 1 that nearly cancel


def all_of(make: Make, *types: str) -> Callable[[], Graph]:
    """A graph that gives every result of the op that `make` builds."""

    def build() -> Graph:
        graph = around(make, *types)()
        (value,) = graph.results
        assert isinstance(value.type, TupleType)
        return graph.with_results([Get(value, i) for i in range(len(value.type.elements))])

    return build


def row(op: str, label: str, make: Make, *types: str, inputs: Inputs | None = None, **sizes: int) -> Sample:
    given = inputs or random_inputs(*types, sizes=sizes)
    atol = max(ATOL.get(kind(text).dtype.name, 0.0) for text in types)
    return Sample(op, label, all_of(make, *types), given, ulp=ROUNDING, atol=atol, sizes=sizes)


def with_numbers(inputs: Inputs, **places: int) -> Inputs:
    """`inputs` with the scalars at places `x0`, `x1` ... replaced by these numbers."""

    def changed(rng: np.random.Generator) -> list[np.ndarray]:
        found = inputs(rng)
        for name, number in places.items():
            place = int(name[1:])
            found[place] = np.array(number, found[place].dtype)
        return found

    return changed


def body(name: str, given: Sequence[Value | Type], build: Callable[..., Value | Sequence[Value]]) -> Graph:
    return from_function(name, [v.type if isinstance(v, Value) else v for v in given], build)


# --- calls ------------------------------------------------------------------------------------------------------------


def called(op: type[Call]) -> Make:
    def make(x: Value, y: Value) -> Value:
        return op((x, y), body("pair", (x, y), lambda a, b: (a * b + a, Tanh(b), a)))

    return make


def calls() -> list[Sample]:
    found: list[Sample] = []
    for op in (Call, Group, Checkpoint):
        found += [
            row(op.name, "two operands", called(op), "f32[5]", "f32[5]"),
            row(op.name, "symbolic", called(op), "f64[B,3]", "f64[B,3]", B=4),
            row(op.name, "nothing", called(op), "f32[0,3]", "f32[0,3]"),
            row(
                op.name,
                "an operand twice, a result unchanged",
                lambda x, op=op: op((x, x), body("b", (x, x), lambda a, b: (b, a + b))),
                "f32[3]",
            ),
        ]
    found.append(
        row("call", "in a call", lambda x: Call((x,), body("outer", (x,), lambda a: Get(_inner(a), 0))), "f32[4]")
    )
    return found


def _inner(x: Value) -> Value:
    return Call((x,), body("inner", (x,), lambda a: Sin(a) + 1.0))


# --- branches ---------------------------------------------------------------------------------------------------------


def choose(selector: Value, x: Value, y: Value) -> Value:
    given = (x, y)
    branches = (
        body("sum", given, lambda a, b: (a + b, b)),
        body("swap", given, lambda a, b: (b, a)),
        body("row", given, lambda a, b: (Broadcast(Sum(a, (0,)), a.shape, (1,)), Sin(b))),
    )
    return Switch(selector, given, branches)


def branches() -> list[Sample]:
    found: list[Sample] = []
    for dtype, numbers in (("i64", (-3, 0, 1, 2, 9)), ("i32", (1,)), ("bool", (0, 1))):
        for number in numbers:
            types = (f"{dtype}[]", "f32[2,3]", "f32[2,3]")
            inputs = with_numbers(random_inputs(*types), x0=number)
            found.append(row("switch", f"{dtype} {number}", choose, *types, inputs=inputs))
    types = ("i64[]", "f32[B,3]", "f32[B,3]")
    found.append(
        row("switch", "symbolic", choose, *types, inputs=with_numbers(random_inputs(*types, sizes={"B": 2}), x0=2), B=2)
    )
    for dtype in DTYPES:
        types = ("bool[]", f"{dtype}[3]", f"{dtype}[3]")

        def swapped(selector: Value, x: Value, y: Value) -> Value:
            keep, swap = body("keep", (x, y), lambda a, b: (a, b)), body("swap", (x, y), lambda a, b: (b, a))
            return Switch(selector, (x, y), (keep, swap))

        found.append(row("switch", dtype.name, swapped, *types))
    return [*found, row("switch", "one branch", lambda s: Switch(s, (), (body("n", (), _two),)), "i64[]")]


def _two() -> Value:
    return Full(2.0, kind("f32[3]"))


# --- loops that stop by a condition -----------------------------------------------------------------------------------


def repeat(n: Value, x: Value) -> Value:
    """x = sin(x) * 1.5, n times: consts (n,), carry (i, x)."""
    zero = Full(0, NUMBER)
    condition = body("more", (n, zero, x), lambda n, i, x: Lt(i, n))
    step = body("step", (n, zero, x), lambda n, i, x: (i + 1, Sin(x) * 1.5))
    return While((n,), (zero, x), condition, step)


def collatz(n: Value) -> Value:
    """How many steps a number takes to reach 1: a trip count that nothing tells beforehand."""

    def step(steps: Value, n: Value) -> tuple[Value, Value]:
        two = Full(2, NUMBER)
        even = Eq(Rem(n, two), Full(0, NUMBER))
        return steps + 1, Select(even, FloorDiv(n, two), n * 3 + 1)

    zero = Full(0, NUMBER)
    condition = body("more", (zero, n), lambda steps, n: Lt(Full(1, NUMBER), n))
    return While((), (zero, n), condition, body("step", (zero, n), step))


def nested_while(n: Value, x: Value) -> Value:
    """A loop whose body is a loop of as many trips as the outer one has made."""
    zero = Full(0, NUMBER)
    condition = body("more", (n, zero, x), lambda n, i, x: Lt(i, n))
    step = body("step", (n, zero, x), lambda n, i, x: (i + 1, Get(repeat(i, x + 1.0), 1)))
    return While((n,), (zero, x), condition, step)


def whiles() -> list[Sample]:
    found: list[Sample] = []
    for trips in (0, 1, 7):
        for shape in ("", "5", "2,0"):
            types = ("i64[]", f"f32[{shape}]")
            inputs = with_numbers(random_inputs(*types), x0=trips)
            found.append(row("while", f"{trips} trips of [{shape}]", repeat, *types, inputs=inputs))
        types = ("i64[]", "f32[3]")
        inputs = with_numbers(random_inputs(*types), x0=trips)
        found.append(row("while", f"{trips} trips, nested", nested_while, *types, inputs=inputs))
    types = ("i64[]", "f64[B,2]")
    inputs = with_numbers(random_inputs(*types, sizes={"B": 3}), x0=4)
    found += [
        row("while", "symbolic", repeat, *types, inputs=inputs, B=3),
        row("while", "collatz", collatz, "i64[]", inputs=lambda rng: [np.array(27)]),
    ]
    for dtype in DTYPES:

        def turns(n: Value, x: Value, y: Value) -> Value:
            """A carry whose parts change places."""
            zero = Full(0, NUMBER)
            given = (n, zero, x, y)
            condition = body("more", given, lambda n, i, x, y: Lt(i, n))
            return While((n,), (zero, x, y), condition, body("turn", given, lambda n, i, x, y: (i + 1, y, x)))

        types = ("i64[]", f"{dtype}[3]", f"{dtype}[3]")
        found.append(row("while", dtype.name, turns, *types, inputs=with_numbers(random_inputs(*types), x0=3)))
    return found


# --- loops over steps -------------------------------------------------------------------------------------------------


def running(c: Value, x: Value, length: str = "", reverse: bool = False, counted: bool = False) -> Value:
    """c = tanh(c + x[t]), stacked beside 2c."""

    def step(*given: Value) -> tuple[Value, Value]:
        *number, c, x = given
        new = Tanh(c + x)
        if number:
            new = new + Broadcast(Convert(number[0], c.dtype), c.shape, ())
        return new, new * 2.0

    row_ = x.tensor.with_shape(x.shape[1:])
    steps = size(length) if length else x.shape[0]
    return Scan((), (c,), (x,), body("step", (*([NUMBER] if counted else []), c, row_), step), steps, reverse, counted)


def network(w: Value, h: Value, x: Value) -> Value:
    """A recurrent network: a product of matrices in every step."""

    def step(w: Value, h: Value, x: Value) -> tuple[Value, Value]:
        new = Tanh(Dot(w, h, (), (), (1,), (0,)) + x)
        return new, new

    return Scan((w,), (h,), (x,), body("step", (w, h, x.tensor.with_shape(x.shape[1:])), step), x.shape[0])


def products(a: Value, m: Value) -> Value:
    """A product of big matrices in every step: no kernel of its own inside another."""

    def step(a: Value, m: Value) -> Value:
        return Dot(m, Transpose(a, (1, 0)), (), (), (1,), (0,)) * 0.05

    return Scan((a,), (m,), (), body("step", (a, m), step), 3)


def picked(table: Value, which: Value) -> Value:
    """An indexed read in every step, which may fail."""
    zero = Full(0.0, table.tensor.with_shape(table.shape[1:]))

    def step(table: Value, c: Value, i: Value) -> tuple[Value, Value]:
        line = Gather(table, (i,), (0,))
        return c + line, line

    return Scan((table,), (zero,), (which,), body("step", (table, zero, NUMBER), step), which.shape[0])


def nested_scan(c: Value, x: Value) -> Value:
    """Rows in an outer loop, elements in an inner one; the carry goes through both."""

    def outer(c: Value, x: Value) -> tuple[Value, Value]:
        inner = running(c, x)
        return Get(inner, 0), Get(inner, 1)

    return Scan((), (c,), (x,), body("outer", (c, x.tensor.with_shape(x.shape[1:])), outer), x.shape[0])


def rotated(x: Value, y: Value, z: Value) -> Value:
    """A carry of three whose parts go round, and nothing else."""
    return Scan((), (x, y, z), (), body("turn", (x, y, z), lambda x, y, z: (z, x, y)), 4)


def nothing_carried(x: Value) -> Value:
    line = x.tensor.with_shape(x.shape[1:])
    return Scan((), (), (x,), body("each", (line,), lambda v: (v * 2.0, Sum(v, (0,)))), x.shape[0])


def scans() -> list[Sample]:
    found: list[Sample] = []
    for steps in (0, 1, 6):
        for reverse in (False, True):
            for counted in (False, True):

                def make(c: Value, x: Value, reverse: bool = reverse, counted: bool = counted) -> Value:
                    return running(c, x, reverse=reverse, counted=counted)

                label = f"{steps} steps{' reverse' if reverse else ''}{' counted' if counted else ''}"
                found.append(row("scan", label, make, "f32[3]", f"f32[{steps},3]"))
    found += [
        row("scan", "of numbers", running, "f32[]", "f32[7]"),
        row("scan", "wide", running, "f32[40]", "f32[3,40]"),
        row("scan", "of nothing", running, "f32[0]", "f32[3,0]"),
        row("scan", "symbolic length", running, "f32[3]", "f32[T,3]", T=5),
        row("scan", "symbolic, no steps", running, "f32[3]", "f32[T,3]", T=0),
        row("scan", "all symbolic", running, "f64[B]", "f64[T,B]", T=4, B=3),
        row("scan", "nested", nested_scan, "f32[2]", "f32[3,4,2]"),
        row("scan", "nested, symbolic", nested_scan, "f32[B]", "f32[T,4,B]", T=2, B=3),
        row("scan", "a network", network, "f32[5,5]", "f32[5]", "f32[4,5]"),
        row("scan", "a network in f64", network, "f64[3,3]", "f64[3]", "f64[T,3]", T=3),
        row("scan", "products of matrices", products, "f32[24,24]", "f32[24,24]"),
        row("scan", "nothing carried", nothing_carried, "f32[4,5]"),
        row("scan", "three go round", rotated, "f32[2]", "f32[2]", "f32[2]"),
        Sample("scan", "indexed", all_of(picked, "f32[5,3]", "i64[6]"), _picks, ulp=ROUNDING),
    ]
    for dtype in DTYPES:

        def carried(c: Value, x: Value) -> Value:
            line = x.tensor.with_shape(x.shape[1:])
            return Scan((), (c,), (x,), body("delay", (c, line), lambda c, x: (x, c)), x.shape[0])

        types = (f"{dtype}[3]", f"{dtype}[4,3]")
        found.append(row("scan", f"delayed {dtype}", carried, *types, inputs=tied(*types)))
    return found


def _picks(rng: np.random.Generator) -> list[np.ndarray]:
    return [draw(rng, kind("f32[]").dtype, (5, 3)), np.array([4, 0, -1, -5, 2, 2])]


def samples() -> list[Sample]:
    return [*calls(), *branches(), *whiles(), *scans()]
