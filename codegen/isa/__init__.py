"""Instructions: what a machine can do in one step beyond the primitives of the loops.

`named` finds a description, `emission` the way to write it for a target, `meanings` gives the loops evaluator a
function for each, made from the very same description. A kernel that calls an instruction runs on every target: where
there is no emission the description itself is written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...ir.errors import Unsupported
from ...ir.target import Target
from . import arm, generic, x86
from .spec import Emission, Instruction, meaning

INSTRUCTIONS: Final[dict[str, Instruction]] = {entry.name: entry for entry in generic.INSTRUCTIONS}


def named(name: str) -> Instruction:
    """The instruction of that name. Raises `Unsupported` (TD0530)."""
    found = INSTRUCTIONS.get(name)
    if found is None:
        raise Unsupported(f"there is no instruction {name!r}", code="TD0530", edit=f"one of: {', '.join(INSTRUCTIONS)}")
    return found


def emission(instruction: Instruction, target: Target) -> Emission | None:
    """How the target writes it, None where it is written out from its meaning."""
    if not target.has(instruction.ability):
        return None
    table = arm.EMISSIONS if target.arch == "arm64" else x86.EMISSIONS
    return table.get(instruction.name)


def meanings() -> dict[str, Callable[..., Any]]:
    """Each instruction as a function of NumPy scalars or arrays, for `ir.loops.evaluate`."""
    return {name: meaning(instruction) for name, instruction in INSTRUCTIONS.items()}


__all__ = ["INSTRUCTIONS", "Emission", "Instruction", "emission", "meaning", "meanings", "named"]
