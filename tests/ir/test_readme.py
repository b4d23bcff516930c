"""What `treadle ops` prints of the room's operations."""

from __future__ import annotations

from treadle.ir.ops import OPS


def test_every_op_has_a_meaning() -> None:
    """`treadle ops` prints the first sentence of an op; an op without one says nothing to a reader."""
    assert [name for name, op in OPS.items() if not op.__doc__] == []
