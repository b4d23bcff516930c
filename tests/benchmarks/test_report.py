"""What a run says: medians, verdicts, comparison with a stored run, and the words of the table."""

from __future__ import annotations

import json

import pytest
from harness.lines import Limit, Line, at_most, exactly, of_limit, times
from harness.picture import draw
from harness.report import Change, Spread, changes, row, run_json, show, show_spread, verdict
from harness.rounds import Column, Result, agree, turned
from harness.table import changes_table, console, lines_table, notes


def result(bar=None, limit=None, limits=(), unit="s", **samples):
    """A measured line with these samples by engine."""
    line = Line("a line", dict.fromkeys(samples), bar=bar, limit=limit, unit=unit)
    return Result(line, [Column(name, samples=list(found)) for name, found in samples.items()], list(limits))


def test_spread():
    """Percentiles of the rounds, the same as NumPy's; one sample has no spread."""
    np = pytest.importorskip("numpy")
    samples = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0]
    found = Spread.of(samples)
    assert found is not None
    assert [found.low, found.median, found.high] == pytest.approx(list(np.percentile(samples, [10, 50, 90])))
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
    assert Spread.of([]) is None


def test_the_fastest_peer_is_the_one_with_the_least_median():
    found = row("c", result(treadle=[1.0, 1.0, 1.0], torch=[3.0, 3.0, 0.1], jax=[2.0, 2.0, 2.0]))
    assert (found.peer, found.ratio) == ("jax", 2.0)


def test_a_peer_that_computed_something_else_is_left_out():
    """Its time is of another computation; the row says so instead."""
    measured = result(treadle=[1.0], torch=[0.5], jax=[2.0])
    ours, torch, jax = measured.columns
    ours.digest, torch.digest, jax.digest = [1.0, 2.0], [1.0, 3.0], [1.0, 2.0001]
    found = row("c", measured)
    assert (found.peer, found.differing) == ("jax", ("torch",))
    assert "torch's result differs" in notes([found])[0]


@pytest.mark.parametrize(
    ("bar", "share", "met", "have"),
    [
        (at_most(1.0), None, True, 1.0),
        (at_most(0.9), None, False, 1.0),
        (exactly(1.0), None, True, 1.0),
        (exactly(1.001), None, False, 1.0),
        (times(3, "torch"), None, True, 3.0),
        (times(2.5, "torch", "jax"), None, False, 2.0),
        (of_limit(0.85), 0.9, True, 0.9),
        (of_limit(0.85), 0.8, False, 0.8),
    ],
)
def test_verdicts(bar, share, met, have):
    """Each kind of bar on its own measure; "times" by the best of the peers it names."""
    found = verdict(bar, Spread(1.0, 0.9, 1.1), {"torch": 3.0, "jax": 2.0, "numpy": 0.1}, share)
    assert found is not None
    assert (found.met, found.have) == (met, have)


def test_no_verdict_without_a_measure():
    """A bar against a peer that is not installed, or a limit that the machine has not, is not called missed."""
    assert verdict(times(3, "torch"), Spread(1.0, 1.0, 1.0), {"jax": 2.0}, None) is None
    assert verdict(of_limit(0.85), Spread(1.0, 1.0, 1.0), {}, None) is None
    assert verdict(at_most(1.0), None, {}, None) is None


def test_share_of_a_limit():
    """Work by time, by the rate that the limit's own loop had in the same rounds."""
    found = row("c", result(bar=of_limit(0.5), limit=Limit("read", 80.0), limits=[100.0, 90.0, 110.0], treadle=[1.0]))
    assert found.share == pytest.approx(0.8)


def test_absent_and_failed_engines_are_named():
    measured = result(treadle=[], torch=[], jax=[1.0])
    measured.columns[0].state, measured.columns[0].note = "failed", "ValueError: no"
    measured.columns[1].state, measured.columns[1].note = "absent", "No module named 'torch'"
    found = row("c", measured)
    assert found.ours is None
    assert notes([found]) == [
        "torch: not installed (No module named 'torch')",
        "a line: treadle failed: ValueError: no",
    ]
    with (paper := console()).capture() as captured:
        paper.print(lines_table("c", [found]))
    assert "failed" in captured.get()


def test_figures_are_readable():
    assert show(88.7e-9, "s") == "88.7 ns"
    assert show(1.0e-3, "s") == "1 ms"
    assert show(4.594, "MiB") == "4.594 MiB"
    assert show(250e9, "op/s") == "250 Gop/s"
    assert show_spread(Spread(1.2e-3, 1.1e-3, 1.4e-3), "s") == "1.2 (1.1 to 1.4) ms"
    assert show_spread(Spread(1.2e-3, 1.2e-3, 1.2e-3), "s") == "1.2 ms"


def test_digests():
    """Equal up to rounding, NaN beside NaN; an engine without a digest cannot be judged."""
    assert agree([1.0, float("nan")], [1.0005, float("nan")])
    assert not agree([1.0, 2.0], [1.0, float("nan")])
    assert agree([], [1.0])


def test_rounds_begin_with_another_engine_each_time():
    columns = [Column("a"), Column("b"), Column("c")]
    assert [[c.engine for c in turned(columns, n)] for n in range(3)] == [list("abc"), list("bca"), list("cab")]


def stored(**samples):
    rows = [row("c", result(treadle=samples["treadle"]))]
    return json.loads(json.dumps(run_json(rows, [], {"treadle": "0"}, "then")))


def test_change_beyond_the_spread():
    """Medians differ in every run; only spreads that do not overlap are a change."""
    before, slower, same = stored(treadle=[1.0, 1.1, 1.2]), stored(treadle=[2.0, 2.1, 2.2]), stored(treadle=[1.15, 1.3])
    (change,) = changes(before, slower)
    assert change.beyond
    assert str(change) == "90.9% more"
    (change,) = changes(before, same)
    assert not change.beyond
    assert str(change) == "within the spread"
    with (paper := console()).capture() as captured:
        paper.print(changes_table(changes(before, slower), before))
    assert "90.9% more" in captured.get()


def test_lines_of_other_units_are_not_compared():
    before, after = stored(treadle=[1.0]), stored(treadle=[1.0])
    after["lines"]["a line"]["unit"] = "ulp"
    assert changes(before, after) == []


def test_a_change_that_is_an_improvement():
    assert str(Change("x", "s", Spread(2.0, 1.9, 2.1), Spread(1.0, 0.9, 1.1))) == "50.0% less"


def test_the_picture(tmp_path):
    """One bar per line that has a peer; no picture of nothing."""
    pytest.importorskip("matplotlib")
    assert not draw([row("c", result(treadle=[1.0]))], tmp_path / "none.png", "title")
    shown = [row("c", result(bar=times(3, "torch"), treadle=[1.0], torch=[2.0]))]
    assert draw(shown, tmp_path / "some.png", "title")
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
