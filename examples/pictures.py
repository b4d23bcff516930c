"""Pictures of a compiled program, drawn from its text: which bytes are used when, and what flows between kernels.

The text is what `compiled.as_text("program")` gives and `treadle dump --stage program` prints; treadle's own parser
reads it back. Sizes that the program leaves open are given by `dims`. By itself the file draws a text from disk:
`python examples/pictures.py model.program`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.ir.dims import evaluate
from treadle.ir.graph import Graph
from treadle.ir.ops.families import Contraction, Indexing, Reduction
from treadle.ir.program import Call, Copy, Loop, Program, Slot, Statement, Switch, While
from treadle.ir.program_text import parse_program
from treadle.ir.types import TensorType
from treadle.ir.value import Parameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#1f2933", "#6b7785"
# What a kernel mostly does, with the colours of its box: face, edge.
KINDS = {
    "products": ("#d6e4f5", "#3b74b8"),
    "reductions": ("#fbe3c6", "#c9781f"),
    "indexing": ("#efd9ee", "#a1509c"),
    "maps": ("#d9eed8", "#4d9a4b"),
    "copies": ("#e6e6e6", "#7d7d7d"),
}
QUIET = ("broadcast", "reshape", "full", "constant", "get")  # ops that say where a value stands, not what is done


def shown(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024 or unit == "MiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number == int(number) else f"{number:.1f} {unit}"


def ops_of(graph: Graph) -> list[str]:
    names = [value.name for value in graph.order if not isinstance(value, Parameter)]
    return [name for name in names if name not in QUIET] or names[:1]


def kind_of(graph: Graph) -> str:
    families = {"products": Contraction, "indexing": Indexing, "reductions": Reduction}
    return next((kind for kind, family in families.items() if any(isinstance(v, family) for v in graph.order)), "maps")


@dataclass(frozen=True)
class Moment:
    """One call or copy of the program, in the order of its text, with the loops it stands in."""

    statement: Call | Copy
    loops: tuple[int, ...]

    @property
    def reads(self) -> Sequence[Slot]:
        return self.statement.reads if isinstance(self.statement, Call) else (self.statement.source,)

    @property
    def writes(self) -> Sequence[Slot]:
        return self.statement.writes if isinstance(self.statement, Call) else (self.statement.target,)

    @property
    def work(self) -> Sequence[Slot]:
        return self.statement.work if isinstance(self.statement, Call) else ()


def moments_of(body: Sequence[Statement], loops: tuple[int, ...] = ()) -> Iterator[Moment]:
    for statement in body:
        match statement:
            case Call() | Copy():
                yield Moment(statement, loops)
            case Loop():
                yield from moments_of(statement.body, (*loops, id(statement)))
            case While():
                yield from moments_of((*statement.condition, *statement.body), (*loops, id(statement)))
            case Switch():
                for branch in statement.branches:
                    yield from moments_of(branch, loops)


@dataclass
class Span:
    """Bytes `low` to `high` of the arena, holding one value from moment `first` to `last`."""

    low: int
    high: int
    first: int
    last: int
    type: TensorType
    kind: str
    loops: tuple[int, ...] = ()
    scratch: bool = False


@dataclass
class Reading:
    """A program with its open sizes settled: what the pictures need to know of it."""

    program: Program
    sizes: dict[str, int]
    moments: list[Moment] = field(default_factory=list)
    graphs: dict[str, Graph] = field(default_factory=dict)

    @staticmethod
    def of(text: str, dims: Mapping[str, int] | None) -> Reading:
        program = parse_program(text)
        graphs = {kernel.name: kernel.graph for kernel in program.kernels}
        return Reading(program, dict(dims or {}), list(moments_of(program.body)), graphs)

    def number(self, size: object) -> int:
        return evaluate(size, self.sizes)  # type: ignore[arg-type]

    def extent(self, slot: Slot) -> tuple[int, int]:
        """The bytes of a slot; one that moves with a loop's variable covers all of its places."""
        ends = []
        for step in (0, 1):
            places = dict(self.sizes)
            for loop in loops_of(self.program.body):
                places[loop.var] = step * max(self.number(loop.count) - 1, 0)
            ends.append(evaluate(slot.offset, places))
        return min(ends), max(ends) + self.number(slot.type.bytes)

    def kind(self, moment: Moment) -> str:
        return kind_of(self.graphs[moment.statement.kernel]) if isinstance(moment.statement, Call) else "copies"

    def ops(self, moment: Moment) -> list[str]:
        return ops_of(self.graphs[moment.statement.kernel]) if isinstance(moment.statement, Call) else ["copy"]

    def spans(self) -> list[Span]:
        """What lies in the arena, and how long each value is needed."""
        found: list[Span] = []
        current: dict[tuple[int, int], Span] = {}
        for now, moment in enumerate(self.moments):
            for slot in (s for s in moment.reads if s.space == "arena"):
                span = current.get(self.extent(slot))
                if span is None:  # written later in the loop, read in its next round
                    span = Span(*self.extent(slot), now, now, slot.type, self.kind(moment), moment.loops)
                    current[span.low, span.high] = span
                    found.append(span)
                span.last = now
            for slot in (s for s in moment.writes if s.space == "arena"):
                low, high = self.extent(slot)
                carried = current.get((low, high))
                if carried is not None and (carried.loops != moment.loops or carried.last == now):
                    carried.last = now  # a carry, or a result over its operand
                    continue
                span = Span(low, high, now, now, slot.type, self.kind(moment), moment.loops)
                current[low, high] = span
                found.append(span)
            scratch = (s for s in moment.work if s.space == "arena")
            found += [Span(*self.extent(s), now, now, s.type, self.kind(moment), moment.loops, True) for s in scratch]
        for span in found:  # what a loop reads of what stood before it is needed until its last round
            inside = [i for i, m in enumerate(self.moments) if i <= span.last and set(m.loops) - set(span.loops)]
            if inside and span.last in inside:
                own = self.moments[span.last].loops[0]
                span.last = max(i for i, m in enumerate(self.moments) if own in m.loops)
        return found


def loops_of(body: Sequence[Statement]) -> Iterator[Loop]:
    for statement in body:
        match statement:
            case Loop():
                yield statement
                yield from loops_of(statement.body)
            case While():
                yield from loops_of((*statement.condition, *statement.body))
            case Switch():
                for branch in statement.branches:
                    yield from loops_of(branch)
            case _:
                pass


def headed(figure: Figure, title: str, subtitle: str) -> None:
    """A title and what to make of it, at the upper left."""
    height = figure.get_figheight() * 72
    figure.text(16 / (figure.get_figwidth() * 72), 1 - 24 / height, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(16 / (figure.get_figwidth() * 72), 1 - 42 / height, subtitle, fontsize=9, color=GREY)


def draw_memory(text: str, path: Path, dims: Mapping[str, int] | None = None) -> None:
    """The arena over the program's calls: one rectangle per value, as high as its bytes, as wide as its life."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    reading = Reading.of(text, dims)
    program, moments = reading.program, reading.moments
    peak, bound = reading.number(program.arena_bytes), reading.number(program.lower_bound)
    count = len(moments)
    heads = [reading.ops(moment) for moment in moments]
    lines = max((len(head) for head in heads), default=1) if count <= 14 else 1
    width, below = max(7.0, min(0.95 * count + 1.6, 14.0)), 0.34 + 0.15 * min(lines, 7)
    figure = Figure(figsize=(width, 3.6 + 0.7 + below), facecolor="white")
    axes = figure.add_axes((0.9 / width, below / (4.3 + below), 1 - 1.2 / width, 3.5 / (4.3 + below)))
    unit, name = (1 << 20, "MiB") if peak >= 1 << 21 else (1 << 10, "KiB") if peak >= 1 << 12 else (1, "bytes")
    tall = max(peak, 1) / unit
    for span in sorted(reading.spans(), key=lambda s: s.first):
        face, edge = KINDS[span.kind]
        low, high, left, right = span.low / unit, span.high / unit, span.first - 0.46, span.last + 0.46
        pad = 0.004 * tall
        axes.add_patch(
            FancyBboxPatch(
                (left, low + pad),
                right - left,
                max(high - low - 2 * pad, pad),
                boxstyle="square,pad=0",
                facecolor=face,
                edgecolor=edge,
                linewidth=1,
                hatch="////" if span.scratch else None,
            )
        )
        points = (high - low) / (1.12 * tall) * 3.5 * 72  # the rectangle's height on paper
        across = (right - left) / max(count, 1) * (width - 1.2) * 72
        what = "scratch" if span.scratch else str(span.type)
        words = f"{what}\n{shown(span.high - span.low)}" if points > 24 else f"{what}  {shown(span.high - span.low)}"
        longest = max(map(len, words.split("\n")))
        letters = min(8.0, across / (0.62 * longest), points * 0.8)
        if letters >= 5:
            axes.text(
                (left + right) / 2, (low + high) / 2, words, ha="center", va="center", fontsize=letters, color=INK
            )
    for loop in {moment.loops[0]: None for moment in moments if moment.loops}:
        inside = [i for i, moment in enumerate(moments) if loop in moment.loops]
        axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color="#f4f6f8", zorder=0)
        axes.text(inside[0] - 0.42, 1.1 * tall, "loop", fontsize=8, color=GREY, va="top")
    axes.axhline(bound / unit, color="#b3261e", linestyle=(0, (4, 3)), linewidth=1)
    axes.text(
        count - 0.5, bound / unit, f"lower bound {shown(bound)} ", ha="right", va="bottom", fontsize=8, color="#b3261e"
    )
    axes.set_xlim(-0.5, max(count - 0.5, 0.5))
    axes.set_ylim(0, 1.12 * tall)
    axes.set_ylabel(f"offset in the arena, {name}", fontsize=8, color=GREY)
    if count <= 14:
        cut = [head if len(head) <= 7 else [*head[:6], "..."] for head in heads]
        labels = ["\n".join((f"{i}", *head)) for i, head in enumerate(cut)]
        axes.set_xticks(range(count), labels, fontsize=7.5, linespacing=1.25)
    else:
        axes.set_xlabel("calls, in order", fontsize=8, color=GREY)
    axes.tick_params(colors=GREY, length=0, labelsize=7.5)
    axes.grid(axis="y", color="#eef1f4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c3ccd6")
    verdict = "no plan can be smaller" if peak == bound else f"{peak / max(bound, 1) - 1:.1%} above the lower bound"
    headed(figure, f"{program.name}: memory plan", f"{count} calls, peak {shown(peak)}; {verdict}")
    figure.savefig(path, dpi=144)


def draw_curve(losses: Sequence[float], epochs: int, path: Path) -> None:
    """The loss of each step of a training, and its mean over each epoch; of equally many steps each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.3), facecolor="white")
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.68))
    size = len(losses) // epochs
    means = [sum(losses[i * size : (i + 1) * size]) / size for i in range(epochs)]
    face, edge = KINDS["products"]
    axes.plot([(i + 1) / size for i in range(len(losses))], losses, color=face, linewidth=1.2)
    axes.plot([i + 0.5 for i in range(epochs)], means, color=edge, linewidth=1.6, marker="o", markersize=3.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlim(0, len(losses) / size)
    axes.set_xlabel("epoch", fontsize=8, color=GREY)
    axes.tick_params(which="both", colors=GREY, length=0, labelsize=7.5)
    axes.grid(axis="y", which="both", color="#eef1f4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c3ccd6")
    subtitle = f"{len(losses)} steps, from {losses[0]:.2f} to {means[-1]:.2f}, the mean of the last epoch"
    headed(figure, "loss while learning", subtitle)
    figure.savefig(path, dpi=144)


# The picture of the graph: boxes in layers, one point of the page per unit of the axes.

TEXT, SMALL = 9.0, 7.0
ROW = 88.0  # from one layer to the next
GAP = 26.0  # between two boxes of a layer


@dataclass(eq=False)
class Box:
    """A kernel, an argument or a result; or, with no lines, the place where a long edge passes a layer."""

    lines: tuple[str, ...] = ()
    kind: str = ""
    layer: int = 0
    x: float = 0.0
    width: float = 10.0
    before: list[Box] = field(default_factory=list)
    tall: float = 0.0  # where there are no lines: the height of the layer

    @property
    def height(self) -> float:
        return 14.0 + 12.5 * len(self.lines) if self.lines else self.tall

    @property
    def y(self) -> float:
        return -ROW * self.layer


def length(text: str, points: float, bold: bool = False) -> float:
    """How long a text is on paper, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    weight = "bold" if bold else "normal"
    return float(TextPath((0, 0), text, size=points, prop=FontProperties(weight=weight)).get_extents().width)


def boxes_of(reading: Reading) -> list[Box]:
    """A box per kernel call, argument and result, each with the boxes that it reads."""
    program = reading.program
    boxes = [Box((b.label, str(b.type)), "in") for b in program.inputs]
    writer: dict[object, Box] = {("in", i): box for i, box in enumerate(boxes)}

    def place(slot: Slot) -> object:
        return reading.extent(slot) if slot.space == "arena" else (slot.space, slot.index)

    for number, moment in enumerate(reading.moments):
        ops = reading.ops(moment)
        weights = [str(slot.type) for slot in moment.reads if slot.space == "const"]
        notes = [", ".join(str(slot.type) for slot in moment.writes[:2])]
        where = getattr(moment.statement, "location", None)
        notes += [str(where)] if where else []
        notes += ["in a loop"] if moment.loops else []
        lines = [f"{number}   " + " ".join(ops if len(ops) <= 8 else [*ops[:7], "..."]), "     ".join(notes)]
        lines += [f"weights {', '.join(weights[:3])}{' ...' if len(weights) > 3 else ''}"] if weights else []
        box = Box(tuple(lines), reading.kind(moment))
        box.before = unique(writer[place(slot)] for slot in moment.reads if place(slot) in writer)
        for slot in moment.writes:
            writer[place(slot)] = box
        boxes.append(box)
    for i, buffer in enumerate(program.outputs):
        name = "result" if len(program.outputs) == 1 else f"result {buffer.label}"
        before = [writer["out", i]] if ("out", i) in writer else []
        boxes.append(Box((name, str(buffer.type)), "out", before=before))
    return boxes


def unique(boxes: Iterable[Box]) -> list[Box]:
    return list({id(box): box for box in boxes}.values())


def laid_out(boxes: list[Box]) -> list[list[Box]]:
    """Layers from top to bottom: longest path, long edges through the layers between, then few crossings."""
    import networkx as nx

    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(boxes)))
    number = {id(box): i for i, box in enumerate(boxes)}
    order.add_edges_from((number[id(source)], i) for i, box in enumerate(boxes) for source in box.before)
    for i in nx.topological_sort(order):
        boxes[i].layer = 1 + max((source.layer for source in boxes[i].before), default=-1)
    for box in boxes:  # what reads nothing stands right above its first reader
        readers = [other.layer for other in boxes if box in other.before]
        if readers and not box.before:
            box.layer = min(readers) - 1
    layers: list[list[Box]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    for box in boxes:
        box.width = max(
            22 + max(length(line, TEXT if i == 0 else SMALL, i == 0) for i, line in enumerate(box.lines)), 40.0
        )
        layers[box.layer].append(box)
        for i, source in enumerate(box.before):
            for layer in range(source.layer + 1, box.layer):
                source = Box(layer=layer, before=[source])
                layers[layer].append(source)
            box.before[i] = source
    for row in layers:
        settle(row, [0.0 for _ in row])
    for turn in range(24):
        downwards = turn % 2 == 0
        for above, row in pairwise(layers) if downwards else pairwise(reversed(layers)):
            near = {id(box): box.before if downwards else [b for b in above if box in b.before] for box in row}
            wanted = [mean([other.x for other in near[id(box)]], box.x) for box in row]
            if turn < 12:  # then the order stands, and only places change
                order_by = {id(box): x for box, x in zip(row, wanted, strict=True)}
                row.sort(key=lambda box: order_by[id(box)])
                wanted.sort()
            settle(row, wanted)
    return layers


def mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def settle(row: list[Box], wanted: list[float]) -> None:
    """Places near the wanted ones, in order and without overlap: the middle of the leftmost and the rightmost way."""
    apart = [(a.width + b.width) / 2 + GAP for a, b in pairwise(row)]
    to_right, to_left = list(wanted), list(wanted)
    for i, room in enumerate(apart):
        to_right[i + 1] = max(to_right[i + 1], to_right[i] + room)
    for i, room in reversed(list(enumerate(apart))):
        to_left[i] = min(to_left[i], to_left[i + 1] - room)
    for box, a, b in zip(row, to_right, to_left, strict=True):
        box.x = (a + b) / 2


def draw_graph(text: str, path: Path, dims: Mapping[str, int] | None = None) -> None:
    """The kernels with their ops as boxes, from arguments at the top to results at the bottom."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, Patch

    reading = Reading.of(text, dims)
    boxes = boxes_of(reading)
    layers = laid_out(boxes)
    left, right = (
        side(b.x + sign * b.width / 2 for row in layers for b in row) for side, sign in ((min, -1), (max, 1))
    )
    wide, middle = max(right - left + 48, 460.0), (left + right) / 2
    low, high = -ROW * (len(layers) - 1) - 66, 88.0
    figure = Figure(figsize=(wide / 72, (high - low) / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(middle - wide / 2, middle + wide / 2)
    axes.set_ylim(low, high)
    axes.set_axis_off()
    for row in layers:
        for box in row:
            box.tall = max(other.height for other in row)
            for source in box.before:
                draw_edge(axes, source, box)
    for box in boxes:
        face, edge = KINDS.get(box.kind, ("white", "#9aa5b1"))
        axes.add_patch(
            FancyBboxPatch(
                (box.x - box.width / 2, box.y - box.height / 2),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=" + ("5" if box.kind in KINDS else str(box.height / 2)),
                facecolor=face,
                edgecolor=edge,
                linewidth=1,
            )
        )
        for i, line in enumerate(box.lines):
            y = box.y + 6.5 * (len(box.lines) - 1) - 13 * i
            weight, colour, points = ("bold", INK, TEXT) if i == 0 else ("normal", GREY, SMALL)
            axes.text(box.x, y, line, ha="center", va="center", fontsize=points, fontweight=weight, color=colour)
    used = [kind for kind in KINDS if any(box.kind == kind for box in boxes)]
    patches = [Patch(facecolor=KINDS[kind][0], edgecolor=KINDS[kind][1], label=kind) for kind in used]
    axes.legend(handles=patches, loc="lower left", ncols=len(used), frameon=False, fontsize=7.5, labelcolor=GREY)
    kernels = sum(isinstance(moment.statement, Call) for moment in reading.moments)
    headed(figure, f"{reading.program.name}: {kernels} kernels", "each box runs as one loop nest")
    figure.savefig(path, dpi=144)


def draw_edge(axes: Axes, source: Box, target: Box) -> None:
    """A curve that leaves downwards and arrives downwards."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    start, end = (source.x, source.y - source.height / 2), (target.x, target.y + target.height / 2)
    middle = (start[1] + end[1]) / 2
    curve = Curve(
        [start, (start[0], middle), (end[0], middle), end], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    )
    if not target.lines:
        axes.plot([end[0], end[0]], [end[1], end[1] - target.height], color="#9aa5b1", linewidth=1, zorder=0)
    style = "-|>,head_length=4,head_width=2" if target.lines else "-"
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle=style, color="#9aa5b1", linewidth=1, zorder=0))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw_memory(source.read_text(), source.with_suffix(".memory.png"))
    draw_graph(source.read_text(), source.with_suffix(".graph.png"))
