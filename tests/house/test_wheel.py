"""What a user installs: the rooms, the marker of typed packages, and nothing that stands beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ir", "passes", "codegen", "runtime", "frontend")


def test_the_wheel_holds_the_rooms_and_nothing_else(tmp_path: Path) -> None:
    """The root is the package, so a careless project file would ship tests and examples, or lose a room."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copy(path, copy)
    for folder in (*ROOMS, "tests", "docs", "examples"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    wheel_of = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command = [*wheel_of, "-w", str(tmp_path), str(copy)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("treadle-*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    rooms = [path.relative_to(copy) for room in ROOMS for path in (copy / room).rglob("*.py")]
    wanted = {"treadle/py.typed", "treadle/__init__.py", "treadle/__main__.py"}
    wanted |= {f"treadle/{path.as_posix()}" for path in rooms}
    assert inside == wanted
