"""Loops to LLVM text: one function per kernel, one more per parallel loop.

What the loops say is said again in SSA form: `Let` and register arrays become values, a loop carries the register
arrays it writes in phi nodes, an unrolled loop is its body written out, a vector loop its body written once on
vectors, under a mask where the trip count may be less than the lanes. A parallel loop becomes a task that the pool of
the context runs on pieces of its range, or that is called directly. There is no pass after this but the code
generator; see `writer.py` for how invariants leave loops without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, assert_never

from ...ir.classes import dataclass
from ...ir.dims import names
from ...ir.dtypes import DType, bool_, i8, i16, i32, i64
from ...ir.errors import Unsupported
from ...ir.loops.nodes import (
    MOST_FOUND,
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
    Kernel,
    Let,
    Load,
    Param,
    Select,
    Stmt,
    Store,
    Table,
    Unary,
    Var,
    While,
)
from ...ir.target import Target
from .. import isa
from . import pairs, scalars
from .control import CONTEXT_POOL, CONTEXT_THREADS, Branch, Control
from .facts import register_widths, uses, walk
from .memory import PAGE_BYTES, Buffer
from .positions import Lanes
from .registers import registers
from .routines import any_lane
from .writer import Needs, Scope, Value, float_text, integer, literal, memory_type, pair

Linkage = Literal["internal", "external"]

# The words behind `fail`: site << 40 | position of the smallest failure, or NO_FAILURE while there is none; a lock for
# those that come next; the numbers that the failure tells.
NO_FAILURE: Final = (1 << 63) - 1
SITE_SHIFT: Final = 40
FAIL_FOUND: Final = 2
FAIL_WORDS: Final = FAIL_FOUND + MOST_FOUND

# Outer loops of fewer trips do not look at the stop word.
_SHORT: Final = 64

# A worker's stack is small; larger arrays come from the arena, as parameters.
MOST_STACK_BYTES: Final = 128 << 10


def emit_kernel(kernel: Kernel, target: Target, *, linkage: Linkage = "internal") -> str:
    """The text of a module that holds one kernel: `void @name(ptr of each param, i64 of each dim, ptr context, ptr
    fail)`."""
    module = Module(target)
    module.add(kernel, linkage=linkage)
    return module.text()


def quoted(name: str) -> str:
    """A global's name as LLVM reads any name."""
    return f'@"{name}"'


class Module:
    """Kernels and what they need, joined into one text with every declaration, table and routine once. `elsewhere` are
    kernels of other modules of the same program, which functions of this one may call."""

    def __init__(self, target: Target, elsewhere: Mapping[str, Kernel] | None = None) -> None:
        self.target = target
        self.needs = Needs()
        self.functions: list[str] = []
        self.elsewhere = elsewhere or {}
        self.kernels: dict[str, Kernel] = dict(self.elsewhere)
        self.heads: list[int] = []  # where in `functions` the kernels are, between the bodies of their tasks

    def add(self, kernel: Kernel, *, linkage: Linkage = "internal") -> None:
        """Emit a kernel. Kernels are told apart by name: a second one of a name must be the same kernel."""
        known = self.kernels.get(kernel.name)
        if known is not None:
            if known != kernel:
                raise Unsupported(f"two different kernels are called {kernel.name}", code="TD0514")
            return
        self.kernels[kernel.name] = kernel
        text = _Function(self, kernel.name).kernel(kernel, linkage)
        self.heads.append(len(self.functions))
        self.functions.append(text)

    def called(self, name: str, types: Sequence[str]) -> None:
        """A function calls that kernel, with arguments of these types."""
        if name in self.elsewhere:
            self.needs.declare(f"declare hidden void {quoted(name)}({', '.join(types)}) nounwind")

    def share(self) -> None:
        """Let other modules call the kernels of this one."""
        for number in self.heads:
            self.functions[number] = self.functions[number].replace("define internal", "define hidden", 1)

    def can_fail(self, name: str) -> bool:
        """Whether that kernel holds a `Fail`."""
        return any(isinstance(stmt, Fail) for stmt in walk(self.kernels[name].body))

    def add_text(self, text: str) -> None:
        """A function written elsewhere, such as the entry."""
        self.functions.append(text)

    def text(self) -> str:
        constants = [f"{name} = {content}" for content, name in self.needs.globals.items()]
        parts = [
            *constants,
            *self.needs.declarations,
            *self.needs.routines.values(),
            *self.functions,
            "!0 = !{i32 1}",
        ]
        return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Facts:
    """What a block writes and uses, found once per statement."""

    written: frozenset[str]
    inner_loops: bool
    can_stop: bool


class _Function(Control):
    """One LLVM function: a kernel or the body of a task."""

    def __init__(self, module: Module, name: str, serial: bool = False) -> None:
        super().__init__(module.target, module.needs)
        self.module = module
        self.symbol = name
        self.serial = serial  # inside a task: parallel loops run in order
        self.facts: dict[int, _Facts] = {}
        self.widths: dict[str, int] = {}
        self.tasks = 0
        self.stack_bytes = 0

    # --- functions ----------------------------------------------------------------------------------------------------

    def kernel(self, kernel: Kernel, linkage: Linkage) -> str:
        arguments = []
        for number, param in enumerate(kernel.params):
            name = f"%p{number}"
            arguments.append(f"{pointer_attributes(param)} {name}")
            self.buffers[param.name] = Buffer(Value(name, i64), param.dtype, param.shape)
        for number, dim in enumerate(kernel.dims):
            arguments.append(f"i64 %d{number}")
            self.env[dim] = Value(f"%d{number}", i64)
        arguments += ["ptr %cx", "ptr %fail"]
        for table in kernel.tables:
            self.buffers[table.name] = self.table(table)
        self.widths = register_widths(kernel.body)
        self.scan(kernel.body)
        self.block(kernel.body)
        word = "" if linkage == "external" else "internal "
        return self.finished(f"define {word}void {quoted(kernel.name)}({', '.join(arguments)}) nounwind {{")

    def table(self, table: Table) -> Buffer:
        values = list(table.values)
        if table.dtype.bits == 32 and len(values) <= 32:
            # Whole registers, so that a look-up can be a permutation of them.
            values += [0] * (-len(values) % 16)
        kind = memory_type(table.dtype)
        listed = ", ".join([f"{kind} {table_text(value, table.dtype)}" for value in values])
        name = self.needs.table(f"[{len(values)} x {kind}]", f"[{listed}]")
        return Buffer(Value(name, i64), table.dtype, (len(table.values),), len(table.values))

    # --- what is in a block -------------------------------------------------------------------------------------------

    def scan(self, stmts: tuple[Stmt, ...]) -> tuple[frozenset[str], bool]:
        """(buffers and register arrays that are written, whether there is a loop that is not unrolled or a vector)."""
        written: dict[str, None] = {}
        loops = False
        for stmt in stmts:
            match stmt:
                case Store(buffer, _, _):
                    written[buffer] = None
                case For(_, start, stop, _, kind, body):
                    inside, deeper = self.scan(body)
                    extent = stop - start
                    short = isinstance(extent, int) and extent < _SHORT
                    self.facts[id(stmt)] = _Facts(inside, deeper, deeper and not short)
                    written.update(dict.fromkeys(sorted(inside)))
                    loops = loops or deeper or kind in ("serial", "prefetched", "parallel")
                case While(body, _):
                    inside, deeper = self.scan(body)
                    self.facts[id(stmt)] = _Facts(inside, deeper, True)
                    written.update(dict.fromkeys(sorted(inside)))
                    loops = True
                case If(_, then, otherwise):
                    one, deep_one = self.scan(then)
                    two, deep_two = self.scan(otherwise)
                    self.facts[id(stmt)] = _Facts(one | two, deep_one or deep_two, False)
                    written.update(dict.fromkeys(sorted(one | two)))
                    loops = loops or deep_one or deep_two
                case Let() | Alloc() | Fail():
                    pass
                case _:
                    assert_never(stmt)
        return frozenset(written), loops

    # --- statements ---------------------------------------------------------------------------------------------------

    def block(self, stmts: tuple[Stmt, ...]) -> None:
        # Unrolled bodies are many and mostly bind nothing.
        binds = [stmt for stmt in stmts if isinstance(stmt, Let | Alloc)]
        if binds:
            env, buffers, registers = dict(self.env), dict(self.buffers), dict(self.registers)
        for stmt in stmts:
            match stmt:
                case Let(name, value):
                    self.env[name] = self.value(value)
                case Store(buffer, index, value, stream):
                    self.store(stmt, buffer, index, self.value(value), stream)
                case Alloc():
                    self.alloc(stmt)
                case For():
                    self.loop(stmt)
                case While():
                    self.while_(stmt)
                case If():
                    self.branch(stmt)
                case Fail(when, site, found):
                    self.fail(self.value(when), site, found)
                case _:
                    assert_never(stmt)
        if binds:
            self.env, self.buffers, self.registers = env, buffers, registers

    def alloc(self, stmt: Alloc) -> None:
        shape = [self.index(dim).number for dim in stmt.shape]
        if any(extent is None for extent in shape):
            raise Unsupported(
                f"the local array {stmt.name} has no fixed size",
                code="TD0515",
                edit="take it from the arena, as a parameter",
            )
        count = 1
        for extent in shape:
            count *= extent  # type: ignore[operator]
        if stmt.memory == "registers":
            width = self.widths.get(stmt.name, 0)
            self.registers[stmt.name] = registers(stmt.dtype, tuple(shape), width)  # type: ignore[arg-type]
            return
        self.stack_bytes += count * stmt.dtype.bytes
        if self.stack_bytes > MOST_STACK_BYTES:
            raise Unsupported(
                f"the local array {stmt.name} takes the stack past {MOST_STACK_BYTES} bytes",
                code="TD0515",
                edit="take it from the arena, as a parameter",
            )
        name = self.name()
        self.entry.append(f"  {name} = alloca [{max(count, 1)} x {memory_type(stmt.dtype)}], align 64")
        self.buffers[stmt.name] = Buffer(Value(name, i64), stmt.dtype, tuple(shape))  # type: ignore[arg-type]
        self.wrote(stmt.name)

    # --- loops --------------------------------------------------------------------------------------------------------

    def loop(self, stmt: For) -> None:
        match stmt.kind:
            case "unrolled":
                self.unrolled(stmt)
            case "vector":
                self.vector_loop(stmt)
            case "parallel" if not self.serial and self.vector is None:
                self.parallel(stmt)
            case "serial" | "prefetched" | "parallel":
                self.serial_loop(stmt)
            case _:
                assert_never(stmt.kind)

    def unrolled(self, stmt: For) -> None:
        start, stop = self.index(stmt.start), self.index(stmt.stop)
        if start.number is None or stop.number is None:
            raise Unsupported(f"the unrolled loop over {stmt.var} has no fixed bounds", code="TD0516")
        outer = self.env.get(stmt.var)
        for number in range(start.number, stop.number, stmt.step):
            self.env[stmt.var] = integer(number)
            self.block(stmt.body)
        self.restore(stmt.var, outer)

    def serial_loop(self, stmt: For) -> None:
        start, stop = self.index(stmt.start), self.index(stmt.stop)
        if start.lanes or stop.lanes:
            raise Unsupported(f"the trip count of the loop over {stmt.var} differs between lanes", code="TD0517")
        facts = self.facts[id(stmt)]
        if start.number is not None and stop.number is not None:
            trips = max(0, -(-(stop.number - start.number) // stmt.step))
            if trips == 0:
                return
            if trips == 1:
                outer = self.env.get(stmt.var)
                self.env[stmt.var] = start
                self.block(stmt.body)
                self.restore(stmt.var, outer)
                return
        extent = stmt.stop - stmt.start
        certain = isinstance(extent, int) and extent > 0
        with_stop = self.depth == 0 and facts.can_stop
        ahead, self.ahead = self.ahead, PAGE_BYTES if stmt.kind == "prefetched" and self.target.has("stream") else 0
        self.counted(
            stmt.var, start, stop, stmt.step, facts.written, certain, with_stop, lambda counter: self.block(stmt.body)
        )
        self.ahead = ahead

    def while_(self, stmt: While) -> None:
        if self.vector is not None and self.varies(stmt):
            self.while_lanes(stmt)
            return
        loop = self.open_loop(None, self.facts[id(stmt)].written)
        self.stop_check()
        condition = self.body_then(stmt.body, stmt.condition)
        if condition.lanes:
            raise Unsupported("the condition of a loop differs between lanes", code="TD0517")
        self.close_loop(loop, condition, [])

    def body_then(self, body: tuple[Stmt, ...], condition: Expr) -> Value:
        """The condition is evaluated in the body's own scope: its lets are visible."""
        env, buffers, registers = dict(self.env), dict(self.buffers), dict(self.registers)
        for stmt in body:
            if isinstance(stmt, Let):
                self.env[stmt.name] = self.value(stmt.value)
            elif isinstance(stmt, Alloc):
                self.alloc(stmt)
            else:
                self.block((stmt,))
        result = self.value(condition)
        self.env, self.buffers, self.registers = env, buffers, registers
        return result

    def varies(self, stmt: While) -> bool:
        """Whether the loop must be run under a mask: it may, unless nothing in it depends on the lane."""
        assert self.vector is not None
        used = uses((stmt,))
        if self.vector.var in used:
            return True
        for name in used:
            bound = self.env.get(name)
            if bound is not None and bound.lanes:
                return True
        return any(name in used and array.width for name, array in self.registers.items())

    def while_lanes(self, stmt: While) -> None:
        """Lanes leave the loop one by one; it ends when none is left."""
        assert self.vector is not None
        count = self.vector.count
        first = self.masked if self.masked is not None else Value("splat (i1 true)", bool_, count)
        loop = self.open_loop(any_lane(self, first), self.facts[id(stmt)].written)
        active = Value(self.name(), bool_, count, self.depth)
        saved = self.masked, self.divergent
        self.masked, self.divergent = active, True
        self.stop_check()
        condition = self.splat(self.body_then(stmt.body, stmt.condition), count)
        still = self.op("and", active, condition)
        again = any_lane(self, still)
        self.masked, self.divergent = saved
        self.close_loop(loop, again, [(active, first, still)])

    def vector_loop(self, stmt: For) -> None:
        if self.vector is not None:
            raise Unsupported(f"the vector loop over {stmt.var} is inside another one", code="TD0518")
        if stmt.lanes < 1:
            raise Unsupported(f"the vector loop over {stmt.var} has no lanes", code="TD0518")
        start = self.index(stmt.start)
        extent = stmt.stop - stmt.start
        trips = self.index(extent if stmt.step == 1 else (extent + (stmt.step - 1)) // stmt.step)
        if trips.number is not None and trips.number > stmt.lanes:
            raise Unsupported(
                f"the vector loop over {stmt.var} has {trips.number} trips and {stmt.lanes} lanes", code="TD0518"
            )
        if trips.number is not None and trips.number <= 0:
            return
        if trips.number == 1:
            # One lane is a scalar. (And LLVM 22 makes of a masked store of a truncated vector, under a constant mask of
            # one lane, a scalar store as wide as the vector's elements were before they were truncated.)
            outer = self.env.get(stmt.var)
            self.env[stmt.var] = start
            self.block(stmt.body)
            self.restore(stmt.var, outer)
            return
        lanes = Lanes(stmt.var, stmt.lanes, start, stmt.step)
        if trips.number is not None:
            mask = None
            if trips.number < stmt.lanes:
                bits = ", ".join([f"i1 {'true' if lane < trips.number else 'false'}" for lane in range(stmt.lanes)])
                mask = Value(f"<{bits}>", bool_, stmt.lanes)
            self.lanes_body(stmt, lanes, mask)
            return
        some = self.op("icmp sgt", trips, literal(0, i64), bool_)
        written = self.facts[id(stmt)].written
        with Branch(self, some, written):
            self.lanes_body(stmt, lanes, self.tail_mask(trips, stmt.lanes))

    def lanes_body(self, stmt: For, lanes: Lanes, mask: Value | None) -> None:
        # The variable itself is not in the environment: positions treat it by its coefficient.
        outer = self.env.pop(stmt.var, None)
        self.vector, self.masked = lanes, mask
        self.block(stmt.body)
        self.vector, self.masked = None, None
        self.restore(stmt.var, outer)

    def tail_mask(self, trips: Value, lanes: int) -> Value:
        """lane < trips, in integers as wide as make the comparison one register."""
        dtype = {8: i8, 16: i16, 32: i32}.get(512 // lanes, i64 if lanes <= 8 else i8)
        limit = trips if dtype is i64 else self.convert("trunc", trips, dtype)
        return self.op("icmp ult", self.iota(lanes, 1, dtype), self.splat(limit, lanes), bool_)

    # --- branches -----------------------------------------------------------------------------------------------------

    def branch(self, stmt: If) -> None:
        condition = self.value(stmt.condition)
        if condition.lanes:
            self.branch_lanes(stmt, condition)
            return
        if condition.text in ("true", "false"):
            self.block(stmt.then if condition.text == "true" else stmt.otherwise)
            return
        written = self.facts[id(stmt)].written
        if stmt.otherwise:
            with Branch(self, condition, written) as fork:
                self.block(stmt.then)
                fork.otherwise()
                self.block(stmt.otherwise)
        else:
            with Branch(self, condition, written):
                self.block(stmt.then)

    def branch_lanes(self, stmt: If, condition: Value) -> None:
        """Both sides are run, each under the mask of the lanes that take it; a side that no lane takes is skipped."""
        written = self.facts[id(stmt)].written
        saved = self.masked, self.divergent
        sides = [(condition, stmt.then)]
        if stmt.otherwise:
            sides.append((self.op("xor", condition, literal(True, bool_)), stmt.otherwise))
        for on, body in sides:
            mask = on if saved[0] is None else self.op("and", saved[0], on)
            with Branch(self, any_lane(self, mask), written):
                self.masked, self.divergent = mask, True
                self.block(body)
            self.masked, self.divergent = saved

    def fail(self, when: Value, site: int, found: Sequence[Expr]) -> None:
        if not 0 < site < 1 << (63 - SITE_SHIFT):
            raise Unsupported(f"{site} is not a failure site", code="TD0519")
        if when.lanes and self.masked is not None:
            when = self.op("and", when, self.masked)
        elif self.masked is not None:
            when = self.op("and", self.splat(when, self.masked.lanes), self.masked)
        happened = any_lane(self, when)
        cold, on = self.new_label("failed"), self.new_label("passed")
        self.put(f"  br i1 {happened.text}, label %{cold}, label %{on}")
        # The position is worked out only here, so it costs nothing where nothing fails.
        lines = self.scopes[-1].lines
        inside = Scope([], None, True, frozenset())
        lines.append(f"{cold}:")
        lines.append(inside.lines)
        self.scopes.append(inside)
        position = literal(0, i64)
        for variable, stop in self.around:
            position = self.op("add", self.op("mul", position, stop), variable)
        lane: Value | None = None
        if when.lanes:
            bits = self.pure(f"bitcast {when.typed} to i{when.lanes}", bool_, 0, when.level)
            kind = f"i{when.lanes}"
            self.needs.declare(f"declare {kind} @llvm.cttz.{kind}({kind}, i1)")
            first = self.pure(f"call {kind} @llvm.cttz.{kind}({kind} {bits.text}, i1 true)", bool_, 0, bits.level)
            if when.lanes < 64:
                first = self.pure(f"zext {kind} {first.text} to i64", i64, 0, first.level)
            elif when.lanes > 64:
                first = self.pure(f"trunc {kind} {first.text} to i64", i64, 0, first.level)
            lane = Value(first.text, i64, 0, first.level)
            position = self.op("add", position, lane)
        low = self.op("and", position, literal((1 << SITE_SHIFT) - 1, i64))
        packed = self.op("or", low, literal(site << SITE_SHIFT, i64))
        if found:
            told = [self.value(expr) for expr in found]
            self.note(packed, [self.lane(value, lane) if lane and value.lanes else value for value in told], on)
        else:
            self.put(f"  %{self.new_label('old')} = atomicrmw min ptr %fail, i64 {packed.text} monotonic, align 8")
            self.put(f"  br label %{on}")
        self.scopes.pop()
        self.start(on)

    def lane(self, vector: Value, lane: Value) -> Value:
        text = f"extractelement {vector.typed}, {lane.typed}"
        return self.pure(text, vector.dtype, 0, max(vector.level, lane.level))

    def note(self, packed: Value, told: Sequence[Value], on: str) -> None:
        """Take over a failure and its numbers if it is the smallest yet, and go on at that label.

        The numbers must be those of the smallest failure, whichever thread finds it: hence the lock. What is not
        smaller never takes it. Failures that tell nothing do without, so the word itself is still changed atomically.
        """
        lock, attempt, held, write, leave = (self.new_label(word) for word in ("lock", "try", "held", "tell", "leave"))
        old, less, place, pair_, taken, now, smaller = (self.name() for _ in range(7))
        self.put(f"  {old} = load atomic i64, ptr %fail monotonic, align 8")
        self.put(f"  {less} = icmp slt i64 {packed.text}, {old}")
        self.put(f"  br i1 {less}, label %{lock}, label %{on}")
        self.start(lock)
        self.put(f"  {place} = getelementptr i64, ptr %fail, i64 1")
        self.put(f"  br label %{attempt}")
        self.start(attempt)
        self.put(f"  {pair_} = cmpxchg ptr {place}, i64 0, i64 1 acquire monotonic, align 8")
        self.put(f"  {taken} = extractvalue {{ i64, i1 }} {pair_}, 1")
        self.put(f"  br i1 {taken}, label %{held}, label %{attempt}")
        self.start(held)
        self.put(f"  {now} = atomicrmw min ptr %fail, i64 {packed.text} monotonic, align 8")
        self.put(f"  {smaller} = icmp slt i64 {packed.text}, {now}")
        self.put(f"  br i1 {smaller}, label %{write}, label %{leave}")
        self.start(write)
        for number, value in enumerate(told):
            word = self.name()
            self.put(f"  {word} = getelementptr i64, ptr %fail, i64 {FAIL_FOUND + number}")
            self.put(f"  store {value.typed}, ptr {word}, align 8")
        self.put(f"  br label %{leave}")
        self.start(leave)
        self.put(f"  store atomic i64 0, ptr {place} release, align 8")
        self.put(f"  br label %{on}")

    # --- parallel loops -----------------------------------------------------------------------------------------------

    def parallel(self, stmt: For) -> None:
        """A nest of parallel loops becomes a task over one range; the task's body divides the number back."""
        nest = [stmt]
        while len(nest[-1].body) == 1:
            inner = nest[-1].body[0]
            if not isinstance(inner, For) or inner.kind != "parallel":
                break
            outer_vars = [loop.var for loop in nest]
            if any(name in outer_vars for dim in (inner.start, inner.stop) for name in names(dim)):
                break
            nest.append(inner)
        trips = [(loop.stop - loop.start + (loop.step - 1)) // loop.step for loop in nest]
        counts = [self.index(count) for count in trips]
        total = counts[0]
        zero = literal(0, i64)
        if len(counts) > 1:
            counts = [scalars.binary(self, "max", count, zero) if count.number is None else count for count in counts]
            total = counts[0]
            for count in counts[1:]:
                total = self.mul(total, count)
        if total.number is not None and total.number <= 0:
            return
        if total.number == 1:
            self.serial_loop(stmt)
            return
        self.tasks += 1
        task = f"{self.symbol}.task{self.tasks}"
        captured = self.captured(nest)
        self.module.functions.append(self.task_body(task, captured, nest))
        self.module.functions.append(task_thunk(task, captured))
        self.dispatch(task, captured, total)
        self.wrote_all(self.facts[id(stmt)].written)

    def captured(self, nest: Sequence[For]) -> list[_Captured]:
        """What the task needs from outside: buffers by pointer, values by value."""
        used = uses(nest[:1])
        result = []
        for name, buffer in self.buffers.items():
            if name in used and not buffer.pointer.text.startswith("@"):
                for dim in buffer.shape:
                    used.update(dict.fromkeys(names(dim)))
        for name, buffer in self.buffers.items():
            if name in used and not buffer.pointer.text.startswith("@"):
                result.append(_Captured(name, buffer.pointer, f"ptr noalias align {buffer.dtype.bytes}", "ptr"))
        for name in used:
            if name in self.registers:
                raise Unsupported(
                    f"the register array {name} is used inside a parallel loop and made outside", code="TD0520"
                )
        for name, value in self.env.items():
            if name in used:
                result += [
                    _Captured(name, part, part.type, part.type)
                    for part in value.parts or (value,)
                    if not part.is_literal
                ]
        return result

    def task_body(self, task: str, captured: list[_Captured], nest: Sequence[For]) -> str:
        inner = _Function(self.module, task, serial=True)
        inner.facts, inner.widths = self.facts, self.widths
        arguments = []
        for name, buffer in self.buffers.items():
            if buffer.pointer.text.startswith("@"):
                inner.buffers[name] = buffer
        for number, item in enumerate(captured):
            arguments.append(f"{item.attributes} %a{number}")
            if item.type == "ptr":
                original = self.buffers[item.name]
                inner.buffers[item.name] = Buffer(Value(f"%a{number}", i64), original.dtype, original.shape)
        given = {item.value.text: f"%a{number}" for number, item in enumerate(captured)}
        for name, value in self.env.items():
            known = [
                part if part.is_literal else Value(given[part.text], part.dtype)
                for part in value.parts or (value,)
                if part.is_literal or part.text in given
            ]
            if len(known) == 2:
                inner.env[name] = pair(known[0], known[1])
            elif known and value.parts is None:
                inner.env[name] = known[0]
        arguments += ["ptr %cx", "ptr %fail", "i64 %lo", "i64 %hi"]
        lo, hi = Value("%lo", i64), Value("%hi", i64)
        facts = self.facts[id(nest[0])]

        def body(number: Value) -> None:
            inner.number_nest(nest, number)
            inner.block(nest[-1].body)

        # No identifier, so no name of the kernel's: the number of an iteration of the nest.
        inner.counted("task number", lo, hi, 1, facts.written, False, facts.inner_loops, body)
        return inner.finished(f"define internal void {quoted(task + '.body')}({', '.join(arguments)}) nounwind {{")

    def number_nest(self, nest: Sequence[For], number: Value) -> None:
        """Bind the variables of a nest at its iteration of that number, counted row by row."""
        for depth in range(len(nest) - 1, -1, -1):
            loop = nest[depth]
            place = number
            if depth:
                count = self.index((loop.stop - loop.start + (loop.step - 1)) // loop.step)
                # The nest runs, so no count is zero, and the number is not negative.
                place = self.op("urem", number, count)
                number = self.op("udiv", number, count)
            self.env[loop.var] = self.add(self.index(loop.start), self.mul(place, integer(loop.step)))

    def dispatch(self, task: str, captured: list[_Captured], total: Value) -> None:
        """Hand the range to the pool if there is one, more than one thread, and more than one piece; else call."""
        place = self.name()
        self.entry.append(f"  {place} = alloca [{max(len(captured) + 2, 1)} x i64], align 16")
        at = [self.name() for _ in range(4)]
        self.put(f"  {at[0]} = getelementptr i8, ptr %cx, i64 {CONTEXT_THREADS}")
        self.put(f"  {at[1]} = load i32, ptr {at[0]}, align 4")
        self.put(f"  {at[2]} = getelementptr i8, ptr %cx, i64 {CONTEXT_POOL}")
        self.put(f"  {at[3]} = load ptr, ptr {at[2]}, align 8")
        several = [self.name() for _ in range(5)]
        self.put(f"  {several[0]} = icmp sgt i32 {at[1]}, 1")
        self.put(f"  {several[1]} = icmp ne ptr {at[3]}, null")
        self.put(f"  {several[2]} = icmp sgt i64 {total.text}, 1")
        self.put(f"  {several[3]} = and i1 {several[0]}, {several[1]}")
        self.put(f"  {several[4]} = and i1 {several[3]}, {several[2]}")
        fork, direct, joined = self.new_label("fork"), self.new_label("direct"), self.new_label("joined")
        self.put(f"  br i1 {several[4]}, label %{fork}, label %{direct}")
        self.start(fork)
        operands = [item.value.text for item in captured] + ["%cx", "%fail"]
        types = [item.type for item in captured] + ["ptr", "ptr"]
        for number, (type_, operand) in enumerate(zip(types, operands)):
            slot = self.name()
            self.put(f"  {slot} = getelementptr i64, ptr {place}, i64 {number}")
            self.put(f"  store {type_} {operand}, ptr {slot}, align 8")
        run, threads = self.name(), self.name()
        self.put(f"  {run} = load ptr, ptr {at[3]}, align 8")
        self.put(f"  {threads} = sext i32 {at[1]} to i64")
        self.put(
            f"  call void {run}(ptr {at[3]}, ptr {quoted(task)}, ptr {place}, i64 0, i64 {total.text}, i64 {threads})"
        )
        self.put(f"  br label %{joined}")
        self.start(direct)
        listed = ", ".join([f"{type_} {operand}" for type_, operand in zip(types, operands)])
        self.put(f"  call void {quoted(task + '.body')}({listed}, i64 0, i64 {total.text})")
        self.put(f"  br label %{joined}")
        self.start(joined)

    # --- expressions --------------------------------------------------------------------------------------------------

    def value(self, expr: Expr) -> Value:
        match expr:
            case Binary(op, x, y):
                return pairs.binary(self, op, self.value(x), self.value(y))
            case Load(buffer, index, dtype):
                return self.load(expr, buffer, index, dtype)
            case Var(name):
                return self.variable(name)
            case Const(value, dtype):
                return literal(value, dtype)
            case Fma(x, y, z):
                return scalars.fma(self, self.value(x), self.value(y), self.value(z))
            case Unary(op, x):
                return pairs.unary(self, op, self.value(x))
            case Select(condition, x, y):
                return self.select(self.value(condition), self.value(x), self.value(y))
            case Cast(x, dtype, bits):
                return pairs.cast(self, self.value(x), dtype, bits)
            case Index(dim):
                return self.index(dim)
            case Call(instruction, args, _):
                return self.instruction(instruction, [self.value(arg) for arg in args])
            case _:
                assert_never(expr)

    def variable(self, name: str) -> Value:
        found = self.env.get(name)
        if found is None:
            if self.vector is not None and name == self.vector.var:
                return self.lane_positions(self.vector)
            raise Unsupported(f"{name} is not bound where it is used", code="TD0510")
        return found

    def instruction(self, name: str, args: list[Value]) -> Value:
        """The target's own instruction, or its meaning written out where the target lacks it."""
        instruction = isa.named(name)
        native = isa.emission(instruction, self.target)
        if native is not None:
            written: Value = native(self, *args)
            return written
        env = self.env
        self.env = {param.name: arg for param, arg in zip(instruction.params, args)}
        for let in instruction.lets:
            self.env[let.name] = self.value(let.value)
        result = self.value(instruction.result)
        self.env = env
        return result


@dataclass(frozen=True)
class _Captured:
    """Something of the kernel that a task needs: how it is declared as an argument, and its type there."""

    name: str
    value: Value
    attributes: str
    type: str


def task_thunk(task: str, captured: list[_Captured]) -> str:
    """The task as the pool calls it: unpack the arguments, call the body."""
    types = [item.type for item in captured] + ["ptr", "ptr"]
    lines = [f"define internal void {quoted(task)}(ptr %args, i64 %lo, i64 %hi) nounwind {{"]
    for number, type_ in enumerate(types):
        lines.append(f"  %s{number} = getelementptr i64, ptr %args, i64 {number}")
        lines.append(f"  %v{number} = load {type_}, ptr %s{number}, align 8")
    listed = ", ".join([f"{type_} %v{number}" for number, type_ in enumerate(types)])
    lines.append(f"  call void {quoted(task + '.body')}({listed}, i64 %lo, i64 %hi)")
    return "\n".join([*lines, "  ret void", "}"])


def pointer_attributes(param: Param) -> str:
    """Parameters never overlap each other: memory that is both read and written is one `inout` parameter."""
    read_only = " readonly" if param.role == "in" else ""
    return f"ptr noalias{read_only} align {param.dtype.bytes}"


def table_text(value: float | int, dtype: DType) -> str:
    if dtype.is_float and dtype.kind != "float8" and dtype.bits >= 32:
        return float_text(value, dtype)
    if dtype.is_float:
        return str(int.from_bytes(dtype.numpy.type(value).tobytes(), "little"))
    return str(int(value))
