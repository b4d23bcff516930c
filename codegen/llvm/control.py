"""Loops, branches and the end of a function in SSA form: what carries a register array from one block to the next.

A loop is tested at its end and guarded ahead of it, unless it surely runs; between guard and body lies the place to
which invariants move. Register arrays that the body writes become phi nodes at its head and, past a guard, at its exit;
after a branch they are joined where the two ways differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...ir.classes import dataclass
from ...ir.dtypes import bool_, i64
from ...ir.target import Target
from .memory import Memory
from .registers import Registers
from .writer import Lines, Needs, Scope, Value, flatten

# Offsets into the context that the entry is called with.
CONTEXT_THREADS: Final = 4
CONTEXT_POOL: Final = 8
CONTEXT_STOP: Final = 16


@dataclass(frozen=True)
class Loop:
    """A loop whose body is being written. `carried`: (register array, chunk, value ahead of the loop, phi)."""

    body: str
    exit: str
    guard: str | None  # the block that may go past the loop
    entered_from: str
    phis: Lines
    carried: list[tuple[Registers, int, Value, Value]]
    written: frozenset[str]


class Control(Memory):
    """Control flow, on top of data movement."""

    def __init__(self, target: Target, needs: Needs) -> None:
        super().__init__(target, needs)
        self.stop_word: Value | None = None
        self.stopped = "ret void"  # how to leave when asked to stop
        self.around: list[tuple[Value, Value]] = []  # (variable, stop) of the loops around, for failure positions

    def open_loop(self, runs: Value | None, written: frozenset[str]) -> Loop:
        """Start of a loop's body. `runs` says whether it runs at all, None if it surely does."""
        body, exit_ = self.new_label("loop"), self.new_label("exit")
        outer = self.scopes[-1].lines
        guard = self.label
        if runs is not None:
            ahead = self.new_label("ahead")
            outer.append(f"  br i1 {runs.text}, label %{ahead}, label %{exit_}")
            self.start(ahead)
        before: Lines = []
        outer.append(before)
        outer.append(f"  br label %{body}")
        entered_from = self.label
        self.wrote_all(written)
        scope = Scope([], before, runs is not None, written)
        outer.append(scope.lines)
        self.scopes.append(scope)
        self.start(body)
        phis: Lines = []
        scope.lines.append(phis)
        carried = []
        for array in self.arrays_in(written):
            for number, old in enumerate(array.chunks):
                phi = Value(self.name(), array.dtype, array.width, self.depth)
                carried.append((array, number, old or Value("poison", array.dtype, array.width), phi))
                array.chunks[number] = phi
        return Loop(body, exit_, guard if runs is not None else None, entered_from, phis, carried, written)

    def close_loop(self, loop: Loop, again: Value, phis: list[tuple[Value, Value, Value]]) -> None:
        """End of the body: once more if `again`. `phis` are the loop's own values: (at its head, ahead of it, next)."""
        latch = self.label
        self.put(f"  br i1 {again.text}, label %{loop.body}, label %{loop.exit}")
        for array, number, old, phi in loop.carried:
            new = array.chunks[number]
            assert new is not None
            phis.append((phi, old, new))
        for phi, first, following in phis:
            loop.phis.append(
                f"  {phi.text} = phi {phi.type} [ {first.text}, %{loop.entered_from} ], [ {following.text}, %{latch} ]"
            )
        self.scopes.pop()
        self.wrote_all(loop.written)
        self.start(loop.exit)
        for array, number, old, _ in loop.carried:
            new = array.chunks[number]
            assert new is not None
            name = new.text
            if loop.guard is not None:
                name = self.name()
                self.put(f"  {name} = phi {new.type} [ {old.text}, %{loop.guard} ], [ {new.text}, %{latch} ]")
            array.chunks[number] = Value(name, array.dtype, array.width, self.depth)

    def counted(
        self,
        var: str,
        start: Value,
        stop: Value,
        step: int,
        written: frozenset[str],
        certain: bool,
        with_stop: bool,
        body: Callable[[Value], None],
    ) -> None:
        """`for var in range(start, stop, step)`; `body` writes what is inside."""
        loop = self.open_loop(None if certain else self.op("icmp slt", start, stop, bool_), written)
        counter = Value(self.name(), i64, 0, self.depth)
        if with_stop:
            self.stop_check()
        outer_binding = self.env.get(var)
        self.env[var] = counter
        self.around.append((counter, stop))
        body(counter)
        self.around.pop()
        self.restore(var, outer_binding)
        following = self.pure(f"add nsw i64 {counter.text}, {step}", i64, 0, self.depth)
        again = self.op("icmp slt", following, stop, bool_)
        self.close_loop(loop, again, [(counter, start, following)])

    def restore(self, var: str, outer: Value | None) -> None:
        if outer is None:
            self.env.pop(var, None)
        else:
            self.env[var] = outer

    def wrote_all(self, written: frozenset[str]) -> None:
        for name in self.buffers:
            if name in written:
                self.wrote(name)

    def stop_check(self) -> None:
        """Leave the function if the caller asked for it."""
        word = self.stop_pointer()
        asked, on = self.name(), self.new_label("go")
        self.put(f"  {asked}w = load atomic i32, ptr {word.text} monotonic, align 4")
        self.put(f"  {asked} = icmp ne i32 {asked}w, 0")
        self.put(f"  br i1 {asked}, label %stopped, label %{on}")
        self.start(on)

    def stop_pointer(self) -> Value:
        if self.stop_word is None:
            never = self.needs.table("i32", "0")
            self.entry += [
                f"  %stop.at = getelementptr i8, ptr %cx, i64 {CONTEXT_STOP}",
                "  %stop.given = load ptr, ptr %stop.at, align 8",
                "  %stop.absent = icmp eq ptr %stop.given, null",
                f"  %stop = select i1 %stop.absent, ptr {never}, ptr %stop.given",
            ]
            self.stop_word = Value("%stop", i64)
        return self.stop_word

    def finished(self, head: str, result: str = "ret void") -> str:
        """The whole function."""
        if self.streams and self.target.arch == "x86-64":
            # Stores that passed the caches by must be seen before whoever waits for this function goes on.
            self.needs.declare("declare void @llvm.x86.sse.sfence()")
            self.put("  call void @llvm.x86.sse.sfence()")
        self.put(f"  {result}")
        if self.stop_word is not None:
            self.start("stopped")
            self.put(f"  {self.stopped}")
        out = [head, "entry:"]
        flatten(self.entry, out)
        flatten(self.scopes[0].lines, out)
        out.append("}")
        return "\n".join(out)


class Branch:
    """`with Branch(function, condition, written): ...` writes what stands inside under the condition, and joins the
    register arrays of both ways."""

    def __init__(self, function: Control, condition: Value, written: frozenset[str]) -> None:
        self.function = function
        self.condition = condition
        self.written = written

    def __enter__(self) -> Branch:
        function = self.function
        self.on, self.off, self.join = (function.new_label(word) for word in ("then", "else", "join"))
        self.has_otherwise = False
        self.head: Lines = [""]
        function.scopes[-1].lines.append(self.head)
        self.came_from = function.label
        self.arrays = list(function.arrays_in(self.written))
        self.before = [list(array.chunks) for array in self.arrays]
        self.begin(self.on)
        return self

    def begin(self, label: str) -> None:
        scope = Scope([], None, True, self.written)
        self.function.scopes[-1].lines.append(scope.lines)
        self.function.scopes.append(scope)
        self.function.start(label)

    def end(self) -> None:
        self.function.put(f"  br label %{self.join}")
        self.function.scopes.pop()

    def otherwise(self) -> None:
        self.end()
        self.then_label = self.function.label
        self.then_chunks = [list(array.chunks) for array in self.arrays]
        for array, chunks in zip(self.arrays, self.before):
            array.chunks = list(chunks)
        self.has_otherwise = True
        self.begin(self.off)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            return
        function = self.function
        self.end()
        last_label = function.label
        last_chunks = [array.chunks for array in self.arrays]
        if not self.has_otherwise:
            self.then_label, self.then_chunks = last_label, last_chunks
            other_label, other_chunks = self.came_from, self.before
        else:
            other_label, other_chunks = last_label, last_chunks
        off = self.off if self.has_otherwise else self.join
        self.head[0] = f"  br i1 {self.condition.text}, label %{self.on}, label %{off}"
        function.start(self.join)
        for array, one, two in zip(self.arrays, self.then_chunks, other_chunks):
            merged: list[Value | None] = []
            for x, y in zip(one, two):
                if x is y or (x is not None and y is not None and x.text == y.text):
                    merged.append(x)
                    continue
                poison = Value("poison", array.dtype, array.width)
                a, b = x or poison, y or poison
                name = function.name()
                function.put(f"  {name} = phi {a.type} [ {a.text}, %{self.then_label} ], [ {b.text}, %{other_label} ]")
                merged.append(Value(name, array.dtype, array.width, function.depth))
            array.chunks = merged
