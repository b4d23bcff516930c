"""What is true of every op, over the rows of the op table.

One test per property and op. The oracles: the structure, run by `interpret.py`; differences of the op's own values;
inner products; stacks of single calls; and the parser.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from derive import tangent
from interpret import Fault, interpret
from table import BY_OP, SAMPLES, TABLES, Sample, agree

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.ops import OPS
from treadle.ir.ops.families import Op
from treadle.ir.parse import parse_graph
from treadle.ir.text import show
from treadle.ir.types import TensorType
from treadle.ir.value import Get, Parameter, Value

SMOOTH = sorted({sample.op for sample in SAMPLES if sample.smooth})


def subject(sample: Sample) -> tuple[Graph, Value]:
    """The graph of a row and its op."""
    graph = sample.build()
    (value, *_) = graph.results
    if isinstance(value, Get) and sample.op != "get":
        value = value.x
    assert value.name == sample.op
    return graph, value


def operands_of(graph: Graph, value: Value, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    return evaluate(graph.with_results(value.operands), *arrays)


def test_every_op_has_rows() -> None:
    """An op without rows would be tested nowhere, compiled nowhere and differentiated nowhere."""
    chapters = {table.__name__.removeprefix("table_") for table in TABLES} | {"value"}
    missing = [name for name, cls in OPS.items() if cls.__module__.rsplit(".", 1)[1] in chapters and name not in BY_OP]
    assert not missing
    assert not set(BY_OP) - set(OPS)


@pytest.mark.parametrize("op", BY_OP)
def test_values_have_the_declared_type(op: str) -> None:
    """Readers of a value trust its type: buffers are allocated from it."""
    for sample in BY_OP[op]:
        graph, _ = subject(sample)
        arrays = sample.arrays()
        for result, array in zip(graph.results, evaluate(graph, *arrays), strict=True):
            wanted = result.tensor.substitute(dict(sample.sizes))
            assert (array.shape, array.dtype) == (wanted.shape, wanted.dtype.numpy), sample


@pytest.mark.parametrize("op", BY_OP)
def test_structure_means_what_evaluate_says(op: str) -> None:
    """Two meanings, written apart: kernels are made from one of them, users compare with the other."""
    for sample in BY_OP[op]:
        graph, value = subject(sample)
        structure = value.structure()
        if structure is None:
            continue
        arrays = sample.arrays()
        (want,) = evaluate(graph, *arrays)
        got = interpret(structure, operands_of(graph, value, arrays), sample.sizes)
        agree(got, want, sample.ulp, sample.atol, sample)


@pytest.mark.parametrize("op", BY_OP)
def test_texts_round_trip(op: str) -> None:
    """A bug that cannot be written as ten lines of text cannot be reported."""
    for sample in BY_OP[op]:
        graph, _ = subject(sample)
        text = show(graph, data=True)
        again = parse_graph(text)
        assert show(again, data=True) == text, sample
        for want, got in zip(evaluate(graph, *sample.arrays()), evaluate(again, *sample.arrays()), strict=True):
            agree(got, want, about=sample)


def inexact(kind: TensorType) -> bool:
    return kind.dtype.name in ("f64", "c128")


def directions(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    found = []
    for array in arrays:
        t = rng.standard_normal(array.shape)
        if array.dtype.kind == "c":
            found.append(t + 1j * rng.standard_normal(array.shape))
        else:
            found.append(t if array.dtype.kind == "f" else np.zeros_like(array))
    return found


def slope(graph: Graph, arrays: Sequence[np.ndarray], along: Sequence[np.ndarray]) -> np.ndarray:
    """The derivative along a direction, by central differences and one step of Richardson's extrapolation."""

    def difference(h: float) -> np.ndarray:
        ahead, behind = (
            evaluate(graph, *[(a + s * h * t).astype(a.dtype) for a, t in zip(arrays, along, strict=True)])[0]
            for s in (1, -1)
        )
        return (ahead - behind) / (2 * h)

    return (4 * difference(5e-4) - difference(1e-3)) / 3


@pytest.mark.parametrize("op", SMOOTH)
def test_derivatives_are_slopes(op: str) -> None:
    """Each op has one derivative rule, and forward and reverse mode both come from it."""
    for sample in BY_OP[op]:
        if not sample.smooth:
            continue
        graph, value = subject(sample)
        assert graph.params == value.operands, "smooth rows are one op"
        arrays = sample.arrays()
        along = directions(arrays)
        tangents = tuple(Parameter(f"t{i}", p.given) if inexact(p.given) else None for i, p in enumerate(graph.params))
        found = tangent(value, tangents)
        moving = tuple(t for t in tangents if t is not None)
        given = [t for t, p in zip(along, tangents, strict=True) if p is not None]
        want = slope(graph, arrays, along)
        if found is None:
            got = np.zeros_like(want)
        else:
            found = found[0] if isinstance(found, tuple) else found
            assert found is not None and found.type == graph.results[0].type, sample
            (got,) = evaluate(Graph("tangent", (*graph.params, *moving), (found,), graph.dims), *arrays, *given)
        np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-8, err_msg=str(sample))


@pytest.mark.parametrize("op", [op for op in SMOOTH if OPS[op].linear])
def test_transposes_satisfy_the_inner_product(op: str) -> None:
    """<J t, c> = <t, Jᵀ c> for each linear operand, which is what a transpose is; complex numbers pair by Re(a*b)."""
    for sample in BY_OP[op]:
        if not sample.smooth:
            continue
        graph, value = subject(sample)
        arrays = sample.arrays()
        (forward,) = evaluate(graph, *arrays)
        cotangent = Parameter("c", value.tensor)
        (c,) = directions([forward])
        for operand in value.linear:
            back = value.transpose(cotangent, operand)
            assert back is not None and back.type == graph.params[operand].type, sample
            (pulled,) = evaluate(Graph("back", (*graph.params, cotangent), (back,)), *arrays, c)
            alone = [
                a if i == operand or not (value.joint and i in value.linear) else np.zeros_like(a)
                for i, a in enumerate(arrays)
            ]
            (pushed,) = evaluate(graph, *alone)
            left, right = np.sum(pushed * c).real, np.sum(alone[operand] * pulled).real
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12, err_msg=str(sample))


def parts(value: Value) -> tuple[Value, ...]:
    """A value, or the elements of a tuple."""
    kind = value.type
    return (value,) if isinstance(kind, TensorType) else tuple(Get(value, i) for i in range(len(kind.elements)))


def turned(array: np.ndarray) -> np.ndarray:
    """The same elements in another order: a second member for a batch."""
    return np.flip(array)


@pytest.mark.parametrize("op", [op for op in BY_OP if issubclass(OPS[op], Op)])
def test_batches_are_stacks_of_single_calls(op: str) -> None:
    """vmap by an op's own rule must be what a Python loop over the batch gives."""
    for sample in BY_OP[op]:
        graph, value = subject(sample)
        operands = value.operands
        if not operands or not all(isinstance(v.type, TensorType) for v in operands):
            continue
        assert isinstance(value, Op)
        arrays = operands_of(graph, value, sample.arrays())
        given = tuple(Parameter(f"y{i}", v.tensor) for i, v in enumerate(operands))
        single = Graph("single", given, parts(value.with_operands(given)), graph.dims)
        for batched in itertools.product((False, True), repeat=len(arrays)):
            params = tuple(
                Parameter(f"x{i}", v.tensor.with_shape((2, *v.shape)) if here else v.tensor)
                for i, (v, here) in enumerate(zip(operands, batched, strict=True))
            )
            found = value.batch(params, batched) if any(batched) else None
            if found is None:
                continue
            members = [(a, turned(a)) if here else (a, a) for a, here in zip(arrays, batched, strict=True)]
            stacks = [np.stack(pair) if here else pair[0] for pair, here in zip(members, batched, strict=True)]
            stacked = evaluate(Graph("batch", params, parts(found), graph.dims), *stacks, dims=sample.sizes)
            calls = [evaluate(single, *call, dims=sample.sizes) for call in zip(*members, strict=True)]
            for got, *want in zip(stacked, *calls, strict=True):
                agree(got, np.stack(want), sample.ulp, sample.atol, f"{sample} {batched}")


def test_faults_are_found_by_both_meanings() -> None:
    """An op that can fail must fail in compiled code exactly where NumPy raises."""
    for sample in SAMPLES:
        graph, value = subject(sample)
        structure = value.structure()
        if structure is None or structure.fault is None:
            continue
        assert value.can_fail, sample
        # Exponents below 0, and loops that are not done.
        arrays = [np.zeros_like(a) if a.dtype == bool else (-np.abs(a) - 1).astype(a.dtype) for a in sample.arrays()]
        if not arrays[0].size:
            continue
        with pytest.raises(Fault):
            interpret(structure, arrays, sample.sizes)
        failure = value.failure()
        with pytest.raises(type(failure), match=failure.code):
            evaluate(graph, *arrays)


def accepted(value: Value) -> Iterator[tuple[str, DType]]:
    """The dtypes that an op takes where this one has that of its first operand, found by asking its constructor; each
    with how the op combines, which decides that."""
    operands = value.operands
    combined = next((value.__dict__[f.name] for f in value.schema if f.name in ("combine", "kind")), "")
    for dtype in dtypes.DTYPES:
        with contextlib.suppress(TreadleError):
            value.with_operands(
                tuple(
                    Parameter(f"p{i}", v.tensor.with_dtype(dtype) if v.dtype is operands[0].dtype else v.tensor)
                    for i, v in enumerate(operands)
                )
            )
            yield combined, dtype


@pytest.mark.parametrize("op", BY_OP)
def test_dtypes_are_covered(op: str) -> None:
    """A dtype that an op accepts and no row has is compiled nowhere."""
    wanted: dict[tuple[str, DType], None] = {}
    found: dict[tuple[str, DType], None] = {}
    asked: dict[object, None] = {}
    for sample in BY_OP[op]:
        _, value = subject(sample)
        operands = value.operands
        if not operands or not all(isinstance(v.type, TensorType) for v in operands) or value.bodies:
            continue
        combined = next((value.__dict__[f.name] for f in value.schema if f.name in ("combine", "kind")), "")
        found[combined, operands[0].dtype] = None
        kinds = (combined, *((v.rank, v.dtype is operands[0].dtype) for v in operands))
        if kinds not in asked:
            asked[kinds] = None
            wanted |= dict.fromkeys(accepted(value))
    missing = [f"{combined} {dtype}".strip() for combined, dtype in wanted if (combined, dtype) not in found]
    assert not missing, f"{op} has no row of {', '.join(missing)}"
