"""One signature of one program, as plain data and as the words that the dispatch routine reads.

`Record` and the small classes round it say what the arguments of a call look like, what to run and what to return.
`assemble` turns one into a block of memory: a head of fixed places, and the lists it points to (steps that walk the
arguments, rows for the outputs, steps that build the result). Every number in it that the routine must know is named
in the tables here and nowhere else. What the routine cannot do is refused by name, and takes the complete path.
"""

from __future__ import annotations

import ast
import ctypes
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import arena, interrupt, scratch
from .errors import ArgumentValueError
from .executable import FOUND_WORDS, READABLE, WRITABLE, ArenaBytes, CallContext, Executable, failure
from .scratch import Scratch
from .signature import Signature, Tensor, parse_formula

# From here on an output comes from the arena; below it NumPy's own allocation is the faster one.
LARGE_BYTES = arena.POOLED_BYTES
SCRATCH_BYTES = 16  # per Python number among the arguments: a complex one needs all of them
EXPRESSION_DEPTH = 32
# What a call may take of the stack, which has 128 KiB where it is smallest.
MOST_FRAME_BYTES = 64 << 10


class Leaf(NamedTuple):
    """An array argument: input number `input` of the program."""

    input: int


class Out(NamedTuple):
    """An array argument that receives output number `output`."""

    output: int


class Number(NamedTuple):
    """A Python number (`type` is float, int, bool or complex) or NumPy scalar, for input number `input`."""

    input: int
    type: type[Any]


class Fixed(NamedTuple):
    """An argument the program was made for, or a part of the result that is always this object."""

    value: Any


class TupleOf(NamedTuple):
    """A tuple of exactly this type (a named one is made by `Call` in results)."""

    items: tuple[Any, ...]
    type: type[Any] = tuple


class ListOf(NamedTuple):
    items: tuple[Any, ...]


class DictOf(NamedTuple):
    """The keys in the order in which the dict has them; another order is another signature."""

    keys: tuple[Any, ...]
    items: tuple[Any, ...]


class Output(NamedTuple):
    """Output number `output` in the result; a donated argument or `out` array where that is what received it.

    `scalar`: an output of rank 0 becomes a NumPy scalar, as from NumPy's own functions.
    """

    output: int
    scalar: bool = False


class CallOf(NamedTuple):
    """What `function(*items)` returns: for results that are no plain containers."""

    function: Callable[..., Any]
    items: tuple[Any, ...]


class Record(NamedTuple):
    """One signature of one program: what the arguments look like, what to run, what to return.

    `keywords` stand in the order of the call. `entry` and `arena_bytes` are addresses of native code;
    `context` is the address of the context the program is given, unless `begin` is called before each run to
    say which (that is how long programs get their stop word). `failed` is called with a status other than 0
    and the address of what the failure tells, and returns or raises in place of the call. `keep` is all that
    must live as long as the addresses.
    """

    signature: Signature
    args: tuple[Any, ...]
    result: Any
    entry: int
    arena_bytes: int
    failed: Callable[[int, int], Any]
    keywords: tuple[tuple[str, Any], ...] = ()
    constants: tuple[int, ...] = ()
    scratch: Scratch | None = None
    context: int = 0
    begin: Callable[[], int] | None = None
    release_gil: bool = False
    memory: arena.Arena | None = None
    keep: object = None


def record_of(
    executable: Executable, args: Sequence[Any], result: Any, *, memory: arena.Arena | None = None, **fields: Any
) -> Record:
    """The record of a program that can already be called the complete way; `fields` are the rest of `Record`'s.

    Unless `scratch` is among them, the process's is used, which the executable then keeps as large as its calls need.
    """

    def failed(status: int, found: int) -> Any:
        raise failure(status, executable.failures, found)

    fields.setdefault("failed", failed)
    if "scratch" not in fields:
        executable.scratch = fields["scratch"] = scratch.shared()
        if executable.scratch_bytes:
            executable.scratch.reserve(executable.scratch_bytes)
    return Record(
        executable.signature,
        tuple(args),
        result,
        entry=executable.entry_address,
        arena_bytes=executable.arena_bytes_address,
        constants=executable.constants,
        memory=memory or arena.shared(),
        **{**fields, "keep": (executable, fields.get("keep"))},
    )


def stoppable(context: CallContext) -> Callable[[], int]:
    """A record's `begin` for programs that may run long: this context, on the main thread with a stop word that
    Ctrl-C sets, cleared for the very call. (A fixed `context` must have none: once set, it would stop every call.)
    """
    own = CallContext(context.version, 1, None, None)

    def begin() -> int:
        word = interrupt.stop_word()
        if not word:
            return ctypes.addressof(context)
        own.threads, own.pool, own.stop = context.threads, context.pool, word
        return ctypes.addressof(own)

    return begin


def same_form(one: Record, other: Record) -> bool:
    """Whether both serve the same calls, with the same program."""
    return (
        one.entry == other.entry
        and one.signature is other.signature
        and [name for name, _ in one.keywords] == [name for name, _ in other.keywords]
        and _same_trees(one.args, other.args)
        and _same_trees([tree for _, tree in one.keywords], [tree for _, tree in other.keywords])
    )


def _same_tree(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    match one:
        case Fixed(value):
            # Equal is not the same: 1 and True, 0.0 and -0.0. Strings and small ints are mostly one object.
            return value is other.value or (type(value) is str and value == other.value)
        case TupleOf(items, kind):
            return kind is other.type and _same_trees(items, other.items)
        case ListOf(items):
            return _same_trees(items, other.items)
        case DictOf(keys, items):
            return keys == other.keys and _same_trees(items, other.items)
        case _:
            return bool(one == other)


def _same_trees(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(_same_tree, some, others))


# ---- the numbers, said once --------------------------------------------------------------------------------


def numbered(prefix: str, names: str, start: int = 1, step: int = 1) -> dict[str, int]:
    return {f"{prefix}_{name}": start + step * i for i, name in enumerate(names.split())}


# Words of 8 bytes, as byte offsets.
RECORD = numbered(
    "record",
    "positional arguments names frame at_buffers at_bytes at_dims at_scratch at_outputs at_constants at_stack"
    " outputs_count outputs walk result written_count written arrays_count arrays held_count held ranges"
    " constants_count constants entry context begin arena arena_bytes arena_function releases failed owner",
    0,
    8,
)
OUTPUT = numbered("output", "source register buffer descr rank sizes bytes allocator size", 0, 8)
SOURCES = numbered("source", "fixed large shaped given", 0)
WALK = numbered("walk", "array tuple list dict shaped size whole scalar static")
EXTENTS = numbered("extent", "number names later")
SCALARS = numbered("scalar", "float float32 int bool complex numpy")
STATICS = numbered("static", "identity text int float")
SIZES = numbered("size", "constant dim add sub mul floordiv mod min max")
RESULTS = numbered("result", "output scalar static tuple list dict call")


def numbers() -> dict[str, int]:
    """All of these, for whoever makes the routine."""
    found = {
        "scratch_bytes": SCRATCH_BYTES,
        "expression_depth": EXPRESSION_DEPTH,
        "large_bytes": LARGE_BYTES,
    }
    for part in (RECORD, OUTPUT, SOURCES, WALK, EXTENTS, SCALARS, STATICS, SIZES, RESULTS):
        found |= part
    return found


# ---- words --------------------------------------------------------------------------------------------------


class Unservable(ArgumentValueError):
    """A signature that the routine does not serve: it takes the complete path, which serves them all."""


class Image(NamedTuple):
    """A record in memory, and the object that keeps it and all it points to alive."""

    address: int
    owner: tuple[Any, ...]


class Words(list["int | Words"]):
    """Words of 8 bytes; a nested list stands for its address."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # a place in memory, not contents
    __eq__ = object.__eq__


def assemble(record: Record) -> Image:
    """The record as the routine reads it; `Unservable`, by name, if it asks for something that the routine lacks."""
    return _Assembly(record).image()


class _Assembly:
    def __init__(self, record: Record) -> None:
        self.record = record
        signature = self.signature = record.signature
        self.inputs, self.outputs = len(signature.inputs), len(signature.outputs)
        self.names = [dim.name for dim in signature.dims]
        self.keep: list[Any] = [record]  # beside what the record itself keeps: what only addresses reach
        self.walk = Words()
        self.later = Words()
        self.bound: set[int] = set()
        self.filled: dict[int, int] = {}  # buffer -> register
        self.arrays: list[int] = []  # buffers that are the caller's memory
        self.held: list[int] = []
        self.slots = 0
        self.registers = len(record.args) + len(record.keywords)

    def image(self) -> Image:
        record, signature = self.record, self.signature
        trees = [*record.args, *(tree for _, tree in record.keywords)]
        for register, tree in enumerate(trees):
            self.visit(tree, register, False)
        for number in range(self.inputs):
            if number not in self.filled:
                raise Unservable(f"input {number} is in none of the arguments", code="TD0990")
        lost = [name for i, name in enumerate(self.names) if i not in self.bound]
        if lost:
            raise Unservable(f"no extent is just {', '.join(lost)}", code="TD0991")
        outputs, written, allocates = self.output_table()
        result, depth = self.result()
        foreign_code = record.release_gil or record.begin is not None or allocates
        held = Words(self.held if foreign_code else ())
        names = tuple(sys.intern(name) for name, _ in record.keywords)
        self.keep.append(names)
        ranges = Words()
        for dim in signature.dims:
            ranges += [dim.low, 2**62 if dim.high is None else dim.high, max(dim.multiple_of, 1)]
        arena_bytes, arena_function = self.arena()
        values: dict[str, int | Words] = {
            "positional": len(record.args),
            "arguments": len(trees),
            "names": id(names) if names else 0,
            **self.frame(depth),
            "outputs_count": self.outputs,
            "outputs": outputs,
            "walk": Words([*self.walk, *self.later, 0, 0]),
            "result": result,
            "written_count": len(written),
            "written": Words(written),
            "arrays_count": len(self.arrays),
            "arrays": Words(self.arrays),
            "held_count": len(held),
            "held": held,
            "ranges": ranges,
            "constants_count": len(record.constants),
            "constants": Words(record.constants),
            "entry": record.entry,
            "context": record.context,
            "begin": 0 if record.begin is None else id(record.begin),
            "arena": record.scratch.address if record.scratch and (arena_bytes or arena_function) else 0,
            "arena_bytes": arena_bytes,
            "arena_function": arena_function,
            "releases": int(record.release_gil),
            "failed": id(record.failed),
        }
        return self.place(values)

    def frame(self, depth: int) -> dict[str, int]:
        """Where the parts of a call's memory begin: the registers first, then these."""
        buffers = self.inputs + self.outputs + len(self.record.constants)
        starts = {}
        at = self.registers
        at += at % 2  # 16 bytes, for complex numbers
        parts = {
            "scratch": self.slots * SCRATCH_BYTES // 8,
            "buffers": max(buffers, FOUND_WORDS),
            "bytes": buffers,
            "dims": len(self.names),
            "outputs": self.outputs,
            "stack": depth,
        }
        for name, words in parts.items():
            starts[f"at_{name}"] = 8 * at
            at += words
        if 8 * at > MOST_FRAME_BYTES:
            raise Unservable(f"{self.registers} arguments and {buffers} buffers in all", code="TD0992")
        starts["at_constants"] = starts["at_buffers"] + 8 * (self.inputs + self.outputs)
        return {"frame": 8 * at, **starts}

    def place(self, values: dict[str, int | Words]) -> Image:
        """One block of memory: the head, then every list it reaches."""
        head = Words(values[name.removeprefix("record_")] for name in RECORD if name != "record_owner")
        head.append(0)
        starts: dict[Words, int] = {}
        order: list[Words] = [head]
        size = 0
        for words in order:  # grows while it is walked
            if words in starts:
                continue
            starts[words] = size
            size += len(words)
            order += [word for word in words if isinstance(word, Words)]
        block = (ctypes.c_int64 * max(size, 1))()
        base = ctypes.addressof(block)
        for words, start in starts.items():
            for i, word in enumerate(words):
                value = base + 8 * starts[word] if isinstance(word, Words) else word
                block[start + i] = value - 2**64 if value >= 2**63 else value
        owner = (block, *self.keep)
        block[RECORD["record_owner"] // 8] = id(owner)
        return Image(base, owner)

    # -- arguments --

    def visit(self, tree: Any, register: int, contained: bool) -> None:
        match tree:
            case Leaf(number):
                self.array(number, self.signature.inputs[number], register, contained)
            case Out(number):
                self.array(self.inputs + number, self.signature.outputs[number], register, contained)
            case Number(number, kind):
                self.number(number, kind, register)
            case Fixed(value):
                self.fixed(value, register)
            case TupleOf(items, kind):
                if not issubclass(kind, tuple):
                    raise Unservable(f"{kind.__name__} is no tuple", code="TD0993")
                self.emit("tuple", register, id(kind), len(items), self.registers)
                self.children(items)
            case ListOf(items):
                self.emit("list", register, len(items), self.registers)
                self.children(items)
            case DictOf(keys, items):
                keys = tuple(sys.intern(key) if type(key) is str else key for key in keys)
                self.keep.append(keys)
                self.emit("dict", register, len(keys), self.registers, *[id(key) for key in keys])
                self.children(items)
            case _:
                raise Unservable(f"an argument that is {type(tree).__name__}", code="TD0993")

    def children(self, items: Sequence[Any]) -> None:
        first = self.registers
        self.registers += len(items)
        for i, item in enumerate(items):
            self.visit(item, first + i, True)

    def emit(self, code: str, register: int, *operands: int | Words) -> None:
        self.walk += [WALK[f"walk_{code}"], 3 + len(operands), register, *operands]

    def fill(self, buffer: int, register: int) -> None:
        if buffer in self.filled:
            raise Unservable(f"buffer {buffer} is filled by two arguments", code="TD0990")
        self.filled[buffer] = register

    def array(self, buffer: int, tensor: Tensor, register: int, contained: bool) -> None:
        is_input = buffer < self.inputs
        self.fill(buffer, register)
        self.arrays.append(buffer)
        if contained:
            self.held.append(register)
        descr = self.dtype(tensor.dtype)
        donated = any(number == buffer for number, _ in self.signature.donated)
        flags = READABLE if is_input and not donated else WRITABLE
        rank, itemsize = len(tensor.shape), tensor.dtype.itemsize
        if all(isinstance(size, int) for size in tensor.shape):
            sizes = [int(size) for size in tensor.shape]
            nbytes = math.prod(sizes) * itemsize
            self.emit("array", register, buffer, descr, flags, rank, nbytes, *sizes)
            return
        extents = Words()
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, int):
                extents += [EXTENTS["extent_number"], size]
            elif is_input and size in self.names and (dim := self.names.index(size)) not in self.bound:
                self.bound.add(dim)
                extents += [EXTENTS["extent_names"], dim]
            else:
                extents += [EXTENTS["extent_later"], 0]
                self.later += [WALK["walk_size"], 5, register, axis, self.formula(size)]
        self.emit("shaped", register, buffer, descr, flags, rank, itemsize, *extents)

    def dtype(self, dtype: np.dtype[Any]) -> int:
        if not dtype.isnative or dtype.hasobject or dtype.fields is not None or dtype.itemsize == 0:
            raise Unservable(f"arrays of {dtype}", code="TD0994")
        return id(dtype)

    def number(self, number: int, kind: type[Any], register: int) -> None:
        tensor = self.signature.inputs[number]
        dtype = tensor.dtype
        self.dtype(dtype)
        low = high = 0
        if kind is int and dtype.kind in "iu":
            code = "int"
            low, high = int(np.iinfo(dtype).min), min(int(np.iinfo(dtype).max), 2**63 - 1)
        elif kind is float and dtype == np.float64:
            code = "float"
        elif kind is float and dtype == np.float32:
            code = "float32"
        elif kind is bool and dtype == np.bool_:
            code = "bool"
        elif kind is complex and dtype == np.complex128:
            code = "complex"
        elif kind is dtype.type and issubclass(kind, np.generic) and dtype.num < 24 and dtype.itemsize <= 16:
            code = "numpy"
        else:
            raise Unservable(f"a {kind.__name__} for {tensor.path}, which is {dtype}", code="TD0994")
        if tensor.shape:
            raise Unservable(f"a number for {tensor.path}, which has axes", code="TD0994")
        self.fill(number, register)
        self.emit("scalar", register, number, self.slots, SCALARS[f"scalar_{code}"], id(kind), low, high)
        self.slots += 1

    def fixed(self, value: Any, register: int) -> None:
        if type(value) is str:
            self.emit("static", register, STATICS["static_text"], id(value))
        elif type(value) is int and -(2**63) <= value < 2**63:
            self.emit("static", register, STATICS["static_int"], value)
        elif type(value) is float:
            bits = ctypes.c_int64.from_buffer(ctypes.c_double(value)).value
            self.emit("static", register, STATICS["static_float"], bits)
        else:
            self.emit("static", register, STATICS["static_identity"], id(value))

    # -- sizes --

    def formula(self, size: int | str) -> Words:
        """The size in postfix, ended by 0."""
        code = Words()
        tree = ast.Constant(size) if isinstance(size, int) else parse_formula(size)
        if self.postfix(tree, code) > EXPRESSION_DEPTH:
            raise Unservable(f"the size {size} nests too deep", code="TD0991")
        return Words([*code, 0, 0])

    def postfix(self, tree: ast.expr, code: Words) -> int:
        """Append it; how many values it has on the stack at most."""
        match tree:
            case ast.Constant(value=int(value)):
                code += [SIZES["size_constant"], value]
                return 1
            case ast.Name(id=name) if name in self.names:
                code += [SIZES["size_dim"], self.names.index(name)]
                return 1
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.operation("sub", [ast.Constant(0), operand], code)
            case ast.BinOp(left=left, op=operator, right=right):
                names = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod"}
                return self.operation(names[type(operator)], [left, right], code)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
                return self.operation(name, args, code)
            case _:
                raise Unservable(f"the size {ast.unparse(tree)}", code="TD0991")

    def operation(self, name: str, operands: Sequence[ast.expr], code: Words) -> int:
        depth = self.postfix(operands[0], code)
        for operand in operands[1:]:
            depth = max(depth, 1 + self.postfix(operand, code))
            code += [SIZES[f"size_{name}"], 0]
        return depth

    # -- outputs and the result --

    def output_table(self) -> tuple[Words, list[int], bool]:
        """The rows, the buffers that are written and not ours, and whether Python code allocates."""
        table, written, allocates = Words(), [], False
        donated = {result: argument for argument, result in self.signature.donated}
        for number, tensor in enumerate(self.signature.outputs):
            buffer = self.inputs + number
            descr, rank = self.dtype(tensor.dtype), len(tensor.shape)
            source, register, nbytes, allocator = "fixed", 0, tensor.dtype.itemsize, 0
            sizes: int | Words = Words()
            if number in donated and buffer in self.filled:
                raise Unservable(f"{tensor.path} has an out array and a donated one", code="TD0995")
            if number in donated or buffer in self.filled:
                source = "given"
                own = donated.get(number, buffer)
                written.append(own)
                register = self.filled[own]
                if own not in self.arrays:
                    raise Unservable(f"{tensor.path} is to take the memory of a number", code="TD0995")
            else:
                memory = self.record.memory
                if memory is not None:
                    array, dtype = memory.array, tensor.dtype

                    def allocate(
                        shape: tuple[int, ...], array: Callable[..., Any] = array, dtype: np.dtype[Any] = dtype
                    ) -> Any:
                        return array(shape, dtype)

                    self.keep.append(allocate)
                    allocator = id(allocate)
                if not all(isinstance(size, int) for size in tensor.shape):
                    source = "shaped"
                    sizes = Words(self.formula(size) for size in tensor.shape)
                    for code in sizes:
                        # Some dims may make it negative: the complete path says which.
                        self.later += [WALK["walk_whole"], 3, code]
                    allocates |= allocator != 0
                else:
                    shape = tuple(int(size) for size in tensor.shape)
                    nbytes *= math.prod(shape)
                    sizes = Words(shape)
                    if allocator and nbytes >= LARGE_BYTES:
                        source, allocates = "large", True
                        self.keep.append(shape)
                        sizes = id(shape)
            table += [SOURCES[f"source_{source}"], register, buffer, descr, rank, sizes, nbytes, allocator]
        return table, written, allocates

    def result(self) -> tuple[Words, int]:
        code = Words()
        used: set[int] = set()
        depth = self.build(self.record.result, code, used)
        return Words([*code, 0, 0]), depth

    def build(self, tree: Any, code: Words, used: set[int]) -> int:
        """Append it; how many values it has on the stack at most."""
        match tree:
            case Output(number, scalar):
                if number in used:
                    raise Unservable(f"output {number} stands in the result twice", code="TD0996")
                used.add(number)
                plain = not scalar or self.signature.outputs[number].shape != ()
                code += [RESULTS["result_output" if plain else "result_scalar"], 3, number]
                return 1
            case Fixed(value):
                code += [RESULTS["result_static"], 3, id(value)]
                return 1
            case TupleOf(items, kind) if kind is tuple:
                return self.group("tuple", items, [], code, used)
            case ListOf(items):
                return self.group("list", items, [], code, used)
            case DictOf(keys, items):
                return self.group("dict", items, [id(key) for key in keys], code, used)
            case CallOf(function, items):
                return self.group("call", items, [id(function)], code, used)
            case _:
                raise Unservable(f"a result that is {type(tree).__name__}", code="TD0993")

    def group(self, name: str, items: Sequence[Any], more: list[int], code: Words, used: set[int]) -> int:
        depth = 1
        for i, item in enumerate(items):
            depth = max(depth, i + self.build(item, code, used))
        code += [RESULTS[f"result_{name}"], 3 + len(more), len(items), *more]
        return depth

    # -- scratch --

    def arena(self) -> tuple[int, int]:
        """How many bytes a call needs: a number, or the address of the function that says."""
        record = self.record
        function = record.arena_bytes
        if not self.names:
            sizes = (ctypes.c_int64 * 1)()
            need = ArenaBytes(function)(ctypes.addressof(sizes)) if function else 0
            if need and record.scratch is None:
                raise Unservable(f"{need} bytes of scratch, and none given", code="TD0997")
            if need and record.scratch is not None:
                record.scratch.reserve(need)
            return need, 0
        if record.scratch is None and function:
            raise Unservable("scratch whose size depends on the dims, and none given", code="TD0997")
        if record.scratch is not None:
            record.scratch.reserve(0)
        return 0, function
