"""Trees: structures that were written into a model still say where every leaf stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from treadle import TreadleError, tree
from treadle.frontend.tree import TreeDef


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Layer:
    w: Any
    b: Any


# A model knows its arguments by the order of their leaves, however a caller orders a dict.
@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"x": 1, "i": 2}, {"i": 2, "x": 1}, [2, 1]),
        ([1, (2, None)], [1, (2, None)], [1, 2]),
        (Pair(1, [2]), (1, [2]), [1, 2]),
        (Layer(1, 2), Layer(1, 2), [1, 2]),
        (Layer(1, 2), {"b": 2, "w": 1}, [1, 2]),
        ({3: 1}, {3: 1}, [1]),
        (5, 5, [5]),
    ],
)
def test_leaves_by_a_structure_read_back(saved: Any, given: Any, expected: list[int]) -> None:
    structure = TreeDef.from_json(tree.structure(saved).to_json())
    assert structure.leaves_of(given, "x") == expected


@pytest.mark.parametrize("given", [{"a": [1]}, {"a": [1, 2], "b": 3}, {"b": [1, 2]}, [1, 2], 7, {"a": None}])
def test_another_structure_is_refused_by_its_place(given: Any) -> None:
    structure = TreeDef.from_json(tree.structure({"a": [1, 2]}).to_json())
    with pytest.raises(TreadleError, match=r"TD0612.*params") as caught:
        structure.leaves_of(given, "params")
    assert caught.value.code == "TD0612"
