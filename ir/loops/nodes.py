"""The grammar of loops: how one kernel computes, on one screen.

A kernel is loop nests over buffers. Scalars are typed expressions; positions are `Dim`s over loop variables, let-bound
integers and symbolic sizes. A `vector` loop is a loop like any other, whose iterations are independent of each other
and run in the lanes of one register; nothing in the language has a vector type, so the evaluator needs no second
meaning. Functions over the grammar are `match` statements that end in `assert_never`.

Meaning, once for all targets: integers wrap; there is no reassociation and no contraction, `Fma` is written where it is
meant; comparisons with NaN are false except `ne`; reads of `arg` buffers see what earlier statements wrote.
"""

from __future__ import annotations

from typing import Final, Literal

from ..classes import dataclass
from ..dims import Dim
from ..dtypes import DType, bool_, complex_of, i64, real_of

LoopKind = Literal["serial", "prefetched", "unrolled", "vector", "parallel"]
Memory = Literal["stack", "registers"]
Role = Literal["in", "out", "inout"]

# Primitive scalar functions: each has one meaning on every target (see `scalars`) and exact emission rules. Everything
# else that is smooth (`exp`, `tanh`, ...) is in MATH and is opened into primitives before emission, see
# codegen/kernels/transcendental. `check.ACCEPTS` lists the types that each takes.
UNARY = (
    "neg", "abs", "not", "floor", "ceil", "trunc", "rint", "sqrt", "isnan", "isinf", "isfinite", "signbit",
    "popcount", "real", "imag", "conj",
)  # fmt: skip
MATH = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "rsqrt", "cbrt", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "normal_cdf",
    "times_normal_cdf", "lgamma", "digamma", "logistic", "softplus",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "floordiv", "mod", "truncdiv", "rem", "min", "max", "fmin", "fmax", "and", "or", "xor",
    "shl", "shr", "eq", "ne", "lt", "le", "gt", "ge", "copysign", "nextafter", "complex", "exponent_shift",
)  # fmt: skip
MATH_BINARY = ("pow", "atan2", "hypot", "logaddexp", "logaddexp2", "threefry")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_TO_BOOL = frozenset((*COMPARISONS, "isnan", "isinf", "isfinite", "signbit"))


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A literal of `dtype`. `value` is a Python bool, int, float or complex; NaN payloads are not kept.

    Two constants are equal when they are the same number: 0.0 is not -0.0, and nan is nan.
    """

    value: bool | int | float | complex
    dtype: DType

    def __eq__(self, other: object) -> bool:
        if type(other) is not Const:
            return NotImplemented
        a, b = self.value, other.value
        alike = a is b or ((a == b or (a != a and b != b)) and str(complex(a)) == str(complex(b)))
        return alike and self.dtype is other.dtype

    def __hash__(self) -> int:
        return hash((self.value if self.value == self.value else "nan", self.dtype))


@dataclass(frozen=True, slots=True)
class Var:
    """A name bound by `Let` or by the body of a structure."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Index:
    """A position or size as an i64 scalar."""

    dim: Dim
    dtype: DType = i64


@dataclass(frozen=True, slots=True)
class Load:
    """The element of `buffer` at `index`. Every index must be inside the buffer's shape.

    An unsigned `dtype` that is 2, 4 or 8 times as wide as the buffer's elements reads so many neighbours along the last
    axis at once, the one at `index` in the low bits: the words that dot products of short elements take.
    """

    buffer: str
    index: tuple[Dim, ...]
    dtype: DType


def neighbours(dtype: DType, held: DType) -> int:
    """How many elements of a buffer of `held` a load of `dtype` reads at once; 0 where it cannot."""
    if dtype is held:
        return 1
    count = dtype.bits // held.bits
    plain = dtype.kind == "uint" and held.kind not in ("bool", "complex")
    return count if plain and count in (2, 4, 8) and count * held.bits == dtype.bits else 0


@dataclass(frozen=True, slots=True)
class Unary:
    """A function from UNARY or MATH."""

    op: str
    x: Expr

    @property
    def dtype(self) -> DType:
        if self.op in _TO_BOOL:
            return bool_
        if self.op in ("real", "imag") or (self.op == "abs" and self.x.dtype.kind == "complex"):
            return real_of(self.x.dtype)
        return self.x.dtype


@dataclass(frozen=True, slots=True)
class Binary:
    """A function from BINARY or MATH_BINARY on two scalars of one dtype. `exponent_shift` is x * 2**y, y of x's dtype
    and integral; `complex` builds a complex scalar from its parts; shifts by the width or more give 0 (or the sign);
    `threefry` of u64s is the random word at counter y under key x, first words high."""

    op: str
    x: Expr
    y: Expr

    @property
    def dtype(self) -> DType:
        if self.op in _TO_BOOL:
            return bool_
        if self.op == "complex":
            return complex_of(self.x.dtype)
        return self.x.dtype


@dataclass(frozen=True, slots=True)
class Fma:
    """x * y + z with one rounding."""

    x: Expr
    y: Expr
    z: Expr

    @property
    def dtype(self) -> DType:
        return self.x.dtype


@dataclass(frozen=True, slots=True)
class Cast:
    """Conversion to `dtype` with NumPy's result for every input; with `bits`, the same bits seen as another type."""

    x: Expr
    dtype: DType
    bits: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """`x` where `condition`, else `y`; both are evaluated."""

    condition: Expr
    x: Expr
    y: Expr

    @property
    def dtype(self) -> DType:
        return self.x.dtype


@dataclass(frozen=True, slots=True)
class Call:
    """An instruction of the target by name (see codegen/isa): its own loop body is its meaning."""

    instruction: str
    args: tuple[Expr, ...]
    dtype: DType


Expr = Const | Var | Index | Load | Unary | Binary | Fma | Cast | Select | Call


@dataclass(frozen=True, slots=True)
class Let:
    """Bind a scalar for the rest of the enclosing block. An integer so bound may appear in positions by its name."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """Write `value` to `buffer` at `index`. `stream` asks for it to pass the caches by; the meaning is the same."""

    buffer: str
    index: tuple[Dim, ...]
    value: Expr
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Alloc:
    """A local buffer for the rest of the enclosing block; its content is undefined until written. `registers` buffers
    have constant shape and are only indexed by constants, unrolled variables and vector variables."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    memory: Memory


@dataclass(frozen=True, slots=True)
class For:
    """`for var in range(start, stop, step)` with step >= 1 and start >= 0 (the normal form of positions takes every
    name for an integer >= 0). `lanes` (vector loops) is the register width in elements that the trip count must not
    exceed; a trip count below it is a masked tail. `parallel` iterations may run on any thread. A `prefetched` loop is
    serial, and asks memory for what it will read in order some way ahead.
    """

    var: str
    start: Dim
    stop: Dim
    step: int
    kind: LoopKind
    body: tuple[Stmt, ...]
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class While:
    """Repeat: run `body`, then evaluate `condition`, which sees what the body binds; stop when it is false.
    (A loop that may run zero times is inside an If.)
    """

    body: tuple[Stmt, ...]
    condition: Expr


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    then: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


# How many numbers a failure may tell.
MOST_FOUND: Final = 3


@dataclass(frozen=True, slots=True)
class Fail:
    """When `when`, the call's status becomes the smallest failing (site, position); execution goes on. `found` are
    i64 numbers that a message needs, such as the index; they are evaluated only then."""

    when: Expr
    site: int
    found: tuple[Expr, ...] = ()


Stmt = Let | Store | Alloc | For | While | If | Fail


@dataclass(frozen=True, slots=True)
class Param:
    """A buffer the kernel is called with: row-major, of this shape."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    role: Role


@dataclass(frozen=True, slots=True)
class Table:
    """Read-only numbers that belong to the kernel's code, such as the coefficients of a segmented polynomial."""

    name: str
    dtype: DType
    values: tuple[float | int, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One native function over `params` and the symbolic sizes `dims`."""

    name: str
    params: tuple[Param, ...]
    dims: tuple[str, ...]
    body: tuple[Stmt, ...]
    tables: tuple[Table, ...] = ()
