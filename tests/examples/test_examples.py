"""The examples run as a reader runs them, check their own answers, and print what the README shows of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py") if "def main" in path.read_text("utf-8"))


def run(example: str, folder: Path) -> str:
    """What the example prints; a check of its own that fails is a failure here."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
    return done.stdout


@pytest.mark.time_limit(300)
@pytest.mark.parametrize("example", [name for name in EXAMPLES if name != "digits.py"])
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    """Each asserts what it claims; a claim that no longer holds would mislead more than it teaches."""
    run(example, tmp_path)


SHOWN = re.compile(r"(What `make demo` prints.*?```text\n)(.*?)(```)", re.DOTALL)


def steps(report: str) -> list[str]:
    """The words of the numbered lines: figures and kernels differ between machines and versions."""
    lines = re.findall(r"^\d\. .*", report, re.MULTILINE)
    return [re.sub(r"\s*[\d.,]+", "#", line) for line in lines]


@pytest.mark.time_limit(300)
def test_the_demo_prints_what_the_readme_shows(tmp_path: Path, update: bool) -> None:
    """The report in the README is one that was printed."""
    report = run("digits.py", tmp_path)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if update:
        text = SHOWN.sub(lambda found: found[1] + report.replace(str(tmp_path), "build/digits") + found[3], text)
        readme.write_text(text, encoding="utf-8")
    shown = SHOWN.search(text)
    assert shown is not None
    assert steps(shown[2]) == steps(report) != []
    for name in ("memory.png", "graph.png", "loss.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for name in ("digits.so", "digits.h", "digits.py", "digits.graph", "digits.program", "digits.loops"):
        assert (tmp_path / name).stat().st_size > 500, name
