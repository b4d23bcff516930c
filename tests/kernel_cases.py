"""What every test of a kernel checks: one graph, many oracles.

The graph's evaluator, the naive specification, the chosen kernel for each model target run by the loops evaluator, and
its machine code where this machine can run it. Machine code and loops must agree bit for bit; the rest within what
rounding allows, exactly for integers and bools.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from native import RUNNABLE, Compiled, Context, check_against_evaluator

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.host import host
from treadle.codegen.kernels import choose
from treadle.codegen.llvm.optimize import object_code
from treadle.codegen.llvm.pool import pool_module
from treadle.codegen.lower.structured import specification
from treadle.ir.dims import DimName, symbol
from treadle.ir.dims import evaluate as size
from treadle.ir.dtypes import DType, f32
from treadle.ir.evaluate import evaluate, solve_dims
from treadle.ir.graph import Graph, from_function
from treadle.ir.loops.evaluate import evaluate as run_loops
from treadle.ir.loops.nodes import Kernel
from treadle.ir.program import KernelDef
from treadle.ir.target import Target
from treadle.ir.types import TensorType
from treadle.runtime.threads import pool

Array = np.ndarray[Any, Any]


def tensor(*shape: int | str, dtype: DType = f32) -> TensorType:
    """`tensor("B", 3)`: names become symbolic sizes."""
    return TensorType(tuple(symbol(dim) if isinstance(dim, str) else dim for dim in shape), dtype)


def graph_of(types: Sequence[TensorType], build: Callable[..., Any], **promises: DimName) -> Graph:
    """A closed graph from a function; every name in the types is one of its sizes."""
    made = from_function("kernel", types, build)
    names = dict.fromkeys(name for given in types for name in given.names())
    return Graph(made.name, made.params, made.results, tuple(promises.get(name, DimName(name)) for name in names))


def sample(given: TensorType, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """An array of a type: small numbers, so that sums of integers do not wrap and floats do not cancel badly."""
    shape = tuple(size(dim, sizes) for dim in given.shape)
    if given.dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if given.dtype.is_integer:
        return rng.integers(0 if given.dtype.kind == "uint" else -9, 10, shape).astype(given.dtype.numpy)
    return (rng.standard_normal(shape) * 2).astype(given.dtype.numpy)


def bind(kernel: Kernel, args: Sequence[Array], sizes: Mapping[str, int]) -> dict[str, Array]:
    """The arguments as the kernel sees them: the same elements under its own shapes."""
    given = [param for param in kernel.params if param.role != "out"]
    return {
        param.name: np.ascontiguousarray(arg).reshape([size(dim, sizes) for dim in param.shape])
        for param, arg in zip(given, args, strict=True)
    }


def results_of(definition: KernelDef, kernel: Kernel, written: Mapping[str, Array]) -> list[Array]:
    """The kernel's results in the graph's order."""
    updates = dict(definition.updates)
    params = [param.name for param in kernel.params]
    outs = iter(params[len(definition.graph.params) :])
    return [
        written[params[updates[i]]] if i in updates else written[next(outs)]
        for i in range(len(definition.graph.results))
    ]


def close(found: Array, wanted: Array, what: str, ulp: float = 64) -> None:
    """Equal, up to rounding for floats; NaN and infinities must stand in the same places."""
    found = found.reshape(wanted.shape)
    if wanted.dtype.kind in "biu":
        np.testing.assert_array_equal(found, wanted, err_msg=what)
        return
    name = str(wanted.dtype)
    unit = {"float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}.get(name, 2.0**-24)
    x, y = (
        found.astype(np.complex128 if wanted.dtype.kind == "c" else np.float64),
        wanted.astype(np.complex128 if wanted.dtype.kind == "c" else np.float64),
    )
    scale = np.max(np.abs(y[np.isfinite(y)]), initial=0.0)
    np.testing.assert_allclose(x, y, rtol=ulp * unit, atol=ulp * unit * scale, err_msg=what)


@functools.cache
def two_threads() -> Context:
    """The context of a call on two threads, with the process's pool."""
    mine = host()
    code = object_code(pool_module(mine.triple), mine.triple, mine.llvm_cpu, mine.llvm_features)
    return Context(1, 2, pool(lambda: code, 1), None)


def check(
    graph: Graph,
    *args: Array,
    updates: tuple[tuple[int, int], ...] = (),
    targets: Mapping[str, Target] = MODELS,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    ulp: float = 64,
    native: bool = True,
    context: Context | None = None,
) -> dict[str, Kernel]:
    """Compare everything with everything; the kernels made, by target."""
    given = dict(sizes or {})
    if not args:
        rng = np.random.default_rng(seed)
        args = tuple(sample(param.given, given, rng) for param in graph.params)
    solve_dims(graph, args, given)
    definition = KernelDef("kernel", graph, updates)
    wanted = evaluate(graph, *args, dims=given)
    naive = specification(definition)
    written, failure = run_loops(naive, bind(naive, args, given), given, isa.meanings())
    for found, want in zip(results_of(definition, naive, written), wanted, strict=True):
        close(found, want, "specification", ulp)
    kernels = {}
    for name, target in targets.items():
        # A kernel must also do without the workspace that it would like.
        for work in dict.fromkeys([(), choose.workspace(graph, target)]):
            definition = KernelDef("kernel", graph, updates, work)
            kernel = kernels[name] = choose.kernel(definition, target)
            assert kernel == choose.kernel(definition, target), "the same group gives the same kernel"
            bound = bind(kernel, args, given)
            written, failed = run_loops(kernel, bound, given, isa.meanings())
            assert (failed and failed[0]) == (failure and failure[0]), name
            for found, want in zip(results_of(definition, kernel, written), wanted, strict=True):
                close(found, want, name, ulp)
            if native and name in RUNNABLE:
                check_against_evaluator(Compiled([kernel], target), kernel.name, bound, given, context)
    return kernels
