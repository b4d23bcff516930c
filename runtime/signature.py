"""What a compiled program takes and gives, as plain data, and how symbolic sizes follow from the arguments.

A size is an int or a formula in Python's syntax over the names of the dims (`2*B + 1`, `(W + 3) // 2`,
`min(T, 8)`), as the texts of the compiler print them; a formula is parsed here against a closed grammar and
compiled once. Dims are solved in a fixed order, each from an extent that is affine in it once the earlier
ones are known, and then every formula is evaluated and compared, so two arguments that disagree are both
named. The same data, as JSON, stands in the manifest of a saved model.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import ArgumentValueError, BadArtifact, Place, RuntimeFault

Size = int | str

# The element types by their names in texts, and what NumPy calls them. The last six exist only where
# ml_dtypes has been imported.
DTYPES = {
    "bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    "bf16": "bfloat16", "f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2fnuz": "float8_e5m2fnuz", "f8e4m3b11fnuz": "float8_e4m3b11fnuz",
}  # fmt: skip
NAMES = {numpy_name: name for name, numpy_name in DTYPES.items()}


class Tensor(NamedTuple):
    """One input or output: where it stands in the user's arguments or results, and what it is."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[Size, ...]


class Dim(NamedTuple):
    """A symbolic size and what was promised of it."""

    name: str
    low: int = 0
    high: int | None = None
    multiple_of: int = 1


class Failure(NamedTuple):
    """What a failure site of native code means: the builtin to raise, our code, the message, what to change, the
    user's line, and whether the entry leaves the index, its axis and the size of that."""

    kind: str
    code: str
    message: str
    edit: str | None = None
    place: Place | None = None
    tells: bool = False

    def __str__(self) -> str:
        """All of it, as NAME_error has it."""
        return str(RuntimeFault(self.message, code=self.code, edit=self.edit, place=self.place))

    def to_manifest(self) -> dict[str, Any]:
        """As JSON."""
        return {**self._asdict(), "place": None if self.place is None else list(self.place)}

    @staticmethod
    def from_manifest(row: Mapping[str, Any]) -> Failure:
        """Read back what `to_manifest` wrote."""
        place = row.get("place")
        return Failure(
            row["kind"],
            row["code"],
            row["message"],
            row.get("edit"),
            Place(*place) if place else None,
            bool(row.get("tells")),
        )


class Step(NamedTuple):
    """Dim number `dim` follows from an extent that is affine in it."""

    dim: int
    input: int
    axis: int
    formula: Callable[[Sequence[int]], int]


class Signature:
    """Inputs, outputs, dims in the program's order, and which output takes over which input's buffer.

    `donated` are pairs (input, output). With `lenient` an argument whose memory cannot be taken over is
    copied instead of refused.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        dims: Sequence[Dim] = (),
        donated: Sequence[tuple[int, int]] = (),
        lenient: bool = False,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.dims = tuple(dims)
        self.donated = tuple(donated)
        self.lenient = lenient
        names = [dim.name for dim in self.dims]
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name in ("min", "max"):
                raise BadArtifact(f"not the name of a dim: {name!r}", code="TD0961")
        # (input or output number, axis, text, formula) of every extent that is not a plain number
        self._checks = [
            (number, axis, size, compile_formula(size, names))
            for number, tensor in enumerate(self.inputs)
            for axis, size in enumerate(tensor.shape)
            if isinstance(size, str)
        ]
        self._steps = self._plan(names)
        self._output_shapes = [
            tuple(compile_formula(size, names) if isinstance(size, str) else size for size in output.shape)
            for output in self.outputs
        ]

    def _plan(self, names: list[str]) -> list[Step]:
        steps: list[Step] = []
        solved: set[str] = set()
        # Extents that are just a name come first: they need no arithmetic, and an error about them is plain.
        candidates = sorted(self._checks, key=lambda check: check[2] not in names)
        progress = True
        while progress:
            progress = False
            for number, axis, text, formula in candidates:
                tree = parse_formula(text)
                unknown = [name for name in names if name not in solved and mentions(tree, name)]
                if len(unknown) == 1 and degree(tree, unknown[0]) == 1:
                    steps.append(Step(names.index(unknown[0]), number, axis, formula))
                    solved.add(unknown[0])
                    progress = True
        lost = [name for name in names if name not in solved]
        if lost:
            raise ArgumentValueError(
                f"no argument says how large {', '.join(lost)} is: each size must be an extent of its own, "
                "or a multiple of one plus a number, in some argument",
                code="TD0940",
            )
        return steps

    def solve(self, shapes: Sequence[tuple[int, ...]]) -> list[int]:
        """The dims that make the inputs' shapes what they are. Ranks have been checked."""
        dims = [0] * len(self.dims)
        for dim, number, axis, formula in self._steps:
            extent = shapes[number][axis]
            dims[dim] = 0
            text = str(self.inputs[number].shape[axis])
            offset = self._evaluate(formula, dims, text)
            dims[dim] = 1
            factor = self._evaluate(formula, dims, text) - offset
            dims[dim] = (extent - offset) // factor if factor else 0
            if not factor or (extent - offset) % factor:
                raise ArgumentValueError(
                    f"{self.place(number, axis)} has {extent}: {text} for no whole {self.dims[dim].name}",
                    code="TD0944",
                    edit=f"an array whose extent is {text} there",
                )
        for step in self._steps:
            name, low, high, multiple_of = self.dims[step.dim]
            value = dims[step.dim]
            promise = ""
            if value < low or (high is not None and value > high):
                promise = f"at least {low}" if high is None else f"in [{low}, {high}]"
            elif value % multiple_of:
                promise = f"a multiple of {multiple_of}"
            if promise:
                place = self.place(step.input, step.axis)
                message = f"{place} makes {name} = {value}, which was promised to be {promise}"
                edit = f"an array that keeps the promise, or compile for another: td.jit(dims={{{name!r}: ...}})"
                raise ArgumentValueError(message, code="TD0945", edit=edit)
        for number, axis, text, formula in self._checks:
            expected = self._evaluate(formula, dims, text)
            if shapes[number][axis] != expected:
                raise self._disagreement(number, axis, text, expected, shapes, dims)
        return dims

    def output_shapes(self, dims: Sequence[int]) -> list[tuple[int, ...]]:
        """The outputs' shapes for these dims."""
        return [tuple(size if isinstance(size, int) else size(dims) for size in shape) for shape in self._output_shapes]

    def place(self, number: int, axis: int) -> str:
        """How an extent of an input is called in messages."""
        return f"{self.inputs[number].path} (axis {axis})"

    def _evaluate(self, formula: Callable[[Sequence[int]], int], dims: Sequence[int], text: str) -> int:
        try:
            return formula(dims)
        except ZeroDivisionError:
            values = ", ".join(f"{dim.name} = {value}" for dim, value in zip(self.dims, dims, strict=True))
            raise ArgumentValueError(
                f"the size {text} divides by zero for {values}",
                code="TD0944",
                edit="promise that it does not: td.jit(dims={'n': (1, None)}) keeps n above 0",
            ) from None

    def _disagreement(
        self,
        number: int,
        axis: int,
        text: str,
        expected: int,
        shapes: Sequence[tuple[int, ...]],
        dims: Sequence[int],
    ) -> ArgumentValueError:
        tree = parse_formula(text)
        sources = [
            f"{self.dims[step.dim].name} = {dims[step.dim]} by {self.place(step.input, step.axis)}"
            for step in self._steps
            if mentions(tree, self.dims[step.dim].name) and (step.input, step.axis) != (number, axis)
        ]
        found = shapes[number][axis]
        wanted = f"{text} = {expected}" if sources else str(expected)
        return ArgumentValueError(
            f"{self.place(number, axis)} has {found}, expected {wanted}" + "".join(f"; {s}" for s in sources),
            code="TD0944",
            edit="arrays whose sizes of one name are equal, or compile with another name for each",
        )

    def to_manifest(self) -> dict[str, Any]:
        """As JSON: the part of a manifest that says how to call the program."""
        return {
            "inputs": [_row(tensor) for tensor in self.inputs],
            "outputs": [_row(tensor) for tensor in self.outputs],
            "dims": [dim._asdict() for dim in self.dims],
            "donated": [list(pair) for pair in self.donated],
            "lenient": self.lenient,
        }

    @staticmethod
    def from_manifest(manifest: Mapping[str, Any]) -> Signature:
        """Read back what `to_manifest` wrote."""
        return Signature(
            [_tensor(row) for row in manifest["inputs"]],
            [_tensor(row) for row in manifest["outputs"]],
            [Dim(**row) for row in manifest["dims"]],
            [(pair[0], pair[1]) for pair in manifest.get("donated", ())],
            manifest.get("lenient", False),
        )


def _row(tensor: Tensor) -> dict[str, Any]:
    return {"path": tensor.path, "dtype": name_of(tensor.dtype), "shape": list(tensor.shape)}


def _tensor(row: Mapping[str, Any]) -> Tensor:
    return Tensor(row["path"], dtype_of(row["dtype"]), tuple(row["shape"]))


def name_of(dtype: np.dtype[Any]) -> str:
    """The name of an element type in texts."""
    return NAMES[dtype.name]


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name."""
    if name not in DTYPES:
        raise BadArtifact(f"no element type is called {name!r}", code="TD0960")
    try:
        return np.dtype(DTYPES[name])
    except TypeError:
        raise BadArtifact(
            f"NumPy alone does not know the element type {name}", code="TD0960", edit="import ml_dtypes first"
        ) from None


def describe(dtype: np.dtype[Any], shape: Sequence[Size]) -> str:
    """`float32[B,784]`, as messages show arrays."""
    return f"{dtype.name if dtype.isnative else dtype.str}[{','.join(map(str, shape))}]"


def parse_formula(text: str) -> ast.expr:
    """The formula's tree, refused unless it is made of numbers, names, + - * // %, min and max."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise BadArtifact(f"not the formula of a size: {text!r}", code="TD0961") from None
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=int()) | ast.Name() | ast.Load() | ast.operator() | ast.unaryop():
                continue
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod()):
                continue
            case ast.UnaryOp(op=ast.USub()):
                continue
            case ast.Call(func=ast.Name(id="min" | "max"), args=[_, *_], keywords=[]):
                continue
            case _:
                raise BadArtifact(f"not the formula of a size: {text!r}", code="TD0961")
    return tree


def compile_formula(text: str, names: Sequence[str]) -> Callable[[Sequence[int]], int]:
    """A function from the dims' values, in the order of `names`, to the value of the formula."""
    tree = parse_formula(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in names:
            raise BadArtifact(f"the size {text!r} uses {node.id!r}, which is not declared", code="TD0961")
    # The grammar is closed, so evaluating the very text is safe, and one list of dims is the only thing it
    # sees.
    unpack = f"lambda dims: (lambda {', '.join(names)}: ({text}))(*dims)"
    function: Callable[[Sequence[int]], int] = eval(unpack, {"__builtins__": {}, "min": min, "max": max})
    return function


def mentions(tree: ast.expr, name: str) -> bool:
    """Whether the formula depends on that name."""
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def degree(tree: ast.expr, name: str) -> float:
    """The degree of the formula in that name; infinite where it is no polynomial in it."""
    match tree:
        case ast.Name(id=found):
            return 1 if found == name else 0
        case ast.UnaryOp(operand=operand):
            return degree(operand, name)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return max(degree(left, name), degree(right, name))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return degree(left, name) + degree(right, name)
        case _:
            return math.inf if mentions(tree, name) else 0
