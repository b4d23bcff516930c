"""The calling convention between artifact and kernels: one entry per program, and the C functions of a saved model.

What is compiled here is a program reduced to plain data: runs of kernels on places in memory, copies, and the loops and
branches round them. Positions and sizes are `Dim`s over the program's dims and the variables of its loops, so nothing
is interpreted at run time. A failing kernel does not end the call: later kernels run on clamped values, without faults,
and the smallest site is returned, which is the first in the order of the user's program; only a `Loop` whose condition
came out of a failed call is left at once, because it might never end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

from ...ir.classes import dataclass
from ...ir.dims import Dim
from ...ir.dtypes import bool_, i32, i64, named
from ...ir.errors import CheckFailed
from ...ir.loops.nodes import MOST_FOUND
from .control import Control
from .emit import FAIL_FOUND, FAIL_WORDS, NO_FAILURE, SITE_SHIFT, Module, quoted
from .intrinsics import declaration
from .writer import Scope, Value, literal

STOPPED: Final = -1
NO_MEMORY: Final = -2  # only from NAME_run, which may have to allocate


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes from `offset` on: of buffer `index` (inputs, outputs, constants, counted through), or of the arena."""

    space: Literal["buffer", "arena"]
    index: int
    offset: Dim = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Call a kernel: a place for each of its parameters and a value for each of its dims. Its failure site i is
    reported as `first_site + i`; so the sites of the calls of a program need not overlap. With a `timer`, that row of
    the entry's table of times takes its nanoseconds."""

    kernel: str
    operands: tuple[Place, ...]
    dims: tuple[Dim, ...] = ()
    first_site: int = 0
    timer: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Copy bytes between places that do not overlap."""

    source: Place
    target: Place
    bytes: Dim


@dataclass(frozen=True, slots=True)
class Count:
    """`for var in range(count)`; `reverse` counts down."""

    var: str
    count: Dim
    body: tuple[Step, ...]
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """Run `condition`; while the bool at `flag` is true, run `body` and `condition` again."""

    condition: tuple[Step, ...]
    flag: Place
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    """Run the branch whose number is at `selector`, of dtype bool, i32 or i64, clamped to the branches."""

    selector: Place
    dtype: str
    branches: tuple[tuple[Step, ...], ...]


Step: TypeAlias = Run | Move | Count | Loop | Switch


@dataclass(frozen=True, slots=True)
class Require:
    """`low <= high` must hold for the dims of a call: else it fails at that site, before anything runs."""

    low: Dim
    high: Dim
    site: int


@dataclass(frozen=True, slots=True)
class Times:
    """Where the times of runs go: buffer `index`, an i64[rows, 2] of nanoseconds and how often, zero at first."""

    index: int
    rows: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A program as data. `dims` name the values of the entry's `dims` argument, in order."""

    dims: tuple[str, ...]
    body: tuple[Step, ...]
    arena_bytes: Dim
    requires: tuple[Require, ...] = ()
    times: Times | None = None


def add_entry(module: Module, entry: Entry) -> None:
    """Put `treadle_entry` and `treadle_arena_bytes` into a module that holds the kernels."""
    module.add_text(_Function(module, entry.dims).program(entry))
    module.add_text(_Function(module, entry.dims).size("treadle_arena_bytes", entry.arena_bytes))


class _Function(Control):
    """The entry, or a function that computes a size."""

    def __init__(self, module: Module, dims: Sequence[str]) -> None:
        super().__init__(module.target, module.needs)
        self.module = module
        self.stopped = f"ret i32 {STOPPED}"
        self.times: Times | None = None
        self.failing = False
        for number, name in enumerate(dims):
            place = self.pure(f"getelementptr i64, ptr %dims, i64 {number}", i64, 0, 0)
            self.env[name] = self.pure(f"load i64, ptr {place.text}, align 8", i64, 0, 0)

    def size(self, name: str, dim: Dim) -> str:
        value = self.index(dim)
        head = f"define dso_local i64 {quoted(name)}(ptr %dims) nounwind {{"
        return self.finished(head, f"ret i64 {value.text}")

    def program(self, entry: Entry) -> str:
        for require in entry.requires:
            self.require(require)
        self.failure_words()
        self.times = entry.times
        if entry.times is not None:
            self.clear(entry.times)
        self.steps(entry.body)
        status = self.name()
        head = "define dso_local i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) nounwind {"
        if not self.failing:
            return self.finished(head, "ret i32 0")
        self.put(f"  {status} = load i64, ptr %status, align 8")
        failed, site, small = self.name(), self.name(), self.name()
        refused, fine = self.new_label("refused"), self.new_label("fine")
        self.put(f"  {failed} = icmp ne i64 {status}, {NO_FAILURE}")
        self.put(f"  br i1 {failed}, label %{refused}, label %{fine}")
        self.start(refused)
        # The caller's table of buffers has done its work and is its own, call by call: no other place is.
        self.tell("status", "bufs", 0)
        self.put(f"  {site} = lshr i64 {status}, {SITE_SHIFT}")
        self.put(f"  {small} = trunc i64 {site} to i32")
        self.put(f"  ret i32 {small}")
        self.start(fine)
        return self.finished(head, "ret i32 0")

    def require(self, require: Require) -> None:
        kept, on, broken = self.name(), self.new_label("kept"), self.new_label("broken")
        low, high = self.index(require.low), self.index(require.high)
        self.put(f"  {kept} = icmp sle i64 {low.text}, {high.text}")
        self.put(f"  br i1 {kept}, label %{on}, label %{broken}")
        self.start(broken)
        self.put(f"  ret i32 {require.site}")
        self.start(on)

    def clear(self, times: Times) -> None:
        self.entry.append("  %clock = alloca [2 x i64], align 8")
        self.module.needs.declare("declare i32 @clock_gettime(i32, ptr)")
        self.module.needs.declare(declaration("void", "llvm.memset.p0.i64", ("ptr", "i8", "i64", "i1")))
        table = self.place(Place("buffer", times.index)).text
        self.put(f"  call void @llvm.memset.p0.i64(ptr {table}, i8 0, i64 {16 * times.rows}, i1 false)")

    def now(self) -> str:
        """Nanoseconds of the monotonic clock."""
        seconds, place, rest, scaled, total = (self.name() for _ in range(5))
        self.put(f"  {total}c = call i32 @clock_gettime(i32 1, ptr %clock)")
        self.put(f"  {seconds} = load i64, ptr %clock, align 8")
        self.put(f"  {place} = getelementptr i64, ptr %clock, i64 1")
        self.put(f"  {rest} = load i64, ptr {place}, align 8")
        self.put(f"  {scaled} = mul i64 {seconds}, 1000000000")
        self.put(f"  {total} = add i64 {scaled}, {rest}")
        return total

    def record(self, times: Times, row: int, start: str) -> None:
        end, taken = self.now(), self.name()
        self.put(f"  {taken} = sub i64 {end}, {start}")
        for column, more in enumerate((taken, "1")):
            place = self.place(Place("buffer", times.index, 16 * row + 8 * column)).text
            old, new = self.name(), self.name()
            self.put(f"  {old} = load i64, ptr {place}, align 8")
            self.put(f"  {new} = add i64 {old}, {more}")
            self.put(f"  store i64 {new}, ptr {place}, align 8")

    def failure_words(self) -> None:
        for words in ("status", "fail"):
            self.entry.append(f"  %{words} = alloca [{FAIL_WORDS} x i64], align 8")
            self.entry.append(f"  store [{FAIL_WORDS} x i64] zeroinitializer, ptr %{words}, align 8")
            self.entry.append(f"  store i64 {NO_FAILURE}, ptr %{words}, align 8")

    def tell(self, source: str, target: str, first: int) -> None:
        """Copy the numbers of a failure."""
        for number in range(MOST_FOUND):
            read, value, write = self.name(), self.name(), self.name()
            self.put(f"  {read} = getelementptr i64, ptr %{source}, i64 {FAIL_FOUND + number}")
            self.put(f"  {value} = load i64, ptr {read}, align 8")
            self.put(f"  {write} = getelementptr i64, ptr %{target}, i64 {first + number}")
            self.put(f"  store i64 {value}, ptr {write}, align 8")

    # --- steps --------------------------------------------------------------------------------------------------------

    def steps(self, body: tuple[Step, ...]) -> None:
        for step in body:
            match step:
                case Run():
                    self.run(step)
                case Move(source, target, size):
                    self.move(self.place(source), self.place(target), self.index(size))
                case Count():
                    self.count_loop(step)
                case Loop():
                    self.loop(step)
                case Switch():
                    self.switch(step)
                case _:
                    assert_never(step)

    def place(self, place: Place) -> Value:
        if place.space == "arena":
            base = Value("%arena", i64)
        else:
            slot = self.pure(f"getelementptr ptr, ptr %bufs, i64 {place.index}", i64, 0, 0)
            base = self.pure(f"load ptr, ptr {slot.text}, align 8", i64, 0, 0)
        offset = self.index(place.offset)
        return base if offset.number == 0 else self.step(base, "i8", offset)

    def run(self, step: Run) -> None:
        kernel = self.module.kernels.get(step.kernel)
        if kernel is None:
            raise CheckFailed(f"the program calls {step.kernel}, which is not in the module", code="TD0550")
        if len(kernel.params) != len(step.operands) or len(kernel.dims) != len(step.dims):
            raise CheckFailed(
                f"{step.kernel} takes {len(kernel.params)} buffers and {len(kernel.dims)} dims, the program gives "
                f"{len(step.operands)} and {len(step.dims)}",
                code="TD0550",
            )
        types = ["ptr"] * len(step.operands) + ["i64"] * len(step.dims) + ["ptr", "ptr"]
        self.module.called(step.kernel, types)
        operands = [f"ptr {self.place(operand).text}" for operand in step.operands]
        operands += [f"i64 {self.index(dim).text}" for dim in step.dims]
        start = self.now() if self.times is not None and step.timer is not None else None
        self.put(f"  call void {quoted(step.kernel)}({', '.join([*operands, 'ptr %cx', 'ptr %fail'])})")
        if start is not None and self.times is not None and step.timer is not None:
            self.record(self.times, step.timer, start)
        if self.module.can_fail(step.kernel):
            self.collect(step.first_site)
        self.stop_check()

    def collect(self, first_site: int) -> None:
        """Take a kernel's failure over into the call's status, under the program's number of its site."""
        self.failing = True
        found, none, shifted, old, less = (self.name() for _ in range(5))
        failed, first, taken, on = (self.new_label(word) for word in ("failed", "first", "taken", "passed"))
        self.put(f"  {found} = load i64, ptr %fail, align 8")
        self.put(f"  {none} = icmp eq i64 {found}, {NO_FAILURE}")
        self.put(f"  br i1 {none}, label %{on}, label %{failed}")
        self.start(failed)
        # The position, in the low bits, only compares failures of one kernel; it goes along.
        self.put(f"  {shifted} = add i64 {found}, {first_site << SITE_SHIFT}")
        self.put(f"  {old} = load i64, ptr %status, align 8")
        self.put(f"  {less} = icmp slt i64 {shifted}, {old}")
        self.put(f"  br i1 {less}, label %{first}, label %{taken}")
        self.start(first)
        self.put(f"  store i64 {shifted}, ptr %status, align 8")
        self.tell("fail", "status", FAIL_FOUND)
        self.put(f"  br label %{taken}")
        self.start(taken)
        self.put(f"  store i64 {NO_FAILURE}, ptr %fail, align 8")
        self.put(f"  br label %{on}")
        self.start(on)

    def move(self, source: Value, target: Value, size: Value) -> None:
        self.module.needs.declare(declaration("void", "llvm.memcpy.p0.p0.i64", ("ptr", "ptr", "i64", "i1")))
        self.put(f"  call void @llvm.memcpy.p0.p0.i64(ptr {target.text}, ptr {source.text}, i64 {size.text}, i1 false)")

    def count_loop(self, step: Count) -> None:
        total = self.index(step.count)

        def body(counter: Value) -> None:
            if step.reverse:
                last = self.add(total, literal(-1, i64))
                self.env[step.var] = self.op("sub", last, counter)
            self.steps(step.body)

        certain = total.number is not None and total.number > 0
        self.counted(step.var, literal(0, i64), total, 1, frozenset(), certain, True, body)

    def loop(self, step: Loop) -> None:
        self.steps(step.condition)
        flag = self.place(step.flag)
        loop = self.open_loop(self.goes_on(flag), frozenset())
        self.stop_check()
        self.steps(step.body)
        self.steps(step.condition)
        self.close_loop(loop, self.goes_on(flag), [])

    def goes_on(self, flag: Value) -> Value:
        byte, set_, status, good = (self.name() for _ in range(4))
        self.put(f"  {byte} = load i8, ptr {flag.text}, align 1")
        self.put(f"  {set_} = icmp ne i8 {byte}, 0")
        self.put(f"  {status} = load i64, ptr %status, align 8")
        self.put(f"  {good} = icmp eq i64 {status}, {NO_FAILURE}")
        return self.op("and", Value(set_, bool_, 0, self.depth), Value(good, bool_, 0, self.depth))

    def switch(self, step: Switch) -> None:
        dtype = named(step.dtype)
        if dtype not in (bool_, i32, i64) or not step.branches:
            raise CheckFailed(f"a switch by {step.dtype} with {len(step.branches)} branches", code="TD0551")
        at = self.place(step.selector)
        raw = self.name()
        width = "i8" if dtype is bool_ else f"i{dtype.bits}"
        self.put(f"  {raw} = load {width}, ptr {at.text}, align {dtype.bytes}")
        number = raw
        if dtype is bool_:
            number = self.name()
            self.put(f"  {number}b = icmp ne i8 {raw}, 0")
            self.put(f"  {number} = zext i1 {number}b to i64")
        elif dtype is i32:
            number = self.name()
            self.put(f"  {number} = sext i32 {raw} to i64")
        for name, bound in (("llvm.smax.i64", 0), ("llvm.smin.i64", len(step.branches) - 1)):
            self.module.needs.declare(declaration("i64", name, ("i64", "i64")))
            clamped = self.name()
            self.put(f"  {clamped} = call i64 @{name}(i64 {number}, i64 {bound})")
            number = clamped
        labels = [self.new_label("case") for _ in step.branches]
        end = self.new_label("join")
        cases = " ".join([f"i64 {i}, label %{label}" for i, label in enumerate(labels)])
        self.put(f"  switch i64 {number}, label %{labels[0]} [ {cases} ]")
        for label, branch in zip(labels, step.branches):
            scope = Scope([], None, True, frozenset())
            self.scopes[-1].lines.append(scope.lines)
            self.scopes.append(scope)
            self.start(label)
            self.steps(branch)
            self.put(f"  br label %{end}")
            self.scopes.pop()
        self.start(end)


# --- the C interface of a saved model ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interface:
    """What a saved model's C functions need to know: how many buffers come from the caller, where each constant lies
    behind `treadle_weights`, and what each failure site means."""

    name: str
    inputs: int
    outputs: int
    constants: tuple[int, ...]
    errors: tuple[str, ...]  # site 1 first


def add_interface(module: Module, interface: Interface, *, pool: bool) -> None:
    """Put NAME_manifest, NAME_arena_bytes, NAME_run and NAME_error into a module that holds the entry.

    `treadle_weights` and `treadle_manifest` are left to whoever links the model. With `pool`, the module holds the
    thread pool as well (see `pool.py`) and NAME_run uses it when it is given more than one thread.
    """
    name = interface.name
    if not (name.isidentifier() and name.isascii()):
        raise CheckFailed(f"{name!r} cannot begin the names of C functions", code="TD0552")
    messages = [message.encode() + b"\0" for message in ("", *interface.errors)]
    stopped, no_memory, unknown = (text.encode() + b"\0" for text in ("stopped", "out of memory", "unknown failure"))
    blob = b""
    offsets = []
    for message in (*messages, stopped, no_memory, unknown):
        offsets.append(len(blob))
        blob += message
    count = len(messages)
    text = "".join(chr(byte) if 32 <= byte < 127 and byte not in (34, 92) else f"\\{byte:02X}" for byte in blob)
    listed = ", ".join(f"i64 {offset}" for offset in offsets)
    own = len(interface.constants)
    weights = ", ".join(f"i64 {offset}" for offset in interface.constants)
    module.add_text(
        f"""\
@treadle_manifest = external global i8
@interface.messages = internal unnamed_addr constant [{len(blob)} x i8] c"{text}"
@interface.offsets = internal unnamed_addr constant [{len(offsets)} x i64] [{listed}]

define dso_local ptr {quoted(name + "_manifest")}() nounwind {{
  ret ptr @treadle_manifest
}}

define dso_local i64 {quoted(name + "_arena_bytes")}(ptr %dims) nounwind {{
  %bytes = call i64 @treadle_arena_bytes(ptr %dims)
  ret i64 %bytes
}}

define dso_local ptr {quoted(name + "_error")}(i32 %site) nounwind {{
  %wide = sext i32 %site to i64
  %known = icmp ult i64 %wide, {count}
  %stopped = icmp eq i32 %site, {STOPPED}
  %hungry = icmp eq i32 %site, {NO_MEMORY}
  %other = select i1 %hungry, i64 {count + 1}, i64 {count + 2}
  %special = select i1 %stopped, i64 {count}, i64 %other
  %number = select i1 %known, i64 %wide, i64 %special
  %place = getelementptr i64, ptr @interface.offsets, i64 %number
  %offset = load i64, ptr %place, align 8
  %message = getelementptr i8, ptr @interface.messages, i64 %offset
  ret ptr %message
}}"""
    )
    buffers = interface.inputs + interface.outputs + own
    lines = [
        f"define dso_local i32 {quoted(name + '_run')}"
        "(ptr %inputs, ptr %outputs, ptr %dims, ptr %arena, i32 %threads) nounwind {",
        "entry:",
        f"  %bufs = alloca [{max(buffers, MOST_FOUND)} x ptr], align 8",  # ORDER: what a failure tells
        "  %cx = alloca { i32, i32, ptr, ptr }, align 8",
        "  %held = alloca ptr, align 8",
    ]
    for source, count, first in (("inputs", interface.inputs, 0), ("outputs", interface.outputs, interface.inputs)):
        if count:
            lines.append(f"  %{source}.first = getelementptr ptr, ptr %bufs, i64 {first}")
            lines.append(
                f"  call void @llvm.memcpy.p0.p0.i64(ptr %{source}.first, ptr %{source}, i64 {8 * count}, i1 false)"
            )
    module.needs.declare(declaration("void", "llvm.memcpy.p0.p0.i64", ("ptr", "ptr", "i64", "i1")))
    if own:
        module.add_text(
            "@treadle_weights = external global i8\n"
            f"@interface.weights = internal unnamed_addr constant [{own} x i64] [{weights}]"
        )
        # A loop, not a store each: a model has thousands of constants.
        lines.append(
            f"""\
  br label %weight
weight:
  %i = phi i64 [ 0, %entry ], [ %i.next, %weight ]
  %offset.place = getelementptr i64, ptr @interface.weights, i64 %i
  %offset = load i64, ptr %offset.place, align 8
  %constant = getelementptr i8, ptr @treadle_weights, i64 %offset
  %slot.number = add i64 %i, {interface.inputs + interface.outputs}
  %slot = getelementptr ptr, ptr %bufs, i64 %slot.number
  store ptr %constant, ptr %slot, align 8
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {own}
  br i1 %more, label %weight, label %context"""
        )
    else:
        lines.append("  br label %context")
    lines.append(
        """\
context:
  store i32 1, ptr %cx, align 8
  %cx.threads = getelementptr i8, ptr %cx, i64 4
  store i32 %threads, ptr %cx.threads, align 4
  %cx.pool = getelementptr i8, ptr %cx, i64 8
  store ptr null, ptr %cx.pool, align 8
  %cx.stop = getelementptr i8, ptr %cx, i64 16
  store ptr null, ptr %cx.stop, align 8"""
    )
    if pool:
        lines.append(
            """\
  %several = icmp sgt i32 %threads, 1
  br i1 %several, label %pooled, label %memory
pooled:
  %others = sub i32 %threads, 1
  %pool = call ptr @treadle_pool_create(i32 %others)
  store ptr %pool, ptr %cx.pool, align 8
  br label %memory
memory:"""
        )
    lines.append(
        f"""\
  store ptr null, ptr %held, align 8
  %given = icmp ne ptr %arena, null
  %bytes = call i64 @treadle_arena_bytes(ptr %dims)
  %none = icmp sle i64 %bytes, 0
  %ready = or i1 %given, %none
  br i1 %ready, label %call, label %allocate
allocate:
  %error = call i32 @posix_memalign(ptr %held, i64 64, i64 %bytes)
  %failed = icmp ne i32 %error, 0
  br i1 %failed, label %hungry, label %call
hungry:
  ret i32 {NO_MEMORY}
call:
  %own = load ptr, ptr %held, align 8
  %scratch = select i1 %given, ptr %arena, ptr %own
  %status = call i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %scratch, ptr %cx)
  call void @free(ptr %own)
  ret i32 %status
}}"""
    )
    module.needs.declare("declare i32 @posix_memalign(ptr, i64, i64)")
    module.needs.declare("declare void @free(ptr)")
    module.add_text("\n".join(lines))
