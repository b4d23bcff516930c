"""Random bits from a key and a counter: nothing is drawn, nothing has a state.

The function is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3,
SC 2011): it maps a key of two words and a counter of two words to two words that no practical test tells from random
ones. The counter of an element is its row-major position, so an element is the same in whatever piece of the array, on
whatever thread and in whatever batch of keys it is computed, and a value computed twice is the same twice. Everything
else is written with the two ops here: `split` makes keys out of a key, distributions are maps of bits.
"""

from __future__ import annotations

import numpy as np

from ..dims import Dim
from ..dtypes import INTEGERS, DType, i64, u8, u16, u32, u64
from ..errors import ShapeMismatch, TypeMismatch
from ..loops.nodes import Binary, Cast, Const, Expr, Index
from ..loops.nodes import Select as Choose
from ..structure import Read, Structure, axes_of, element
from ..types import Shape, TensorType, Type
from ..value import Array, Full, Value
from .elementwise import Convert, ShiftRight
from .families import Op
from .movement import Broadcast, Concatenate, Iota, Reshape, static

BITS: tuple[DType, ...] = (u8, u16, u32, u64)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of the four rounds between injections of the key, by turns
PARITY = 0x1BD11BDA  # so that no key makes all of its words zero


def threefry_2x32(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """The two words at a counter of two words, all u32 arrays of one shape."""
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(PARITY))
    x, y = counter[0] + words[0], counter[1] + words[1]
    for injection in range(1, 6):
        for rotation in ROTATIONS[(injection - 1) % 2]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x = x + words[injection % 3]
        y = y + words[(injection + 1) % 3] + np.uint32(injection)
    return x, y


def _halves(x: Array) -> tuple[Array, Array]:
    """The high and the low word of u64s."""
    return (x >> np.uint64(32)).astype(np.uint32), x.astype(np.uint32)


def _word(lead: tuple[Dim, ...], operand: int = 0) -> tuple[tuple[Read, Read], Expr]:
    """The reads of a key at these leading positions, and the key as one u64, its first word the high one."""
    reads = (Read(operand, (*lead, 0)), Read(operand, (*lead, 1)))
    high, low = (Cast(element(i, u32), u64) for i in range(2))
    return reads, Binary("or", Binary("shl", high, Const(32, u64)), low)


class Keyed(Op):
    """Ops that read a key: u32[*batch, 2]."""

    key: Value

    @property
    def batch_shape(self) -> Shape:
        """The shape of the keys."""
        return self.key.shape[:-1]

    def check_key(self) -> None:
        """TD0234 for what is not a key."""
        if self.key.dtype is not u32 or self.key.rank < 1 or self.key.shape[-1] != 2:
            raise self.refuse(
                f"{self.key.type} is not a key: u32[2], or several of them along leading axes",
                code="TD0234",
                error=TypeMismatch,
            )


class RandomBits(Keyed):
    """Integers of shape `sizes` for each key, every bit of which is as good as tossed; `to` is an unsigned type.

    An element has the low bits of the 64 that Threefry gives for the key at its row-major position within `sizes`.
    """

    sizes: Shape
    to: DType

    flat = True

    def result(self) -> Type:
        self.check_key()
        if self.to not in BITS:
            raise self.refuse(
                f"random bits are {', '.join(d.name for d in BITS)}, not {self.to}", code="TD0235", error=TypeMismatch
            )
        return TensorType((*self.batch_shape, *self.sizes), self.to)

    def evaluate(self, key: Array) -> Array:
        sizes = static(self.sizes)
        counter = np.arange(int(np.prod(sizes, dtype=np.int64)), dtype=np.uint64).reshape(sizes)
        words = key.reshape(*key.shape[:-1], *(1,) * len(sizes), 2)
        high, low = threefry_2x32((words[..., 0], words[..., 1]), _halves(counter))
        return ((high.astype(np.uint64) << np.uint64(32)) | low).astype(self.to.numpy)

    def structure(self) -> Structure | None:
        axes = axes_of(self.shape)
        lead = len(self.batch_shape)
        here = [axis.position for axis in axes]
        place: Dim = 0
        for position, size in zip(here[lead:], self.sizes, strict=True):
            place = place * size + position
        reads, key = _word(tuple(here[:lead]))
        bits: Expr = Binary("threefry", key, Cast(Index(place), u64))
        return Structure(axes, reads, (bits if self.to is u64 else Cast(bits, self.to),), None, self.to)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return self.with_operands(operands)


class FoldIn(Keyed):
    """A new key from each key and an integer: as many independent streams as there are integers.

    The integer, wrapped to 64 bits, is the counter, and Threefry's two words are the key.
    """

    data: Value

    flat = True

    def result(self) -> Type:
        self.check_key()
        if self.data.dtype not in INTEGERS:
            raise self.refuse(f"{self.data.dtype} is not an integer", code="TD0114", error=TypeMismatch)
        if self.data.shape != self.batch_shape:
            raise self.refuse(
                f"one integer for each key is needed: keys are {self.key.type}, data is {self.data.type}",
                code="TD0236",
                error=ShapeMismatch,
            )
        return self.key.type

    def evaluate(self, key: Array, data: Array) -> Array:
        words = threefry_2x32((key[..., 0], key[..., 1]), _halves(data.astype(np.uint64)))
        return np.stack(words, axis=-1)

    def structure(self) -> Structure | None:
        *lead, last = axes_of(self.shape)
        here = tuple(axis.position for axis in lead)
        reads, key = _word(here)
        counter = element(2, self.data.dtype)
        bits = Binary("threefry", key, counter if self.data.dtype is u64 else Cast(counter, u64))
        first = Binary("eq", Index(last.position), Const(0, i64))
        word = Cast(Binary("shr", bits, Choose(first, Const(32, u64), Const(0, u64))), u32)
        return Structure((*lead, last), (*reads, Read(1, here)), (word,), None, u32)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        size = next(v.shape[0] for v, here in zip(operands, batched, strict=True) if here)
        key, data = (
            v if here else Broadcast(v, (size, *v.shape), tuple(range(1, v.rank + 1)))
            for v, here in zip(operands, batched, strict=True)
        )
        return FoldIn(key, data)


def split(key: Value, count: Dim) -> Value:
    """`count` keys out of each key, along a new axis before the last: key i has i folded in."""
    lead = key.shape[:-1]
    axes = (*range(len(lead)), len(lead) + 1)
    keys = Broadcast(key, (*lead, count, 2), axes)
    return FoldIn(keys, Iota(TensorType((*lead, count), u64), len(lead)))


def key_of(seed: Value) -> Value:
    """The key u32[2] of an integer scalar: its high and its low word, once wrapped to 64 bits."""
    wide = Convert(seed, u64)
    words = (ShiftRight(wide, Full(32, wide.tensor)), wide)
    return Concatenate(tuple(Reshape(Convert(word, u32), (1,)) for word in words), 0)
