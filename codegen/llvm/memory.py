"""Data in memory: addresses, loads and stores.

An address is built level by level, outermost first, onto the buffer's pointer, so that every access with the same
beginning shares it; the constant comes last and becomes the displacement of the instruction. In a vector loop the
coefficient of its variable decides: 1 is a vector load, 0 a scalar spread over the lanes, -1 a reversed vector, any
other a gather. Under a mask nothing outside it is touched. A complex element is two floats side by side, and becomes
two values: whole vectors are taken apart by shuffles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...ir.classes import dataclass
from ...ir.dims import Atom, Dim
from ...ir.dtypes import DType, bool_, i16, i32, i64, real_of
from ...ir.errors import Unsupported
from ...ir.loops.affine import linearize
from ...ir.loops.nodes import neighbours
from ...ir.target import Target
from . import intrinsics
from .intrinsics import declaration
from .positions import Plan
from .registers import RegisterArrays
from .routines import joined, pieces, shuffle
from .short_floats import as_type, half_from_memory, half_to_memory
from .writer import HALVES, Needs, Value, integer, literal, memory_type, pair

PAGE_BYTES: Final = 4096  # how far ahead: the processor's own prefetching stops at the end of a page


@dataclass
class Buffer:
    """An array in memory: a parameter, a stack array or a table."""

    pointer: Value
    dtype: DType
    shape: tuple[Dim, ...]
    values: int = 0  # how many, for a table


@dataclass(frozen=True)
class Address:
    """A pointer valid for all lanes, and what each lane adds: `stride` elements per lane, or offsets of its own."""

    pointer: Value
    stride: int
    offsets: Value | None

    @property
    def uniform(self) -> bool:
        return self.stride == 0 and self.offsets is None


class Memory(RegisterArrays):
    """Data movement, on top of register arrays."""

    def __init__(self, target: Target, needs: Needs) -> None:
        super().__init__(target, needs)
        self.buffers: dict[str, Buffer] = {}
        self.streams = False
        self.ahead = 0  # bytes by which loads in the loop at hand are asked for beforehand

    # --- addresses ----------------------------------------------------------------------------------------------------

    def buffer(self, name: str) -> Buffer:
        found = self.buffers.get(name)
        if found is None:
            raise Unsupported(f"there is no buffer {name}", code="TD0510")
        return found

    def plan(self, node: object, buffer: Buffer, index: tuple[Dim, ...]) -> Plan:
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
        """The pointer moved by `offset` elements of that type: a vector of pointers where the offset is one."""
        level = max(pointer.level, offset.level)
        text = f"getelementptr {kind}, ptr {pointer.text}, {offset.typed}"
        return self.pure(text, i64, offset.lanes, level)

    def imaginary(self, pointer: Value, dtype: DType) -> Value:
        """Where the imaginary part of a complex element lies."""
        return self.step(pointer, memory_type(real_of(dtype)), integer(1))

    def each_lane(self, at: Address, pointer: Value, dtype: DType) -> Value:
        """The address of every lane's element, counted from `pointer`."""
        assert self.vector is not None
        count = self.vector.count
        offsets = at.offsets if at.offsets is not None else self.iota(count, at.stride)
        return self.step(pointer, memory_type(dtype), self.splat(offsets, count))

    # --- loads --------------------------------------------------------------------------------------------------------

    def load(self, node: object, name: str, index: tuple[Dim, ...], dtype: DType) -> Value:
        if name in self.registers:
            return self.read_registers(node, name, index)
        buffer = self.buffer(name)
        at = self.address(node, buffer, index)
        if dtype is not buffer.dtype:
            return self.load_words(name, buffer, at, dtype)
        if buffer.dtype.kind == "complex":
            return self.load_complex(name, buffer, at)
        if self.vector is None or (at.uniform and not self.divergent):
            return self.from_memory(self.load_one(name, at.pointer, buffer.dtype), buffer.dtype)
        count = self.vector.count
        if at.stride == 1:
            if self.ahead and self.masked is None:
                self.prefetch(at.pointer)
            return self.from_memory(self.load_lanes(name, at.pointer, buffer.dtype, count, self.masked), buffer.dtype)
        if at.stride == -1:
            # The lanes lie backwards: read them forwards and turn them round.
            first = self.step(at.pointer, memory_type(buffer.dtype), integer(1 - count))
            mask = None if self.masked is None else self.reversed(self.masked, self.masked.type)
            raw = self.load_lanes(name, first, buffer.dtype, count, mask)
            return self.from_memory(self.reversed(raw, memory_type(buffer.dtype, count)), buffer.dtype)
        if buffer.values and at.offsets is not None and not at.stride and at.pointer is buffer.pointer:
            found = self.permute(name, buffer, at.offsets)
            if found is not None:
                return found
        places = self.each_lane(at, at.pointer, buffer.dtype)
        return self.from_memory(self.gather(name, places, buffer.dtype), buffer.dtype)

    def prefetch(self, pointer: Value) -> None:
        """Ask for what lies some way behind into the second-level cache. It may lie behind the end: nothing is read."""
        self.needs.declare(declaration("void", "llvm.prefetch.p0", ("ptr", "i32", "i32", "i32")))
        far = self.step(pointer, "i8", integer(self.ahead))
        self.put(f"  call void @llvm.prefetch.p0(ptr {far.text}, i32 0, i32 2, i32 1)")

    def load_words(self, name: str, buffer: Buffer, at: Address, dtype: DType) -> Value:
        """Neighbours as one word, which need not be aligned like one."""
        count = neighbours(dtype, buffer.dtype)
        if not count:
            raise Unsupported(f"{name} holds {buffer.dtype}, not {dtype}", code="TD0511")
        align, each = buffer.dtype.bytes, memory_type(dtype)
        if self.vector is None or (at.uniform and not self.divergent):
            return self.read(f"load {each}, ptr {at.pointer.text}, align {align}", name, dtype, 0, at.pointer.level)
        lanes = self.vector.count
        if at.stride == count and self.masked is None:
            kind = memory_type(dtype, lanes)
            return self.read(f"load {kind}, ptr {at.pointer.text}, align {align}", name, dtype, lanes, at.pointer.level)
        return self.gather(name, self.each_lane(at, at.pointer, buffer.dtype), dtype, align)

    def load_complex(self, name: str, buffer: Buffer, at: Address) -> Value:
        dtype, part = buffer.dtype, real_of(buffer.dtype)
        second = self.imaginary(at.pointer, dtype)
        if self.vector is None or (at.uniform and not self.divergent):
            return pair(self.load_one(name, at.pointer, part), self.load_one(name, second, part))
        count = self.vector.count
        if at.stride == 1:
            whole = self.load_lanes(name, at.pointer, part, 2 * count, self.doubled(self.masked))
            numbers = range(0, 2 * count, 2)
            return pair(*(shuffle(self, whole, whole, [n + odd for n in numbers]) for odd in (0, 1)))
        return pair(*(self.gather(name, self.each_lane(at, first, dtype), part) for first in (at.pointer, second)))

    def load_one(self, name: str, pointer: Value, dtype: DType) -> Value:
        text = f"load {memory_type(dtype)}, ptr {pointer.text}, align {dtype.bytes}"
        return self.read(text, name, dtype, 0, pointer.level)

    def load_lanes(self, name: str, pointer: Value, dtype: DType, count: int, mask: Value | None) -> Value:
        kind = memory_type(dtype, count)
        if mask is None:
            text = f"load {kind}, ptr {pointer.text}, align {dtype.bytes}"
            return self.read(text, name, dtype, count, pointer.level)
        full, declared = intrinsics.masked_load(kind, count)
        self.needs.declare(declared)
        text = f"call {kind} @{full}(ptr align {dtype.bytes} {pointer.text}, {mask.typed}, {kind} zeroinitializer)"
        return self.read(text, name, dtype, count, max(pointer.level, mask.level))

    def gather(self, name: str, places: Value, dtype: DType, align: int = 0) -> Value:
        count = places.lanes
        kind = memory_type(dtype, count)
        mask = self.masked or Value("splat (i1 true)", bool_, count)
        full, declared = intrinsics.gather(kind, count)
        self.needs.declare(declared)
        given = f"<{count} x ptr> align {align or dtype.bytes} {places.text}, {mask.typed}, {kind} zeroinitializer"
        text = f"call {kind} @{full}({given})"
        return self.read(text, name, dtype, count, max(places.level, mask.level))

    def permute(self, name: str, buffer: Buffer, offsets: Value) -> Value | None:
        """A table of at most 32 words, looked up by permuting the registers that hold it."""
        if not self.target.has("permute") or buffer.dtype.bits != 32 or not 0 < buffer.values <= 32:
            return None
        numbers = self.convert("trunc", offsets, i32)
        whole, mask = self.low_bits.get(numbers.text, (numbers, 0))
        if whole.lanes and mask + 1 == buffer.values in (8, 16, 32):
            numbers = whole  # the permutation looks at no other bits
        look_up = self.permute_wide if self.target.has("permute_wide") else self.permute_narrow
        return joined(self, look_up(name, buffer, numbers), offsets.lanes)

    def words(self, name: str, buffer: Buffer, first: int, lanes: int) -> Value:
        """A register of a table."""
        kind = memory_type(buffer.dtype, lanes)
        at = self.step(buffer.pointer, memory_type(buffer.dtype), integer(first)) if first else buffer.pointer
        return self.read(f"load {kind}, ptr {at.text}, align {4 * lanes}", name, buffer.dtype, lanes, 0)

    def permute_wide(self, name: str, buffer: Buffer, numbers: Value) -> list[Value]:
        """Sixteen words to a register; an instruction picks from one or two."""
        dtype, kind = buffer.dtype, memory_type(buffer.dtype, 16)
        low = self.words(name, buffer, 0, 16)
        if buffer.values <= 16:
            full, level = f"llvm.x86.avx512.permvar.{'sf' if dtype.is_float else 'si'}.512", low.level
            self.needs.declare(declaration(kind, full, (kind, "<16 x i32>")))
            form = f"call {kind} @{full}({low.typed}, {{}})"
        else:
            high = self.words(name, buffer, 16, 16)
            full, level = (
                f"llvm.x86.avx512.vpermi2var.{'ps' if dtype.is_float else 'd'}.512",
                max(low.level, high.level),
            )
            self.needs.declare(declaration(kind, full, (kind, "<16 x i32>", kind)))
            form = f"call {kind} @{full}({low.typed}, {{}}, {high.typed})"
        parts = pieces(self, numbers, 16)
        return [self.pure(form.format(part.typed), dtype, 16, max(part.level, level)) for part in parts]

    def permute_narrow(self, name: str, buffer: Buffer, numbers: Value) -> list[Value]:
        """Eight words to a register; of several, bits of the number choose."""
        dtype, kind = buffer.dtype, memory_type(buffer.dtype, 8)
        full = f"llvm.x86.avx2.perm{'ps' if dtype.is_float else 'd'}"
        self.needs.declare(declaration(kind, full, (kind, "<8 x i32>")))
        registers = [self.words(name, buffer, first, 8) for first in range(0, buffer.values, 8)]
        result = []
        for part in pieces(self, numbers, 8):
            found = [
                self.pure(f"call {kind} @{full}({x.typed}, {part.typed})", dtype, 8, max(x.level, part.level))
                for x in registers
            ]
            bit = 3
            while len(found) > 1:
                raised = self.op("shl", part, literal(31 - bit, i32))
                upper = self.op("icmp slt", raised, literal(0, i32), bool_)
                pairs = [self.select(upper, *found[k : k + 2][::-1]) for k in range(0, len(found) - 1, 2)]
                found = [*pairs, *found[len(pairs) * 2 :]]
                bit += 1
            result.append(found[0])
        return result

    def from_memory(self, raw: Value, dtype: DType) -> Value:
        """What was loaded, in the form in which it is computed on."""
        if dtype is bool_:
            kind = memory_type(dtype, raw.lanes)
            zero = "zeroinitializer" if raw.lanes else "0"
            return self.pure(f"icmp ne {kind} {raw.text}, {zero}", bool_, raw.lanes, raw.level)
        if dtype in HALVES:
            return half_from_memory(self, as_type(raw, i16), dtype)
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
            bits = half_to_memory(self, value)
            return bits.type, bits.text
        return value.type, value.text

    # --- stores -------------------------------------------------------------------------------------------------------

    def store(self, node: object, name: str, index: tuple[Dim, ...], value: Value, stream: bool) -> None:
        if name in self.registers:
            self.write_registers(node, name, index, value)
            return
        buffer = self.buffer(name)
        if value.dtype is not buffer.dtype:
            raise Unsupported(f"{name} holds {buffer.dtype}, not {value.dtype}", code="TD0511")
        at = self.address(node, buffer, index)
        lanes = self.vector
        if lanes is None or (at.uniform and not value.lanes and not self.divergent):
            self.store_one(at.pointer, value)
        elif at.uniform:
            raise Unsupported(f"the lanes of a vector loop write one element of {name}", code="TD0512")
        elif value.parts is not None:
            self.store_complex(at, value.dtype, self.splat(value, lanes.count), stream)
        else:
            self.store_vector(at, self.in_lanes(value, lanes.count), stream)
        self.wrote(name)

    def in_lanes(self, value: Value, count: int) -> Value:
        """A scalar in every lane; the bits of a half float as they are."""
        if value.dtype in HALVES and not value.lanes:
            bits = self.splat(half_to_memory(self, value), count)
            return half_from_memory(self, bits, value.dtype)
        return self.splat(value, count)

    def store_one(self, pointer: Value, value: Value) -> None:
        if value.parts is not None:
            self.store_one(pointer, value.parts[0])
            self.store_one(self.imaginary(pointer, value.dtype), value.parts[1])
            return
        kind, text = self.to_memory(value)
        self.put(f"  store {kind} {text}, ptr {pointer.text}, align {value.dtype.bytes}")

    def store_vector(self, at: Address, value: Value, stream: bool) -> None:
        dtype, count = value.dtype, value.lanes
        if at.stride == 1:
            self.store_lanes(at.pointer, value, self.masked, stream)
        elif at.stride == -1:
            first = self.step(at.pointer, memory_type(dtype), integer(1 - count))
            mask = None if self.masked is None else self.reversed(self.masked, self.masked.type)
            self.store_lanes(first, self.reversed(value, value.type), mask, stream)
        else:
            self.scatter(self.each_lane(at, at.pointer, dtype), value)

    def store_complex(self, at: Address, dtype: DType, value: Value, stream: bool) -> None:
        assert value.parts is not None
        real, imaginary = value.parts
        if at.stride == 1:
            count = value.lanes
            mixed = [lane + part for lane in range(count) for part in (0, count)]
            self.store_lanes(at.pointer, shuffle(self, real, imaginary, mixed), self.doubled(self.masked), stream)
            return
        self.scatter(self.each_lane(at, at.pointer, dtype), real)
        self.scatter(self.each_lane(at, self.imaginary(at.pointer, dtype), dtype), imaginary)

    def store_lanes(self, pointer: Value, value: Value, mask: Value | None, stream: bool) -> None:
        """A vector. One that passes the caches by must be whole and aligned, which is asked for every time: a
        predictable branch where memory is the bottleneck anyway."""
        size = value.dtype.bytes
        width = size * value.lanes
        kind, text = self.to_memory(value)
        if mask is not None:
            full, declared = intrinsics.masked_store(kind, value.lanes)
            self.needs.declare(declared)
            self.put(f"  call void @{full}({kind} {text}, ptr align {size} {pointer.text}, {mask.typed})")
            return
        if not stream or not self.target.has("stream") or width & (width - 1):
            self.put(f"  store {kind} {text}, ptr {pointer.text}, align {size}")
            return
        self.streams = True
        align = min(width, 64)
        number = self.pure(f"ptrtoint ptr {pointer.text} to i64", i64, 0, pointer.level)
        aligned = self.op("icmp eq", self.op("and", number, integer(align - 1)), integer(0), bool_)
        past, plain, after = self.new_label("stream"), self.new_label("plain"), self.new_label("stored")
        self.put(f"  br i1 {aligned.text}, label %{past}, label %{plain}")
        self.start(past)
        self.put(f"  store {kind} {text}, ptr {pointer.text}, align {align}, !nontemporal !0")
        self.put(f"  br label %{after}")
        self.start(plain)
        self.put(f"  store {kind} {text}, ptr {pointer.text}, align {size}")
        self.put(f"  br label %{after}")
        self.start(after)

    def scatter(self, places: Value, value: Value) -> None:
        count = places.lanes
        kind, text = self.to_memory(value)
        mask = self.masked or Value("splat (i1 true)", bool_, count)
        full, declared = intrinsics.scatter(kind, count)
        self.needs.declare(declared)
        size = value.dtype.bytes
        self.put(f"  call void @{full}({kind} {text}, <{count} x ptr> align {size} {places.text}, {mask.typed})")

    def doubled(self, mask: Value | None) -> Value | None:
        """A mask of elements as a mask of their parts."""
        if mask is None:
            return None
        return shuffle(self, mask, mask, [lane // 2 for lane in range(2 * mask.lanes)])

    def reversed(self, x: Value, kind: str) -> Value:
        """The lanes backwards; `kind` because what comes from memory may not have its dtype's type in registers."""
        numbers = ", ".join([f"i32 {lane}" for lane in range(x.lanes - 1, -1, -1)])
        text = f"shufflevector {kind} {x.text}, {kind} poison, <{x.lanes} x i32> <{numbers}>"
        return self.pure(text, x.dtype, x.lanes, x.level)
