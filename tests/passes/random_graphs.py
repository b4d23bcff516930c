"""Random graphs. `cases` are for the passes that choose groups and places: shapes that fuse, values with several
readers, views, joins, updates in place, control flow; with known sizes and with symbolic ones, all f32 and tame.
`table_cases` are built from the rows of the op table, so that a new op is in them from its first day: any dtype, any
attribute, special values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from sample import Sample
from table import BY_OP

from treadle.ir import target as targets
from treadle.ir.dims import Dim, DimName, symbol
from treadle.ir.dtypes import bool_, f32, i64
from treadle.ir.forms import everywhere
from treadle.ir.graph import Graph, from_function, inline
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.control import Scan, Switch, While
from treadle.ir.ops.elementwise import Abs, Convert, Exp, Maximum, Real, Select, Tanh
from treadle.ir.ops.families import Control, Movement
from treadle.ir.ops.indexing import DynamicUpdate, Gather, Scatter, Sort
from treadle.ir.ops.movement import Broadcast, Concatenate, Copy, Iota, Pad, Reshape, Reverse, Slice, Transpose
from treadle.ir.ops.reduce import CumSum, Max, Sum
from treadle.ir.types import Shape, TensorType
from treadle.ir.value import After, Constant, DimSize, Full, Get, Lt, Mul, Neg, Parameter, Value
from treadle.passes.manager import Context, Pipeline
from treadle.passes.pipelines import DEFAULT

TARGET = targets.parse("generic:v128")


class Permissive:
    """A code generator that has a kernel for everything but what it is told to refuse."""

    def __init__(
        self,
        refuse: Callable[[Graph], bool] = lambda group: False,
        scratch: Callable[[Graph], tuple[TensorType, ...]] = lambda group: (),
    ) -> None:
        self.refuse = refuse
        self.scratch = scratch

    def accepts(self, group: Graph) -> bool:
        return not self.refuse(group)

    def keeps(self, op: Value) -> bool:
        return False

    def workspace(self, group: Graph) -> tuple[TensorType, ...]:
        return self.scratch(group)


def context(
    refuse: Callable[[Graph], bool] = lambda group: False,
    scratch: Callable[[Graph], tuple[TensorType, ...]] = lambda group: (),
) -> Context:
    return Context(TARGET, Permissive(refuse, scratch))


# The default pipeline, with loops that stay loops of the program whatever kernels there are.
OPEN_LOOPS = Pipeline(
    "open loops", tuple(p.with_options(loop_ops=0) if p.name == "fuse" else p for p in DEFAULT.passes)
)


@dataclass
class Case:
    """A graph, arguments for it, and the sizes that its names have there."""

    graph: Graph
    args: tuple[Any, ...]


class _Maker:
    """Builds values from drawn choices. All are f32 (but for what goes between two ops), small and finite."""

    def __init__(self, draw: Callable[[Any], Any], sizes: tuple[Dim, ...], *, depth: int) -> None:
        self.draw = draw
        self.sizes = sizes
        self.depth = depth
        self.values: list[Value] = []

    def pick(self, items: Any) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def value(self) -> Value:
        return self.pick(self.values[-6:] if self.draw(st.booleans()) else self.values)

    def like(self, shape: Shape) -> Value:
        """A value of this shape: one at hand, or one broadcast or filled to it."""
        found = [v for v in self.values if v.shape == shape]
        if found and self.draw(st.integers(0, 4)):
            return self.pick(found)
        x = self.value()
        axes = []
        for dim in x.shape:
            place = next((i for i, d in enumerate(shape) if d == dim and i > (axes[-1] if axes else -1)), None)
            if place is None:
                return Full(float(self.draw(st.integers(-2, 2))), TensorType(shape, f32))
            axes.append(place)
        return Broadcast(x, shape, tuple(axes))

    def step(self) -> Value:
        makers = [
            self.unary, self.unary, self.binary, self.binary, self.binary, self.reduction, self.reduction,
            self.spread, self.view, self.move, self.join, self.update, self.dot, self.irregular, self.ordered,
        ]  # fmt: skip
        if self.depth:
            makers += [self.scan, self.loop, self.switch]
        return self.pick(makers)()

    def unary(self) -> Value:
        x = self.value()
        return self.pick((Tanh, Abs, Neg, lambda v: Exp(Neg(Abs(v))), lambda v: v * 2.0, lambda v: v + 1.0))(x)

    def binary(self) -> Value:
        x = self.value()
        y = self.like(x.shape)
        pick = self.pick(("add", "sub", "mul", "max", "select"))
        if pick == "select":
            return Select(Lt(x, y), y, x)
        return {"add": lambda: x + y, "sub": lambda: x - y, "mul": lambda: Tanh(x) * y, "max": lambda: Maximum(x, y)}[
            pick
        ]()

    def reduction(self) -> Value:
        x = self.value()
        if not x.rank:
            return Tanh(x)
        axes = self.draw(st.sets(st.integers(0, x.rank - 1), min_size=1))
        op = self.pick((Sum, Max))
        # The largest of nothing is -inf, which sums and differences would make NaN.
        return Sum(x, tuple(axes)) * 0.25 if op is Sum or not x.tensor.is_static else Max(x, tuple(axes))

    def spread(self) -> Value:
        """Softmax's way: a reduction along the last axis, and back."""
        x = self.value()
        if not x.rank:
            return x * 0.5
        row = Sum(Tanh(x), (x.rank - 1,))
        return x - Broadcast(row, x.shape, tuple(range(x.rank - 1)))

    def view(self) -> Value:
        x = self.value()
        match self.draw(st.integers(0, 3)):
            case 0:
                return Reshape(x, (1, *x.shape))
            case 1 if x.rank >= 2:
                return Reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
            case 2 if x.rank and type(x.shape[0]) is int and x.shape[0] > 1:
                start = (1,) + (0,) * (x.rank - 1)
                return Slice(x, start, x.shape, (1,) * x.rank)
            case _:
                return Reshape(x, (*x.shape, 1))

    def move(self) -> Value:
        x = self.value()
        match self.draw(st.integers(0, 3)):
            case 0 if x.rank:
                return Reverse(x, (x.rank - 1,))
            case 1 if x.rank:
                value = Full(0.5, TensorType((), f32))
                return Pad(x, value, (1,) * x.rank, (0,) * x.rank, (0,) * x.rank) if x.rank < 3 else x
            case 2:
                return Copy(x)
            case _:
                return Transpose(x, tuple(reversed(range(x.rank))))

    def join(self) -> Value:
        x = self.value()
        if not x.rank:
            return Neg(x)
        parts = [x, self.like(x.shape)]
        if self.draw(st.booleans()):
            parts.append(self.pick(parts))
        return Concatenate(tuple(parts), self.draw(st.integers(0, x.rank - 1)))

    def update(self) -> Value:
        x = self.value()
        if not x.rank or not x.tensor.is_static or any(d == 0 for d in x.shape):
            return Abs(x)
        starts = tuple(Full(self.draw(st.integers(0, 2)), TensorType((), i64)) for _ in x.shape)
        if self.draw(st.booleans()):
            return DynamicUpdate(x, self.like((1, *x.shape[1:])), starts)
        row = Full(0, TensorType((2,), i64))
        return Scatter(x, (row,), self.like((2, *x.shape[1:])), (0,), "add", "clip")

    def dot(self) -> Value:
        x = self.value()
        if not x.rank:
            return x - 1.0
        return (
            Dot(Tanh(x), self.like(x.shape), (), (), (x.rank - 1,), (x.rank - 1,), None)
            if x.rank == 1
            else Dot(x, self.like((x.shape[-1], 3)), (), (), (x.rank - 1,), (0,), None)
        )

    def irregular(self) -> Value:
        x = self.value()
        if not x.rank or any(type(d) is not int or d == 0 for d in x.shape):
            return x * -0.5
        if self.draw(st.booleans()):
            return Gather(x, (Iota(TensorType((2,), i64), 0),), (0,), "clip")
        return Get(Sort((x,), x.rank - 1), 0)

    def ordered(self) -> Value:
        match self.draw(st.integers(0, 2)):
            case 0:
                x = self.value()
                return CumSum(x, 0, False) if x.rank else x
            case 1:
                return After(self.value(), (self.value(),))
            case _:
                count = next((d for d in self.sizes if type(d) is not int), 3)
                return Convert(DimSize(count), f32)

    # Control flow. Bodies get values by parameters and are made by the same rules, one level less deep.

    def body(self, name: str, types: list[TensorType], results: list[TensorType], steps: int) -> Graph:
        inner = _Maker(self.draw, self.sizes, depth=self.depth - 1)
        params = tuple(Parameter(f"p{i}", kind) for i, kind in enumerate(types))
        inner.values = [p for p in params if p.dtype is f32] or [Full(1.0, TensorType((), f32))]
        for _ in range(self.draw(st.integers(0, steps))):
            inner.values.append(inner.step())
        return Graph(name, params, tuple(inner.like(kind.shape) for kind in results))

    def scan(self) -> Value:
        carry = [self.value() for _ in range(self.draw(st.integers(1, 3)))]
        consts = [self.value()]
        length = self.pick((3, *(d for d in self.sizes if type(d) is not int)))
        xs = [v for v in self.values if v.rank and v.shape[0] == length][:2]
        counted = self.draw(st.booleans())
        types = [TensorType((), i64)] if counted else []
        types += [v.tensor for v in (*consts, *carry)] + [x.tensor.with_shape(x.shape[1:]) for x in xs]
        ys = [self.value().tensor for _ in range(self.draw(st.integers(0, 2)))]
        body = self.body("step", types, [*(v.tensor for v in carry), *ys], 3)
        if self.draw(st.booleans()) and len(carry) > 1 and carry[0].type == carry[1].type:
            first, second, *rest = body.results
            body = body.with_results((second, first, *rest))
        loop = Scan(tuple(consts), tuple(carry), tuple(xs), body, length, self.draw(st.booleans()), counted)
        found = [Get(loop, i) for i in range(len(loop.type.elements))]
        self.values += found[1:]
        return found[0]

    def loop(self) -> Value:
        carry = [self.value() for _ in range(self.draw(st.integers(1, 2)))]
        zero = Full(0.0, TensorType((), f32))
        types = [TensorType((), f32), *(v.tensor for v in carry)]
        count = float(self.draw(st.integers(0, 3)))
        condition = from_function("goes_on", types, lambda i, *rest: Lt(i, Full(count, TensorType((), f32))))
        inner = self.body("again", types, [v.tensor for v in carry], 3)
        body = inner.with_results((inner.params[0] + 1.0, *inner.results))
        loop = While((), (zero, *carry), condition, body)
        return Get(loop, self.draw(st.integers(1, len(carry))))

    def switch(self) -> Value:
        args = [self.value(), self.value()]
        kinds = [self.value().tensor for _ in range(self.draw(st.integers(1, 2)))]
        branches = tuple(self.body(f"case{i}", [v.tensor for v in args], kinds, 2) for i in range(2))
        scalars = [v for v in self.values if not v.rank]
        selector: Value = Full(1, TensorType((), i64))
        if scalars:
            selector = Lt(Full(0.0, TensorType((), f32)), self.pick(scalars))
            assert selector.dtype is bool_
        chosen = Switch(selector, tuple(args), branches)
        found = [Get(chosen, i) for i in range(len(kinds))]
        self.values += found[1:]
        return found[0]


@st.composite
def cases(draw: Callable[[Any], Any], *, symbolic: bool | None = None, steps: int = 12, depth: int = 1) -> Case:
    """Graphs of up to `steps` ops with arguments."""
    with_names = draw(st.booleans()) if symbolic is None else symbolic
    dims = (DimName("B"),) if with_names else ()
    sizes: tuple[Dim, ...] = (symbol("B"), 4) if with_names else (5, 4)
    shapes: list[Shape] = [(), (4,), sizes, (sizes[0],), (3, 4)]
    maker = _Maker(draw, sizes, depth=depth)
    drawn = [draw(st.sampled_from(shapes)) for _ in range(draw(st.integers(1, 4)))]
    params = [Parameter(f"x{i}", TensorType(shape, f32)) for i, shape in enumerate(drawn)]
    if with_names and not any(p.shape and p.shape[0] == symbol("B") for p in params):
        params.append(Parameter("x_B", TensorType(sizes, f32)))
    data = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)
    maker.values = [*params, Constant(data[:3])]
    for _ in range(draw(st.integers(1, steps))):
        found = maker.step()
        if found.rank <= 4:
            maker.values.append(found)
    results = tuple(maker.value() for _ in range(draw(st.integers(1, 4))))
    count = draw(st.sampled_from((0, 1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    args = []
    for param in params:
        shape = tuple(d if type(d) is int else count for d in param.shape)
        args.append(rng.standard_normal(shape).astype(np.float32))
    return Case(Graph("random", tuple(params), results, dims), tuple(args))


# From the op table.


@dataclass(frozen=True)
class Bound:
    """How far compiled code may be from the evaluator. `last`: what reads the value may be further off, as kernels
    round a product and a sum at once, and keep short floats long in between."""

    ulp: float = 0.0
    atol: float = 0.0
    last: bool = False


EXACT = Bound()


# Where several ops of a row cancel, only this much of numbers about 1 is sure.
SUMS = {"f16": 2e-2, "bf16": 1e-1, "f32": 1e-5, "f64": 1e-13, "c64": 1e-5, "c128": 1e-13}


def bound_of(sample: Sample, graph: Graph) -> Bound:
    """What the row of one op says, with room for one rounding fewer where it is several."""
    ops = [value for value in everywhere(graph) if value.operands and not isinstance(value, Get | Movement | Control)]
    floats = [t.dtype for value in ops for t in value.tensors if t.dtype.kind in ("float", "complex")]
    if not floats:
        return EXACT
    several = len(ops) > 1 and not all(isinstance(value, Movement) for value in ops)
    ulp, atol = sample.ulp, sample.atol
    if several:
        ulp, atol = max(64.0, 4 * ulp), max(atol, *(SUMS.get(dtype.name, 0.0) for dtype in floats))
    return Bound(ulp, atol, several or any(isinstance(v, Mul) for v in ops) or any(d.bits < 32 for d in floats))


# What only moves elements leaves them as good as they were.
MOVES = ("broadcast", "reshape", "transpose", "slice", "concatenate", "reverse", "copy", "stop_gradient")


def is_tame(sample: Sample) -> bool:
    """Whether a row can be part of a graph with known sizes, and be applied to other values than its own."""
    return not sample.sizes and not sample.build().dims


def needs_own_inputs(graph: Graph) -> bool:
    """Whether the op promises something of its operands, or fails on some."""
    return any(value.can_fail or "promised" in map(str, dict(value.attributes()).values()) for value in graph.ops)


ROWS: dict[str, list[Sample]] = {
    op: tame for op, rows in BY_OP.items() if (tame := [row for row in rows if is_tame(row)])
}


class _TableMaker:
    """Strings ops of the table together. Operands are the row's own inputs, as new parameters, or values at hand,
    brought into the type that the row takes. With `stated`, what has been rounded once is only moved from then on, so
    that the bounds of the rows are those of the results."""

    def __init__(self, draw: Callable[[Any], Any], *, stated: bool) -> None:
        self.draw = draw
        self.stated = stated
        self.params: list[Parameter] = []
        self.args: list[Any] = []
        self.values: list[tuple[Value, Bound]] = []

    def step(self) -> None:
        op = self.draw(st.sampled_from(sorted(ROWS)))
        sample = self.draw(st.sampled_from(ROWS[op]))
        graph = sample.build()
        bound = bound_of(sample, graph)
        usable = [(v, b) for v, b in self.values if not self.stated or b == EXACT or (op in MOVES and bound == EXACT)]
        own = not usable or needs_own_inputs(graph) or self.draw(st.booleans())
        # Elsewhere differences of several ops, and absolute bounds, say nothing.
        own |= self.stated and (sample.atol > 0 or bound.ulp != sample.ulp)
        operands: list[Value] = []
        for param, array in zip(graph.params, sample.arrays(), strict=True):
            if own or not self.draw(st.integers(0, 3)):
                operands.append(self.parameter(param.given, array))
            else:
                value, was = self.draw(st.sampled_from(usable))
                operands.append(fitted(value, param.given))
                bound = Bound(max(bound.ulp, was.ulp), max(bound.atol, was.atol), bound.last or was.last)
        self.values += [(result, bound) for result in inline(graph, operands)]

    def parameter(self, kind: TensorType, array: Any) -> Value:
        self.params.append(Parameter(f"x{len(self.params)}", kind))
        self.args.append(np.asarray(array))
        return self.params[-1]


def fitted(value: Value, kind: TensorType) -> Value:
    """A value made from another one, of another type."""
    if value.dtype is not kind.dtype:
        if value.dtype.kind == "complex" and kind.dtype.kind != "complex":
            value = Real(value)
        value = Convert(value, kind.dtype) if value.dtype is not kind.dtype else value
    if value.shape == kind.shape:
        return value
    have, want = (int(str(t.size)) for t in (value.tensor, kind))
    if not have:
        return Full(0, kind)
    flat = Reshape(value, (have,)) if value.rank != 1 else value
    if have < want:
        flat, have = Concatenate((flat,) * -(-want // have), 0), have * -(-want // have)
    if have > want:
        flat = Slice(flat, (0,), (want,), (1,))
    return Reshape(flat, kind.shape) if kind.rank != 1 else flat


@dataclass
class TableCase(Case):
    """A case with the bound of each result."""

    bounds: tuple[Bound, ...] = ()


@st.composite
def table_cases(draw: Callable[[Any], Any], *, stated: bool = False, steps: int = 5) -> TableCase:
    """Graphs of up to `steps` rows of the op table, one reading another."""
    maker = _TableMaker(draw, stated=stated)
    for _ in range(draw(st.integers(1, steps))):
        maker.step()
    results = [maker.values[-1], *(draw(st.sampled_from(maker.values)) for _ in range(draw(st.integers(0, 2))))]
    graph = Graph("random", tuple(maker.params), tuple(value for value, _ in results))
    return TableCase(graph, tuple(maker.args), tuple(bound for _, bound in results))
