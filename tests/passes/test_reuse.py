"""What a group may write over, told from the ops' structures: kernels meet these promises in every order of loops."""

from __future__ import annotations

import pytest

from treadle.ir.dtypes import f32
from treadle.ir.graph import Graph, from_function
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.elementwise import Exp
from treadle.ir.ops.movement import Transpose
from treadle.ir.types import TensorType
from treadle.ir.value import Value
from treadle.passes.reuse import overwritable

SQUARE = TensorType((4, 4), f32)


def product(x: Value, y: Value) -> Value:
    return Dot(x, y, (), (), (1,), (0,))


def body(build: object, count: int) -> Graph:
    return from_function("body", [SQUARE] * count, build)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "count", "expected"),
    [
        # Maps read at their own position; what is moved is not.
        (lambda x, y: x + y, 2, ((0, 0), (0, 1))),
        (lambda x, y: x + Transpose(y, (1, 0)), 2, ((0, 0),)),
        # Sums are added to in place, their factors are not: each is read for many results.
        (lambda x, y, z: z + product(x, y), 3, ((0, 2),)),
        (lambda x, y: y + product(x, y), 2, ()),
        (lambda x, y, z: z + product(Exp(x), y), 3, ((0, 2),)),
        (lambda x, y, z: Transpose(z, (1, 0)) + product(x, y), 3, ()),
        (lambda x, y, z: z + Transpose(product(x, y), (1, 0)), 3, ()),
    ],
)
def test_what_may_be_overwritten(build: object, count: int, expected: tuple[tuple[int, int], ...]) -> None:
    assert overwritable(body(build, count)) == expected
