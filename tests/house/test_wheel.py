"""What a user installs: the rooms, the marker of typed packages, and nothing that stands beside them.

The source archive is built from a copy of the checkout, and the wheel from the unpacked archive, as an installer
without a wheel for its system would: what the archive lacks, the wheel then lacks too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ir", "passes", "codegen", "runtime", "frontend")
BESIDE = ("tests", "docs", "examples", "benchmarks", "changes")


def built(kind: str, folder: Path, into: Path) -> Path:
    """The archive that setuptools makes of `folder`."""
    into.mkdir(exist_ok=True)
    script = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(into)!r}))"
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return into / run.stdout.split()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive and the wheel."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "copy"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copy(path, copy)
    for name in (*ROOMS, *BESIDE):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = built("sdist", copy, folder / "archives")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return source, built("wheel", unpacked, folder / "archives")


def sources() -> set[str]:
    rooms = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {"py.typed", "__init__.py", "__main__.py"} | {path.as_posix() for path in rooms}


def test_the_wheel_holds_the_rooms_and_nothing_else(archives: tuple[Path, Path]) -> None:
    """The root is the package, so a careless project file would ship tests and examples, or lose a room."""
    inside = {name for name in zipfile.ZipFile(archives[1]).namelist() if ".dist-info/" not in name}
    assert inside == {f"treadle/{name}" for name in sources()}


def test_the_source_archive_builds_by_itself(archives: tuple[Path, Path]) -> None:
    """It holds the sources, the licence and what the project file names; tests and caches stay at home."""
    with tarfile.open(archives[0]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()} - {""}
    assert sources() | {"LICENSE", "README.md", "pyproject.toml"} <= inside
    others = {name for name in inside if name.endswith(".py")} - sources() - {"setup.py"}
    assert others == set()


def test_the_command_is_installed(archives: tuple[Path, Path]) -> None:
    """`treadle` on the path is what the documentation types."""
    wheel = zipfile.ZipFile(archives[1])
    (entries,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "treadle = treadle.frontend.cli:main" in wheel.read(entries).decode()
