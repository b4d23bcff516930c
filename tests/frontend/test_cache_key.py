"""What a compiled graph is kept under on disk: everything that decides what it becomes."""

from __future__ import annotations

import shutil
from pathlib import Path

from treadle.frontend import compile as driver

ROOT = Path(driver.__file__).parents[1]


def test_a_changed_compiler_does_not_meet_what_it_compiled_before(tmp_path: Path) -> None:
    for room in ("ir", "passes", "codegen", "frontend"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    read = driver.compiler.__wrapped__
    before = read(tmp_path)
    assert read(tmp_path) == before
    # Every chapter counts, and what is no code of it does not.
    (tmp_path / "passes" / "notes.md").write_text("words")
    assert read(tmp_path) == before
    for changed in sorted(tmp_path.rglob("*.py")):
        if changed.parent.name in ("functions", "layers"):
            continue  # what the user calls is in the graph
        text = changed.read_text()
        changed.write_text(text + "# changed\n")
        now = read(tmp_path)
        assert now != before, changed
        before = now
