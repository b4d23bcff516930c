"""Writing one LLVM function as text: values, scopes, and where an instruction may stand.

There is no pass after this text but the code generator, so what a pipeline would do is done while writing. An
instruction without effects is written at the outermost loop level at which its operands exist, once: asking for the
same instruction again gives the same value. That is loop-invariant code motion and common-subexpression elimination
for the price of a dictionary, and it is right because every operation we emit is total. Loads pass through the same
door with a key that changes when their buffer is written, and never move above a branch that guards them.
"""

from __future__ import annotations

import math
import struct
from typing import Final, Union

import numpy as np

from ...ir.dtypes import DType, bf16, bool_, complex_of, f16, f32, f64, i64, real_of
from ...ir.errors import Unsupported
from ...ir.target import Target
from .intrinsics import declaration, overload

# Half floats are computed on as f32 that hold a value of the half type; in memory they are their 16 bits. Nothing is
# computed on fp8, which is its 8 bits everywhere.
_REGISTER_TYPES: Final = {"bool": "i1", "f16": "float", "bf16": "float", "f32": "float", "f64": "double"}
_MEMORY_TYPES: Final = {
    "bool": "i8", "f16": "i16", "bf16": "i16", "f32": "float", "f64": "double",
    "c64": "{ float, float }", "c128": "{ double, double }",
}  # fmt: skip
HALVES: Final = (f16, bf16)

Lines = list[Union[str, "Lines"]]


def register_type(dtype: DType, lanes: int = 0) -> str:
    """LLVM's type of a value of `dtype`; a vector of `lanes` elements unless that is 0."""
    found = _REGISTER.get((dtype.name, lanes))
    return found or _REGISTER.setdefault((dtype.name, lanes), _spelt(dtype, lanes, _REGISTER_TYPES))


def memory_type(dtype: DType, lanes: int = 0) -> str:
    """LLVM's type of what lies in a buffer of `dtype`; of a complex one, a type of that size."""
    found = _MEMORY.get((dtype.name, lanes))
    return found or _MEMORY.setdefault((dtype.name, lanes), _spelt(dtype, lanes, _MEMORY_TYPES))


_REGISTER: Final[dict[tuple[str, int], str]] = {}
_MEMORY: Final[dict[tuple[str, int], str]] = {}


def _spelt(dtype: DType, lanes: int, types: dict[str, str]) -> str:
    if dtype.kind == "complex" and dtype.name not in types:
        raise Unsupported(
            f"{dtype} does not stand in one register", code="TD0501", edit="take its real and imaginary parts"
        )
    scalar = types.get(dtype.name, f"i{dtype.bits}")
    return f"<{lanes} x {scalar}>" if lanes else scalar


class Value:
    """An SSA value or a literal. `text` is the operand without its type, `level` the depth of the scope that defines
    it, `number` its value where that is an integer known while writing. A complex value has no text but two `parts`."""

    __slots__ = ("dtype", "lanes", "level", "number", "parts", "text")

    def __init__(self, text: str, dtype: DType, lanes: int = 0, level: int = 0, number: int | None = None) -> None:
        self.text = text
        self.dtype = dtype
        self.lanes = lanes
        self.level = level
        self.number = number
        self.parts: tuple[Value, Value] | None = None

    @property
    def type(self) -> str:
        return register_type(self.dtype, self.lanes)

    @property
    def typed(self) -> str:
        return f"{register_type(self.dtype, self.lanes)} {self.text}"

    @property
    def is_literal(self) -> bool:
        if self.parts is not None:
            return all(part.is_literal for part in self.parts)
        return self.text[0] != "%"


def pair(real: Value, imaginary: Value) -> Value:
    """The complex value with these parts, which are both scalars or both vectors."""
    result = Value("", complex_of(real.dtype), real.lanes, max(real.level, imaginary.level))
    result.parts = (real, imaginary)
    return result


def literal(value: bool | int | float | complex, dtype: DType) -> Value:
    """The constant `value` of `dtype`; integers wrap, floats round."""
    if dtype is bool_:
        return Value("true" if value else "false", dtype)
    if dtype.is_integer:
        assert isinstance(value, int)
        number = value & ((1 << dtype.bits) - 1)
        if dtype.is_signed and number >> (dtype.bits - 1):
            number -= 1 << dtype.bits
        return Value(str(number), dtype, 0, 0, number)
    if dtype.kind == "float8":
        assert not isinstance(value, complex)
        return Value(str(int(np.asarray(value, np.float32).astype(dtype.numpy).view(np.int8))), dtype)
    if dtype.kind == "complex":
        whole = complex(value)
        return pair(literal(whole.real, real_of(dtype)), literal(whole.imag, real_of(dtype)))
    register_type(dtype)  # refuses what is neither
    assert not isinstance(value, complex)
    return Value(float_text(value, dtype), dtype)


def integer(value: int) -> Value:
    """An i64 that surely fits: a position, a size."""
    return Value(str(value), i64, 0, 0, value)


def float_text(value: float | int, dtype: DType) -> str:
    """LLVM writes every float by the bits of the double that equals it."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if dtype is bf16:
        number = float(dtype.numpy.type(number))
    elif dtype is not f64 and number == number:
        form = "<f" if dtype is f32 else "<e"
        try:
            number = struct.unpack(form, struct.pack(form, number))[0]
        except OverflowError:  # what rounds past the largest finite number
            number = math.copysign(math.inf, number)
    if number != number:
        return "0x7FF8000000000000"
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"


class Scope:
    """A loop's body, a branch, or the function itself. `before` is the straight code just ahead of a loop, which runs
    only if the loop does; branches have none. `guarded`: the body may not run though the code around it does."""

    __slots__ = ("before", "before_memo", "guarded", "held", "lines", "memo", "written")

    def __init__(self, lines: Lines, before: Lines | None, guarded: bool, written: frozenset[str]) -> None:
        self.lines = lines
        self.before = before
        self.guarded = guarded
        self.written = written
        self.memo: dict[str, str] = {}
        self.before_memo: dict[str, str] = {}
        self.held = 0  # vector registers that what stands before the loop may take through it


class Writer:
    """One function under construction."""

    def __init__(self, target: Target, needs: Needs) -> None:
        self.target = target
        self.needs = needs
        self.count = 0
        self.label = "entry"  # of the block being written
        self.entry: Lines = []  # allocas and what must precede everything
        self.scopes = [Scope([], None, False, frozenset())]
        self.versions: dict[str, int] = {}
        self.half_bits: dict[str, Value] = {}  # the 16 bits of a half float that is held as f32
        self.extended: dict[str, Value] = {}  # what a wider integer was made of
        self.low_bits: dict[str, tuple[Value, int]] = {}  # what an integer is the low bits of, and their mask
        self.masked: Value | None = None  # the lanes that are on, None for all
        self.divergent = False  # the mask hides lanes for which addresses may be wrong

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def put(self, line: str) -> None:
        """A line with effects, here."""
        self.scopes[-1].lines.append(line)

    def start(self, label: str) -> None:
        """End of one block, start of another; the caller has written the branch."""
        self.scopes[-1].lines.append(f"{label}:")
        self.label = label

    def new_label(self, word: str) -> str:
        self.count += 1
        return f"{word}{self.count}"

    def pure(self, text: str, dtype: DType, lanes: int, level: int, key: str | None = None) -> Value:
        """The value of an instruction without effects, as far out as `level` allows."""
        key = key or text
        scopes = self.scopes
        depth = len(scopes) - 1
        while True:
            scope = scopes[level]
            found = scope.memo.get(key)
            if found is not None:
                return Value(found, dtype, lanes, level)
            if level == depth:
                lines, memo = scope.lines, scope.memo
                break
            inner = scopes[level + 1]
            if inner.before is not None:
                found = inner.before_memo.get(key)
                if found is not None:
                    return Value(found, dtype, lanes, level)
                if self.fits(inner, dtype, lanes, text):
                    lines, memo = inner.before, inner.before_memo
                    break
            level += 1  # a branch: what only it needs is not computed ahead of it; or a loop whose registers are full
        self.count += 1
        name = f"%v{self.count}"
        lines.append(f"  {name} = {text}")
        memo[key] = name
        return Value(name, dtype, lanes, level)

    def fits(self, scope: Scope, dtype: DType, lanes: int, text: str) -> bool:
        """Whether a value may wait in a vector register ahead of that loop: at most half of them are given away, since
        what does not fit is stored and loaded again, which is dearer than to stay inside."""
        if not (lanes or dtype.is_float) or text.startswith(("insertelement", "shufflevector")):
            return True  # other registers; or a splat, which takes the place of its scalar
        registers = -(-max(lanes, 1) * dtype.bits // self.target.vector_bits)
        if scope.held + registers > self.target.vector_registers // 2:
            return False
        scope.held += registers
        return True

    def load_level(self, level: int, buffer: str) -> int:
        """The outermost level at which a load that may stand at `level` by its address is safe and sees the right
        stores."""
        for depth in range(len(self.scopes) - 1, level, -1):
            scope = self.scopes[depth]
            if scope.before is None or buffer in scope.written:
                return depth
            if scope.guarded:
                # It may go ahead of this loop, inside the guard, and no further.
                return max(level, depth - 1)
        return level

    def read(self, text: str, buffer: str, dtype: DType, lanes: int, level: int) -> Value:
        """A load, kept until its buffer is written. `text` has the memory's type; `dtype` is only carried along."""
        level = self.load_level(level, buffer)
        return self.pure(text, dtype, lanes, level, f"{text}#{self.versions.get(buffer, 0)}")

    def wrote(self, buffer: str) -> None:
        self.versions[buffer] = self.versions.get(buffer, 0) + 1

    # --- small instructions -------------------------------------------------------------------------------------------

    def op(self, opcode: str, x: Value, y: Value, dtype: DType | None = None) -> Value:
        """`opcode` on two values of one type; the result has `dtype`, or theirs. Scalars are spread where one is a
        vector."""
        lanes = x.lanes or y.lanes
        if lanes:
            if not x.lanes:
                x = self.splat(x, lanes)
            if not y.lanes:
                y = self.splat(y, lanes)
        level = x.level if x.level > y.level else y.level
        return self.pure(f"{opcode} {x.type} {x.text}, {y.text}", dtype or x.dtype, lanes, level)

    def convert(self, opcode: str, x: Value, dtype: DType) -> Value:
        """`zext`, `fptosi`, `bitcast` ...: x as a value of the register type of `dtype`."""
        if opcode == "trunc":
            narrow = self.extended.get(x.text)
            if narrow is not None and narrow.dtype is dtype:
                return narrow
        result = self.pure(f"{opcode} {x.typed} to {register_type(dtype, x.lanes)}", dtype, x.lanes, x.level)
        if opcode in ("sext", "zext"):
            self.extended[result.text] = x
        return result

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        lanes = condition.lanes or x.lanes or y.lanes
        if x.parts is not None and y.parts is not None:
            real, imaginary = (self.select(condition, a, b) for a, b in zip(x.parts, y.parts))
            return pair(real, imaginary)
        if lanes:
            x, y = self.splat(x, lanes), self.splat(y, lanes)
        level = max(condition.level, x.level, y.level)
        return self.pure(f"select {condition.typed}, {x.typed}, {y.typed}", x.dtype, lanes, level)

    def call(self, name: str, args: tuple[Value, ...], dtype: DType, suffix: str = "", extra: str = "") -> Value:
        """An intrinsic on values of one shape, overloaded on the type of the first unless `suffix` says otherwise;
        `extra` is appended to the arguments as it stands."""
        lanes = max([arg.lanes for arg in args])
        if lanes:
            args = tuple([self.splat(arg, lanes) for arg in args])
        types = [arg.type for arg in args]
        full = f"{name}.{suffix or overload(args[0].type)}"
        extra_types = [word.split()[0] for word in extra.split(", ")] if extra else []
        self.needs.declare(declaration(register_type(dtype, lanes), full, (*types, *extra_types)))
        listed = ", ".join([arg.typed for arg in args] + ([extra] if extra else []))
        level = max([arg.level for arg in args])
        return self.pure(f"call {register_type(dtype, lanes)} @{full}({listed})", dtype, lanes, level)

    def splat(self, x: Value, lanes: int) -> Value:
        """A scalar in every lane; a vector as it is."""
        if x.lanes or not lanes:
            return x
        if x.parts is not None:
            return pair(self.splat(x.parts[0], lanes), self.splat(x.parts[1], lanes))
        if x.is_literal:
            return Value(f"splat ({x.typed})", x.dtype, lanes, 0)
        vector = register_type(x.dtype, lanes)
        first = self.pure(f"insertelement {vector} poison, {x.typed}, i64 0", x.dtype, lanes, x.level)
        text = f"shufflevector {vector} {first.text}, {vector} poison, <{lanes} x i32> zeroinitializer"
        return self.pure(text, x.dtype, lanes, x.level)

    def add(self, x: Value, y: Value) -> Value:
        """x + y of positions, which never overflow."""
        if x.number is not None and y.number is not None:
            return integer(x.number + y.number)
        if y.number == 0:
            return x
        if x.number == 0:
            return y
        return self.op("add nsw", x, y)

    def mul(self, x: Value, y: Value) -> Value:
        """x * y of positions."""
        if x.number is not None and y.number is not None:
            return integer(x.number * y.number)
        if y.number == 1:
            return x
        if x.number == 1:
            return y
        return self.op("mul nsw", x, y)

    def iota(self, lanes: int, step: int, dtype: DType = i64) -> Value:
        """0, step, 2*step, ... as a literal vector."""
        scalar = register_type(dtype)
        numbers = ", ".join([f"{scalar} {lane * step}" for lane in range(lanes)])
        return Value(f"<{numbers}>", dtype, lanes, 0)


class Needs:
    """What the functions of a module need beside them: declarations, constant tables, routines; each once, in the
    order of first use."""

    def __init__(self) -> None:
        self.declarations: dict[str, None] = {}
        self.globals: dict[str, str] = {}
        self.routines: dict[str, str] = {}

    def declare(self, line: str) -> None:
        self.declarations[line] = None

    def table(self, type_: str, body: str) -> str:
        """The name of a constant with this content."""
        content = f"internal unnamed_addr constant {type_} {body}, align 64"
        return self.globals.setdefault(content, f'@"table.{len(self.globals)}"')


def flatten(lines: Lines, out: list[str]) -> list[str]:
    for line in lines:
        if type(line) is str:
            out.append(line)
        else:
            flatten(line, out)  # type: ignore[arg-type]
    return out
