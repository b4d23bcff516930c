"""Memory: from a grouped graph to a program.

Liveness of every value along the order, offsets in one arena by size, results written straight into their buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.dims import Dim, ceildiv
from ..ir.errors import Unsupported
from ..ir.fingerprint import fingerprint
from ..ir.graph import Graph
from ..ir.ops.control import Group
from ..ir.program import Buffer, Call, Copy, KernelDef, Program, Slot, Statement
from ..ir.text import digest
from ..ir.value import Array, Constant, Get, Parameter, Value
from .manager import Context

ALIGNMENT = 64


def lower_bound(records: Sequence[tuple[int, int, int]]) -> int:
    """The largest sum of bytes live at one moment; `records` are (bytes, first, last), both ends included."""
    events: dict[int, int] = {}
    for size, first, last in records:
        events[first] = events.get(first, 0) + size
        events[last + 1] = events.get(last + 1, 0) - size
    live = most = 0
    for moment in sorted(events):
        live += events[moment]
        most = max(most, live)
    return most


def plan(records: Sequence[tuple[int, int, int]]) -> list[int]:
    """Offsets, greedy by size: the largest first, each at the lowest place where nothing live at the same time lies."""
    placed: list[int] = []
    offsets = [0] * len(records)
    for i in sorted(range(len(records)), key=lambda i: (-records[i][0], records[i][1], i)):
        size, first, last = records[i]
        busy = sorted(
            (offsets[j], offsets[j] + records[j][0])
            for j in placed
            if records[j][1] <= last and first <= records[j][2]
        )
        at = 0
        for low, high in busy:
            if at + size <= low:
                break
            at = max(at, high)
        offsets[i] = at
        placed.append(i)
    return offsets


def to_program(
    graph: Graph, cx: Context, *, donated: Sequence[tuple[int, int]] = ()
) -> tuple[Program, tuple[Array, ...]]:
    """The program of a grouped graph, and the data of its constants in the order of its constant slots."""
    kernels: dict[str, KernelDef] = {}
    constants: dict[str, tuple[int, Constant]] = {}
    slots: dict[tuple[int, int], Slot] = {}
    out_of: dict[tuple[int, int], int] = {}

    def key(value: Value) -> tuple[int, int]:
        return (id(value.x), value.index) if isinstance(value, Get) else (id(value), 0)

    for i, result in enumerate(graph.results):
        out_of.setdefault(key(result), i)
    calls = [v for v in graph.ops if isinstance(v, Group)]
    moments: dict[int, int] = {id(v): i for i, v in enumerate(calls)}
    last: dict[tuple[int, int], int] = {}
    for v in calls:
        for arg in v.args:
            last[key(arg)] = moments[id(v)]
    records: list[tuple[int, int, int]] = []
    owners: list[tuple[int, int]] = []
    for v in calls:
        for i, kind in enumerate(v.body.result_types):
            k = (id(v), i)
            if k in out_of:
                slots[k] = Slot("out", out_of[k], 0, kind)
            else:
                size = kind.bytes
                if not isinstance(size, int):
                    raise Unsupported("symbolic sizes in the arena", code="TD0350")
                records.append((ceildiv(size, ALIGNMENT) * ALIGNMENT, moments[id(v)], last.get(k, moments[id(v)])))
                owners.append(k)
    offsets = plan(records)
    for k, offset, v in zip(owners, offsets, owners, strict=True):
        group = next(c for c in calls if id(c) == v[0])
        slots[k] = Slot("arena", 0, offset, group.body.result_types[v[1]])
    for i, p in enumerate(graph.params):
        slots[(id(p), 0)] = Slot("in", i, 0, p.given)

    def slot(value: Value) -> Slot:
        k = key(value)
        if k not in slots and isinstance(value, Constant):
            name = digest(value)
            index, _ = constants.setdefault(name, (len(constants), value))
            slots[k] = Slot("const", index, 0, value.tensor)
        return slots[k]

    body: list[Statement] = []
    for v in calls:
        name = fingerprint(v.body)
        if name not in kernels:
            kernels[name] = KernelDef(f"{v.body.name}_{len(kernels)}", v.body)
        sites = tuple(op.failure() for op in v.body.ops if op.can_fail)
        reads = tuple(slot(a) for a in v.args)
        writes = tuple(slots[(id(v), i)] for i in range(len(v.body.results)))
        body.append(Call(kernels[name].name, reads, writes, v.location, v.sequence, sites))
    for i, result in enumerate(graph.results):
        if out_of[key(result)] != i or isinstance(result, Parameter | Constant):
            body.append(Copy(slot(result), Slot("out", i, 0, result.tensor)))
    arena: Dim = max((o + r[0] for o, r in zip(offsets, records, strict=True)), default=0)
    program = Program(
        graph.name,
        graph.dims,
        tuple(Buffer(p.label, p.given) for p in graph.params),
        tuple(Buffer(f"{i}", r.tensor) for i, r in enumerate(graph.results)),
        tuple(Buffer(name, c.tensor) for name, (_, c) in constants.items()),
        tuple(kernels.values()),
        tuple(body),
        arena,
        lower_bound(records),
        tuple(donated),
    )
    return program, tuple(np.asarray(c.data) for _, c in constants.values())
