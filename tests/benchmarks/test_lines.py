"""The lines of the benchmark and how they are chosen; no time is measured here."""

from __future__ import annotations

import networks
import pytest
from harness.engines import ENGINES
from harness.lines import OURS, Chapter, Line, at_most, find, of_limit, selected, times
from harness.machine import NAMES
from lines import CHAPTERS

LINES = [line for chapter in CHAPTERS for line in chapter.lines]


def test_names_are_unique():
    """A name is how a worker finds its line, and how two stored runs are matched."""
    assert len({line.name for line in LINES}) == len(LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_every_line_can_be_measured(line):
    """Its engines, its limit and the peers of its bar exist, and treadle is among the engines."""
    assert OURS in line.engines
    if line.way == "calls":
        assert set(line.engines) <= set(ENGINES)
    assert line.limit is None or line.limit.name in NAMES
    if line.bar is not None:
        assert set(line.bar.peers) <= set(line.engines)
        assert line.bar.kind != "limit" or line.limit is not None


def test_selecting():
    """A word names a line or a chapter, whatever the case; several are separated by commas."""
    a, b = Chapter("calls"), Chapter("sums")
    one, two = a.line("one", treadle=lambda td: None), a.line("two", treadle=lambda td: None)
    three = b.line("three 4096", treadle=lambda td: None)
    assert selected([a, b], "") == [(a, [one, two]), (b, [three])]
    assert selected([a, b], "TWO") == [(a, [two])]
    assert selected([a, b], "one, sums") == [(a, [one]), (b, [three])]
    assert selected([a, b], "nothing of the kind") == []
    assert find([a, b], "three 4096") is three


def test_fields_and_engines_are_told_apart():
    """A keyword of `Chapter.line` that is no field of a line is an engine."""
    line = Chapter("c").line("x", bar=at_most(1.0), rounds=3, treadle=len, torch=max)
    assert (line.rounds, line.bar, list(line.engines)) == (3, at_most(1.0), ["treadle", "torch"])


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="hourly"):
        Line("x", {}, way="hourly")


def test_the_planner_is_measured_on_the_tested_networks():
    """The layer tables are those whose plans `tests/passes/test_arena.py` checks."""
    measured = find(CHAPTERS, "MobileNet v1, memory of its intermediates").engines["bound"]()
    from treadle.passes.arena import peak

    assert measured == peak(networks.mobilenet()) / 2**20


def test_bars_name_what_they_want():
    assert times(3, "torch").peers == ("torch",)
    assert of_limit(0.85).value == 0.85
