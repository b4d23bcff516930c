"""The rule matrix: every op has every rule that the rest of the house asks of it.

Rows are the ops, columns the pieces of architecture's "one op, defined once": type, reference, loops, derivative,
batching, fusion class, text, and rows in the op table from which its tests are generated. A hole fails with the name
of the file to open. `treadle ops NAME` prints the same row.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from table import BY_OP, TABLES

from treadle.frontend import op_table
from treadle.frontend.cli import main
from treadle.ir.ops import OPS
from treadle.ir.ops.elementwise import Map
from treadle.ir.ops.families import Composite, Control, Op, Reduction
from treadle.ir.parse import parse_graph
from treadle.ir.text import show
from treadle.ir.types import TensorType
from treadle.ir.value import Array, Elementwise, Get, Parameter, Value
from treadle.passes.fuse import is_outside, kind_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("op", OPS)
def test_every_rule_is_there(op: str) -> None:
    """A hole would be found by the first user who combines the op with a transform."""
    missing = [f"{hole.name}: open {hole.where}" for hole in op_table.holes(OPS[op])]
    assert not missing, f"{op} lacks " + "; ".join(missing)


def test_every_op_has_rows() -> None:
    """An op without rows would be tested nowhere, compiled nowhere and differentiated nowhere."""
    known = {Path(table.__file__ or "").stem for table in TABLES}
    for name, cls in OPS.items():
        chapter = cls.__module__.rsplit(".", 1)[1]
        file = f"table_{chapter}"
        assert name in BY_OP, f"{name}: open tests/ir/ops/{file if file in known else 'table_elementwise'}.py"
    assert not set(BY_OP) - set(OPS)


def test_places_are_lines_of_files() -> None:
    """A place that does not exist sends the reader away."""
    for cls in OPS.values():
        for rule in op_table.row(cls):
            file, _, line = rule.where.partition(":")
            lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
            text = lines[int(line) - 1]
            assert text.lstrip().startswith(("def ", "class ", "@")), (cls.name, rule)


def test_the_fusion_class_of_every_row_has_a_kernel_or_is_opened() -> None:
    """What fusion calls loose is asked of the code generator alone: it must know the op."""
    from treadle.codegen.lower import nest_rules, rules

    for op, samples in BY_OP.items():
        for sample in samples[:4]:
            (value, *_) = sample.build().results
            value = value.x if isinstance(value, Get) and op != "get" else value
            if is_outside(value) or isinstance(value, Composite):
                continue
            if kind_of(value, value.structure()) == "loose":
                assert isinstance(value, (*rules(), *nest_rules())), op


@pytest.mark.parametrize("op", BY_OP)
def test_texts_of_rows_are_fixpoints(op: str) -> None:
    """Print, parse, print: what cannot be said as text cannot be reported, nor cached."""
    for sample in BY_OP[op][::5]:
        text = show(sample.build(), data=True)
        assert show(parse_graph(text), data=True) == text, sample


# Ops as a careless hand would write them: the matrix must see what each lacks.


class Unfinished(Map):
    """An op whose author forgot the derivative."""

    def evaluate(self, x: Array) -> Array:
        return x


class Alone(Op):
    """An op of no family, with nothing but a type."""

    x: Value

    def result(self) -> TensorType:
        return self.x.tensor


class Halted(Control):
    """A control op without a reference."""

    def result(self) -> TensorType:
        return TensorType((), self.bodies[0].results[0].dtype)


class Untyped(Reduction):
    """A reduction that says only what it combines by."""


def test_holes_are_seen() -> None:
    """The matrix must not be blind."""

    def lacks(cls: type[Value]) -> list[str]:
        found = []
        for name, (find, _) in op_table._RULES.items():
            if find(cls) is None:
                found.append(name)
        return found

    assert lacks(Unfinished) == ["derivative"]
    assert lacks(Alone) == ["reference", "loops", "derivative", "batch", "fusion"]
    assert "reference" in lacks(Halted) and "loops" in lacks(Halted)
    assert lacks(Untyped) == ["reference", "derivative"]


def test_a_forgotten_derivative_refuses() -> None:
    """Silence would be a gradient of zero."""
    from treadle.ir.dtypes import f32

    x = Parameter("x", TensorType((3,), f32))
    value = Unfinished.__new__(Unfinished)
    value.__dict__.update(x=x, type=x.type)
    assert isinstance(value, Elementwise)
    with pytest.raises(TypeError, match="no derivative rule"):
        value.partials()
    alone = Alone(x)
    with pytest.raises(TypeError, match="no derivative rule"):
        alone.jvp((x,))


def test_the_command_line_prints_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    """One table, not two."""
    for op in ("softmax", "dot", "scan", "scatter", "floor", "constant"):
        assert main(["ops", op]) == 0
        shown = capsys.readouterr().out
        for rule in op_table.row(OPS[op]):
            assert any(line.split()[:1] == [rule.name] and rule.where in line for line in shown.splitlines()), rule
