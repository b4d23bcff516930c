"""Pages and tables that follow the code: error codes, options."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ir", "passes", "codegen", "runtime", "frontend")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def codes(first: str, last: str) -> list[str]:
    return [f"TD{number:04}" for number in range(int(first[2:]), int(last[2:]) + 1)]


def listed(generate: ModuleType, room: str) -> list[str]:
    return [code for first, last, *_ in generate.error_rows(room) for code in codes(first, last)]


def raised(room: str) -> set[str]:
    files = sorted((ROOT / room).rglob("*.py"))
    if room == "frontend":
        files.append(ROOT / "__init__.py")  # which gives out this room's names
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    return set(re.findall(r"\bTD\d{4}\b", sources))


@pytest.mark.parametrize("room", ROOMS)
def test_the_codes_of_a_room_are_those_it_lists(room: str, generate: ModuleType) -> None:
    """Users search for a code, so each has a row, and each row something that raises it."""
    rows = re.findall(r"^\| (TD\d{4})", (ROOT / room / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == sorted(set(rows)), "in order, each once"
    known = {code for each in ROOMS for code in listed(generate, each)}
    assert sorted(raised(room) - known) == [], "raised, and in no table"
    assert sorted(set(listed(generate, room)) - raised(room)) == [], "listed, and never raised"


def test_a_code_has_one_meaning(generate: ModuleType) -> None:
    """One that two rooms list would send a user to the wrong place."""
    every = [code for room in ROOMS for code in listed(generate, room)]
    assert sorted(code for code in set(every) if every.count(code) > 1) == []


@pytest.mark.parametrize("name", ["errors.md", "configuration.md"])
def test_a_made_page_is_up_to_date(name: str, generate: ModuleType, update: bool) -> None:
    """What is made from the code says what the code says; `--update` or `make docs` writes it anew."""
    path = ROOT / "docs" / name
    if update:
        path.write_text(generate.page(name), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == generate.page(name)
