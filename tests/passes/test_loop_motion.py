"""Work that leaves a loop: the answers stay, for loops of any direction and of no steps, and so do those of their
derivatives. `loop_motion.text` shows what moves; the oracle here is the graph that was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from corpus import TEXTS
from random_graphs import context

import treadle as td
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED, everywhere
from treadle.ir.graph import Graph
from treadle.ir.ops.control import Scan, While
from treadle.ir.ops.families import Contraction
from treadle.ir.parse import parse_graph
from treadle.passes import autodiff
from treadle.passes.cleanup import cleanup
from treadle.passes.loop_motion import loop_motion
from treadle.passes.vectorize import vectorize


def moved(graph: Graph, *args: object) -> Graph:
    """The graph after this pass and the one before it that distributes loops; both evaluate to the same numbers but for
    the order of sums."""
    found = loop_motion(vectorize.with_options(always=True)(graph, context()), context())
    WELL_FORMED.check(found)
    for got, want in zip(evaluate(found, *args), evaluate(graph, *args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return found


def drawn(graph: Graph) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.uniform(0.2, 1.2, kind.shape).astype(kind.dtype.numpy) for kind in graph.param_types]


def contractions(graph: Graph) -> int:
    """How many products are made step by step."""
    loops = [value for value in everywhere(graph) if isinstance(value, Scan | While)]
    return sum(isinstance(value, Contraction) for loop in loops for value in everywhere(loop.body))


WITH_LOOPS = [name for name, text in TEXTS.items() if "scan " in text or "while " in text]


@pytest.mark.parametrize("name", WITH_LOOPS)
def test_loops_and_their_derivatives(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    moved(graph, *drawn(graph))
    if "while " not in TEXTS[name]:
        back = cleanup(autodiff.vjp(graph, [kind.dtype.is_float for kind in graph.param_types]), context())
        moved(back, *drawn(back))


CELL = """
graph f(%w: f64[3,3], %u: f64[3,2], %h: f64[3], %xs: f64[{n},2]) -> (f64[3], f64[{n},3]):
  %0 = scan [%w, %u], [%h], [%xs] {{length={n}{reverse}}} : (f64[3], f64[{n},3])
    body = graph step(%w: f64[3,3], %u: f64[3,2], %h: f64[3], %x: f64[2]) -> (f64[3], f64[3]):
      %0 = dot %w, %h {{x_contract=(1,) y_contract=(0,) x_batch=() y_batch=()}} : f64[3]
      %1 = dot %u, %x {{x_contract=(1,) y_contract=(0,) x_batch=() y_batch=()}} : f64[3]
      %2 = add %0, %1 : f64[3]
      %3 = tanh %2 : f64[3]
      return %3, %3
  %1 = get %0 {{index=0}} : f64[3]
  %2 = get %0 {{index=1}} : f64[{n},3]
  return %1, %2
"""


@pytest.mark.parametrize("reverse", ["", " reverse=True"], ids=["forwards", "backwards"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_step_has_one_product_for_each_matrix_that_is_carried_through(steps: int, reverse: str) -> None:
    """Forward the product with the carry, and backward its transpose: those with the inputs and the gradients of both
    weights are made of all steps at once. A loop of no steps gives what it was given."""
    graph = parse_graph(CELL.format(n=steps, reverse=reverse))
    forward = moved(graph, *drawn(graph))
    back = cleanup(autodiff.vjp(graph, [True, True, True, True]), context())
    backward = moved(back, *drawn(back))
    assert not steps or (contractions(forward), contractions(backward)) == (1, 2)


def test_stacks_of_inner_loops_stay_inside() -> None:
    """In a scan of scans the gradient of a weight is summed over the inner steps at once, but added up over the outer
    ones: they are checkpoints, made to keep no stack of all steps."""

    def loss(w: Any, h: Any, xs: Any, checkpoint: bool) -> Any:
        return np.sum(td.lax.scan(lambda h, x: (np.tanh(w @ h + x), ()), h, xs, checkpoint=checkpoint)[0])

    w, h, xs = np.ones((64, 64), "f4"), np.zeros(64, "f4"), np.ones((256, 64), "f4")

    def peak(checkpoint: bool) -> int:
        found = td.jit(td.grad(lambda *a: loss(*a, checkpoint))).compile(w, h, xs)
        size: int = found.memory_analysis().temp_size_in_bytes
        return size

    # The way back stacks two values of each of 16 steps at a time; 16 carries, and sums, beside it.
    assert peak(True) < 8 * 16 * h.nbytes + 4 * w.nbytes < peak(False)
