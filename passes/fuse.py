"""Choose the groups: which ops run together as one kernel.

Values are taken in reverse order. A value joins the group of its readers when all of them are in one group and the kind
of that group has a place for it; else it begins a group of its own. A value all of whose readers are in one group
cannot close a cycle by joining it, so none is ever looked for. Cheap maps with several readers are copied into each
of them; leaves (fills, sizes, iotas, small constants) always are. What may share a kernel follows from the ops'
structures: maps; reductions with maps before them, and after them over what is left or back over the same rows; one
contraction with maps after it. Afterwards siblings that read the same large operand over the same space are joined.
Control flow stays, and is fused inside its bodies. """

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..ir.dims import Dim, known_le, product
from ..ir.forms import GROUPED
from ..ir.graph import Graph, Uses
from ..ir.loops.nodes import Var
from ..ir.ops.control import Call, Group
from ..ir.ops.families import Contraction, Control, Movement
from ..ir.ops.movement import Iota
from ..ir.structure import Structure
from ..ir.types import TensorType
from ..ir.value import After, Constant, DimSize, Full, Get, Parameter, Value, with_origin
from .cost import scalar_cost
from .manager import Context, graph_pass
from .rewrite import in_bodies

Kind = Literal["map", "reduction", "contraction", "single"]


@dataclass(frozen=True)
class FuseOptions:
    """`limit` is the largest number of ops in one group; `copy_flops` the dearest scalar that is computed twice."""

    limit: int = 64
    copy_flops: int = 4


SMALL = 16  # a constant of at most this many elements is part of the code that reads it


def is_leaf(value: Value) -> bool:
    """Whether a value costs nothing to make where it is read."""
    return isinstance(value, Full | DimSize | Iota) or (isinstance(value, Constant) and value.data.size <= SMALL)


def is_outside(value: Value) -> bool:
    """Values that are never members: they are no computation, or not one that a kernel does."""
    return isinstance(value, Parameter | Get | After | Constant | Control) or is_leaf(value)


def kind_of(value: Value) -> Kind:
    """The fusion class of an op, from its structure alone."""
    structure = value.structure()
    if structure is None or value.can_fail:
        return "single"
    if isinstance(value, Contraction):
        return "contraction"
    if structure.combine is None:
        return "map"
    scanned = any(axis.kind == "scan" for axis in structure.axes)
    whole = len(structure.reads) == 1 and structure.reads[0].index == tuple(a.position for a in structure.axes)
    return "reduction" if whole and not scanned else "single"


@dataclass
class Cluster:
    """A group in the making. `space` is the shape over which its maps run; `reduced` the axes its reductions reduce,
    of the shape `full`."""

    number: int
    kind: Kind
    space: tuple[Dim, ...]
    members: list[Value] = field(default_factory=list)
    full: tuple[Dim, ...] | None = None
    reduced: tuple[int, ...] = ()
    rows: bool = False  # whether a reduction's result is spread back over its rows


class _Fuser:
    def __init__(self, graph: Graph, cx: Context, options: FuseOptions) -> None:
        self.graph = graph
        self.cx = cx
        self.options = options
        self.uses = Uses(graph)
        self.cluster: dict[int, Cluster] = {}
        self.clusters: list[Cluster] = []
        self.copied: set[int] = set()

    def run(self) -> None:
        for value in reversed(self.graph.ops):
            if not is_outside(value):
                self.place(value)

    def place(self, value: Value) -> None:
        kind = kind_of(value)
        readers = self.uses.readers(value)
        homes: list[Cluster] = []
        outside = self.uses.is_result(value)
        for reader in readers:
            if id(reader) in self.copied:
                homes += [c for c in self.homes_of_copies(reader) if c not in homes]
            elif id(reader) in self.cluster:
                if self.cluster[id(reader)] not in homes:
                    homes.append(self.cluster[id(reader)])
            else:
                outside = True
        if not outside and kind == "map" and len(homes) > 1 and self.cheap(value) and all(
            self.joins(value, kind, home) for home in homes
        ):
            self.copied.add(id(value))
            for home in homes:
                home.members.append(value)
            self.copies_in.setdefault(id(value), homes)
            return
        if not outside and len(homes) == 1 and self.joins(value, kind, homes[0]):
            self.join(value, kind, homes[0])
            return
        if readers and not outside and kind == "map" and len(homes) > 1:
            self.cx.remark(value, f"not fused: {len(homes)} groups read it")
        self.begin(value, kind)

    @property
    def copies_in(self) -> dict[int, list[Cluster]]:
        return self.__dict__.setdefault("_copies_in", {})  # type: ignore[no-any-return]

    def homes_of_copies(self, value: Value) -> list[Cluster]:
        return self.copies_in[id(value)]

    def begin(self, value: Value, kind: Kind) -> None:
        shape = value.shape if isinstance(value.type, TensorType) else ()
        home = Cluster(len(self.clusters), kind, shape, [value])
        if kind == "reduction":
            self.set_reduction(value, home)
        self.clusters.append(home)
        self.cluster[id(value)] = home

    def join(self, value: Value, kind: Kind, home: Cluster) -> None:
        home.members.append(value)
        self.cluster[id(value)] = home
        if kind == "contraction":
            home.kind = "contraction"
        elif kind == "reduction":
            if home.kind == "map":
                home.rows = home.space != value.shape
            self.set_reduction(value, home)

    def set_reduction(self, value: Value, home: Cluster) -> None:
        structure = _structure(value)
        home.kind = "reduction"
        home.full = tuple(axis.extent for axis in structure.axes)
        home.reduced = tuple(i for i, axis in enumerate(structure.axes) if axis.kind == "reduce")

    def cheap(self, value: Value) -> bool:
        """Few flops, no transcendental, and not more to read than to write."""
        flops, math = scalar_cost(_structure(value).body[0])
        operands = [o for o in value.operands if not is_leaf(o)]
        return (
            flops <= self.options.copy_flops
            and math == 0
            and len(operands) <= 2
            and all(known_le(o.tensor.bytes, value.tensor.bytes) for o in operands)
        )

    def joins(self, value: Value, kind: Kind, home: Cluster) -> bool:
        """Whether a group has a place for `value`, all of whose readers are in it."""
        if kind == "single" or home.kind == "single" or len(home.members) >= self.options.limit:
            return False
        if kind == "map":
            return self.map_joins(value, home)
        if kind == "reduction":
            return self.reduction_joins(value, home)
        # A contraction takes over a group of maps of its own shape, read position by position.
        return (
            home.kind == "map"
            and home.space == value.shape
            and all(m.shape == value.shape or self.unrelated(m, value) for m in home.members)
            and all(self.pointwise_read(value, m) for m in self.uses.readers(value))
        )

    def unrelated(self, member: Value, value: Value) -> bool:
        return value not in member.operands

    def pointwise_read(self, value: Value, reader: Value) -> bool:
        """Whether `reader` needs of `value` only the element at its own position."""
        structure = reader.structure()
        if structure is None or structure.shape != value.shape:
            return False
        here = tuple(axis.position for axis in structure.axes)
        return all(
            read.index == here and read.fill is None
            for read in structure.reads
            if reader.operands[read.operand] is value
        )

    def map_joins(self, value: Value, home: Cluster) -> bool:
        if home.kind == "contraction":
            # Beside the contraction: only what its epilogue reads, never its operands.
            return all(kind_of(reader) == "map" for reader in self.uses.readers(value))
        if home.kind == "reduction" and home.full is not None:
            readers = self.uses.readers(value)
            feeds = any(kind_of(r) == "reduction" for r in readers)
            if feeds and value.shape != home.full:
                return False
        return not self.recomputed(value, home)

    def recomputed(self, value: Value, home: Cluster) -> bool:
        """Whether a dear value would be computed once per element of a larger space than its own."""
        space = home.full if home.full is not None and home.rows else home.space
        largest = home.full if home.full is not None else space
        if known_le(product(largest), value.tensor.size):
            return False
        if isinstance(value, Movement):
            return False
        structure = _structure(value)
        flops, math = scalar_cost(structure.body[0])
        if not isinstance(structure.body[0], Var) and (math or flops > self.options.copy_flops):
            # Rows keep what has one value per row in a register, so nothing is computed twice there.
            kept = home.rows and home.full is not None and value.shape == tuple(
                d for i, d in enumerate(home.full) if i not in home.reduced
            )
            return not kept
        return False

    def reduction_joins(self, value: Value, home: Cluster) -> bool:
        structure = _structure(value)
        full = tuple(axis.extent for axis in structure.axes)
        reduced = tuple(i for i, axis in enumerate(structure.axes) if axis.kind == "reduce")
        if home.kind == "contraction":
            return False
        if home.kind == "reduction":
            return home.full == full and home.reduced == reduced and self.trailing(full, reduced)
        if home.space == value.shape:
            # Maps over what the reduction leaves.
            return all(m.shape == value.shape or self.unrelated(m, value) for m in home.members) and all(
                self.pointwise_read(value, reader) for reader in self.uses.readers(value)
            )
        # Back over the same rows: softmax, layer norm.
        return home.space == full and self.trailing(full, reduced) and all(
            self.spreads(member, value, full, reduced) for member in self.uses.readers(value)
        )

    def trailing(self, full: tuple[Dim, ...], reduced: tuple[int, ...]) -> bool:
        return reduced == tuple(range(len(full) - len(reduced), len(full)))

    def spreads(self, reader: Value, value: Value, full: tuple[Dim, ...], reduced: tuple[int, ...]) -> bool:
        """Whether `reader` uses each row's result in that row: a broadcast along the reduced axes, or a map of rows."""
        structure = reader.structure()
        if structure is None or structure.combine is not None:
            return False
        kept = tuple(i for i in range(len(full)) if i not in reduced)
        axes = structure.axes
        if structure.shape == full:
            expected = tuple(axes[i].position for i in kept)
        elif structure.shape == value.shape:
            expected = tuple(axis.position for axis in axes)
        else:
            return False
        return all(
            read.index == expected and read.fill is None
            for read in structure.reads
            if reader.operands[read.operand] is value
        )


def _structure(value: Value) -> Structure:
    structure = value.structure()
    assert structure is not None
    return structure


def close(members: Sequence[Value], outputs: Sequence[Value], graph: Graph, table: dict[int, Value]) -> Group:
    """A group of `members` (operands before readers) that yields `outputs`; `table` has the rebuilt outside values."""
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
            args.append(table[id(value)])
        return params[id(value)]

    for member in members:
        built = member.with_operands(tuple(enter(o) for o in member.operands))
        if built is not member:
            built.__dict__["location"], built.__dict__["sequence"] = member.location, member.sequence
        new[id(member)] = built
    name = "_".join(dict.fromkeys(m.name for m in members if not isinstance(m, Movement))) or members[0].name
    body = Graph(name[:48], tuple(params.values()), tuple(new[id(o)] for o in outputs), graph.dims)
    return Group(tuple(args), body)


@graph_pass(gives=[GROUPED], options=FuseOptions())
def fuse(graph: Graph, cx: Context, options: FuseOptions) -> Graph:
    """Group ops into kernels."""
    fuser = _Fuser(graph, cx, options)
    fuser.run()
    position = {id(v): i for i, v in enumerate(graph.order)}
    for cluster in fuser.clusters:
        cluster.members.sort(key=lambda v: position[id(v)])
    table: dict[int, Value] = {id(p): p for p in graph.params}
    for unit in units(graph, fuser, position):
        if isinstance(unit, Cluster):
            finish(unit, fuser, graph, table)
            continue
        changed = unit
        if isinstance(unit, Control) and not isinstance(unit, Call):
            changed = in_bodies(unit, lambda body: fuse.run(body, cx, options))
        operands = tuple(table[id(o)] for o in unit.operands)
        if isinstance(unit, Control):
            operands = tuple(materialized(o, table, graph) for o in operands)
        rebuilt = changed.with_operands(operands)
        if rebuilt is not unit:
            rebuilt.__dict__["location"], rebuilt.__dict__["sequence"] = unit.location, unit.sequence
        table[id(unit)] = rebuilt
    return graph.with_results([materialized(table[id(r)], table, graph) for r in graph.results])


def units(graph: Graph, fuser: _Fuser, position: dict[int, int]) -> list[Cluster | Value]:
    """Groups and the values outside them, each after what it reads. A group may have to wait for another whose first
    members come later, so the order of values alone would not do."""
    owner: dict[int, Cluster] = fuser.cluster

    def unit_of(value: Value) -> Cluster | Value:
        return owner.get(id(value), value)

    order: list[Cluster | Value] = []
    done: set[int] = {id(p) for p in graph.params}
    for value in graph.ops:
        if id(value) in fuser.copied:
            continue
        stack: list[Cluster | Value] = [unit_of(value)]
        while stack:
            unit = stack[-1]
            if id(unit) in done:
                stack.pop()
                continue
            members = unit.members if isinstance(unit, Cluster) else [unit]
            inside = {id(m) for m in members}
            waiting = [
                unit_of(o)
                for m in members
                for o in m.operands
                if id(o) not in inside and id(unit_of(o)) not in done and unit_of(o) is not unit
            ]
            if waiting:
                stack.append(waiting[0])
            else:
                stack.pop()
                done.add(id(unit))
                order.append(unit)
    return order


def finish(cluster: Cluster, fuser: _Fuser, graph: Graph, table: dict[int, Value]) -> None:
    """Close a cluster into a group, or into one group per member where no kernel takes it whole."""
    inside = {id(m) for m in cluster.members}

    def needed(value: Value) -> bool:
        if id(value) in fuser.copied:
            return False
        return fuser.uses.is_result(value) or any(id(r) not in inside for r in fuser.uses.readers(value))

    outputs = [m for m in cluster.members if needed(m)]
    group = close(cluster.members, outputs, graph, table)
    if len(cluster.members) > 1 and not fuser.cx.kernels.accepts(group.body):
        fuser.cx.remark(cluster.members[-1], f"not fused: no kernel for {group.body.name} as a whole")
        for member in cluster.members:
            _emit(close([member], [member], graph, table), [member], table)
        return
    _emit(group, outputs, table)


def _emit(group: Group, outputs: Sequence[Value], table: dict[int, Value]) -> None:
    last = outputs[-1]
    group.__dict__["location"], group.__dict__["sequence"] = last.location, last.sequence
    for i, output in enumerate(outputs):
        found = Get(group, i) if isinstance(output.type, TensorType) else group
        found.__dict__["location"], found.__dict__["sequence"] = output.location, output.sequence
        table[id(output)] = found


def materialized(found: Value, made: dict[int, Value], graph: Graph) -> Value:
    """A leaf that control flow reads or that is a result becomes a group of its own, once; other values stay."""
    if not is_leaf(found) or isinstance(found, Constant):
        return found
    key = -id(found)
    if key not in made:
        group = Group((), Graph(found.name, (), (found,), graph.dims))
        made[key] = with_origin(Get(with_origin(group, found.origin), 0), found.origin)
    return made[key]
