"""The op vocabulary, one chapter per file.

`OPS` finds an op by its name in texts. The chapters are listed here and nowhere else; they are imported when the
first name is asked for, so that whoever needs one family does not pay for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from ..value import Parameter, Value

BOTH = ("Call",)  # a group is a call that codegen may take as one kernel, a checkpoint one for derivatives


class _Vocabulary(Mapping[str, type[Value]]):
    """Name to class, in the order of the chapters. A class that others of its own file refine is a family, not an op,
    unless it is named in `BOTH`."""

    @cached_property
    def table(self) -> dict[str, type[Value]]:
        from .. import value
        from . import composite, contract, control, elementwise, indexing, movement, random, reduce

        found: dict[str, type[Value]] = {}
        for chapter in (value, elementwise, movement, reduce, contract, indexing, random, control, composite):
            own = [
                cls
                for cls in vars(chapter).values()
                if isinstance(cls, type) and issubclass(cls, Value) and cls.__module__ == chapter.__name__
            ]
            families = {base for cls in own for base in cls.__bases__ if base.__name__ not in BOTH}
            found |= {cls.name: cls for cls in own if cls not in families and cls is not Parameter}
        return found

    def __getitem__(self, name: str) -> type[Value]:
        return self.table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


OPS: Mapping[str, type[Value]] = _Vocabulary()
