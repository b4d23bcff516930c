"""The table that people read: one row a line, the fastest peer beside treadle, and what the bar says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .lines import OURS
from .report import Change, Row, Spread, bar_text, show, show_spread
from .rounds import Column


def limits_table(limits: Sequence[tuple[str, int, Column]]) -> Table:
    """One row per limit, one column per number of threads."""
    counts = list(dict.fromkeys(threads for _, threads, _ in limits))
    table = Table(title="what this machine can do", title_justify="left")
    table.add_column("limit")
    for count in counts:
        table.add_column(f"{count} thread{'s' if count > 1 else ''}", justify="right")
    for kind in dict.fromkeys(kind for kind, _, _ in limits):
        cells = []
        for count in counts:
            column = next((c for k, t, c in limits if (k, t) == (kind, count)), None)
            spread = Spread.of(column.samples) if column is not None else None
            if spread is not None:
                cells.append(show_spread(spread, "B/s" if kind in ("triad", "triad nt", "read") else "op/s"))
            else:
                cells.append("" if column is None else "not here" if column.state == "absent" else "failed")
        table.add_row(kind, *cells)
    return table


def lines_table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("line", overflow="fold")
    table.add_column("treadle", justify="right")
    table.add_column("fastest peer", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("of limit", justify="right")
    table.add_column("bar", overflow="fold")
    table.add_column("")
    for row in rows:
        table.add_row(
            row.name,
            ours_cell(row),
            peer_cell(row),
            f"{row.ratio:.2f}x" if row.ratio is not None else "",
            f"{row.share:.0%}" if row.share is not None else "",
            bar_text(row.result.line.bar, row.result.line.unit) if row.result.line.bar is not None else "",
            verdict_cell(row),
        )
    return table


def ours_cell(row: Row) -> str:
    if row.ours is not None:
        return show_spread(row.ours, row.result.line.unit)
    column = row.result.column(OURS)
    return state_words(column) if column is not None else ""


def peer_cell(row: Row) -> str:
    if row.peer_spread is not None:
        return f"{row.peer} {show_spread(row.peer_spread, row.result.line.unit)}"
    others = [column for column in row.result.columns if column.engine != OURS]
    return ", ".join(f"{column.engine} {state_words(column)}" for column in others)


def state_words(column: Column) -> str:
    return {"absent": "not installed", "failed": "failed"}.get(column.state, "")


def verdict_cell(row: Row) -> Text:
    v = row.verdict
    if v is not None:
        if v.met:
            return Text("met", style="green")
        of = f", {v.have / v.want:.2f} of the bar" if v.want else ""
        return Text(f"missed{of}", style="bold red")
    if row.result.line.bar is None:
        return Text("")
    return Text("not measured", style="yellow")


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know beside the figures: who is missing, who failed, whose result differs."""
    found = []
    missing: dict[str, str] = {}
    for row in rows:
        for column in row.result.columns:
            if column.state == "absent":
                missing.setdefault(column.engine, column.note)
            elif column.state == "failed":
                found.append(f"{row.name}: {column.engine} failed: {column.note}")
        found += [f"{row.name}: {engine}'s result differs from treadle's; it is left out" for engine in row.differing]
    return [*(f"{engine}: not installed ({note})" for engine, note in missing.items()), *found]


def others_table(rows: Sequence[Row]) -> Table:
    """Every engine's median, for those who want more than the fastest."""
    names = list(dict.fromkeys(c.engine for row in rows for c in row.result.columns if c.engine != OURS))
    table = Table(title="all engines, medians", title_justify="left")
    table.add_column("line", overflow="fold")
    for name in (OURS, *names):
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for name in (OURS, *names):
            column = row.result.column(name)
            spread = Spread.of(column.samples) if column is not None else None
            if spread is not None:
                cells.append(show(spread.median, row.result.line.unit))
            else:
                cells.append(state_words(column) if column is not None else "")
        table.add_row(row.name, *cells)
    return table


def changes_table(found: Sequence[Change], before: Mapping[str, object]) -> Table:
    table = Table(title=f"treadle against the run of {before['when']}", title_justify="left")
    for heading in ("line", "then", "now", "change"):
        table.add_column(heading, justify="left" if heading in ("line", "change") else "right")
    for change in found:
        style = "" if not change.beyond else "bold red" if change.ratio > 1 else "green"
        table.add_row(
            change.name,
            show_spread(change.before, change.unit),
            show_spread(change.after, change.unit),
            Text(str(change), style=style),
        )
    return table


def console() -> Console:
    """Wide enough for the table where the output is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)
