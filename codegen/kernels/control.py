"""Control flow as one kernel: the loop itself is the kernel, and its carry lies where its results will.

Taken are a scan, a while or a switch whose bodies are groups that have kernels, computed with so little that neither
threads nor the arena are wanted for a step: then a call for each of them would cost more than what it does. The kernels
of the groups are written into the loop as they stand, their operands and results places in the loop's arrays, so a
step rounds as it does in a loop of the program, on every target. A result of a step is written straight over the carry
when what was there is not read any more, by the rules by which its kernel may overwrite an operand; else it is computed
apart and copied. Bodies that are bigger, or whose sizes are known only at run time, are left to loops of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from ...ir.dims import Dim, minimum, product, symbol
from ...ir.dtypes import i64
from ...ir.errors import Unsupported
from ...ir.graph import Graph, failing
from ...ir.loops.build import bound_names, cast, eq, lt, map_exprs, map_stmts, rename, walk
from ...ir.loops.nodes import (
    Alloc,
    Binary,
    Const,
    Expr,
    Fail,
    For,
    If,
    Index,
    Kernel,
    Let,
    Load,
    Param,
    Stmt,
    Store,
    Table,
    Var,
    While,
)
from ...ir.ops.control import Group, Scan, Switch
from ...ir.ops.control import While as WhileOp
from ...ir.ops.indexing import DynamicUpdate, Scatter
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import TensorType, TupleType
from ...ir.value import After, Constant, DimSize, Full, Get, Parameter, Value
from .. import simd
from ..lower.compose import Source
from ..lower.structured import Place
from .elementwise import hazard, space, stores
from .residence import resident

Block: TypeAlias = tuple[Stmt, ...]
Make: TypeAlias = Callable[[KernelDef, Target], Kernel]
Loop: TypeAlias = Scan | WhileOp | Switch

ARRAY_BYTES: Final = 16 << 10  # of one array that a step computes: some of them stay in a first-level cache
STACK_BYTES: Final = 64 << 10  # of all of them
STEP_WORK: Final = 1 << 20  # scalars that one op of a step computes: above, threads are worth asking
STEPS: Final = 1024  # after so many steps a loop looks whether it is to stop


def looped(graph: Graph) -> Loop | None:
    """The control op that a group is, with nothing but leaves before it."""
    found: Loop | None = None
    for value in graph.ops:
        if isinstance(value, Scan | WhileOp | Switch) and found is None:
            found = value
        elif not isinstance(value, Full | DimSize | Constant | Get):
            return None
    if found is None or not all(isinstance(result, Get) and result.x is found for result in graph.results):
        return None
    return found


def takes(graph: Graph, target: Target, inner: Make) -> bool:
    """Whether the group is a control op that is better one kernel; `inner` makes the kernels of its bodies' groups."""
    return looped(graph) is not None and _made(graph, target, inner) is not None


def control(definition: KernelDef, target: Target, inner: Make) -> Kernel:
    """The kernel of such a group."""
    kernel = _made(definition.graph, target, inner)
    assert kernel is not None
    if definition.updates:
        op, params = looped(definition.graph), definition.graph.params
        if not isinstance(op, Switch) or any(
            sum(x is params[number] for x in op.operands) != 1 for _, number in definition.updates
        ):
            raise hazard(Source(definition), kernel.params[definition.updates[0][1]])
        kernel = _Writer(definition, target, inner).kernel(op)
    return replace(kernel, name=definition.name)


# What was made when it was asked whether it can be.
_kernels: WeakKeyDictionary[Graph, dict[Target, Kernel | None]] = WeakKeyDictionary()


def _made(graph: Graph, target: Target, inner: Make) -> Kernel | None:
    known = _kernels.setdefault(graph, {})
    if target not in known:
        known[target] = None
        op = looped(graph)
        if op is not None and all(map(is_small, op.bodies)):
            try:
                kernel = _Writer(KernelDef("kernel", graph), target, inner).kernel(op)
            except Unsupported:
                return None
            arrays = [stmt for stmt in walk(kernel.body) if isinstance(stmt, Alloc) and stmt.memory == "stack"]
            if sum(_bytes(TensorType(array.shape, array.dtype)) for array in arrays) <= STACK_BYTES:
                known[target] = kernel
    return known[target]


def is_small(body: Graph) -> bool:
    """Whether a body is made of groups, each of which does little, of sizes that are known."""
    for value in body.ops:
        if isinstance(value, Get | After | Constant):
            continue
        if not isinstance(value, Group) or any(_bytes(kind) > ARRAY_BYTES for kind in value.body.result_types):
            return False
        if not all(_work(op) <= STEP_WORK for op in value.body.ops):
            return False
    return True


def _bytes(kind: TensorType) -> int:
    return kind.bytes if type(kind.bytes) is int else 1 << 62


def _work(op: Value) -> int:
    """How many scalars the op combines or moves."""
    structure = op.structure()
    if structure is not None:
        work = product([axis.extent for axis in structure.axes])
    elif isinstance(op.type, TupleType):
        return 1  # a loop inside: its own bodies are small, or it is no kernel
    else:
        work = op.tensor.size
    return work if type(work) is int else 1 << 62


def _written_over(group: Group, index: int) -> Value | None:
    """The operand of which result number `index` of a group is an update of parts."""
    value = group.body.results[index]
    if not isinstance(value, DynamicUpdate | Scatter):
        return None
    while isinstance(value, DynamicUpdate | Scatter):
        value = value.x
    found = [arg for arg, param in zip(group.args, group.body.params, strict=True) if param is value]
    return found[0] if found and sum(arg is found[0] for arg in group.args) == 1 else None


def _in_order(body: Graph) -> list[Value]:
    """The ops of a body, of which those that read a value come before the one that updates it, where they can."""
    before: dict[int, list[Value]] = {id(op): list(op.operands) for op in body.ops}

    def needs(op: Value, other: Value) -> bool:
        """Whether `op` comes after `other`."""
        stack, seen = [op], set[int]()
        while stack:
            value = stack.pop()
            if value is other:
                return True
            if id(value) not in seen:
                seen.add(id(value))
                stack += before.get(id(value), ())
        return False

    for op in body.ops:
        if not isinstance(op, Group):
            continue
        for index in range(len(op.body.results)):
            value = _written_over(op, index)
            if value is None:
                continue
            readers = [reader for reader in body.ops if any(x is value for x in reader.operands) and reader is not op]
            for reader in readers:
                if not needs(reader, op):
                    before[id(op)].append(reader)
    found: dict[int, Value] = {id(param): param for param in body.params}
    for op in body.ops:
        stack = [op]
        while stack:
            missing = [x for x in before[id(stack[-1])] if id(x) not in found]
            if missing:
                stack += missing[::-1]
            else:
                value = stack.pop()
                found.setdefault(id(value), value)
    return [value for value in found.values() if not isinstance(value, Parameter)]


def _updates(body: Graph, result: Get) -> list[Get]:
    """What groups give, each an update of parts of the one before it, up to `result`."""
    chain = [result]
    while True:
        group = chain[-1].x
        assert isinstance(group, Group)
        before = _written_over(group, chain[-1].index)
        if not isinstance(before, Get) or not isinstance(before.x, Group) or before.type != result.type:
            return chain[::-1]
        # Under two names it could not be written over.
        if sum(isinstance(op, Get) and op.x is before.x and op.index == before.index for op in body.ops) != 1:
            return chain[::-1]
        chain.append(before)


class _Target(NamedTuple):
    """Where result `number` of a group is to be written; `over` if that overwrites one of the group's operands."""

    place: Place
    over: bool = False


class _Writer:
    """Writes the loops of one control op."""

    def __init__(self, definition: KernelDef, target: Target, inner: Make) -> None:
        self.source = Source(definition)
        self.names = self.source.names
        self.target = target
        self.inner = inner
        self.allocs: list[Alloc] = []
        self.tables: dict[Table, Table] = {}

    def kernel(self, op: Loop) -> Kernel:
        source = self.source
        begin: list[Stmt] = []
        given = [self.given(x, begin) for x in op.operands]
        kinds = op.type.elements if isinstance(op.type, TupleType) else ()
        # A result that nobody reads has no buffer; it may still be carried.
        buffers = {
            value.index: out.name for value, out in zip(source.graph.results, source.outs) if isinstance(value, Get)
        }
        results: list[Place] = []
        for number, kind in enumerate(kinds):
            if number in buffers:
                results.append(Place(buffers[number], kind.dtype, kind.shape))
            else:
                results.append(self.room(kind))
        match op:
            case Scan():
                body = self.scan(op, given, results)
            case WhileOp():
                body = self.repeat(op, given, results)
            case Switch():
                body = self.choose(op, given, results)
        # Two results may be the same element of the tuple.
        twice: list[Stmt] = []
        for value, out in zip(source.graph.results, source.outs):
            if isinstance(value, Get) and buffers[value.index] != out.name:
                kind = value.tensor
                twice += self.copy(results[value.index], Place(out.name, kind.dtype, kind.shape))
        tables = (*source.tables.values(), *self.tables.values())
        whole = (*self.allocs, *begin, *body, *twice)
        return resident(Kernel(source.definition.name, tuple(source.params), source.dims, whole, tables))

    # Places.

    def room(self, kind: TensorType) -> Place:
        """An array of the kernel's own."""
        name = self.names.fresh("t")
        self.allocs.append(Alloc(name, kind.dtype, (kind.size,), "stack"))
        return Place(name, kind.dtype, kind.shape)

    def given(self, value: Value, block: list[Stmt]) -> Place:
        """Where an operand of the op lies; a leaf is written out."""
        if isinstance(value, Parameter):
            return Place(self.source.buffer_of[id(value)].name, value.dtype, value.shape)
        if isinstance(value, Constant):
            return self.constant(value)
        place = self.room(value.tensor)
        param = Param(place.buffer, place.dtype, (value.tensor.size,), "out")
        block += space(self.source, value.shape, stores(value.shape, [(value, param)], self.target), self.target)
        return place

    def constant(self, value: Constant) -> Place:
        return Place(self.source.table(value).name, value.dtype, value.shape)

    def copy(self, source: Place, target: Place) -> Block:
        """Every element of one place stored to another, in vectors."""
        if source == target or target.flat().shape == (0,):
            return ()
        size = target.flat().shape[0]
        if size == 1:
            return (target.flat().store((0,), source.flat().load((0,))),)
        name = self.names.fresh("i")
        at = (symbol(name),)
        loop = For(name, 0, size, 1, "serial", (target.flat().store(at, source.flat().load(at)),))
        return simd.strips(loop, simd.lanes_of([source.dtype]), 1, self.names)

    def assign(self, moves: Sequence[tuple[Place, Place]], held: Sequence[Place]) -> Block:
        """Copies that happen at once: what lies in one of the places `held`, which are written here, is set aside."""
        first: list[Stmt] = []
        then: list[Stmt] = []
        for source, target in moves:
            if source != target and source in held:
                aside = self.room(TensorType(source.shape, source.dtype))
                first += self.copy(source, aside)
                source = aside
            then += self.copy(source, target)
        return (*first, *then)

    # Graphs.

    def graph(
        self, graph: Graph, args: Sequence[Place], targets: dict[tuple[int, int], _Target]
    ) -> tuple[Block, list[Place]]:
        """The kernels of a body's groups in order, and where its results lie. `targets` has places for some results of
        groups, by (id of the group, number)."""
        env: dict[int, tuple[Place, ...]] = {id(param): (place,) for param, place in zip(graph.params, args)}
        block: list[Stmt] = []
        for op in _in_order(graph):
            match op:
                case Get(x, number):
                    env[id(op)] = (env[id(x)][number],)
                case After(x):
                    env[id(op)] = env[id(x)]
                case Constant():
                    env[id(op)] = (self.constant(op),)
                case Group():
                    operands = [env[id(x)][0] for x in op.args]
                    kinds = op.body.result_types
                    wanted = [targets.get((id(op), number)) for number in range(len(kinds))]
                    places = [self.room(kind) if to is None else to.place for kind, to in zip(kinds, wanted)]
                    over = [number for number, to in enumerate(wanted) if to is not None and to.over]
                    statements = self.group(op, operands, places, over)
                    if statements is None:
                        # The kernel reads what it would overwrite: compute apart, then copy.
                        aside = [self.room(kind) if i in over else places[i] for i, kind in enumerate(kinds)]
                        statements = self.group(op, operands, aside, ())
                        assert statements is not None
                        block += statements
                        for number in over:
                            block += self.copy(aside[number], places[number])
                    else:
                        block += statements
                    env[id(op)] = tuple(places)
                case _:
                    raise Unsupported(f"{op.name} outside a group", code="TD0434", location=op.location)
        return tuple(block), [env[id(result)][0] for result in graph.results]

    def group(self, op: Group, operands: list[Place], places: list[Place], over: Iterable[int]) -> Block | None:
        """The kernel of a group written out on these places; None where a result of `over` cannot overwrite."""
        updates = tuple([(number, operands.index(places[number])) for number in over])
        definition = KernelDef("inner", op.body, updates)
        try:
            kernel = self.inner(definition, self.target)
        except Unsupported as error:
            if updates and error.code == "TD0433":
                return None
            raise
        buffers = iter([place for number, place in enumerate(places) if number not in dict(updates)])
        named: dict[str, Place] = {}
        for number, param in enumerate(kernel.params):
            named[param.name] = operands[number] if number < len(operands) else next(buffers)
        return self.inlined(kernel, named, op.body)

    def inlined(self, kernel: Kernel, places: dict[str, Place], graph: Graph) -> Block:
        """A kernel's statements under names of ours, its buffers the given places, its failures those of the ops."""
        fresh = {name: self.names.fresh(name) for name in dict.fromkeys(bound_names(kernel.body))}
        params = {param.name: self.names.fresh("x") for param in kernel.params}
        for table in kernel.tables:
            # Tables are told apart by what they hold.
            plain = replace(table, name="")
            if plain not in self.tables:
                self.tables[plain] = replace(table, name=self.names.fresh("c"))
            params[table.name] = self.tables[plain].name
        at = {params[name]: place for name, place in places.items()}
        sites = dict(enumerate((self.source.sites[id(op)] for op in failing(graph)), 1))
        body = rename(kernel.body, {**fresh, **params})

        def moved(expr: Expr) -> Expr:
            if type(expr) is not Load or expr.buffer not in at:
                return expr
            place = at[expr.buffer]
            return Load(place.buffer, (expr.index[0] + place.base,), expr.dtype)

        def placed(stmt: Stmt) -> Stmt:
            match stmt:
                case Store(buffer, index, value) if buffer in at:
                    place = at[buffer]
                    return Store(place.buffer, (index[0] + place.base,), value)
                case For(kind="parallel"):
                    return replace(stmt, kind="serial")
                case Fail(when, site, found):
                    return Fail(when, sites[site], found)
            return stmt

        return map_stmts(map_exprs(body, moved), placed)

    def targets(
        self, body: Graph, params: Sequence[Parameter], results: Sequence[Value], places: Sequence[Place]
    ) -> dict[tuple[int, int], _Target]:
        """Which results of groups can be written straight to the places to which they go, where `params` lie."""
        found: dict[tuple[int, int], _Target] = {}
        number_of = {id(op): number for number, op in enumerate(_in_order(body))}

        def over_by(value: Value, group: Group) -> bool:
            """Whether nobody reads a value after the group, which may then write over it."""
            if any(result is value for result in body.results):
                return False
            readers = [op for op in body.ops if any(x is value for x in op.operands)]
            return not any(isinstance(op, After) or number_of[id(op)] > number_of[id(group)] for op in readers)

        for param, result, place in zip(params, results, places, strict=True):
            if not isinstance(result, Get) or not isinstance(result.x, Group):
                continue
            updates = _updates(body, result)
            # Of several updates one after the other each writes over what the one before left, or only the last does.
            for chain in (updates, updates[-1:]):
                groups = [link.x for link in chain if isinstance(link.x, Group)]
                reads = sum(x is param for x in groups[0].args)
                keys = [(id(link.x), link.index) for link in chain]
                if reads > 1 or any(key in found for key in keys):
                    continue
                if all(map(over_by, (param, *chain), groups)):
                    found |= {key: _Target(place, number > 0 or reads == 1) for number, key in enumerate(keys)}
                    break
        return found

    # Loops.

    def scan(self, op: Scan, given: list[Place], results: list[Place]) -> Block:
        n, m = len(op.consts), len(op.consts) + len(op.carry)
        carry, stacks = results[: len(op.carry)], results[len(op.carry) :]
        begin = [stmt for source, target in zip(given[n:m], carry) for stmt in self.copy(source, target)]
        step = self.names.fresh("t")
        at = op.length - 1 - symbol(step) if op.reverse else symbol(step)
        number: list[Place] = []
        count: Block = ()
        if op.counted:
            number.append(self.room(TensorType((), i64)))
            count = (number[0].store((), Index(at)),)
        body = op.body
        carried = body.params[len(number) + n : len(number) + m]
        targets = self.targets(body, carried, body.results[: len(carry)], carry)
        rows = [stack.row(at) for stack in stacks]
        for result, row in zip(body.results[len(carry) :], rows, strict=True):
            if isinstance(result, Get) and isinstance(result.x, Group):
                targets.setdefault((id(result.x), result.index), _Target(row))
        inner, news = self.graph(body, [*number, *given[:n], *carry, *[x.row(at) for x in given[m:]]], targets)
        ends = [stmt for new, row in zip(news[len(carry) :], rows, strict=True) for stmt in self.copy(new, row)]
        ends += self.assign(list(zip(news, carry)), carry)
        return (*begin, *self.steps(step, op.length, (*count, *inner, *ends)))

    def steps(self, var: str, length: Dim, body: Block) -> Block:
        """The body for each step. A long loop is one of rounds that looks for the stop word after each."""
        if type(length) is int and length <= STEPS:
            return (For(var, 0, length, 1, "serial", body),)
        done, first, last = (self.names.fresh(name) for name in ("done", "first", "last"))
        sofar = Load(done, (), i64)
        round_ = (
            Let(first, sofar),
            Let(last, Index(minimum(symbol(first) + STEPS, length))),
            For(var, symbol(first), symbol(last), 1, "serial", body),
            Store(done, (), Var(last, i64)),
        )
        rounds = If(lt(0, Index(length)), (While(round_, lt(sofar, Index(length))),))
        return (Alloc(done, i64, (), "registers"), Store(done, (), Const(0, i64)), rounds)

    def repeat(self, op: WhileOp, given: list[Place], results: list[Place]) -> Block:
        n = len(op.consts)
        begin = [stmt for source, target in zip(given[n:], results) for stmt in self.copy(source, target)]
        ask, (flag,) = self.graph(op.condition, [*given[:n], *results], {})
        again, (more,) = self.graph(op.condition, [*given[:n], *results], {})
        targets = self.targets(op.body, op.body.params[n:], op.body.results, results)
        inner, news = self.graph(op.body, [*given[:n], *results], targets)
        ends = self.assign(list(zip(news, results)), results)
        loop = While((*inner, *ends, *again), more.load(()))
        return (*begin, *ask, If(flag.load(()), (loop,)))

    def choose(self, op: Switch, given: list[Place], results: list[Place]) -> Block:
        selector, args = given[0], given[1:]
        which = self.names.fresh("which")
        last = len(op.branches) - 1
        number = Binary("max", Binary("min", cast(selector.load(()), i64), Const(last, i64)), Const(0, i64))
        chosen: Block = ()
        # Results that take the place of an argument: a branch hands it on, writes parts of it, or is copied over it.
        shared = [i for i, to in enumerate(results) if to in args]
        held = [results[i] for i in shared]
        for place, branch in reversed(list(enumerate(op.branches))):
            params = [branch.params[args.index(to)] for to in held]
            targets = self.targets(branch, params, [branch.results[i] for i in shared], held)
            for i, (result, to) in enumerate(zip(branch.results, results, strict=True)):
                if i not in shared and isinstance(result, Get) and isinstance(result.x, Group):
                    targets.setdefault((id(result.x), result.index), _Target(to))
            body, news = self.graph(branch, args, targets)
            body = (*body, *self.assign(list(zip(news, results)), held))
            chosen = body if place == last else (If(eq(Var(which, i64), place), body, chosen),)
        return (Let(which, number), *chosen)
