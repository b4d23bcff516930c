"""Choose the groups: which ops run together as one kernel.

Values are taken in reverse order. A value joins a group that reads it when the group has a place for it and no value is
then computed over and over; else it begins a group of its own. One that others read as well joins as one more result of
the group, if none of those others has to come before the group. Cheap maps may be copied into each of their readers;
leaves (fills, sizes, iotas, small constants) always are.

What may share a kernel follows from the ops' structures: maps; reductions over one space with maps before them, after
them over what is left, and back over the same rows; one contraction with maps after it, and before it those by which
nothing but maps made its operands from what is given. Then neighbours that read the same array over the same space are
joined. The code generator is asked whether it has a kernel for each group; where it has none, the members are grouped
again more cautiously. Bodies of control flow are grouped by themselves; then the op is offered whole, and where the
code generator makes one kernel of it, it is a group too.

Nothing closes a cycle between groups: every group has a rank that is above those of the groups before it (the order is
kept up to date as Pearce and Kelly do, "A dynamic topological sort algorithm for directed acyclic graphs", 2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import Dim, DimName, evaluate, names, product
from ..ir.forms import EXPANDED, GROUPED, everywhere
from ..ir.graph import Graph, Uses
from ..ir.loops.nodes import Var
from ..ir.ops.control import Group
from ..ir.ops.families import Contraction, Control, Movement
from ..ir.ops.movement import Broadcast, Concatenate, Iota
from ..ir.structure import Structure
from ..ir.text import INLINE
from ..ir.types import Shape, TensorType, TupleType
from ..ir.value import After, Constant, DimSize, Full, Get, Parameter, Value, with_origin
from .cost import scalar_cost
from .manager import Context, graph_pass
from .order import typical
from .reuse import is_contiguous, is_update, lies_in, sizes_in, written_by
from .rewrite import in_bodies

Kind = Literal["map", "reduction", "contraction", "scan", "loose"]
Axes: TypeAlias = tuple[tuple[Dim, str], ...]

SMALL = INLINE  # a constant of at most this many elements is part of the code that reads it, and of its text
SEARCHED = 2000  # groups looked at for a cycle before a value is left alone
NEIGHBOURS = 16  # readers of one value that are tried as neighbours
NOWHERE: Final[Mapping[int, None]] = MappingProxyType({})
DEAR = 1 << 20  # flops that no copy is worth


@dataclass(frozen=True)
class FuseOptions:
    """`limit` is the largest number of ops in one group; `copy_flops` the dearest scalar that is computed twice;
    `loop_ops` the most ops in the bodies of a control op that is offered to the code generator as one kernel (0: none
    is); `prologues` whether contractions compute their operands. In bodies of control flow they do not: there is no
    room in one kernel for what they pack."""

    limit: int = 64
    copy_flops: int = 4
    loop_ops: int = 100
    prologues: bool = True


def is_leaf(value: Value) -> bool:
    """Whether a value costs nothing to make where it is read. Code holds no tables of complex numbers or fp8."""
    if isinstance(value, Constant):
        return value.data.size <= SMALL and value.dtype.kind not in ("complex", "float8")
    return isinstance(value, Full | DimSize | Iota)


def is_outside(value: Value) -> bool:
    """Values that are never members: they are no computation, or not one that a kernel does."""
    return isinstance(value, Parameter | Get | After | Constant | Control) or is_leaf(value)


def kind_of(value: Value, structure: Structure | None) -> Kind:
    """The fusion class of an op, from its structure alone. What has none is `loose`: only the code generator knows."""
    if structure is None:
        return "loose"
    if isinstance(value, Contraction):
        return "contraction"
    if structure.combine is None:
        return "map"
    return "scan" if any(axis.kind == "scan" for axis in structure.axes) else "reduction"


@dataclass(eq=False)
class Unit:
    """A group in the making, or (`kind` None) an op outside groups. `space` is the shape of its last member; its
    reductions and scans go along `axes`, (extent, kind) each. `rank` is above those of all units before it; `after` are
    the units that read one of its members, `before` those of which it reads one."""

    members: list[Value]
    kind: Kind | None
    rank: int
    space: Shape = ()
    axes: Axes = ()
    # How many elements of each member are computed, and the flops that this spends beyond computing it once.
    computed: dict[int, int] = field(default_factory=dict)
    excess: dict[int, int] = field(default_factory=dict)
    after: dict[Unit, None] = field(default_factory=dict)
    before: dict[Unit, None] = field(default_factory=dict)

    @property
    def full(self) -> Shape:
        return tuple(extent for extent, _ in self.axes) if self.axes else self.space

    @property
    def left(self) -> Shape:
        """What its reductions leave."""
        return tuple(extent for extent, kind in self.axes if kind != "reduce") if self.axes else self.space


class Facts:
    """What fusion asks of values, computed once. `sizes` are values for the symbolic sizes, by which work is
    compared."""

    def __init__(self, graph: Graph, dims: Sequence[DimName]) -> None:
        self.dims = tuple(dims)
        self.sizes = typical(Graph(graph.name, graph.params, graph.results, self.dims))
        self.position = {id(value): i for i, value in enumerate(graph.order)}
        self.uses = Uses(graph)
        self._structures: dict[int, Structure | None] = {}
        self._kinds: dict[int, Kind] = {}
        self._elements: dict[int, int] = {}
        self._given: dict[int, bool] = {}
        for value in graph.order:
            known = is_outside(value) or (
                self.kind(value) == "map" and all(self._given[id(operand)] for operand in value.operands)
            )
            self._given[id(value)] = known

    def is_given(self, value: Value) -> bool:
        """Whether the value comes from outside of all kernels (a parameter, a constant), or is made of such values by
        maps alone. Where it is not, a reduction or contraction stands behind it, whose kernel can apply the maps to its
        results while they are in registers."""
        return self._given[id(value)]

    def place(self, value: Value) -> int:
        """Where a value stands in the graph's order."""
        return self.position[id(value)]

    def structure(self, value: Value) -> Structure | None:
        if id(value) not in self._structures:
            self._structures[id(value)] = value.structure()
        return self._structures[id(value)]

    def kind(self, value: Value) -> Kind:
        if id(value) not in self._kinds:
            self._kinds[id(value)] = kind_of(value, self.structure(value))
        return self._kinds[id(value)]

    def elements(self, value: Value) -> int:
        if id(value) not in self._elements:
            kinds = value.tensors
            self._elements[id(value)] = sum(evaluate(kind.size, self.sizes) for kind in kinds)
        return self._elements[id(value)]

    def bytes(self, value: Value) -> int:
        return self.elements(value) * value.dtype.bytes if isinstance(value.type, TensorType) else 0

    def cost(self, value: Value) -> int:
        """Flops of one element; transcendentals, and what is not known, count as dear."""
        structure = self.structure(value)
        if structure is None or structure.combine is not None:
            return DEAR
        if isinstance(structure.body[0], Var):
            return 0
        flops, math = scalar_cost(structure.body[0])
        return DEAR if math else flops

    def axes(self, value: Value) -> Axes:
        structure = self.structure(value)
        return tuple((axis.extent, axis.kind) for axis in structure.axes) if structure is not None else ()

    def one_position(self, reader: Value, value: Value) -> bool:
        """Whether `reader`, a map or a reduction, reads `value` once, at the position of its own axes."""
        structure = self.structure(reader)
        if structure is None:
            return False
        here = tuple(axis.position for axis in structure.axes)
        if tuple(axis.extent for axis in structure.axes) != value.shape:
            return False
        return all(
            read.index == here and read.fill is None and not read.divisors
            for read in structure.reads
            if reader.operands[read.operand] is value
        )

    def in_place(self, reader: Value, value: Value) -> bool:
        """Whether `reader` is a map that needs of `value` only the element at its own position."""
        return self.kind(reader) == "map" and self.one_position(reader, value)


class Fuser:
    """Groups of some of a graph's ops, in order. `caution` 0 tries everything; 1 leaves out rows, epilogues of
    reductions and neighbours; 2 joins only maps; 3 nothing. `elsewhere` are the ids of ops of which other groups, not
    seen here, have copies; `beyond` are ops outside of these that read the copies here."""

    def __init__(
        self,
        ops: Sequence[Value],
        facts: Facts,
        cx: Context,
        options: FuseOptions,
        caution: int = 0,
        elsewhere: Mapping[int, None] = NOWHERE,
        beyond: Sequence[Value] = (),
    ) -> None:
        self.ops = ops
        self.facts = facts
        self.cx = cx
        self.options = options
        self.caution = caution
        self.elsewhere = elsewhere
        self.known = {id(value) for value in (*ops, *beyond)}
        self.units: dict[int, Unit] = {}
        self.copies: dict[int, list[Unit]] = {}
        self.lowest = 0

    def run(self) -> None:
        for value in reversed(self.ops):
            if is_outside(value):
                self.begin(value, None)
            else:
                self.place(value)
        if self.caution == 0:
            self.join_neighbours()

    # One value.

    def readers(self, value: Value) -> tuple[Value, ...]:
        """The ops that read a value; of one that has copies elsewhere, those that read this copy."""
        readers = self.facts.uses.readers(value)
        return tuple(r for r in readers if id(r) in self.known) if id(value) in self.elsewhere else readers

    def units_of(self, value: Value) -> list[Unit]:
        if id(value) in self.copies:
            return self.copies[id(value)]
        unit = self.units.get(id(value))
        return [] if unit is None else [unit]

    def exposed(self, value: Value, inside: Sequence[Unit]) -> bool:
        """Whether anything but these units needs a value."""
        if id(value) in self.copies:
            return False
        if self.facts.uses.is_result(value) and id(value) not in self.elsewhere:
            return True
        for reader in self.readers(value):
            if id(reader) in self.elsewhere and id(value) not in self.elsewhere:
                return True
            units = self.units_of(reader)
            if not units or any(unit not in inside for unit in units):
                return True
        return False

    def place(self, value: Value) -> None:
        found = dict.fromkeys(unit for reader in self.readers(value) for unit in self.units_of(reader))
        homes = [unit for unit in found if unit.kind is not None]
        kind = self.facts.kind(value)
        if homes and self.caution < 3 and isinstance(value.type, TensorType):
            alone = len(homes) == 1
            exposed = self.exposed(value, homes)
            if not alone and not exposed and self.copied(value, kind, homes):
                return
            reasons = []
            for home in sorted(homes, key=lambda home: (-self.shared(value, home), home.rank)):
                reason = self.why_not(value, kind, home, alone=alone and not exposed)
                if reason is None:
                    self.add(value, home)
                    self.enter(value, home)
                    self.note_axes(value, kind, home)
                    return
                # That a view is no kernel, and that there is none for a view, goes without saying.
                if lies_in(value) is None and not is_view(home):
                    reasons.append(f"not fused into {self.name(home)}: {reason}")
            if self.caution == 0 and reasons:
                self.cx.remark(value, reasons[0])
        self.begin(value, kind)

    def copied(self, value: Value, kind: Kind, homes: Sequence[Unit]) -> bool:
        """Give each group that reads a cheap map its own copy, if all of them have a place for one."""
        if kind != "map" or value.can_fail or not self.cheap(value):
            return False
        if any(self.why_not(value, kind, home, alone=True) is not None for home in homes):
            return False
        for home in homes:
            self.add(value, home)
        self.copies[id(value)] = list(homes)
        return True

    def name(self, unit: Unit) -> str:
        return name_of(sorted(unit.members, key=self.facts.place))

    def begin(self, value: Value, kind: Kind | None) -> None:
        self.lowest -= 1
        unit = Unit([value], kind, self.lowest)
        if kind is not None:
            unit.computed[id(value)] = self.facts.elements(value)
            if isinstance(value.type, TensorType):
                unit.space = value.shape
                self.note_axes(value, kind, unit)
        self.enter(value, unit)

    def enter(self, value: Value, unit: Unit) -> None:
        """A value is in one unit alone, so that is before all others that read it."""
        self.units[id(value)] = unit
        for reader in self.readers(value):
            for other in self.units_of(reader):
                if other is not unit:
                    unit.after[other] = None
                    other.before[unit] = None

    def add(self, value: Value, home: Unit) -> None:
        home.computed[id(value)], home.excess[id(value)] = self.repeats(value, home)
        home.members.append(value)

    def note_axes(self, value: Value, kind: Kind, unit: Unit) -> None:
        if kind in ("reduction", "scan"):
            unit.axes = self.facts.axes(value)
        if unit.kind == "map" and kind != "loose":
            unit.kind = kind

    # What it costs.

    def shared(self, value: Value, home: Unit) -> int:
        """Bytes that a group would not read again if it made `value` itself."""
        read = {id(operand) for member in home.members for operand in member.operands}
        return self.facts.bytes(value) + sum(self.facts.bytes(o) for o in value.operands if id(o) in read)

    def cheap(self, value: Value) -> bool:
        """Few flops, no transcendental, and not more to read than to write."""
        operands = [operand for operand in value.operands if not is_leaf(operand)]
        return (
            self.facts.cost(value) <= self.options.copy_flops
            and len(operands) <= 2
            and all(self.facts.bytes(operand) <= self.facts.bytes(value) for operand in operands)
        )

    def repeats(self, value: Value, home: Unit) -> tuple[int, int]:
        """How many elements of `value` a group computes for its members, and the flops that this spends on one element
        beyond computing it once, those of its readers included."""
        here = elsewhere = excess = 0
        for reader in self.readers_in(value, home):
            points = home.computed[id(reader)]
            excess = max(excess, home.excess.get(id(reader), 0))
            structure = self.facts.structure(reader)
            if self.facts.one_position(reader, value):
                here = max(here, points, self.facts.elements(value))
            elif self.facts.kind(reader) == "contraction":
                here = max(here, self.facts.elements(value))  # it is computed as it is packed
            elif structure is None:
                elsewhere += self.facts.elements(value)
            else:
                each = max(points // max(self.facts.elements(reader), 1), 1)
                for read in structure.reads:
                    if reader.operands[read.operand] is value:
                        visits = self.visits(structure, read.index, home)
                        if isinstance(reader, Movement | Concatenate) and not isinstance(reader, Broadcast):
                            # Each element goes to one place; nest and tails stay where the operand is.
                            visits = min(visits, self.facts.elements(value))
                        elsewhere += each * visits
        computed, size = max(here + elsewhere, 1), max(self.facts.elements(value), 1)
        if home.axes and value.shape == home.left and not self.along_rows(value, home):
            computed = min(computed, size)  # one for each row is kept in a register
        if computed <= size:
            return computed, excess
        return computed, excess + self.facts.cost(value)

    def along_rows(self, value: Value, home: Unit) -> bool:
        """Whether a group reads a value of the shape of what its reductions leave along another axis than those."""
        left = tuple([axis for axis, (_, kind) in enumerate(home.axes) if kind != "reduce"])
        repeated = [r for r in self.readers_in(value, home) if isinstance(r, Broadcast) and r.shape == home.full]
        return any(reader.axes != left for reader in repeated)

    def visits(self, structure: Structure, index: tuple[Dim, ...], home: Unit) -> int:
        """How often a read happens in a nest over the axes: what does not move with the inner ones is kept there. But a
        reduction of columns goes over its rows again for each few of them."""
        moving = {name for dim in index for name in names(dim)}
        last = max((i for i, axis in enumerate(structure.axes) if axis.name in moving), default=-1)
        if 0 <= last < len(home.axes) == len(structure.axes) and home.axes[last][1] == "reduce" != home.axes[-1][1]:
            last = len(structure.axes) - 1
        return evaluate(product(axis.extent for axis in structure.axes[: last + 1]), self.facts.sizes)

    # Whether there is a place.

    def readers_in(self, value: Value, home: Unit) -> list[Value]:
        return [reader for reader in self.readers(value) if id(reader) in home.computed]

    def why_not(self, value: Value, kind: Kind, home: Unit, *, alone: bool) -> str | None:
        """Why a group cannot take in a value that it reads; None if it can. `alone`: nobody else needs the value."""
        if len(home.members) >= self.options.limit:
            return f"that group has {self.options.limit} ops"
        if is_view(home):
            return "that is only another view of it"
        reason = self.why_not_kind(value, kind, home)
        if reason is not None:
            return reason
        readers = self.readers_in(value, home)
        computed, excess = self.repeats(value, home)
        if excess > self.options.copy_flops:
            return f"it would be computed {computed / max(self.facts.elements(value), 1):.3g} times"
        if value.can_fail and not all(self.facts.one_position(reader, value) for reader in readers):
            return "it may fail, and not all of it is read there"
        if not alone:
            if any(self.facts.kind(reader) == "contraction" for reader in readers):
                return "others read it too, and there it would be no array"
            if any(isinstance(reader, Concatenate) and is_contiguous(reader) for reader in readers):
                return "others read it too, and there it is joined with others"
            if home.kind == "loose" or value.shape not in (home.space, home.full, home.left):
                return "others read it too, and that group goes over another space"
            if not self.comes_before_others(value, home):
                return "others read it too, and come before that group"
        asked = kind != "map" or home.kind == "loose" or home.kind == "contraction"
        if asked and not self.accepted([value, *home.members], (home,)):
            return "no kernel does both"
        return None

    def why_not_kind(self, value: Value, kind: Kind, home: Unit) -> str | None:
        readers = self.readers_in(value, home)
        if kind == "map":
            for reader in readers:
                if self.facts.kind(reader) == "contraction":
                    if isinstance(value, Movement) and not isinstance(value, Broadcast):
                        return "contractions read their operands as they lie"
                    if not self.options.prologues:
                        return "contractions in loops read their operands as they lie"
                    if not self.facts.is_given(value):
                        return "it can be done where its operand is made"
                if self.facts.kind(reader) == "loose" and not (
                    written_by(reader) is value and reader.operands.count(value) == 1
                ):
                    return "that has a kernel of its own"
            return None
        if is_update(value):
            return "it is written in place"
        if self.caution >= 2 or home.kind == "loose":
            return "the group has no place for it"
        if not isinstance(value.type, TensorType) or kind == "loose":
            in_place = all(self.facts.one_position(reader, value) for reader in readers)
            return None if in_place else "it is not read in place"
        if home.kind == "map" and home.space == value.shape and self.follows_in_place(value, home):
            return "it is grouped with care" if kind == "reduction" and self.caution >= 1 else None
        if kind == "scan" and home.kind == "scan" and home.axes == self.facts.axes(value):
            return None if self.follows_in_place(value, home) else "it is not read in place"
        if kind != "reduction" or self.caution >= 1:
            return "the group has no place for it"
        axes = self.facts.axes(value)
        full = tuple(extent for extent, _ in axes)
        if home.kind == "reduction" and home.axes != axes:
            return "that group reduces other axes"
        if home.kind not in ("map", "reduction") or home.full != full:
            return "the group has no place for it"
        row = tuple(extent for extent, kind_ in axes if kind_ == "reduce")
        row_bytes = evaluate(product(row), self.facts.sizes) * value.dtype.bytes
        if row_bytes > self.cx.target.l2_bytes // 2 and not self.follows_in_place(value, home):
            return "its rows are too long to be gone over twice from the cache"
        return None

    def follows_in_place(self, value: Value, home: Unit) -> bool:
        """Whether everything in a group that needs `value` needs it at its own position."""
        after = {id(value)}
        for member in sorted(home.members, key=self.facts.place):
            needed = [operand for operand in member.operands if id(operand) in after]
            if any(not self.facts.in_place(member, operand) for operand in needed):
                return False
            if needed:
                after.add(id(member))
        return True

    def accepted(self, members: Sequence[Value], units: Sequence[Unit]) -> bool:
        """Whether the code generator has a kernel for a group of these members of these units."""
        ordered = sorted(dict.fromkeys(members), key=self.facts.place)
        outputs = [member for member in ordered if self.exposed(member, units)]
        return self.cx.kernels.accepts(close(ordered, outputs, self.facts.dims, {}).body)

    # The order of the groups.

    def reached(self, start: Sequence[Unit], goal: Unit | None, *, forwards: bool, bound: int) -> list[Unit] | None:
        """The units from `start` on, up to a rank; None if `goal` is among them, or there are too many."""
        found = dict.fromkeys(start)
        pending = list(start)
        while pending:
            unit = pending.pop()
            if unit is goal or len(found) > SEARCHED:
                return None
            for other in unit.after if forwards else unit.before:
                within = other.rank <= bound if forwards else other.rank >= bound
                if within and other not in found:
                    found[other] = None
                    pending.append(other)
        return list(found)

    def comes_before_others(self, value: Value, home: Unit) -> bool:
        """Whether everything else that reads `value` can come after `home`; the ranks are then made to say so."""
        others = dict.fromkeys(u for r in self.readers(value) for u in self.units_of(r) if u is not home)
        return self.moved_after([unit for unit in others if unit.rank < home.rank], home)

    def moved_after(self, late: Sequence[Unit], home: Unit) -> bool:
        """Give `late` units, and what follows them, ranks above that of `home`; False if that would be a cycle."""
        if not late:
            return True
        forth = self.reached(late, home, forwards=True, bound=home.rank)
        if forth is None:
            return False
        back = self.reached([home], None, forwards=False, bound=min(unit.rank for unit in forth))
        if back is None:
            return False
        ranks = sorted(unit.rank for unit in (*forth, *back))
        ordered = sorted(back, key=lambda u: u.rank) + sorted(forth, key=lambda u: u.rank)
        for unit, rank in zip(ordered, ranks, strict=True):
            unit.rank = rank
        return True

    # Neighbours.

    def join_neighbours(self) -> None:
        """Join groups over one space that read the same array as large as that space."""
        for value in dict.fromkeys(operand for op in self.ops for operand in op.operands):
            if is_leaf(value) or not isinstance(value.type, TensorType) or self.facts.elements(value) == 1:
                continue
            readers = dict.fromkeys(unit for r in self.readers(value) for unit in self.units_of(r))
            units = sorted((u for u in readers if u.kind in ("map", "reduction")), key=lambda u: u.rank)[:NEIGHBOURS]
            for i, first in enumerate(units):
                for second in units[i + 1 :]:
                    if first.members and second.members and self.neighbours(first, second, value):
                        self.merge(first, second)

    def neighbours(self, a: Unit, b: Unit, value: Value) -> bool:
        """Whether two groups can be one: neither needs the other, and the code generator has a kernel for both."""
        if a.full != b.full or product(a.full) != value.tensor.size or (a.axes and b.axes and a.axes != b.axes):
            return False
        if len(a.members) + len(b.members) > self.options.limit:
            return False
        if is_view(a) or is_view(b):
            return False
        if any(isinstance(m, Concatenate) and is_contiguous(m) for unit in (a, b) for m in unit.members):
            return False
        axes = a.axes or b.axes
        row = evaluate(product(extent for extent, kind in axes if kind == "reduce"), self.facts.sizes)
        if a.kind != b.kind and row * value.dtype.bytes > self.cx.target.l2_bytes // 2:
            return False
        first, second = (a, b) if a.rank < b.rank else (b, a)
        starts = [unit for unit in first.after if unit.rank <= second.rank]
        if starts and self.reached(starts, second, forwards=True, bound=second.rank) is None:
            return False
        return self.accepted((*a.members, *b.members), (a, b))

    def merge(self, a: Unit, b: Unit) -> None:
        first, second = (a, b) if a.rank < b.rank else (b, a)
        if not self.moved_after([unit for unit in first.after if unit.rank <= second.rank], second):
            return
        for member in second.members:
            copies = self.copies.get(id(member))
            if copies is not None:
                self.copies[id(member)] = list(dict.fromkeys(first if unit is second else unit for unit in copies))
            else:
                self.units[id(member)] = first
            if id(member) not in first.computed:
                first.members.append(member)
                first.computed[id(member)] = second.computed[id(member)]
                first.excess[id(member)] = second.excess.get(id(member), 0)
        for other in second.after:
            del other.before[second]
            if other is not first:
                first.after[other] = other.before[first] = None
        for other in second.before:
            del other.after[second]
            if other is not first:
                first.before[other] = other.after[first] = None
        if second.axes:
            first.axes, first.kind = second.axes, second.kind
        first.rank = second.rank
        second.members = []

    # What came out.

    def ordered(self) -> list[Unit]:
        """All units, each after those that it reads; otherwise in the order of the ops."""
        order: list[Unit] = []
        begun: set[int] = set()
        for value in self.ops:
            if id(value) in self.copies or id(self.units[id(value)]) in begun:
                continue
            stack = [(self.units[id(value)], self.reads(self.units[id(value)]))]
            begun.add(id(stack[0][0]))
            while stack:
                unit, reads = stack[-1]
                other = next((each for each in reads if id(each) not in begun), None)
                if other is not None:
                    begun.add(id(other))
                    stack.append((other, self.reads(other)))
                else:
                    stack.pop()
                    unit.members.sort(key=self.facts.place)
                    order.append(unit)
        return order

    def reads(self, unit: Unit) -> Iterator[Unit]:
        """The units before one, in the order in which its members read them."""
        for member in unit.members:
            for operand in member.operands:
                if id(operand) not in unit.computed:
                    yield from (other for other in self.units_of(operand) if other is not unit)

    def outputs(self, unit: Unit) -> list[Value]:
        return [member for member in unit.members if self.exposed(member, (unit,))]

    def parts(self, unit: Unit) -> tuple[Sequence[Value], Sequence[Value]] | None:
        """The members of a group cut in two where it only joins arrays, some of which other kernels make: each part is
        then written straight to its place."""
        if len(unit.members) == 1:
            return None
        *rest, last = unit.members
        if not isinstance(last, Concatenate) or not is_contiguous(last) or self.outputs(unit) != [last]:
            return None
        inside = {id(member) for member in rest}
        made = [o for o in last.operands if id(o) not in inside and not isinstance(o, Parameter | Constant)]
        return (rest, [last]) if made else None


def is_view(unit: Unit) -> bool:
    """Whether a group only says that bytes of an operand have another shape."""
    return all(lies_in(member) is not None for member in unit.members)


def name_of(members: Sequence[Value]) -> str:
    """What a group is called: its ops, those that only move elements left out."""
    named = dict.fromkeys(m.name for m in members if not isinstance(m, Movement))
    return ("_".join(named) or members[0].name)[:48]


def close(
    members: Sequence[Value], outputs: Sequence[Value], dims: Sequence[DimName], table: Mapping[int, Value]
) -> Group:
    """A group of `members` (operands before readers) that yields `outputs`. `table` has what outside values became;
    where it says nothing they stay."""
    params: dict[int, Parameter] = {}
    args: list[Value] = []
    new: dict[int, Value] = {}

    def enter(value: Value) -> Value:
        if id(value) in new:
            return new[id(value)]
        if is_leaf(value):
            return value
        if id(value) not in params:
            params[id(value)] = Parameter(f"p{len(params)}", value.tensor)
            args.append(table.get(id(value), value))
        return params[id(value)]

    for member in members:
        built = member.with_operands(tuple(enter(operand) for operand in member.operands))
        if built is not member:
            with_origin(built, member.origin)
        new[id(member)] = built
    results: list[Value] = []
    for output in outputs:
        found = new[id(output)]
        kind = found.type
        results += [Get(found, i) for i in range(len(kind.elements))] if isinstance(kind, TupleType) else [found]
    return Group(tuple(args), closed(name_of(members), tuple(params.values()), tuple(results), dims))


def closed(name: str, params: tuple[Parameter, ...], results: tuple[Value, ...], dims: Sequence[DimName]) -> Graph:
    """A graph that declares just the sizes it mentions."""
    body = Graph(name, params, results)
    if not dims:
        return body
    used = {size for value in everywhere(body) for size in sizes_in(value)}
    return Graph(name, params, results, tuple(dim for dim in dims if dim.name in used)) if used else body


class Emitter:
    """The grouped graph: what every value became, in `table`, and groups made of units."""

    def __init__(self, facts: Facts, cx: Context, options: FuseOptions) -> None:
        self.facts = facts
        self.cx = cx
        self.options = options
        self.leaves: dict[int, Value] = {}

    def units(self, fuser: Fuser, table: MutableMapping[int, Value]) -> None:
        for unit in fuser.ordered():
            if unit.kind is None:
                self.outside(unit.members[0], table)
            else:
                self.unit(unit, fuser, table)

    def unit(self, unit: Unit, fuser: Fuser, table: MutableMapping[int, Value]) -> None:
        """Close a group; cut it where it is better cut, and group it again where no kernel takes it whole."""
        cut = fuser.parts(unit)
        if cut is not None:
            self.again(cut[0], cut[1], fuser, table, fuser.caution)
            return
        outputs = fuser.outputs(unit)
        group = close(unit.members, outputs, self.facts.dims, table)
        if len(unit.members) > 1 and not self.cx.kernels.accepts(group.body):
            if fuser.caution == 0:
                self.cx.remark(unit.members[-1], f"not fused: no kernel for {group.body.name} as a whole")
            self.again(unit.members, (), fuser, table, fuser.caution + 1)
            return
        self.emit(group, outputs, table)

    def again(
        self,
        members: Sequence[Value],
        rest: Sequence[Value],
        fuser: Fuser,
        table: MutableMapping[int, Value],
        caution: int,
    ) -> None:
        """Group some members of a unit anew, and the `rest`, which reads them, by itself. Copies that they share with
        other units are their own here."""
        shared = dict.fromkeys(id(m) for m in members if id(m) in fuser.copies or id(m) in fuser.elsewhere)
        inner = Fuser(members, self.facts, self.cx, self.options, caution, shared, rest)
        inner.run()
        before = {key: table[key] for key in shared if key in table}
        self.units(inner, table)
        if rest:
            self.emit(close(rest, rest, self.facts.dims, table), rest, table)
        for key in shared:
            if key in before:
                table[key] = before[key]
            else:
                table.pop(key, None)

    def emit(self, group: Group, outputs: Sequence[Value], table: MutableMapping[int, Value]) -> None:
        with_origin(group, outputs[-1].origin)
        position = 0
        for output in outputs:
            if isinstance(output.type, TupleType):
                table[id(output)] = group  # its elements are read from the group as they were from the op
                position += len(output.type.elements)
            else:
                table[id(output)] = with_origin(Get(group, position), output.origin)
                position += 1

    def outside(self, value: Value, table: MutableMapping[int, Value]) -> None:
        if is_leaf(value):
            table[id(value)] = value
            return
        changed = value
        if isinstance(value, Control) and not isinstance(value, Group):
            inside = replace(self.options, prologues=False)
            changed = in_bodies(value, lambda body: grouped(body, self.facts.dims, self.cx, inside))
            if self.whole(value, changed, table):
                return
        operands = tuple(table[id(operand)] for operand in value.operands)
        if isinstance(value, Control):
            operands = tuple(map(self.materialized, operands))
        rebuilt = changed.with_operands(operands)
        table[id(value)] = rebuilt if rebuilt is value else with_origin(rebuilt, value.origin)

    def whole(self, value: Control, changed: Value, table: MutableMapping[int, Value]) -> bool:
        """Make a control op one kernel, if its bodies are small and the code generator has one for it. `changed` is the
        op with its bodies grouped."""
        limit = self.options.loop_ops
        if not limit or sum(len(body.ops) for body in value.bodies) > limit:
            return False
        group = close([changed], [changed], self.facts.dims, table)
        if not self.cx.kernels.accepts(group.body):
            return False
        self.emit(group, [value], table)
        return True

    def materialized(self, found: Value) -> Value:
        """A leaf that control flow reads or that is a result becomes a group of its own, once; other values stay."""
        if not is_leaf(found) or isinstance(found, Constant):
            return found
        if id(found) not in self.leaves:
            group = Group((), closed(found.name, (), (found,), self.facts.dims))
            self.leaves[id(found)] = with_origin(Get(with_origin(group, found.origin), 0), found.origin)
        return self.leaves[id(found)]


def grouped(graph: Graph, dims: Sequence[DimName], cx: Context, options: FuseOptions) -> Graph:
    """The groups of one graph and of the bodies inside it."""
    facts = Facts(graph, dims)
    fuser = Fuser(graph.ops, facts, cx, options)
    fuser.run()
    table: dict[int, Value] = {id(param): param for param in graph.params}
    emitter = Emitter(facts, cx, options)
    emitter.units(fuser, table)
    return graph.with_results([emitter.materialized(table[id(result)]) for result in graph.results])


@graph_pass(needs=[EXPANDED], gives=[GROUPED], options=FuseOptions())
def fuse(graph: Graph, cx: Context, options: FuseOptions) -> Graph:
    """Group ops into kernels."""
    return grouped(graph, graph.dims, cx, options)
