"""What was measured, as rows: for people a table, for programs JSON; and the change against a stored run.

A row is computed from medians. The spread is the 10th to the 90th percentile of the rounds. Every unit here is one of
which less is better, so a ratio above 1 says how many times as good as the fastest peer treadle is.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lines import OURS, Bar
from .rounds import Column, Result, disagreeing


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and their 10th and 90th percentile."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(samples: Sequence[float]) -> Spread | None:
        if not samples:
            return None
        if len(samples) == 1:
            return Spread(samples[0], samples[0], samples[0])
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return Spread(statistics.median(samples), tenths[0], tenths[-1])


@dataclass(frozen=True)
class Verdict:
    """Whether a bar is met: `have` and `want` are in the bar's own measure."""

    met: bool
    have: float
    want: float


def bar_text(bar: Bar, unit: str) -> str:
    match bar.kind:
        case "at most":
            return f"at most {show(bar.value, unit)}"
        case "exactly":
            return f"exactly {show(bar.value, unit)}"
        case "limit":
            return f"at least {bar.value:.0%} of the limit"
    return f"at least {bar.value:g}x {' and '.join(bar.peers)}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    chapter: str
    result: Result
    ours: Spread | None
    peer: str  # the fastest one's name, or ""
    peer_spread: Spread | None
    ratio: float | None
    share: float | None  # of the machine's limit
    verdict: Verdict | None
    differing: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.result.line.name


def row(chapter: str, result: Result) -> Row:
    line = result.line
    column = result.column(OURS)
    ours = Spread.of(column.samples) if column is not None else None
    differing = tuple(disagreeing(result))
    peers = {
        each.engine: spread
        for each in result.columns
        if each.engine != OURS and each.engine not in differing and (spread := Spread.of(each.samples)) is not None
    }
    best = min(peers, key=lambda name: peers[name].median, default="")
    ratio = peers[best].median / ours.median if best and ours is not None and ours.median > 0 else None
    share = None
    if line.limit is not None and ours is not None and result.limits:
        share = line.limit.work / ours.median / statistics.median(result.limits)
    found = verdict(line.bar, ours, {name: each.median for name, each in peers.items()}, share)
    return Row(chapter, result, ours, best, peers.get(best), ratio, share, found, differing)


def verdict(bar: Bar | None, ours: Spread | None, peers: Mapping[str, float], share: float | None) -> Verdict | None:
    """None where there is no bar, or where what it is measured by is missing."""
    if bar is None or ours is None:
        return None
    match bar.kind:
        case "at most":
            return Verdict(ours.median <= bar.value, ours.median, bar.value)
        case "exactly":
            have = round(ours.median, 3)
            return Verdict(have == bar.value, have, bar.value)
        case "limit" if share is not None:
            return Verdict(share >= bar.value, share, bar.value)
        case "times":
            there = [peers[name] for name in bar.peers if name in peers]
            if not there:
                return None
            have = min(there) / ours.median
            return Verdict(have >= bar.value, have, bar.value)
    return None


_SCALES: dict[str, tuple[tuple[str, float], ...]] = {
    "s": (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)),
    "op/s": (("Top/s", 1e-12), ("Gop/s", 1e-9)),
    "B/s": (("GB/s", 1e-9),),
}


def scale_of(value: float, unit: str) -> tuple[str, float]:
    """The unit in which the value has a digit before the point, and what to multiply by."""
    scales = _SCALES.get(unit, ((unit, 1.0),))
    return next((each for each in scales if abs(value) * each[1] >= 0.9995), scales[-1])


def show(value: float, unit: str) -> str:
    name, scale = scale_of(value, unit)
    return f"{digits(value * scale)} {name}"


def show_spread(spread: Spread, unit: str) -> str:
    """`1.2 (1.1 to 1.4) ms`; the spread is left out where there was one sample."""
    name, scale = scale_of(spread.median, unit)
    median, low, high = (digits(x * scale) for x in (spread.median, spread.low, spread.high))
    return f"{median} {name}" if spread.low == spread.high else f"{median} ({low} to {high}) {name}"


def digits(value: float) -> str:
    """Three digits, without an exponent for what is read more easily in full."""
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:.4g}" if abs(value) < 10 else f"{value:.3g}"


def column_json(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"state": column.state}
    if column.note:
        found["note"] = column.note
    spread = Spread.of(column.samples)
    if spread is not None:
        found |= {"median": spread.median, "p10": spread.low, "p90": spread.high, "samples": column.samples}
    return found


def row_json(each: Row) -> dict[str, Any]:
    line = each.result.line
    found: dict[str, Any] = {
        "chapter": each.chapter,
        "unit": line.unit,
        "threads": line.threads,
        "engines": {column.engine: column_json(column) for column in each.result.columns},
        "fastest_peer": each.peer or None,
        "ratio": each.ratio,
    }
    if line.limit is not None:
        found["limit"] = {"name": line.limit.name, "work": line.limit.work, "rates": each.result.limits}
        found["share_of_limit"] = each.share
    if line.bar is not None:
        found["bar"] = {"text": bar_text(line.bar, line.unit)}
        if each.verdict is not None:
            found["bar"] |= {"met": each.verdict.met, "have": each.verdict.have, "want": each.verdict.want}
    if each.differing:
        found["differing"] = list(each.differing)
    return found


def machine_json() -> dict[str, Any]:
    """What a reader of the stored run has to know of the machine."""
    from treadle.codegen.host import host

    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((text.split(":", 1)[1].strip() for text in file if text.startswith("model name")), model)
    except OSError:
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"model": model, "target": str(host()), "system": platform.platform(), "load": load}


def run_json(
    rows: Sequence[Row], limits: Sequence[tuple[str, int, Column]], versions: Mapping[str, str], when: str
) -> dict[str, Any]:
    return {
        "format": 1,
        "when": when,
        "machine": machine_json(),
        "python": platform.python_version(),
        "versions": dict(versions),
        "limits": [{"name": name, "threads": threads, **column_json(column)} for name, threads, column in limits],
        "lines": {each.name: row_json(each) for each in rows},
    }


@dataclass(frozen=True)
class Change:
    """One engine's figure in two runs. `beyond` says that the spreads do not overlap."""

    name: str
    unit: str
    before: Spread
    after: Spread

    @property
    def ratio(self) -> float:
        return self.after.median / self.before.median if self.before.median else float("inf")

    @property
    def beyond(self) -> bool:
        return self.after.low > self.before.high or self.after.high < self.before.low

    def __str__(self) -> str:
        if not self.beyond:
            return "within the spread"
        percent = abs(self.ratio - 1)
        return f"{percent:.1%} {'more' if self.ratio > 1 else 'less'}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any], engine: str = OURS) -> list[Change]:
    """The lines that both stored runs have, in the order of the later."""
    found = []
    for name, line in after["lines"].items():
        old = before["lines"].get(name, {}).get("engines", {}).get(engine, {})
        new = line["engines"].get(engine, {})
        if "median" in old and "median" in new and before["lines"][name]["unit"] == line["unit"]:
            found.append(Change(name, line["unit"], *(Spread(x["median"], x["p10"], x["p90"]) for x in (old, new))))
    return found
