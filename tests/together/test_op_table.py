"""The one op table through the whole compiler: every op, every dtype it accepts, on every target.

Types, texts and the two meanings of each row are compared in `ir/ops/test_table.py`. Here each row's graph becomes
naive loops, the chosen kernel, a program, an object, and is run: all must give what the op's reference gives, within
the row's bound, and nothing is refused. Rows of one op share a module, which is what makes this cheap, unless they give
different values to a size of one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from kernel_cases import bind, close, results_of
from native import RUNNABLE
from table import BY_OP, Sample, agree

from treadle.codegen import isa, threads
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose, gemm
from treadle.codegen.lower.compose import in_code
from treadle.codegen.lower.structured import specification
from treadle.frontend.compile import Compilation, Executed, finish
from treadle.frontend.options import config
from treadle.ir.dims import DimName
from treadle.ir.errors import Unsupported
from treadle.ir.evaluate import evaluate, solve_dims
from treadle.ir.graph import Graph, inline
from treadle.ir.loops.build import walk
from treadle.ir.loops.evaluate import evaluate as run_loops
from treadle.ir.loops.nodes import For
from treadle.ir.ops.families import Composite, Control
from treadle.ir.program import KernelDef
from treadle.ir.target import Target
from treadle.ir.value import Constant, Parameter
from treadle.runtime import elf, loader

Array = np.ndarray[Any, Any]

# The target that the machine at hand is best at, and the others in turn over parts of the table.
BEST = next((name for name in ("avx512", "avx2", "neon", "generic") if name in RUNNABLE), None)
OTHERS = [name for name in RUNNABLE if name != BEST]
# Of each op every so many rows, another part for each target: a slow target's code takes long to make.
PART = {"avx2": 5, "neon": 9, "generic": 12}
# What moves nothing, or is part of what reads it.
WITHOUT_KERNELS = ("after", "constant", "copy", "dim_size", "get", "reshape", "stop_gradient")
# What it has beside `avx512` are instructions for products.
PRODUCTS = {"avx512+vnni+bf16": ("dot", "conv")}


@dataclass
class Case:
    """A row, its arguments, and what its reference gives."""

    sample: Sample
    graph: Graph
    args: list[Array]
    sizes: dict[str, int]
    wanted: tuple[Array, ...]

    @staticmethod
    def of(sample: Sample) -> Case:
        graph, args, sizes = sample.build(), [np.asarray(x) for x in sample.arrays()], dict(sample.sizes)
        solve_dims(graph, args, sizes)
        with np.errstate(all="ignore"):
            return Case(sample, graph, args, sizes, evaluate(graph, *args, dims=sizes))


@dataclass
class Together:
    """Rows as one graph: their operands after each other, their results after each other."""

    cases: list[Case] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def takes(self, case: Case) -> bool:
        return all(self.sizes.get(name, size) == size for name, size in case.sizes.items())

    def add(self, case: Case) -> None:
        self.cases.append(case)
        self.sizes.update(case.sizes)

    def graph(self) -> Graph:
        params: list[Parameter] = []
        results: list[Any] = []
        for number, case in enumerate(self.cases):
            mine = [Parameter(f"x{number}_{i}", p.given) for i, p in enumerate(case.graph.params)]
            params += mine
            results += inline(case.graph, mine)
        return Graph("rows", tuple(params), tuple(results), tuple(DimName(name) for name in self.sizes))

    def args(self) -> list[Array]:
        return [arg for case in self.cases for arg in case.args]

    def compare(self, found: Iterable[Array]) -> None:
        rest = iter(found)
        for case in self.cases:
            for want in case.wanted:
                agree(np.asarray(next(rest)), want, case.sample.ulp, case.sample.atol, case.sample)


def together(samples: Iterable[Sample]) -> list[Together]:
    """The rows in as few graphs as their sizes allow."""
    found: list[Together] = []
    for sample in samples:
        case = Case.of(sample)
        group = next((group for group in found if group.takes(case)), None)
        if group is None:
            group = Together()
            found.append(group)
        group.add(case)
    return found


def part(op: str, name: str) -> list[Sample]:
    """The rows of an op that a target is tried on: all for the best, others in turn."""
    if name in PRODUCTS:
        return BY_OP[op] if op in PRODUCTS[name] else []
    step = PART.get(name, 1)
    start = sorted(MODELS).index(name) % step
    return BY_OP[op][start::step] or BY_OP[op][:1]


def compiled(graph: Graph, target: Target) -> Compilation:
    return Compilation(graph, target)


def run(compilation: Compilation, name: str) -> Executed:
    return finish(compilation, config.current.changed(target=name, cache=False))


def undefined(code: bytes) -> Iterator[str]:
    return (name for name in elf.undefined_symbols(code) if name not in loader.BLOCK_OPERATIONS)


# The naive loops of every op are the op; so is the kernel that is chosen for it, as loops.
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_loops(op: str) -> None:
    target = MODELS["avx512"]
    for number, sample in enumerate(BY_OP[op]):
        case = Case.of(sample)
        if any(isinstance(value, Composite | Control) for value in case.graph.order):
            continue  # composites are opened before, control flow has tests of its own
        definition = KernelDef(f"{op}_{number}", case.graph)
        if any(isinstance(value, Constant) and not in_code(value) for value in case.graph.ops):
            # Passes never leave these in a group: they are operands of the program.
            assert not choose.accepts(case.graph, target)
            with pytest.raises(Unsupported, match="TD0431"):
                specification(definition)
            continue
        kernels = [specification(definition)]
        if choose.accepts(case.graph, target):  # fusion decides what of several ops is one kernel
            kernels.append(choose.kernel(definition, target))
        for kernel in kernels:
            with np.errstate(all="ignore"):
                written, failure = run_loops(kernel, bind(kernel, case.args, case.sizes), case.sizes, isa.meanings())
            assert failure is None, sample
            for got, want in zip(results_of(definition, kernel, written), case.wanted, strict=True):
                close(got, np.asarray(want), str(sample), max(64.0, 4 * sample.ulp))


# And as a program: through the passes, the planner, LLVM, the loader and the entry; on one thread and on two. Loops are
# cut into pieces that would be too small to pay, so that there is something to share.
@pytest.mark.skipif(BEST is None, reason="no model target's code runs here")
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_programs(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BEST is not None
    monkeypatch.setattr(threads, "GRAIN", 64)
    monkeypatch.setattr(gemm, "SERIAL", 0)
    shared = False
    for group in together(BY_OP[op]):
        compilation = compiled(group.graph(), MODELS[BEST])
        executed = run(compilation, BEST)
        statements = (s for kernel in compilation.kernels.values() for s in walk(kernel.body))
        shared |= any(isinstance(s, For) and s.kind == "parallel" for s in statements)
        assert not list(undefined(executed.built.code))
        one, two = (executed.executable(group.args(), threads=count) for count in (1, 2))
        group.compare(one)
        for a, b in zip(one, two, strict=True):
            assert a.tobytes() == b.tobytes(), f"{op} on two threads"
    assert shared or op in WITHOUT_KERNELS, f"nothing of {op} runs on two threads"


# The other targets, and targets of other machines, whose objects can be made and looked at.
@pytest.mark.parametrize("name", [*OTHERS, *(name for name in MODELS if name not in RUNNABLE)])
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_other_targets(op: str, name: str) -> None:
    on_target(op, name, part(op, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_all_rows_on_all_targets(op: str, name: str) -> None:
    on_target(op, name, BY_OP[op])


def on_target(op: str, name: str, samples: list[Sample]) -> None:
    for group in together(samples):
        compilation = compiled(group.graph(), MODELS[name])
        if name not in RUNNABLE:
            assert not list(undefined(compilation.object_code()[0]))
            continue
        executed = run(compilation, name)
        assert not list(undefined(executed.built.code))
        group.compare(executed.executable(group.args()))
