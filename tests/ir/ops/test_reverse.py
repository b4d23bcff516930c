"""Reverse mode through each op's derivative: the tangent it gives must itself be made of ops that transpose."""

from __future__ import annotations

import numpy as np
import pytest
from derive import pull_back, tangent
from table import BY_OP

from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.value import Get, Parameter, Value


def random(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    found = rng.standard_normal(like.shape)
    return found + 1j * rng.standard_normal(like.shape) if like.dtype.kind == "c" else found


@pytest.mark.parametrize("op", sorted(op for op, rows in BY_OP.items() if any(row.smooth for row in rows)))
def test_cotangents_pair_with_tangents(op: str) -> None:
    """<J t, c> = <t, Jᵀ c>: gradients come from the same rule as tangents, turned round."""
    for sample in BY_OP[op]:
        if not sample.smooth:
            continue
        graph = sample.build()
        result = graph.results[0]
        value: Value = result.x if isinstance(result, Get) and op != "get" else result
        arrays = sample.arrays()
        rng = np.random.default_rng(3)
        tangents = tuple(
            Parameter(f"t{i}", p.given) if p.dtype.name in ("f64", "c128") else None for i, p in enumerate(graph.params)
        )
        found = tangent(value, tangents)
        found = found[0] if isinstance(found, tuple) else found
        if found is None:
            continue
        moving = tuple(t for t in tangents if t is not None)
        along = [random(rng, a) for a, t in zip(arrays, tangents, strict=True) if t is not None]
        (pushed,) = evaluate(Graph("push", (*graph.params, *moving), (found,)), *arrays, *along)
        cotangent = Parameter("c", found.tensor)
        c = random(rng, pushed)
        total = 0.0
        for t, back in zip(along, pull_back(found, moving, cotangent), strict=True):
            if back is not None:
                (pulled,) = evaluate(Graph("pull", (*graph.params, cotangent), (back,)), *arrays, c)
                assert pulled.dtype == t.dtype and pulled.shape == t.shape, sample
                total += np.sum(t * pulled).real
        np.testing.assert_allclose(np.sum(pushed * c).real, total, rtol=1e-10, atol=1e-11, err_msg=str(sample))
