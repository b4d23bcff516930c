"""Every op that can fail is spared: the same where it is wanted, silent where it is not.

The rows of the op table are run with their own inputs, and with ones that no index and no power survives.
"""

from __future__ import annotations

import numpy as np
import pytest
from sample import Sample, agree
from table import BY_OP

from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph, failing
from treadle.passes.spare import needed, spared


def rows() -> list[Sample]:
    found = []
    for samples in BY_OP.values():
        fail = [sample for sample in samples if any(value.can_fail for value in sample.build().ops)]
        found += fail[:: max(len(fail) // 4, 1)]
    return found


def wild(array: np.ndarray) -> np.ndarray:
    """Indices and exponents far outside, and nothing is done."""
    return np.full_like(array, np.iinfo(array.dtype).min + 1) if array.dtype.kind == "i" else np.zeros_like(array)


def empty(graph: Graph) -> bool:
    """Whether an indexed axis has no element: then there is no position that could stand for another."""
    return any(0 in param.shape for param in graph.params)


@pytest.mark.parametrize("row", rows(), ids=str)
def test_what_is_not_wanted_does_not_fail(row: Sample) -> None:
    graph, inputs = row.build(), row.arrays()
    assert needed(graph)
    made = spared(graph)
    for got, want in zip(evaluate(made, np.True_, *inputs), evaluate(graph, *inputs), strict=True):
        agree(got, want)
    outside = [wild(array) for array in inputs]
    if empty(graph):
        return
    with pytest.raises(TreadleError):
        evaluate(graph, *outside)
    with pytest.raises(TreadleError):
        evaluate(made, np.True_, *outside)
    evaluate(made, np.False_, *outside)


def test_all_ops_that_fail_are_met() -> None:
    assert {value.name for row in rows() for value in failing(row.build())} == {"finished", "gather", "pow", "scatter"}


def test_a_graph_in_which_nothing_fails_is_left_alone() -> None:
    assert not needed(BY_OP["add"][0].build())
