"""The code in README.md and docs/ runs as printed, and prints what stands below it.

Each page runs in one fresh process, in an empty directory (`run_page.py`), so it may build on its own earlier blocks
and on nothing else. `pytest tests/house/test_readme.py --update` writes the outputs anew; read the diff afterwards.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), ROOT / "examples" / "README.md"]
RUNNER = Path(__file__).with_name("run_page.py")


@pytest.fixture
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_page", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_page"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.time_limit(300)  # a page of commands starts Python some twenty times
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, update: bool) -> None:
    """The first thing a newcomer does is to paste from here."""
    if not re.search(r"^```(python|console)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        return
    run = subprocess.run(
        [sys.executable, str(RUNNER), str(page), *(["--update"] if update else [])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert run.returncode == 0, f"{page.relative_to(ROOT)}\n{run.stdout}{run.stderr}"


def test_no_block_hides_from_the_test() -> None:
    """A block in another spelling (```py, an indented fence, a tilde fence) would never be run."""
    hidden = re.compile(r"^([ \t]+```|[ \t]*~~~)|^```(?!(python|text|console|c|)$)", re.MULTILINE)
    found = [page for page in PAGES if hidden.search(page.read_text(encoding="utf-8"))]
    assert [str(page.relative_to(ROOT)) for page in found] == []


def test_links_lead_somewhere() -> None:
    """A page that is moved takes its readers along."""
    link = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
    links = [(page, target) for page in PAGES for target in link.findall(page.read_text(encoding="utf-8"))]
    broken = [f"{page.relative_to(ROOT)}: {target}" for page, target in links if not (page.parent / target).exists()]
    assert broken == []


def test_every_page_is_found_from_the_index() -> None:
    """A page that nothing links to is read by nobody."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f"({page.name})" not in index] == [
        "index.md"
    ]


def test_an_output_that_is_not_what_is_printed_is_found(runner: ModuleType, tmp_path: Path) -> None:
    """The runner is what makes the pages true, so it must see what is not."""
    page = tmp_path / "page.md"
    right = "```python\nprint('one')\nprint('two')\n```\n\n```text\none\n...o\n```\n\n```console\n$ echo x\nx\n```\n"
    assert runner.run_page(page, right) == []
    for old, new in (("one\n...", "three\n..."), ("\nx\n", "\ny\n"), ("\none\n...o\n", "\none\n")):
        assert len(runner.run_page(page, right.replace(old, new))) == 1, new
    with pytest.raises(runner.Failed, match=r"page\.md:2"):
        runner.run_page(page, right.replace("print('one')", "1 / 0"))
