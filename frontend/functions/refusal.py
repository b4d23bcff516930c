"""A function that is refused by name: what is wrong, by which code, and the edit. docs/numpy.md is made from these."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from ...ir.classes import dataclass
from ...ir.errors import Unsupported
from ..trace import here

REASONS: Final = {
    "TD0800": "needs the elements themselves",
    "TD0806": "writes into its argument",
    "TD0810": "is not traced",
    "TD0811": "has a result whose shape or dtype depends on traced values",
    "TD0815": "asks for the memory of an array",
}


@dataclass(frozen=True)
class Refusal:
    """In the place of a traced form: every call raises."""

    name: str
    code: str
    edit: str

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Unsupported(f"{self.name} {REASONS[self.code]}", code=self.code, location=here(), edit=self.edit)
