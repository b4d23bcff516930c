"""Dataclasses whose methods are written when first used mean what the standard library's mean."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from treadle.ir.classes import dataclass

BOTH = pytest.mark.parametrize("decorator", [dataclass, dataclasses.dataclass], ids=["ours", "standard"])


def point(decorator: Any, **options: Any) -> Any:
    @decorator(**options)
    class Point:
        """Two numbers, a list of its own, and a note that does not count."""

        x: int
        y: int = 2
        marks: list[int] = field(default_factory=list, compare=False)
        note: str = field(default="", compare=False, repr=False)

        @property
        def sum(self) -> int:
            return self.x + self.y

    return Point


# Each sentence about one holds of the other: the standard library is the reference.
@BOTH
@pytest.mark.parametrize("slots", [False, True])
def test_frozen(decorator, slots):
    point_ = point(decorator, frozen=True, slots=slots)
    a, b = point_(1), point_(x=1, y=2, marks=[3], note="n")
    assert (a.x, a.y, a.marks, a.note, a.sum) == (1, 2, [], "", 3)
    assert a == b and hash(a) == hash(b)
    assert a != point_(1, 3) and a != (1, 2) and a.__eq__(1) is NotImplemented
    assert repr(b).endswith("Point(x=1, y=2, marks=[3])")
    assert a.marks is not point_(1).marks
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        a.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del a.x
    assert dataclasses.replace(a, y=5) == point_(1, 5)
    assert [f.name for f in dataclasses.fields(point_)] == ["x", "y", "marks", "note"]
    assert point_.__match_args__ == ("x", "y", "marks", "note")
    assert hasattr(a, "__dict__") is not slots
    assert copy.copy(a) == a


@BOTH
def test_changeable(decorator):
    point_ = point(decorator)
    a = point_(1)
    a.x = 4
    assert a == point_(4)
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


@BOTH
def test_identity(decorator):
    """`eq=False`: equal to itself alone, and hashable."""
    point_ = point(decorator, eq=False)
    assert point_(1) != point_(1)
    assert len({point_(1), point_(1)}) == 2


@BOTH
def test_wrong_arguments(decorator):
    point_ = point(decorator, frozen=True)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        point_()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        point_(1, z=2)


@BOTH
def test_the_class_says_more(decorator):
    """Methods written in the class stay; fields are inherited; `__post_init__` runs; a first use may be any of them."""

    @decorator(frozen=True)
    class Base:
        """One field."""

        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "base"

    @decorator(frozen=True)
    class Derived(Base):
        y: int = 3
        made: list[int] = field(default_factory=list, init=False, repr=False)

    assert Base(1) == 5 and hash(Base(1)) == 7 and repr(Base(1)) == "base"
    assert Derived.__eq__(Derived(1), Derived(1)) is True
    assert (Derived(1).x, Derived(1, 4).y, Derived(1).made) == (1, 4, [])
    assert repr(Derived(1)).endswith("Derived(x=1, y=3)")
    with pytest.raises(ValueError, match="negative"):
        Derived(-1)


@dataclass(frozen=True, slots=True)
class Kept:
    """At the top of a module, as a pickle needs it."""

    x: int
    rest: tuple[int, ...] = ()


def test_pickles():
    assert pickle.loads(pickle.dumps(Kept(1, (2,)))) == Kept(1, (2,))
    match copy.deepcopy(Kept(3)):
        case Kept(x, ()):
            assert x == 3


def test_nothing_is_compiled_before_the_first_use():
    """What start-up time is about; afterwards the stand-ins are gone."""
    point_ = point(dataclass, frozen=True)
    assert point_.__init__.stands_in
    point_(1)
    assert not any(hasattr(getattr(point_, name), "stands_in") for name in ("__init__", "__eq__", "__hash__"))
