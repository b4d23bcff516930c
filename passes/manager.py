"""The pass manager: passes, pipelines, and what can be seen of them.

A pass is a function `(Graph, Context) -> Graph` that says which forms it needs and which it gives or breaks. A pipeline
is a table of passes with their options, checked when it is built. Running it announces, runs, checks and times each
pass, and keeps the graphs before and after it, so that every text and difference can be shown. `blame` evaluates after
every pass and names the first that changed the answer. Nothing here changes a graph.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from difflib import unified_diff
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..ir.classes import dataclass
from ..ir.dtypes import of as dtype_of
from ..ir.errors import CheckFailed, InvalidValue, TreadleError
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


def silent(spelling: str, graph: Graph) -> None:
    """Announce nothing."""


@dataclass
class Context:
    """What a pass may ask: the target, the kernels that exist, options; and where it says what it decided.

    `announce` is told of every pass, as it is spelt, and of the graph that it gets, before it runs. With `check`, every
    form that should hold is checked after every pass."""

    target: Target
    kernels: Kernels
    check: bool = False
    remarks: list[Remark] = field(default_factory=list)
    running: str = ""
    announce: Callable[[str, Graph], None] = silent

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
        known = {f.name: f.default for f in dataclasses.fields(self.options)}
        for name, value in options.items():
            if name not in known:
                raise InvalidValue(f"pass {self.name} has no option {name!r}; it has {', '.join(known)}", code="TD0301")
            if type(value) is not type(known[name]):
                kind = type(known[name]).__name__
                raise InvalidValue(f"pass {self.name}: option {name} is of type {kind}, not {value!r}", code="TD0301")
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
    """A sequence of passes. Building it checks that each need is given earlier and not broken since; `held` are the
    forms that the graphs it is run on have to begin with."""

    name: str
    passes: tuple[Pass, ...]
    held: tuple[Form, ...] = ()

    def __post_init__(self) -> None:
        held = self.held
        for each in self.passes:
            for need in each.needs:
                if need not in held:
                    raise CheckFailed(
                        f"pipeline {self.name}: {each.name} needs {need}, which no pass before it gives", code="TD0302"
                    )
            held = after(each, held)

    def run(self, graph: Graph, cx: Context, *, until: str | None = None) -> list[Step]:
        """The steps, in order; the last one's `after` is the result. `until` stops after the first pass of that name.

        Raises CheckFailed where a pass changes what the graph takes or yields (TD0307) and, with `cx.check`, where a
        form does not hold after it (TD0250)."""
        steps: list[Step] = []
        held = self.held
        for each in self.passes:
            cx.announce(each.spelling, graph)
            said = len(cx.remarks)
            start = time.perf_counter()
            found = each(graph, cx)
            seconds = time.perf_counter() - start
            if (found.param_types, found.result_types) != (graph.param_types, graph.result_types):
                raise CheckFailed(
                    f"{graph.name}: {each.spelling} changes the types of parameters or results", code="TD0307"
                )
            held = after(each, held)
            if cx.check:
                for form in (WELL_FORMED, *held):
                    form.check(found, cx.kernels.keeps, after=each.spelling)
            changed = found is not graph and (
                len(found.order) != len(graph.order) or fingerprint(found) != fingerprint(graph)
            )
            steps.append(Step(each.spelling, seconds, graph, found, changed, tuple(cx.remarks[said:])))
            graph = found
            if each.name == until:
                break
        return steps


def after(each: Pass, held: tuple[Form, ...]) -> tuple[Form, ...]:
    """The forms that hold after a pass, of those that held before it and those that it gives."""
    kept = tuple(form for form in held if form not in each.breaks)
    return kept + tuple(form for form in each.gives if form not in kept)


Outcome: TypeAlias = tuple[Any, ...] | str  # results, or the code of the error that evaluating raises


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first pass that changed the answer, or None; `error` is the largest difference it made."""

    step: Step | None
    error: float

    def __str__(self) -> str:
        if self.step is None:
            return f"no pass changed the answer (largest difference {self.error:.3g})"
        return f"{self.step.name} changed the answer by {self.error:.3g}\n{self.step.diff()}"


def blame(steps: Sequence[Step], args: Sequence[Any], *, tolerance: Sequence[float] | None = None) -> Verdict:
    """Evaluate before the first pass and after every one on `args`, and name the first that changed the answer.

    Integers and bools must stay the same, and so must an error. Floats may differ by each result's `tolerance`
    (what other roundings explain in the result's type, if not given), relative to the largest finite expected element.
    """
    worst = 0.0
    expected = outcome(steps[0].before, args) if steps else ()
    for step in steps:
        if not step.changed:
            continue
        found = outcome(step.after, args)
        if isinstance(expected, str) or isinstance(found, str):
            if expected != found:
                return Verdict(step, float("inf"))
            continue
        bounds = [rounding(a.dtype) for a in expected] if tolerance is None else tolerance
        for a, b, bound in zip(expected, found, bounds, strict=True):
            error = largest_difference(a, b)
            if error > bound:
                return Verdict(step, error)
            worst = max(worst, error)
    return Verdict(None, worst)


def outcome(graph: Graph, args: Sequence[Any]) -> Outcome:
    try:
        return evaluate(graph, *args)
    except TreadleError as error:
        return error.code


def largest_difference(expected: Any, found: Any) -> float:
    """The largest difference of two arrays, relative to the largest finite expected element; infinite where types,
    shapes, or elements that are no floats differ."""
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.size == 0:
        return 0.0
    if dtype_of(a.dtype).kind not in ("float", "complex"):
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


def rounding(dtype: np.dtype[Any]) -> float:
    """What other roundings explain, relative to the largest element: many units of long floats, a few of short ones."""
    if dtype_of(dtype).kind not in ("float", "complex"):
        return 0.0
    one = np.ones((), dtype.type(0).real.dtype)
    unit = 1.0
    while float((one + np.asarray(unit / 2, one.dtype)).astype(one.dtype)) != 1.0:
        unit /= 2
    return float(unit**0.75)
