"""The command: measure the limits, then the chosen lines; print the table; write JSON and a picture."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.codegen.host import host
from treadle.codegen.llvm.limits import NAMES

from . import table
from .lines import OURS, Chapter, selected
from .picture import draw
from .report import Row, changes, row, run_json
from .rounds import Session, Settings

OUT = Path(__file__).resolve().parents[2] / "build" / "bench"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORDS", help="lines and chapters that hold one of these words")
    parser.add_argument("--engines", default="", metavar="NAMES", help="only these engines, separated by commas")
    parser.add_argument("--rounds", type=int, help="samples per line and engine, where the line does not want fewer")
    parser.add_argument("--least", type=float, default=0.02, metavar="SECONDS", help="how long one sample lasts")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="a stored run to compare with")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where the JSON and the picture go")
    parser.add_argument("--no-limits", action="store_true", help="leave out the table of the machine's limits")
    parser.add_argument("--list", action="store_true", help="name the lines and end")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, chapters: Sequence[Chapter] | None = None) -> int:
    """0 when all that was asked for of treadle was measured; a bar missed is a finding, not a failure."""
    options = parse(arguments)
    if chapters is None:
        from lines import CHAPTERS

        chapters = CHAPTERS
    chosen = selected(chapters, options.only)
    console = table.console()
    if options.list or not chosen:
        for chapter in chapters if not chosen else [c for c, _ in chosen]:
            for line in chapter.lines:
                print(f"{chapter.title}: {line.name}")
        if not chosen:
            console.print(f"[red]no line holds {options.only!r}[/]; these are there")
        return 0 if chosen else 2
    before = json.loads(options.compare.read_text()) if options.compare else None
    engines = tuple(filter(None, options.engines.split(",")))
    settings = Settings(options.rounds, options.least, engines=engines)
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    begun = time.perf_counter()
    rows: list[Row] = []
    limits: list[Any] = []
    with Session(settings) as session:
        if not options.no_limits:
            with console.status("the machine's limits") as status:
                counts = sorted({1, min(2, host().cores)})
                for each in session.limits(list(NAMES), counts, min(options.rounds or 7, 7)):
                    status.update(f"{each[0]}, {each[1]} threads")
                    limits.append(each)
            console.print(table.limits_table(limits))
            for kind, count, column in limits:
                if column.state == "failed":
                    console.print(f"{kind}, {count} threads: {column.note}", style="yellow", markup=False)
        for chapter, lines in chosen:
            measured = []
            with console.status("") as status:
                for line in lines:

                    def watch(text: str, name: str = line.name) -> None:
                        status.update(f"{name}: {text}")

                    measured.append(row(chapter.title, session.measure(line, watch)))
            console.print(table.lines_table(chapter.title, measured))
            rows += measured
        versions = dict(session.versions)
    console.print(table.others_table(rows))
    for note in table.notes(rows):
        console.print(note, style="yellow", markup=False)
    for each in rows:
        if each.result.line.note:
            console.print(f"{each.name}: {each.result.line.note}", style="dim", markup=False)
    found = run_json(rows, limits, versions, when)
    paths = write(found, rows, options.out)
    if before is not None:
        console.print(table.changes_table(changes(before, found), before))
    bars = [each.verdict for each in rows if each.verdict is not None]
    met = sum(verdict.met for verdict in bars)
    console.print(
        f"{len(rows)} lines in {time.perf_counter() - begun:.0f} s; {met} of {len(bars)} bars met; "
        f"{' and '.join(str(os.path.relpath(path)) for path in paths)}"
    )
    columns = [each.result.column(OURS) for each in rows]
    return 1 if any(column is not None and column.state == "failed" for column in columns) else 0


def write(found: dict[str, Any], rows: Sequence[Row], out: Path) -> list[Path]:
    """The run by its time, and again as `latest.json` for `--compare`; the picture beside it."""
    out.mkdir(parents=True, exist_ok=True)
    stem = found["when"].replace(":", "")
    text = json.dumps(found, indent=1)
    path = out / f"{stem}.json"
    path.write_text(text)
    (out / "latest.json").write_text(text)
    picture = out / f"{stem}.png"
    title = f"{found['machine']['model']}, Python {found['python']}, {found['when']}"
    return [path, picture] if draw(rows, picture, title) else [path]
