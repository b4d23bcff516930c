"""Where data lies and how it moves: positions, addresses, loads and stores, register arrays.

A position is a polynomial over loop variables. Its terms are added level by level, outermost first, onto the buffer's
pointer, so that what an outer loop fixes is computed outside the inner one and shared by every access with the same
beginning; the constant comes last and becomes the displacement of the instruction. In a vector loop the coefficient
of its variable decides: 1 is a vector load, 0 a scalar spread over the lanes, -1 a reversed vector, anything else a
gather. Under a mask nothing outside it is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.dims import Atom, Dim, bounds
from ...ir.dtypes import DType, bool_, i16, i32, i64
from ...ir.errors import Unsupported
from ...ir.loops.affine import linearize
from ...ir.target import Target
from . import intrinsics, scalars
from .intrinsics import declaration
from .routines import joined, pieces, shuffle
from .writer import HALVES, Needs, Value, Writer, integer, literal, memory_type, register_type

Term = tuple[tuple[str, ...], int]


@dataclass
class Buffer:
    """An array in memory: a parameter, a stack array or a table. `pointer` is the operand; `read_only` tables may be
    looked up by permuting registers."""

    pointer: Value
    dtype: DType
    shape: tuple[Dim, ...]
    values: int = 0  # how many, for a table


@dataclass
class Registers:
    """A local array held in SSA values. Each row of the last axis is cut into chunks of `width` lanes (0: single
    elements); a chunk not yet written is None."""

    dtype: DType
    shape: tuple[int, ...]
    width: int
    chunks: list[Value | None] = field(default_factory=list)

    @property
    def per_row(self) -> int:
        last = self.shape[-1] if self.shape else 1
        return -(-last // self.width) if self.width else last


@dataclass(frozen=True)
class Address:
    """A pointer valid for all lanes, and what each lane adds: `stride` elements per lane, or offsets of its own."""

    pointer: Value
    stride: int
    offsets: Value | None


@dataclass(frozen=True)
class Lanes:
    """The vector loop being written: its variable is start + step * lane."""

    var: str
    count: int
    start: Value
    step: int


class Memory(Writer):
    """Positions and data movement, on top of the writer."""

    def __init__(self, target: Target, needs: Needs) -> None:
        super().__init__(target, needs)
        self.env: dict[str, Value] = {}
        self.buffers: dict[str, Buffer] = {}
        self.registers: dict[str, Registers] = {}
        self.vector: Lanes | None = None
        self.plans: dict[int, tuple[tuple[Term, ...], int]] = {}
        self.streams = False

    # --- positions ----------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Value:
        found = self.env.get(name)
        if found is None:
            raise Unsupported(f"{name} is not bound where it is used", code="TD0510")
        if found.dtype is not i64:
            found = scalars.cast(self, found, i64)
        return found

    def index(self, dim: Dim) -> Value:
        """A position or size as an i64: a vector where it moves with the vector loop."""
        if isinstance(dim, int):
            return integer(dim)
        lanes = self.vector
        constant = dim.constant
        groups: dict[int, list[Value]] = {}
        for coefficient, factors in self.reduced(dim.terms, lanes):
            if not factors:
                constant += coefficient
                continue
            term = self.product(factors)
            if coefficient != 1:
                term = self.mul(term, integer(coefficient))
            groups.setdefault(term.level + (1000 if term.lanes else 0), []).append(term)
        total: Value | None = None
        for level in sorted(groups):
            for term in groups[level]:
                total = term if total is None else self.add(total, term)
        if total is None:
            return integer(constant)
        return self.add(total, integer(constant)) if constant else total

    def reduced(self, terms: Sequence[Term], lanes: Lanes | None) -> list[tuple[int, list[Value]]]:
        """Each term as its integer and the values it multiplies; names that are known numbers go into the integer."""
        result = []
        for factors, coefficient in terms:
            values: list[Value] = []
            for factor in factors:
                value = self.factor(factor, lanes)
                if value.number is not None:
                    coefficient *= value.number
                else:
                    values.append(value)
            if coefficient:
                result.append((coefficient, values))
        return result

    def factor(self, factor: str, lanes: Lanes | None) -> Value:
        if isinstance(factor, Atom):
            return self.atom(factor)
        if lanes is not None and factor == lanes.var:
            return self.lane_positions(lanes)
        return self.lookup(factor)

    def lane_positions(self, lanes: Lanes) -> Value:
        iota = self.iota(lanes.count, lanes.step)
        return iota if lanes.start.number == 0 else self.add(self.splat(lanes.start, lanes.count), iota)

    def product(self, factors: Sequence[Value]) -> Value:
        if len(factors) == 1:
            return factors[0]
        ordered = sorted(factors, key=lambda value: (value.lanes, value.level))
        result = ordered[0]
        for value in ordered[1:]:
            result = self.mul(result, value)
        return result

    def atom(self, atom: Atom) -> Value:
        operands = [self.index(operand) for operand in atom.operands]
        if atom.kind in ("min", "max"):
            result = operands[0]
            for value in operands[1:]:
                result = scalars.binary(self, atom.kind, result, value)
            return result
        x, y = operands
        if x.number is not None and y.number is not None and y.number:
            return literal(x.number // y.number if atom.kind == "floordiv" else x.number % y.number, i64)
        least, _ = bounds(atom.operands[0])
        if least is not None and least >= 0 and y.number is not None and y.number > 0:
            return self.op("udiv" if atom.kind == "floordiv" else "urem", x, y)
        return scalars.binary(self, atom.kind, x, y)

    def plan(self, node: object, buffer: Buffer, index: tuple[Dim, ...]) -> tuple[tuple[Term, ...], int]:
        """The offset of an access in elements, as terms and a constant. Kept per node of the kernel: an unrolled body
        asks for the same one many times."""
        found = self.plans.get(id(node))
        if found is None:
            offset = linearize(index, buffer.shape)
            found = ((), offset) if isinstance(offset, int) else (offset.terms, offset.constant)
            self.plans[id(node)] = found
        return found

    def address(self, node: object, buffer: Buffer, index: tuple[Dim, ...]) -> Address:
        terms, constant = self.plan(node, buffer, index)
        lanes = self.vector
        var = lanes.var if lanes is not None else None
        stride = 0
        groups: dict[int, list[Value]] = {}
        offsets: Value | None = None
        for factors, coefficient in terms:
            values: Sequence[Value]
            if len(factors) == 1 and not isinstance(factors[0], Atom):
                # The usual case, taken a thousand times in an unrolled body: a plain variable times a number.
                if factors[0] == var:
                    assert lanes is not None
                    stride += coefficient * lanes.step
                    value = lanes.start
                else:
                    value = self.lookup(factors[0])
                if value.number is not None:
                    constant += coefficient * value.number
                    continue
                values = (value,)
            else:
                ((coefficient, values),) = self.reduced(((factors, coefficient),), lanes) or ((0, ()),)
                if not values:
                    constant += coefficient
                    continue
            term = self.product(values)
            if coefficient != 1:
                term = self.mul(term, integer(coefficient))
            if term.lanes:
                offsets = term if offsets is None else self.add(offsets, term)
            else:
                groups.setdefault(term.level, []).append(term)
        if offsets is not None and stride and lanes is not None:
            offsets = self.add(offsets, self.iota(lanes.count, stride))
            stride = 0
        pointer = buffer.pointer
        kind = memory_type(buffer.dtype)
        for level in sorted(groups):
            total = groups[level][0]
            for term in groups[level][1:]:
                total = self.add(total, term)
            pointer = self.step(pointer, kind, total)
        if constant:
            pointer = self.step(pointer, kind, integer(constant))
        return Address(pointer, stride, offsets)

    def step(self, pointer: Value, kind: str, offset: Value) -> Value:
        lanes = offset.lanes
        level = max(pointer.level, offset.level)
        text = f"getelementptr {kind}, ptr {pointer.text}, {offset.typed}"
        return self.pure(text, i64, lanes, level)

    # --- loads and stores ---------------------------------------------------------------------------------------------

    def load(self, node: object, name: str, index: tuple[Dim, ...]) -> Value:
        if name in self.registers:
            return self.read_registers(node, name, index)
        buffer = self.buffers.get(name)
        if buffer is None:
            raise Unsupported(f"there is no buffer {name}", code="TD0510")
        at = self.address(node, buffer, index)
        lanes = self.vector
        uniform = at.stride == 0 and at.offsets is None
        if lanes is None or (uniform and not self.divergent):
            kind = memory_type(buffer.dtype)
            raw = self.read(self.plain_load(kind, at.pointer, buffer.dtype), name, buffer.dtype, 0, at.pointer.level)
            return self.from_memory(raw, buffer.dtype)
        count = lanes.count
        if at.stride == 1:
            return self.from_memory(self.load_lanes(name, buffer, at.pointer, count, self.masked), buffer.dtype)
        if at.stride == -1:
            # The lanes lie backwards: read them forwards and turn them round.
            first = self.step(at.pointer, memory_type(buffer.dtype), literal(1 - count, i64))
            mask = None if self.masked is None else self.reversed(self.masked, self.masked.type)
            raw = self.load_lanes(name, buffer, first, count, mask)
            return self.from_memory(self.reversed(raw, memory_type(buffer.dtype, count)), buffer.dtype)
        if buffer.values and at.offsets is not None and not at.stride and at.pointer is buffer.pointer:
            found = self.permute(name, buffer, at.offsets)
            if found is not None:
                return found
        offsets = at.offsets if at.offsets is not None else self.iota(count, at.stride)
        return self.from_memory(self.gather(name, buffer, at.pointer, offsets, count), buffer.dtype)

    def plain_load(self, kind: str, pointer: Value, dtype: DType) -> str:
        return f"load {kind}, ptr {pointer.text}, align {dtype.bytes}"

    def load_lanes(self, name: str, buffer: Buffer, pointer: Value, count: int, mask: Value | None) -> Value:
        dtype = buffer.dtype
        kind = memory_type(dtype, count)
        if mask is None:
            return self.read(self.plain_load(kind, pointer, dtype), name, dtype, count, pointer.level)
        full, declared = intrinsics.masked_load(kind, count)
        self.needs.declare(declared)
        text = f"call {kind} @{full}(ptr align {dtype.bytes} {pointer.text}, {mask.typed}, {kind} zeroinitializer)"
        return self.read(text, name, dtype, count, max(pointer.level, mask.level))

    def gather(self, name: str, buffer: Buffer, pointer: Value, offsets: Value, count: int) -> Value:
        dtype = buffer.dtype
        kind = memory_type(dtype, count)
        offsets = self.splat(offsets, count)
        places = self.step(pointer, memory_type(dtype), offsets)
        mask_type = register_type(bool_, count)
        mask = self.masked.text if self.masked is not None else "splat (i1 true)"
        level = max(places.level, self.masked.level if self.masked is not None else 0)
        full, declared = intrinsics.gather(kind, count)
        self.needs.declare(declared)
        text = (
            f"call {kind} @{full}(<{count} x ptr> align {dtype.bytes} {places.text}, "
            f"{mask_type} {mask}, {kind} zeroinitializer)"
        )
        return self.read(text, name, dtype, count, level)

    def permute(self, name: str, buffer: Buffer, offsets: Value) -> Value | None:
        """A table of at most 32 words, looked up by permuting one or two registers of it."""
        dtype = buffer.dtype
        if not self.target.has("permute") or dtype.bits != 32 or not 0 < buffer.values <= 32:
            return None
        kind = "<16 x float>" if dtype.is_float else "<16 x i32>"
        numbers = self.convert("trunc", offsets, i32)
        low = self.read(f"load {kind}, ptr {buffer.pointer.text}, align 64", name, dtype, 16, 0)
        if buffer.values <= 16:
            full, level = f"llvm.x86.avx512.permvar.{'sf' if dtype.is_float else 'si'}.512", low.level
            self.needs.declare(declaration(kind, full, (kind, "<16 x i32>")))
            form = f"call {kind} @{full}({low.typed}, {{}})"
        else:
            high_at = self.step(buffer.pointer, memory_type(dtype), literal(16, i64))
            high = self.read(f"load {kind}, ptr {high_at.text}, align 64", name, dtype, 16, 0)
            full, level = (
                f"llvm.x86.avx512.vpermi2var.{'ps' if dtype.is_float else 'd'}.512",
                max(low.level, high.level),
            )
            self.needs.declare(declaration(kind, full, (kind, "<16 x i32>", kind)))
            form = f"call {kind} @{full}({low.typed}, {{}}, {high.typed})"
        parts = [
            self.pure(form.format(part.typed), dtype, 16, max(part.level, level)) for part in pieces(self, numbers, 16)
        ]
        return joined(self, parts, offsets.lanes)

    def from_memory(self, raw: Value, dtype: DType) -> Value:
        """What was loaded, in the form in which it is computed on."""
        if dtype is bool_:
            kind = memory_type(dtype, raw.lanes)
            zero = "zeroinitializer" if raw.lanes else "0"
            return self.pure(f"icmp ne {kind} {raw.text}, {zero}", bool_, raw.lanes, raw.level)
        if dtype in HALVES:
            return scalars.half_from_memory(self, scalars.as_type(raw, i16), dtype)
        return raw

    def to_memory(self, value: Value) -> tuple[str, str]:
        """The type and operand to be stored for a value."""
        dtype = value.dtype
        if dtype is bool_:
            if value.is_literal and not value.lanes:
                return "i8", "1" if value.text == "true" else "0"
            kind = memory_type(dtype, value.lanes)
            bits = self.pure(f"zext {value.typed} to {kind}", dtype, value.lanes, value.level)
            return kind, bits.text
        if dtype in HALVES:
            bits = scalars.half_to_memory(self, value)
            return bits.type, bits.text
        return value.type, value.text

    def store(self, node: object, name: str, index: tuple[Dim, ...], value: Value, stream: bool) -> None:
        if name in self.registers:
            self.write_registers(node, name, index, value)
            return
        buffer = self.buffers.get(name)
        if buffer is None:
            raise Unsupported(f"there is no buffer {name}", code="TD0510")
        if value.dtype is not buffer.dtype:
            raise Unsupported(f"{name} holds {buffer.dtype}, not {value.dtype}", code="TD0511")
        at = self.address(node, buffer, index)
        lanes = self.vector
        size = buffer.dtype.bytes
        if lanes is None:
            kind, text = self.to_memory(value)
            self.put(f"  store {kind} {text}, ptr {at.pointer.text}, align {size}")
            self.wrote(name)
            return
        count = lanes.count
        uniform = at.stride == 0 and at.offsets is None
        if uniform and not value.lanes and not self.divergent:
            kind, text = self.to_memory(value)
            self.put(f"  store {kind} {text}, ptr {at.pointer.text}, align {size}")
            self.wrote(name)
            return
        if uniform:
            raise Unsupported(f"the lanes of a vector loop write one element of {name}", code="TD0512")
        if not value.lanes and value.dtype in HALVES:
            value = scalars.half_from_memory(self, self.splat(scalars.half_to_memory(self, value), count), value.dtype)
        value = self.splat(value, count)
        mask = self.masked
        pointer = at.pointer
        if at.stride == -1:
            value = self.reversed(value, value.type)
            pointer = self.step(pointer, memory_type(buffer.dtype), literal(1 - count, i64))
            mask = None if mask is None else self.reversed(mask, mask.type)
        kind, text = self.to_memory(value)
        if at.stride in (1, -1):
            if mask is None:
                self.store_lanes(kind, text, pointer, buffer, stream)
            else:
                full, declared = intrinsics.masked_store(kind, count)
                self.needs.declare(declared)
                self.put(f"  call void @{full}({kind} {text}, ptr align {size} {pointer.text}, {mask.typed})")
        else:
            offsets = at.offsets if at.offsets is not None else self.iota(count, at.stride)
            places = self.step(pointer, memory_type(buffer.dtype), self.splat(offsets, count))
            mask_type = register_type(bool_, count)
            on = mask.text if mask is not None else "splat (i1 true)"
            full, declared = intrinsics.scatter(kind, count)
            self.needs.declare(declared)
            self.put(
                f"  call void @{full}({kind} {text}, <{count} x ptr> align {size} {places.text}, {mask_type} {on})"
            )
        self.wrote(name)

    def store_lanes(self, kind: str, text: str, pointer: Value, buffer: Buffer, stream: bool) -> None:
        """A whole vector. One that passes the caches by must be aligned, which is asked for every time: a predictable
        branch where memory is the bottleneck anyway."""
        size = buffer.dtype.bytes
        bytes_ = size * int(kind[1:].split(" ")[0])
        if not stream or not self.target.has("stream") or bytes_ & (bytes_ - 1):
            self.put(f"  store {kind} {text}, ptr {pointer.text}, align {size}")
            return
        self.streams = True
        align = min(bytes_, 64)
        number = self.pure(f"ptrtoint ptr {pointer.text} to i64", i64, 0, pointer.level)
        low = self.op("and", number, literal(align - 1, i64))
        aligned = self.op("icmp eq", low, literal(0, i64), bool_)
        past, plain, after = self.new_label("stream"), self.new_label("plain"), self.new_label("stored")
        self.put(f"  br i1 {aligned.text}, label %{past}, label %{plain}")
        self.start(past)
        self.put(f"  store {kind} {text}, ptr {pointer.text}, align {align}, !nontemporal !0")
        self.put(f"  br label %{after}")
        self.start(plain)
        self.put(f"  store {kind} {text}, ptr {pointer.text}, align {size}")
        self.put(f"  br label %{after}")
        self.start(after)

    def reversed(self, x: Value, kind: str) -> Value:
        """The lanes backwards; `kind` because what comes from memory may not have its dtype's type in registers."""
        numbers = ", ".join([f"i32 {lane}" for lane in range(x.lanes - 1, -1, -1)])
        text = f"shufflevector {kind} {x.text}, {kind} poison, <{x.lanes} x i32> <{numbers}>"
        return self.pure(text, x.dtype, x.lanes, x.level)

    # --- register arrays ----------------------------------------------------------------------------------------------

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
        first, stride = self.positions(node, name, index)
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
        if value.dtype is not array.dtype:
            raise Unsupported(f"{name} holds {array.dtype}, not {value.dtype}", code="TD0511")
        first, stride = self.positions(node, name, index)
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
            value = self.select(self.masked, value, self.read_registers(node, name, index))
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
