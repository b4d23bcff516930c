"""Every row of the op table through the chosen kernel: loops evaluated and machine code run against the op itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from kernel_cases import Array, bind, close, results_of, tensor
from native import RUNNABLE, Compiled, check_against_evaluator
from table import BY_OP, Sample

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.codegen.kernels.elementwise import is_map
from treadle.codegen.llvm.emit import Module
from treadle.codegen.lower.structured import specification
from treadle.ir.errors import TreadleError, Unsupported
from treadle.ir.evaluate import evaluate, solve_dims
from treadle.ir.graph import Graph, from_function
from treadle.ir.loops.evaluate import evaluate as run_loops
from treadle.ir.loops.nodes import Kernel
from treadle.ir.ops.elementwise import Exp
from treadle.ir.ops.families import Composite, Control
from treadle.ir.ops.reduce import Sum
from treadle.ir.program import KernelDef

TARGET = MODELS["avx512"]
# Refused by name: complex numbers and fp8 where there is no arithmetic for them, smooth functions not yet written.
REFUSALS = ("TD0431", "TD0435", "TD0501", "TD0502", "TD0503", "TD0504")


def plain(graph: Graph) -> bool:
    """Whether the graph is of ops that a kernel is made of: composites are opened before, control flow is above."""
    return not any(isinstance(value, Composite | Control) for value in graph.order)


def several(graph: Graph) -> bool:
    """Whether more than one op of the graph combines elements: fusion decides whether these are one kernel."""
    return len([value for value in graph.ops if not is_map(value)]) > 1


def values(sample: Sample) -> tuple[Graph, list[Array], dict[str, int], tuple[Array, ...] | None]:
    """The graph, its arguments and sizes, and what it is (None: it fails)."""
    graph, args, sizes = sample.build(), [np.asarray(x) for x in sample.arrays()], dict(sample.sizes)
    solve_dims(graph, args, sizes)
    try:
        with np.errstate(all="ignore"):
            return graph, args, sizes, evaluate(graph, *args, dims=sizes)
    except TreadleError:
        return graph, args, sizes, None


def agrees(
    definition: KernelDef, kernel: Kernel, args: list[Array], sizes: Mapping[str, int], wanted: object, ulp: float
) -> None:
    with np.errstate(all="ignore"):
        written, failure = run_loops(kernel, bind(kernel, args, sizes), sizes, isa.meanings())
    if wanted is None:
        assert failure is not None, "the op fails, its kernel does not"
        return
    assert failure is None
    for found, want in zip(results_of(definition, kernel, written), wanted, strict=True):  # type: ignore[call-overload]
        close(found, np.asarray(want), definition.name, ulp)


# The specification of every op is the op; the chosen kernel is its specification.
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_loops(op: str) -> None:
    for number, sample in enumerate(BY_OP[op]):
        graph, args, sizes, wanted = values(sample)
        if not plain(graph):
            continue
        definition = KernelDef(f"{op}_{number}", graph)
        bound = max(64.0, 4 * sample.ulp)
        try:
            agrees(definition, specification(definition), args, sizes, wanted, bound)
            agrees(definition, choose.kernel(definition, TARGET), args, sizes, wanted, bound)
        except Unsupported as error:
            assert error.code in REFUSALS or (error.code == "TD0434" and several(graph)), f"{sample}: {error}"


# And the machine code is the kernel, to the last bit.
@pytest.mark.skipif("avx512" not in RUNNABLE, reason="this CPU has no AVX-512")
@pytest.mark.parametrize("op", sorted(BY_OP))
def test_machine_code(op: str) -> None:
    kernels, cases = [], []
    for number, sample in enumerate(BY_OP[op][::3]):
        graph, args, sizes, _ = values(sample)
        if not plain(graph):
            continue
        try:
            kernel = choose.kernel(KernelDef(f"{op}_{number}", graph), TARGET)
            Module(TARGET).add(kernel)
        except Unsupported as error:
            assert error.code in REFUSALS or (error.code == "TD0434" and several(graph)), f"{sample}: {error}"
            continue
        kernels.append(kernel)
        cases.append((kernel, args, sizes))
    if kernels:
        compiled = Compiled(kernels, TARGET)
        for kernel, args, sizes in cases:
            with np.errstate(all="ignore"):
                check_against_evaluator(compiled, kernel.name, bind(kernel, args, sizes), sizes)


# What no generator takes is refused by the names of its ops.
def test_refused_by_name() -> None:
    graph = from_function("odd", [tensor(6, 6)], lambda x: (Sum(x, (0,)), Sum(Exp(x), (1,))))
    assert not choose.accepts(graph, TARGET)
    with pytest.raises(Unsupported) as error:
        choose.kernel(KernelDef("odd", graph), TARGET)
    assert error.value.code == "TD0434" and "sum, exp" in str(error.value)


# A size that the graph does not declare could not be passed to the kernel.
def test_undeclared_size() -> None:
    graph = from_function("open", [tensor("B")], lambda x: x + x)
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("open", graph), TARGET)
    assert error.value.code == "TD0436"
