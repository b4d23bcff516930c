"""The pass manager: passes, pipelines, and what can be seen of them.

A pass is a function `(Graph, Context) -> Graph` that says which forms it needs and which it gives or breaks. A pipeline
is a table of passes with their options, checked when it is built. Running it announces, runs, checks, times and, when
asked, keeps the text after each pass. `blame` evaluates after every pass and names the first that changed the answer.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any, Protocol

import numpy as np

from ..ir.errors import CheckFailed, InvalidValue
from ..ir.evaluate import evaluate
from ..ir.fingerprint import fingerprint
from ..ir.forms import WELL_FORMED, Form
from ..ir.graph import Graph
from ..ir.location import Location
from ..ir.target import Target
from ..ir.types import TensorType
from ..ir.value import Value


class Kernels(Protocol):
    """What passes may ask of the code generator: filled by the driver, so that passes know no machine."""

    def accepts(self, group: Graph) -> bool:
        """Whether there is one kernel for this group, better than its pieces."""
        ...

    def keeps(self, op: Value) -> bool:
        """Whether there is a kernel for this composite as it stands."""
        ...

    def workspace(self, group: Graph) -> tuple[TensorType, ...]:
        """The arrays that the kernel of a group wants as scratch."""
        ...


@dataclass(frozen=True, slots=True)
class Remark:
    """A decision said aloud: which pass, about what, why."""

    where: str
    op: str
    text: str
    location: Location | None

    def __str__(self) -> str:
        place = f"  @{self.location}" if self.location else ""
        return f"{self.where}: {self.op}: {self.text}{place}"


@dataclass
class Context:
    """What a pass may ask: the target, the kernels that exist, options; and where it says what it decided."""

    target: Target
    kernels: Kernels
    check: bool = False
    remarks: list[Remark] = field(default_factory=list)
    running: str = ""

    def remark(self, value: Value, text: str) -> None:
        self.remarks.append(Remark(self.running, value.name, text, value.location))


Run = Callable[..., Graph]


@dataclass(frozen=True)
class Pass:
    """One pass with its options. `spelling` is how it is written on a command line: `fuse(limit=64)`."""

    name: str
    run: Run
    needs: tuple[Form, ...]
    gives: tuple[Form, ...]
    breaks: tuple[Form, ...]
    options: Any = None

    def __call__(self, graph: Graph, cx: Context) -> Graph:
        before, cx.running = cx.running, self.name
        try:
            return self.run(graph, cx) if self.options is None else self.run(graph, cx, self.options)
        finally:
            cx.running = before

    @property
    def doc(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0] if self.run.__doc__ else ""

    @property
    def spelling(self) -> str:
        if self.options is None:
            return self.name
        changed = [
            f"{f.name}={getattr(self.options, f.name)}"
            for f in dataclasses.fields(self.options)
            if getattr(self.options, f.name) != f.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def with_options(self, **options: Any) -> Pass:
        if self.options is None:
            raise InvalidValue(f"pass {self.name} has no options", code="TD0301")
        known = {f.name: f for f in dataclasses.fields(self.options)}
        for name in options:
            if name not in known:
                raise InvalidValue(f"pass {self.name} has no option {name!r}; it has {', '.join(known)}", code="TD0301")
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **options))


def graph_pass(
    *,
    needs: Sequence[Form] = (),
    gives: Sequence[Form] = (),
    breaks: Sequence[Form] = (),
    options: Any = None,
) -> Callable[[Run], Pass]:
    """Declare a pass. `options` is an instance of a frozen dataclass with the defaults; the pass then takes it
    third."""

    def declare(run: Run) -> Pass:
        return Pass(run.__name__, run, tuple(needs), tuple(gives), tuple(breaks), options)

    return declare


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in one pass of one run. `changed` compares fingerprints."""

    name: str
    seconds: float
    before: Graph
    after: Graph
    changed: bool
    remarks: tuple[Remark, ...]

    def __str__(self) -> str:
        change = f"{len(self.before.ops)} -> {len(self.after.ops)} ops" if self.changed else "(unchanged)"
        return f"{self.name}: {change}, {self.seconds * 1e3:.1f} ms"

    def diff(self) -> str:
        """The unified diff of the texts before and after."""
        before, after = str(self.before).splitlines(), str(self.after).splitlines()
        return "\n".join(unified_diff(before, after, f"before {self.name}", f"after {self.name}", lineterm=""))


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes. Building it checks that each need is given earlier and not broken since."""

    name: str
    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        held: list[Form] = []
        for each in self.passes:
            for need in each.needs:
                if need not in held:
                    raise CheckFailed(
                        f"pipeline {self.name}: {each.name} needs {need}, which no pass before it gives", code="TD0302"
                    )
            held = [form for form in held if form not in each.breaks]
            held += [form for form in each.gives if form not in held]

    def run(self, graph: Graph, cx: Context, *, until: str | None = None) -> list[Step]:
        """The steps, in order; the last one's `after` is the result. `until` stops after the first pass of that
        name."""
        steps: list[Step] = []
        held: list[Form] = []
        for each in self.passes:
            said = len(cx.remarks)
            start = time.perf_counter()
            after = each(graph, cx)
            seconds = time.perf_counter() - start
            held = [form for form in held if form not in each.breaks]
            held += [form for form in each.gives if form not in held]
            if cx.check:
                for form in (WELL_FORMED, *held):
                    form.check(after, cx.kernels.keeps)
            changed = after is not graph and (
                len(after.order) != len(graph.order) or fingerprint(after) != fingerprint(graph)
            )
            steps.append(Step(each.spelling, seconds, graph, after, changed, tuple(cx.remarks[said:])))
            graph = after
            if each.name == until:
                break
        return steps


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first pass that changed the answer, or None; `error` is the largest difference it made."""

    step: Step | None
    error: float

    def __str__(self) -> str:
        if self.step is None:
            return f"no pass changed the answer (largest difference {self.error:.3g})"
        return f"{self.step.name} changed the answer by {self.error:.3g}\n{self.step.diff()}"


def blame(steps: Sequence[Step], args: Sequence[Any], *, tolerance: float = 1e-5) -> Verdict:
    """Evaluate before the first pass and after every one on `args`, and name the first that changed the answer.

    The difference is relative to the magnitude of the expected values, compared with `tolerance` (floats) or exactly.
    """
    worst = 0.0
    expected = evaluate(steps[0].before, *args)
    for step in steps:
        if not step.changed:
            continue
        found = evaluate(step.after, *args)
        error = max((largest_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
        if error > tolerance:
            return Verdict(step, error)
        worst = max(worst, error)
    return Verdict(None, worst)


def largest_difference(expected: Any, found: Any) -> float:
    """The largest difference of two arrays, relative to the largest finite expected element; infinite where types,
    shapes, or elements that are no floats differ."""
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.size == 0:
        return 0.0
    if a.dtype.kind not in "fcV":
        return 0.0 if np.array_equal(a, b) else float("inf")
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if bool(same.all()):
        return 0.0
    with np.errstate(all="ignore"):
        scale = np.max(np.abs(x[np.isfinite(x)]), initial=0.0) or 1.0
        error = np.where(same, 0.0, np.abs(x - y) / scale)
    return float("inf") if np.isnan(error).any() else float(error.max())
