"""Running programs over real bytes: what the native entry must do.

Every buffer is an array of bytes, every slot a range of one; kernels are evaluated by the reference on their graphs,
and their results stored where the program says. So what the planner laid over each other really overlaps here.
Results and the arena begin as poison: bytes that are NaN as floats and far from anything as integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy as np

from .dims import evaluate as evaluate_dim
from .errors import CheckFailed
from .evaluate import _arguments, concrete, evaluate, solve_dims
from .graph import Graph
from .program import Call, Copy, KernelDef, Loop, Program, Slot, Statement, Switch, While
from .value import Array, Parameter

POISON = 0xFF


def run(
    program: Program, constants: Sequence[Array], *args: Any, dims: Mapping[str, int] | None = None
) -> tuple[Array, ...]:
    """The results of a program on arrays. A broken promise raises its error; TD0281 where memory is misused."""
    params = tuple(Parameter(buffer.label, buffer.type) for buffer in program.inputs)
    signature = Graph(program.name, params, (), program.dims)
    arrays = _arguments(signature, args)
    sizes = dict(dims or {})
    solve_dims(signature, arrays, sizes)
    for promise in program.requires:
        if evaluate_dim(promise.low, sizes) > evaluate_dim(promise.high, sizes):
            raise promise.error
    machine = Machine(program, constants, arrays, sizes)
    machine.body(program.body)
    return machine.results()


class Machine:
    """The memory of one run."""

    def __init__(
        self, program: Program, constants: Sequence[Array], arrays: Sequence[Array], sizes: dict[str, int]
    ) -> None:
        self.program = program
        self.sizes = sizes
        self.kernels: dict[str, KernelDef] = {kernel.name: kernel for kernel in program.kernels}
        self.memory: dict[tuple[str, int], Array] = {}
        for i, array in enumerate(arrays):
            self.memory["in", i] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()
        for i, buffer in enumerate(program.outputs):
            self.memory["out", i] = self.poison(evaluate_dim(buffer.type.bytes, sizes))
        for result, argument in program.donated:
            self.memory["out", result] = self.memory["in", argument]
        for i, array in enumerate(constants):
            self.memory["const", i] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.memory["arena", 0] = self.poison(evaluate_dim(program.arena_bytes, sizes))

    def poison(self, size: int) -> Array:
        return np.full(size, POISON, np.uint8)

    def results(self) -> tuple[Array, ...]:
        return tuple(self.load(Slot("out", i, 0, buffer.type)) for i, buffer in enumerate(self.program.outputs))

    def range(self, slot: Slot) -> tuple[Array, int, int]:
        """The memory of a slot, and its first and last byte (the last one excluded)."""
        memory = self.memory[slot.space, slot.index]
        begin = evaluate_dim(slot.offset, self.sizes)
        end = begin + evaluate_dim(slot.type.bytes, self.sizes)
        if begin < 0 or end > len(memory):
            raise CheckFailed(
                f"{self.program.name}: bytes {begin}:{end} of {slot.memory}, which has {len(memory)}",
                code="TD0281",
            )
        return memory, begin, end

    def load(self, slot: Slot) -> Array:
        memory, begin, end = self.range(slot)
        kind = concrete(slot.type, self.sizes)
        shape = tuple(int(str(n)) for n in kind.shape)
        return np.frombuffer(memory[begin:end].tobytes(), kind.dtype.numpy).reshape(shape)

    def store(self, slot: Slot, array: Array) -> None:
        memory, begin, end = self.range(slot)
        memory[begin:end] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)

    def overlap(self, a: Slot, b: Slot) -> bool:
        first, begin, end = self.range(a)
        second, low, high = self.range(b)
        return first is second and begin < high and low < end

    def body(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, statement: Statement) -> None:
        match statement:
            case Call():
                self.call(statement)
            case Copy(source, target):
                if self.overlap(source, target):
                    raise CheckFailed(f"{self.program.name}: a copy overlaps what it copies", code="TD0281")
                self.store(target, self.load(source))
            case Loop(var, count, body, reverse):
                steps = range(evaluate_dim(count, self.sizes))
                for number in reversed(steps) if reverse else steps:
                    self.sizes[var] = number
                    self.body(body)
                self.sizes.pop(var, None)
            case While(condition, flag, body):
                self.body(condition)
                while bool(self.load(flag)):
                    self.body(body)
                    self.body(condition)
            case Switch(selector, branches):
                self.body(branches[min(max(int(self.load(selector)), 0), len(branches) - 1)])
            case _:
                assert_never(statement)

    def call(self, call: Call) -> None:
        kernel = self.kernels[call.kernel]
        for i, written in enumerate(call.writes):
            over = [param for result, param in kernel.updates if result == i]
            for j, read in enumerate(call.reads):
                same = j in over and self.range(written)[1:] == self.range(read)[1:]
                if self.overlap(written, read) and not same:
                    raise CheckFailed(
                        f"{self.program.name}: {call.kernel} writes result {i} over operand {j}", code="TD0281"
                    )
            if any(self.overlap(written, other) for other in call.writes[i + 1 :]):
                raise CheckFailed(f"{self.program.name}: {call.kernel} writes two results at one place", code="TD0281")
        for i, scratch in enumerate(call.work):
            if any(self.overlap(scratch, other) for other in (*call.reads, *call.writes, *call.work[i + 1 :])):
                raise CheckFailed(f"{self.program.name}: scratch of {call.kernel} is in use", code="TD0281")
            memory, begin, end = self.range(scratch)
            memory[begin:end] = POISON
        dims = {dim.name: self.sizes[dim.name] for dim in kernel.graph.dims}
        results = evaluate(kernel.graph, *(self.load(slot) for slot in call.reads), dims=dims)
        for slot, result in zip(call.writes, results, strict=True):
            self.store(slot, result)
