"""Register arrays: small local arrays held in SSA values, read and written by whole registers or by parts of them.

Positions must be known while writing. An access that covers a register takes it as it is; any other picks lanes by
shuffles, which fall away where registers meet.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.classes import dataclass
from ...ir.dims import Dim
from ...ir.dtypes import DType, real_of
from ...ir.errors import Unsupported
from ...ir.loops.affine import linearize
from ...ir.target import Target
from .positions import Positions
from .routines import shuffle
from .writer import Needs, Value, pair, register_type


@dataclass
class Registers:
    """A local array held in SSA values. Each row of the last axis is cut into chunks of `width` lanes (0: single
    elements); a chunk not yet written is None. A complex array holds its real parts; its `imaginary` ones stand beside
    it."""

    dtype: DType
    shape: tuple[int, ...]
    width: int
    chunks: list[Value | None]
    imaginary: Registers | None = None

    @property
    def per_row(self) -> int:
        last = self.shape[-1] if self.shape else 1
        return -(-last // self.width) if self.width else last


def registers(dtype: DType, shape: tuple[int, ...], width: int) -> Registers:
    """A register array of which nothing is written yet."""
    rows = 1
    for extent in shape[:-1]:
        rows *= extent
    array = Registers(real_of(dtype), shape, width, [])
    array.chunks = [None] * (rows * array.per_row)
    if dtype.kind == "complex":
        array.imaginary = Registers(array.dtype, shape, width, list(array.chunks))
    return array


class RegisterArrays(Positions):
    """Register arrays by name, on top of positions."""

    def __init__(self, target: Target, needs: Needs) -> None:
        super().__init__(target, needs)
        self.registers: dict[str, Registers] = {}

    def arrays_in(self, written: frozenset[str]) -> Iterator[Registers]:
        """The register arrays among those names, each part of a complex one by itself."""
        for name, array in self.registers.items():
            if name in written:
                yield array
                if array.imaginary is not None:
                    yield array.imaginary

    def positions(self, node: object, name: str, index: tuple[Dim, ...]) -> tuple[int, int]:
        """(first element, elements per lane) of an access to a register array, in row-major order."""
        found = self.plans.get(id(node))
        if found is None:
            offset = linearize(index, self.registers[name].shape)
            found = ((), offset) if isinstance(offset, int) else (offset.terms, offset.constant)
            self.plans[id(node)] = found
        terms, first = found
        lanes = self.vector
        stride = 0
        for factors, coefficient in terms:
            if lanes is not None and factors == (lanes.var,):
                value = lanes.start
                stride += coefficient * lanes.step
            else:
                value = self.product([self.factor(factor, lanes) for factor in factors])
            if value.number is None:
                raise self.not_fixed(name, index)
            first += coefficient * value.number
        return first, stride

    def not_fixed(self, name: str, index: tuple[Dim, ...]) -> Unsupported:
        return Unsupported(
            f"the register array {name} is indexed by {', '.join(map(str, index))}, which is not known while emitting",
            code="TD0513",
            edit="index registers by constants, unrolled and vector variables",
        )

    def chunk_of(self, array: Registers, position: int) -> tuple[int, int]:
        """(chunk, lane) of an element."""
        if not array.width:
            return position, 0
        last = array.shape[-1] if array.shape else 1
        row, column = divmod(position, last)
        return row * array.per_row + column // array.width, column % array.width

    def read_registers(self, node: object, name: str, index: tuple[Dim, ...]) -> Value:
        array = self.registers[name]
        at = self.positions(node, name, index)
        if array.imaginary is None:
            return self.read_array(name, array, *at)
        return pair(self.read_array(name, array, *at), self.read_array(name, array.imaginary, *at))

    def read_array(self, name: str, array: Registers, first: int, stride: int) -> Value:
        lanes = self.vector
        chunk, lane = self.chunk_of(array, first)
        if lanes is None or stride == 0:
            return self.element(name, array, chunk, lane)
        if stride == 1 and lane == 0 and lanes.count == array.width:
            return self.chunk(name, array, chunk)
        total = 1
        for extent in array.shape:
            total *= extent
        places = [
            self.chunk_of(array, first + stride * n) if 0 <= first + stride * n < total else (-1, -1)
            for n in range(lanes.count)
        ]
        return self.collected(name, array, places)

    def collected(self, name: str, array: Registers, places: list[tuple[int, int]]) -> Value:
        """The named lanes of the named chunks, as one vector."""
        used = list(dict.fromkeys(chunk for chunk, _ in places if chunk >= 0))
        count = len(places)
        if array.width and len(used) <= 2:
            x = self.chunk(name, array, used[0])
            y = self.chunk(name, array, used[1]) if len(used) == 2 else x
            numbers = [-1 if c < 0 else lane + (array.width if c != used[0] else 0) for c, lane in places]
            return shuffle(self, x, y, numbers)
        vector = register_type(array.dtype, count)
        result = Value("poison", array.dtype, count)
        for n, (chunk, lane) in enumerate(places):
            if chunk >= 0:
                x = self.element(name, array, chunk, lane)
                text = f"insertelement {vector} {result.text}, {x.typed}, i64 {n}"
                result = self.pure(text, array.dtype, count, max(result.level, x.level))
        return result

    def chunk(self, name: str, array: Registers, number: int) -> Value:
        if not 0 <= number < len(array.chunks):
            raise Unsupported(f"the register array {name} is read outside its shape", code="TD0513")
        found = array.chunks[number]
        return Value("poison", array.dtype, array.width) if found is None else found

    def element(self, name: str, array: Registers, chunk: int, lane: int) -> Value:
        x = self.chunk(name, array, chunk)
        if not array.width:
            return x
        return self.pure(f"extractelement {x.typed}, i64 {lane}", array.dtype, 0, x.level)

    def write_registers(self, node: object, name: str, index: tuple[Dim, ...], value: Value) -> None:
        array = self.registers[name]
        at = self.positions(node, name, index)
        real, imaginary = value.parts or (value, None)
        if real.dtype is not array.dtype or (imaginary is None) != (array.imaginary is None):
            raise Unsupported(f"{name} does not hold {value.dtype}", code="TD0511")
        self.write_array(name, array, *at, real)
        if array.imaginary is not None and imaginary is not None:
            self.write_array(name, array.imaginary, *at, imaginary)

    def write_array(self, name: str, array: Registers, first: int, stride: int, value: Value) -> None:
        lanes = self.vector
        chunk, lane = self.chunk_of(array, first)
        if not 0 <= chunk < len(array.chunks):
            raise Unsupported(f"the register array {name} is written outside its shape", code="TD0513")
        if lanes is None or stride == 0:
            if value.lanes or (lanes is not None and self.divergent):
                raise Unsupported(f"the lanes of a vector loop write one element of {name}", code="TD0512")
            if array.width:
                old = self.chunk(name, array, chunk)
                text = f"insertelement {old.typed}, {value.typed}, i64 {lane}"
                value = self.pure(text, array.dtype, array.width, max(old.level, value.level))
            array.chunks[chunk] = value
            return
        value = self.splat(value, lanes.count)
        if stride == 1 and lane == 0 and lanes.count == array.width:
            if self.masked is not None:
                value = self.select(self.masked, value, self.chunk(name, array, chunk))
            array.chunks[chunk] = value
            return
        if self.masked is not None:
            value = self.select(self.masked, value, self.read_array(name, array, first, stride))
        total = 1
        for extent in array.shape:
            total *= extent
        news: dict[int, list[tuple[int, int]]] = {}
        for n in range(lanes.count):
            if 0 <= first + stride * n < total:
                target, at = self.chunk_of(array, first + stride * n)
                news.setdefault(target, []).append((at, n))
        for target, moves in news.items():
            if not array.width:
                array.chunks[target] = self.pure(
                    f"extractelement {value.typed}, i64 {moves[0][1]}", array.dtype, 0, value.level
                )
                continue
            array.chunks[target] = self.merged(self.chunk(name, array, target), value, moves)

    def merged(self, old: Value, new: Value, moves: list[tuple[int, int]]) -> Value:
        """`old` with some of its lanes replaced by lanes of `new`."""
        width = old.lanes
        if new.lanes != width:
            # Bring the new lanes where they belong in a vector as wide as the old one.
            numbers = [-1] * width
            for at, n in moves:
                numbers[at] = n
            new = shuffle(self, new, new, numbers)
            moves = [(at, at) for at, _ in moves]
        picks = list(range(width))
        for at, n in moves:
            picks[at] = width + n
        return shuffle(self, old, new, picks)
