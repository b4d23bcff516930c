"""The counter-based generator of random words, written in u32 arithmetic so that vectors carry it twice as wide.

See `ir/ops/random` for what it is. A rotation is two shifts and an or, which LLVM makes one instruction where there is
one.
"""

from __future__ import annotations

from ...ir.dtypes import u32, u64
from ...ir.loops.build import add, cast, lit, or_, shl, shr, xor
from ...ir.loops.nodes import Expr
from .math_writing import Lets

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry_u64(key: Expr, counter: Expr, b: Lets) -> Expr:
    """Threefry-2x32 with 20 rounds; of two words in a u64 the first is the high one."""

    def halves(name: str, value: Expr) -> tuple[Expr, Expr]:
        return b.let(f"{name}0", cast(shr(value, lit(32, u64)), u32)), b.let(f"{name}1", cast(value, u32))

    first, second = halves("k", key)
    words = (first, second, b.let("k2", xor(xor(first, second), lit(PARITY, u32))))
    x, y = halves("c", counter)
    x, y = b.let("x", add(x, first)), b.let("y", add(y, second))
    for injection in range(1, 6):
        for rotation in ROTATIONS[(injection - 1) % 2]:
            x = b.let("x", add(x, y))
            y = b.let("y", xor(or_(shl(y, lit(rotation, u32)), shr(y, lit(32 - rotation, u32))), x))
        x = b.let("x", add(x, words[injection % 3]))
        y = b.let("y", add(add(y, words[(injection + 1) % 3]), lit(injection, u32)))
    return or_(shl(cast(x, u64), lit(32, u64)), cast(y, u64))
