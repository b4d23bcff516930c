"""The traces that are running: what they share, where operations come from, how a trace becomes a closed graph.

Traces nest: a transform traces an inner function while the outer one still runs. All traces of one outermost call share
one count of operations, so a value made before the inner trace began is known by its number; what the inner function
uses of these becomes a parameter of its graph, and is handed back as the list of outer values.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, Literal

import numpy as np

from ..ir import location as ir_location
from ..ir.classes import dataclass
from ..ir.dims import NOTHING, DimName
from ..ir.errors import TreadleError, TypeMismatch
from ..ir.graph import Graph, topological
from ..ir.location import Location, Origin
from ..ir.types import TensorType
from ..ir.value import Array, Constant, DimSize, Full, Get, Parameter, Value
from ..passes.remat import Told
from .userline import is_internal, location_of, raised_by_user, user_frame, user_location

Weak = Literal["int", "float", "complex"]
_FREE = (Full, Constant, DimSize)  # what belongs to no trace


@dataclass(frozen=True)
class LeafSpec:
    """One dynamic argument: an array, or a Python number (its kind is then weak in promotion), and its path for
    messages."""

    kind: str
    type: TensorType
    path: str

    @property
    def weak(self) -> Weak | None:
        return self.kind if self.kind in ("int", "float", "complex") else None  # type: ignore[return-value]


@dataclass(frozen=True)
class Captured:
    """An array reached by closure: its content became `constant`. `array` is the user's object while it lives."""

    constant: Constant
    label: str
    location: Location | None
    array: weakref.ReferenceType[Array]

    @property
    def bytes(self) -> int:
        return int(self.constant.data.nbytes)

    def changed(self) -> bool:
        """Whether the user's array no longer holds what was captured."""
        array = self.array()
        return array is not None and not _same_bytes(array, self.constant.data)

    def __str__(self) -> str:
        where = f"  at {self.location}" if self.location is not None else ""
        return f"{self.label}: {self.constant.tensor}, {self.bytes} bytes{where}"


def _same_bytes(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    plain = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    return bool(np.array_equal(plain, b.reshape(-1).view(np.uint8)))


class Session:
    """What an outermost trace shares with those inside it."""

    __slots__ = ("captured", "choices", "constants", "dims", "keys", "refused", "repeated", "sequence")

    def __init__(self) -> None:
        self.refused: TreadleError | None = None
        self.sequence = 0
        self.dims: dict[str, DimName] = {}
        self.constants: dict[int, tuple[Array, Constant]] = {}
        self.captured: list[Captured] = []
        # What was chosen to be kept for derivatives of checkpoints.
        self.choices: list[Told] = []
        # Keys of random numbers that were used: how each is computed, to where, and the key, which must live on.
        self.keys: dict[tuple[Any, ...], tuple[Trace, Location | None, Value]] = {}
        # Uses in every step of a loop that were told of: the draw's line and the loop's.
        self.repeated: set[tuple[Location | None, Location | None]] = set()

    def behind(self, error: Exception) -> TreadleError | None:
        """The refusal that NumPy met and told in words of its own: the last one, where `error` left the same line."""
        refused = self.refused
        if refused is None or refused.location is None or isinstance(error, TreadleError) or raised_by_user(error):
            return None
        trace, line = error.__traceback__, None
        while trace is not None:
            if not is_internal(trace.tb_frame.f_code.co_filename):
                line = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        return refused if line == (refused.location.file, refused.location.line) else None


class Trace:
    """One function being traced. `busy` while an operation is being built: what it builds is the user's one
    operation."""

    __slots__ = ("busy", "live", "name", "params", "parent", "session", "start", "token")

    def __init__(self, name: str) -> None:
        self.name = name
        self.parent: Trace | None = current()
        self.session: Session = Session() if self.parent is None else self.parent.session
        self.start = self.session.sequence
        self.params: tuple[Parameter, ...] = ()
        self.live = False
        self.busy = False
        self.token: Token[Trace | None] | None = None

    def __enter__(self) -> Trace:
        self.token = _current.set(self)
        self.live = True
        return self

    def __exit__(self, *error: object) -> None:
        self.live = False
        assert self.token is not None
        _current.reset(self.token)

    def constant(self, array: Array, label: str = "") -> Constant:
        """The constant that holds the content of a concrete array: one per array, as long as its content stays the
        same. `label` is the path of a bound argument; what is reached by closure is called by its variable."""
        session = self.session
        known = session.constants.get(id(array))
        if known is not None and _same_bytes(array, known[1].data):
            return known[1]
        made = Constant(array.copy() if type(array) is np.ndarray else np.array(array))
        session.constants[id(array)] = (array, made)
        where = None
        frame = None if label else user_frame()
        if frame is not None:
            where, label = location_of(frame), _name_of(array, frame)
        label = label or "array"
        session.captured.append(Captured(made, label, where, weakref.ref(array)))
        return made


def _name_of(array: Array, frame: Any) -> str:
    """The variable of the user's frame that holds the array."""
    for scope in (frame.f_locals, frame.f_globals):
        for name, value in scope.items():
            if value is array:
                return str(name)
    return "array"


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)
current = _current.get


class operation:
    """One operation of the user's: what is built inside carries their line and one number. Nested ones are part of
    it."""

    __slots__ = ("token", "trace")

    trace: Trace | None

    def __enter__(self) -> None:
        trace = _current.get()
        if trace is None or trace.busy:
            self.trace = None
            return
        self.trace = trace
        trace.busy = True
        session = trace.session
        session.sequence += 1
        self.token = ir_location._current.set(Origin(user_location(), session.sequence))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.trace is not None:
            if isinstance(error, TreadleError) and error.location is None:
                error.location = ir_location.current_origin().location
            self.trace.busy = False
            ir_location._current.reset(self.token)


def promises() -> Mapping[str, DimName]:
    """What is promised of the symbolic sizes of the running trace."""
    trace = _current.get()
    return NOTHING if trace is None else trace.session.dims


def here() -> Location | None:
    """The user's line, for an error: that of the operation being built, else looked up."""
    return ir_location.current_origin().location or user_location()


def closed(
    name: str,
    params: Sequence[Parameter],
    results: Sequence[Value],
    trace: Trace,
    dims: tuple[DimName, ...] = (),
) -> tuple[Graph, tuple[Value, ...]]:
    """The closed graph of `results`, and the values of outer traces it needs: its first parameters stand for them.

    Inner is what depends on a parameter of this trace, or was made since it began; what only outer values decide is
    taken from outside. Constants belong to nobody.
    """
    order = topological(params, results, free=True)
    inner = {id(p) for p in params}
    outside = _outer_parameters(trace.parent)
    outer: dict[int, Value] = {}
    for value in order:
        if id(value) in inner:
            continue
        if isinstance(value, Parameter):
            if id(value) not in outside:
                raise leaked(value)
            outer[id(value)] = value
            continue
        operands = value.operands
        part_of_outer = isinstance(value, Get) and id(value.x) in outer
        mine = trace.parent is None or value.sequence > trace.start
        if (
            (mine and not part_of_outer)
            or isinstance(value, _FREE)
            or any(id(operand) in inner and not isinstance(operand, _FREE) for operand in operands)
        ):
            inner.add(id(value))
        else:
            outer[id(value)] = value
    if not outer:
        return Graph.in_order(name, tuple(params), tuple(results), dims, order), ()
    wanted: dict[int, Value] = {}
    for value in order:
        if id(value) in inner:
            for operand in value.operands:
                if id(operand) in outer:
                    wanted.setdefault(id(operand), operand)
    for result in results:
        if id(result) in outer:
            wanted.setdefault(id(result), result)
    captures = tuple(wanted.values())
    memo: dict[int, Value] = {}
    extra = []
    for i, value in enumerate(captures):
        label = value.label if isinstance(value, Parameter) else f"outer{i}"
        with ir_location.at(value.origin):
            extra.append(Parameter(label, value.tensor))
        memo[id(value)] = extra[-1]
    for value in order:
        if id(value) in inner and id(value) not in memo:
            if value.operands:
                with ir_location.at(value.origin):
                    memo[id(value)] = value.with_operands(tuple(memo[id(operand)] for operand in value.operands))
            else:
                memo[id(value)] = value
    graph = Graph(name, (*extra, *params), tuple(memo[id(result)] for result in results), dims)
    return graph, captures


def _outer_parameters(trace: Trace | None) -> set[int]:
    found: set[int] = set()
    while trace is not None:
        found.update(map(id, trace.params))
        trace = trace.parent
    return found


def leaked(value: Value) -> TypeMismatch:
    """A traced value is used although its trace has ended."""
    made = f", made at {value.location}," if value.location is not None else ""
    return TypeMismatch(
        f"a traced {value.type}{made} is used after its trace has ended",
        code="TD0807",
        location=value.location or here(),
        edit="return it from the traced function instead of keeping it in a variable outside",
    )
