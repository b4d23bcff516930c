"""The picture of a run: how many times as fast as the fastest peer each line is, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .report import Row

MET, MISSED, NO_BAR = "#2a7f62", "#c0392b", "#7f8c8d"


def draw(rows: Sequence[Row], path: Path, title: str) -> bool:
    """Write the PNG; False where no line has a peer to be compared with."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    # Figures that no clock gave are no speeds.
    shown = [row for row in rows if row.ratio is not None and row.result.line.way != "value"]
    if not shown:
        return False
    figure = Figure(figsize=(10, 1.4 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(shown)))[::-1]
    for place, row in zip(places, shown, strict=True):
        assert row.ratio is not None
        color = NO_BAR if row.verdict is None else MET if row.verdict.met else MISSED
        axes.barh(place, row.ratio - 1, left=1, height=0.7, color=color)
        right = row.ratio >= 1
        axes.annotate(
            f"{row.ratio:.2f}x {row.peer}",
            (row.ratio, place),
            (4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=7.5,
        )
        bar = row.result.line.bar
        if bar is not None and bar.kind == "times" and row.peer in bar.peers:
            axes.plot([bar.value, bar.value], [place - 0.42, place + 0.42], color="black", linewidth=1.5)
    axes.set_xscale("log")
    low = min(0.5, *(row.ratio / 4 for row in shown if row.ratio is not None))
    high = max(2.0, *(row.ratio * 3 for row in shown if row.ratio is not None))
    axes.set_xlim(low, high)
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.set_yticks(places, [row.name for row in shown], fontsize=8)
    ticks = [t for t in (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks], fontsize=8)
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("times as fast as the fastest peer (black tick: the bar, where it is one against that peer)")
    axes.set_title(title, fontsize=10)
    axes.legend(
        handles=[
            Patch(color=MET, label="bar met"),
            Patch(color=MISSED, label="bar missed"),
            Patch(color=NO_BAR, label="no bar"),
        ],
        loc="lower right",
        fontsize=8,
    )
    figure.savefig(path, dpi=120)
    return True
