"""The program: when and where. Order and memory, decided.

A program is a structured list of statements over slots of memory. Calls name a kernel and say which slots are read and
written; a kernel is a closed graph (its meaning) plus which of its results may be written over which of its operands.
The native entry is this text compiled: nothing interprets it at run time except the evaluator below, its oracle.
"""

from __future__ import annotations

from typing import Literal

from .classes import dataclass
from .dims import Dim, DimName
from .errors import TreadleError
from .graph import Graph
from .location import Location
from .types import TensorType

Space = Literal["in", "out", "const", "arena"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory that holds one tensor, row-major: argument, result or constant number `index`, or `arena` at byte
    `offset`.

    Inside a loop, `offset` may use the loop's variables (a stacked input or output is read one step at a time); for
    `in`, `out` and `const` it is a byte offset into that buffer.
    """

    space: Space
    index: int
    offset: Dim
    type: TensorType

    @property
    def memory(self) -> str:
        """The buffer, as texts name it: `in0`, `out1`, `const2` or `arena`."""
        return self.space if self.space == "arena" else f"{self.space}{self.index}"


@dataclass(frozen=True, slots=True)
class Call:
    """Run a kernel: `reads` are its graph's parameters, `writes` its results, both in order, `work` its scratch.

    `sites` are the errors that its ops which can fail raise, in the order of the kernel's graph: failure site i of the
    kernel is `sites[i - 1]` here. Kernels are shared between calls, the user's lines are not.
    """

    kernel: str
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    location: Location | None = None
    sequence: int = 0
    sites: tuple[TreadleError, ...] = ()
    work: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy all bytes of `source` to `target`, which has the same type and does not overlap it."""

    source: Slot
    target: Slot


@dataclass(frozen=True, slots=True)
class Loop:
    """`for var in range(count)`; `reverse` counts down. Carries live in fixed slots that the body reads and writes."""

    var: str
    count: Dim
    body: tuple[Statement, ...]
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class While:
    """Run `condition`; while the bool in `flag` is true, run `body` and `condition` again."""

    condition: tuple[Statement, ...]
    flag: Slot
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    """Run the branch whose number is in `selector` (an i32 or i64 scalar, or a bool: false is 0), clamped to the
    branches."""

    selector: Slot
    branches: tuple[tuple[Statement, ...], ...]


Statement = Call | Copy | Loop | While | Switch


@dataclass(frozen=True, slots=True)
class KernelDef:
    """What a kernel computes. `updates` pairs (result, parameter): that result is written over that operand's
    memory. `work` are arrays that the kernel is given as scratch, after its results; they mean nothing before and
    after."""

    name: str
    graph: Graph
    updates: tuple[tuple[int, int], ...] = ()
    work: tuple[TensorType, ...] = ()


@dataclass(frozen=True, slots=True)
class Buffer:
    """An argument, result or constant of the program. `label` is its path in the user's arguments, or the constant's
    hash."""

    label: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Promise:
    """`low <= high` must hold for the sizes of a call, else `error`: what could not be proven when the graph was
    made."""

    low: Dim
    high: Dim
    error: TreadleError


@dataclass(frozen=True, slots=True)
class Program:
    """`arena_bytes` and `lower_bound` are bytes at the given dims; `lower_bound` is the largest sum of bytes live at
    once.

    `donated` pairs (result, argument): that result is written into that argument's buffer.
    `constants[i]` is described here; its data travels beside the program, in `Bundle`.
    """

    name: str
    dims: tuple[DimName, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    constants: tuple[Buffer, ...]
    kernels: tuple[KernelDef, ...]
    body: tuple[Statement, ...]
    arena_bytes: Dim
    lower_bound: Dim
    donated: tuple[tuple[int, int], ...] = ()
    requires: tuple[Promise, ...] = ()

    def __str__(self) -> str:
        from .program_text import show

        return show(self)
