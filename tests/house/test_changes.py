"""The changelog's fragments: one sentence each, gathered without losing one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "changes"


@pytest.fixture
def gather() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gather", FOLDER / "gather.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_fragment_is_one_sentence(gather: ModuleType) -> None:
    """The log is read in a hurry: a line that needs a second one is a page of docs."""
    wrong = []
    for path in gather.fragments(FOLDER):
        text = path.read_text(encoding="utf-8").strip()
        if "\n" in text or not text.endswith(".") or text.startswith(("-", "#")):
            wrong.append(path.name)
    assert wrong == []


def test_the_newest_version_comes_first(gather: ModuleType) -> None:
    """A first release, a second gathering for it, and the next release above it."""
    log = gather.gathered("# Changes\n\nAbout.\n", "0.1", ["One."])
    assert log == "# Changes\n\nAbout.\n\n## 0.1\n\n- One.\n"
    log = gather.gathered(log, "0.1", ["Two."])
    assert log == "# Changes\n\nAbout.\n\n## 0.1\n\n- Two.\n- One.\n"
    log = gather.gathered(log, "0.2", ["Three."])
    assert log == "# Changes\n\nAbout.\n\n## 0.2\n\n- Three.\n\n## 0.1\n\n- Two.\n- One.\n"
