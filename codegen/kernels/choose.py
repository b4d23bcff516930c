"""Which generator makes the kernel of which group.

The table below is asked from the top; the first generator that takes the graph makes the kernel. What fusion may ask
beforehand (`accepts`, `keeps`) is answered from the same table, so that a group it makes always has a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...ir.classes import dataclass
from ...ir.errors import Unsupported
from ...ir.graph import Graph
from ...ir.loops.nodes import Kernel
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import TensorType
from ...ir.value import Value
from . import contraction, control, elementwise, gemm, scan, small_product, softmax, sort, updates
from .transcendental import open_math


@dataclass(frozen=True)
class Generator:
    """`takes` says quickly whether `make` has a good kernel for a graph; `workspace` the arrays that the kernel is
    better with: `make` is told in the definition whether it has them."""

    name: str
    takes: Callable[[Graph, Target], bool]
    make: Callable[[KernelDef, Target], Kernel]
    workspace: Callable[[Graph, Target], tuple[TensorType, ...]] = lambda graph, target: ()


GENERATORS: Final[tuple[Generator, ...]] = (
    Generator("elementwise", elementwise.takes, elementwise.elementwise),
    Generator("small product", small_product.takes, small_product.small_product),
    Generator("gemm", gemm.takes, gemm.gemm, gemm.workspace),
    Generator("contraction", contraction.takes, contraction.contraction),
    Generator("rows", softmax.takes, softmax.rows),
    Generator("scan", scan.takes, scan.scan),
    Generator("updates", updates.takes, updates.updates),
    Generator("sort", sort.takes, sort.sort),
    Generator(
        "control",
        lambda graph, target: control.takes(graph, target, kernel),
        lambda definition, target: control.control(definition, target, kernel),
    ),
)


def kernel(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a fusion group. Raises `Unsupported` (TD0434) where no generator takes it."""
    for generator in GENERATORS:
        if generator.takes(definition.graph, target):
            return open_math(generator.make(definition, target), target)
    ops = ", ".join(dict.fromkeys(value.name for value in definition.graph.ops))
    raise Unsupported(f"no kernel for {definition.name} of {ops}", code="TD0434")


def workspace(group: Graph, target: Target) -> tuple[TensorType, ...]:
    """The arrays that the kernel of a group wants as scratch, for `KernelDef.work`."""
    for generator in GENERATORS:
        if generator.takes(group, target):
            return generator.workspace(group, target)
    return ()


def accepts(group: Graph, target: Target) -> bool:
    """Whether there is one good kernel for the group."""
    return any(generator.takes(group, target) for generator in GENERATORS)


def keeps(op: Value, target: Target) -> bool:
    """Whether there is a kernel for this composite as it stands."""
    return False
