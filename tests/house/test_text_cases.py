"""The machinery of `.text` files, shown on a language of its own, so that no pass can hide its faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import text_cases
from text_cases import BadCase, Case, cases_of, literal, text_of

TWO = """\
# adding nothing changes nothing
graph f:
  return %x
=> identities
graph f:
  return %x
run f(1.0) == 1.0
-----
# a text without passes is its own answer
# (two lines of why)
graph g:
  return %x
"""


def test_a_file_is_read_into_its_parts() -> None:
    """Every line belongs to exactly one part, and each case knows where it stands in its file."""
    first, second = cases_of(TWO)
    assert first == Case(
        1,
        ("# adding nothing changes nothing",),
        ("graph f:", "  return %x"),
        "identities",
        ("graph f:", "  return %x"),
        ("run f(1.0) == 1.0",),
    )
    assert (second.line, second.passes, second.expected, second.runs) == (9, None, (), ())
    assert second.name == "a text without passes is its own answer"


def test_writing_a_file_back_changes_nothing() -> None:
    """An update may touch only the expectations, so that the diff shows those alone."""
    assert text_of(cases_of(TWO)) == TWO


def test_a_case_must_say_why() -> None:
    """A golden text without a reason is one that nobody dares to change."""
    with pytest.raises(BadCase, match=r"line 3: .*why"):
        cases_of("\n\ngraph f:\n  return %x\n")


def test_literals_know_nan_and_inf_and_nothing_else() -> None:
    """A run line is data: it can name numbers and call nothing."""
    assert literal("[1, -inf]") == [1, -float("inf")]
    with pytest.raises(NameError):
        literal("open('x')")


def test_update_rewrites_what_came_out(tmp_path: Path) -> None:
    """The whole way once, in a process of its own: a difference shows its diff, --update mends the file."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tests / "text_cases.py").write_text(Path(text_cases.__file__).read_text())
    (tests / "conftest.py").write_text(
        "import text_cases\n"
        "pytest_plugins = ('text_cases',)\n"
        "def pytest_addoption(parser): parser.addoption('--update', action='store_true')\n"
        "text_cases.outcome = lambda case: (tuple(line.upper() for line in case.given), [])\n"
    )
    golden = tests / "case.text"
    loud = "# loud\nhello\n=> shout\nHELLO\n-----\n"
    golden.write_text(loud + "# louder\nworld\n=> shout\nwurld\nrun f() == 1\n")

    def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", str(tests), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    before = pytest_run()
    assert "1 failed, 1 passed" in before.stdout, before.stdout + before.stderr
    assert "-wurld\n+WORLD" in before.stdout
    assert "1 failed" not in pytest_run("--update").stdout
    assert golden.read_text() == (loud + "# louder\nworld\n=> shout\nWORLD\nrun f() == 1\n")
    assert "2 passed" in pytest_run().stdout
