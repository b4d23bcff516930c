"""Derivatives and batches by the passes, over the rows of the op table: what a transform makes of every op.

The rules of one op are tested beside it (`ir/ops`); here whole graphs go through `autodiff` and `batch`, and through
them again. The oracles are differences of values, inner products, and stacks of single calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from sample import Sample, agree
from table import BY_OP

from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.ops import OPS
from treadle.ir.types import TensorType
from treadle.passes import autodiff, batch

FLAT = [name for name, cls in OPS.items() if cls.flat is True]
SMOOTH = [op for op, rows in BY_OP.items() if any(row.smooth for row in rows)]


def smooth(op: str) -> list[Sample]:
    return [row for row in BY_OP[op] if row.smooth]


def moving(graph: Graph) -> list[bool]:
    return [autodiff.differentiable(p) for p in graph.params]


def random_like(rng: np.random.Generator, kind: TensorType) -> np.ndarray:
    shape = tuple(int(n) for n in kind.shape)  # type: ignore[arg-type]
    found = rng.standard_normal(shape)
    return found + 1j * rng.standard_normal(shape) if kind.dtype.kind == "complex" else found


def pairing(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Re(sum a*b): how tangents and cotangents meet."""
    return float(sum(np.sum(x * y).real for x, y in zip(a, b, strict=True)))


def slope(graph: Graph, at: Sequence[np.ndarray], along: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The derivatives of the inexact results, by central differences and one step of Richardson's extrapolation."""
    kept = graph.with_results([r for r in graph.results if autodiff.differentiable(r)])

    def difference(h: float) -> list[np.ndarray]:
        ahead, behind = (
            evaluate(kept, *(x if t is None else x + s * h * t for x, t in zip(at, along, strict=True)))
            for s in (1, -1)
        )
        return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]

    return [(4 * fine - coarse) / 3 for fine, coarse in zip(difference(5e-4), difference(1e-3), strict=True)]


def directions(graph: Graph, seed: int) -> list[np.ndarray | None]:
    rng = np.random.default_rng(seed)
    return [random_like(rng, p.given) if moves else None for p, moves in zip(graph.params, moving(graph), strict=True)]


def present(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    return [a for a in arrays if a is not None]


def test_every_op_has_a_derivative_or_is_flat() -> None:
    """An op of numbers that is neither tested for its slope nor said to be flat would give silent zeros. Elements of
    tuples, marks of order and control flow are tested in whole graphs: `test_autodiff.py`."""
    structural = {"get", "after", *(name for name, cls in OPS.items() if cls.__module__.endswith("control"))}
    reads = {op: any(field.kind in ("operand", "operands") for field in cls.schema) for op, cls in OPS.items()}
    missing = [op for op in OPS if reads[op] and op not in SMOOTH and op not in FLAT and op not in structural]
    assert not missing
    assert not [op for op in SMOOTH if op in FLAT]


@pytest.mark.parametrize("op", SMOOTH)
def test_tangents_and_cotangents(op: str) -> None:
    """The tangent is the slope; the cotangent is its transpose; values stay as they are."""
    for row in smooth(op):
        graph, at = row.build(), row.arrays()
        along, moves = directions(graph, 1), moving(graph)
        forward, backward = autodiff.jvp(graph, moves), autodiff.vjp(graph, moves)
        count = len(graph.results)
        values = evaluate(graph, *at)
        found = evaluate(forward, *at, *present(along))
        for got, want in zip(found, values, strict=False):
            agree(got, want, about=row)
        for got, want in zip(found[count:], slope(graph, at, along), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-8, err_msg=str(row))
        rng = np.random.default_rng(2)
        bars = [random_like(rng, r.tensor) for r in graph.results if autodiff.differentiable(r)]
        pulled = evaluate(backward, *at, *bars)
        for back, param in zip(pulled[count:], (p for p, m in zip(graph.params, moves, strict=True) if m), strict=True):
            assert back.dtype == param.dtype.numpy and back.shape == param.shape, row
        left, right = pairing(found[count:], bars), pairing(present(along), pulled[count:])
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10, err_msg=str(row))


@pytest.mark.parametrize("op", SMOOTH)
def test_second_derivatives(op: str) -> None:
    """The reverse derivative is differentiated like any graph, in both modes."""
    for row in smooth(op):
        first = autodiff.vjp(row.build(), moving(row.build()))
        rng = np.random.default_rng(3)
        at = [*row.arrays(), *(random_like(rng, p.given) for p in first.params[len(row.arrays()) :])]
        along, moves = directions(first, 4), moving(first)
        count = len(first.results)
        tangents = evaluate(autodiff.jvp(first, moves), *at, *present(along))[count:]
        for got, want in zip(tangents, slope(first, at, along), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=str(row))
        bars = [random_like(rng, r.tensor) for r in first.results if autodiff.differentiable(r)]
        pulled = evaluate(autodiff.vjp(first, moves), *at, *bars)[count:]
        np.testing.assert_allclose(
            pairing(tangents, bars), pairing(present(along), pulled), rtol=1e-9, atol=1e-9, err_msg=str(row)
        )


@pytest.mark.parametrize("op", sorted(FLAT))
def test_flat_ops_have_no_tangent(op: str) -> None:
    """Zero, not absent by accident: the cotangent of everything that a flat op reads is zero."""
    for row in BY_OP[op][:8]:
        graph = row.build()
        tangents = autodiff.push(list(graph.results), {id(p): p for p in graph.params if autodiff.differentiable(p)})
        assert all(t is None for t in tangents), row


def one_row_of_each_dtype(op: str) -> list[Sample]:
    """The first row of every list of operand types' dtypes, and every row with symbolic sizes."""
    seen: dict[object, Sample] = {}
    for row in BY_OP[op]:
        seen.setdefault(str(row) if row.sizes else tuple(p.dtype for p in row.build().params), row)
    return list(seen.values())


@pytest.mark.parametrize("op", BY_OP)
def test_derivatives_are_well_formed(op: str) -> None:
    """Of every dtype and of symbolic sizes: a half float's cotangent is a half float, whatever the rule computes in."""
    for row in one_row_of_each_dtype(op):
        graph = row.build()
        moves = moving(graph)
        if not any(moves):
            continue
        WELL_FORMED.check(autodiff.jvp(graph, moves))
        if op == "while":
            # How often it runs is not known, so nothing can be walked back.
            with pytest.raises(TreadleError, match="TD0342"):
                autodiff.vjp(graph, moves)
            continue
        WELL_FORMED.check(autodiff.vjp(graph, moves))


def turned(array: np.ndarray) -> np.ndarray:
    """The same elements in another order: a second member for a batch."""
    return np.flip(array)


def stacked_calls(graph: Graph, made: Graph, flags: Sequence[bool], mask: Sequence[bool], row: Sample) -> None:
    members = [(a, turned(a)) if here else (a, a) for a, here in zip(row.arrays(), mask, strict=True)]
    stacks = [np.stack(pair) if here else pair[0] for pair, here in zip(members, mask, strict=True)]
    found = evaluate(made, *stacks, dims=row.sizes)
    calls = [evaluate(graph, *call, dims=row.sizes) for call in zip(*members, strict=True)]
    for got, flag, *want in zip(found, flags, *calls, strict=True):
        if flag:
            agree(got, np.stack(want), row.ulp, row.atol, f"{row} {mask}")
        else:
            for each in want:
                agree(got, each, row.ulp, row.atol, f"{row} {mask}")


@pytest.mark.parametrize("op", BY_OP)
def test_batches_are_stacks_of_single_calls(op: str) -> None:
    """Whatever is batched and whatever is not, maps and composites among it."""
    for row in one_row_of_each_dtype(op):
        graph = row.build()
        for mask in itertools.product((False, True), repeat=len(graph.params)):
            if any(mask):
                made, flags = batch.batch(graph, mask, 2)
                WELL_FORMED.check(made)
                stacked_calls(graph, made, flags, mask, row)


@pytest.mark.parametrize("op", SMOOTH)
def test_batches_of_derivatives(op: str) -> None:
    """Gradients of each example: all operands batched, or the first alone."""
    for row in smooth(op)[:2]:
        graph = autodiff.vjp(row.build(), moving(row.build()))
        rng = np.random.default_rng(5)
        extra = [random_like(rng, p.given) for p in graph.params[len(row.arrays()) :]]
        at = [*row.arrays(), *extra]
        # Places stay as they are: turned round, they could meet where the inputs promise they do not.
        for mask in ([True] * len(at), [i == 0 for i in range(len(at))]):
            made, flags = batch.batch(graph, mask, 2)
            members = [
                (a, a if a.dtype.kind in "iub" else a * 1.25) if m else (a, a) for a, m in zip(at, mask, strict=True)
            ]
            stacks = [np.stack(pair) if m else pair[0] for pair, m in zip(members, mask, strict=True)]
            found = evaluate(made, *stacks)
            calls = [evaluate(graph, *call) for call in zip(*members, strict=True)]
            for got, flag, *want in zip(found, flags, *calls, strict=True):
                expected = np.stack(want) if flag else want[0]
                np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10, err_msg=str(row))
