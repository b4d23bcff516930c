"""The code in README.md and docs/ runs as printed.

The ```python blocks of one file are run in order in one fresh namespace and one fresh process, in an empty
directory, so a page may build on its own earlier blocks and on nothing else. Errors name the page's own line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Each block is compiled under the page's name, after as many empty lines as stand above it: the lines that a
# traceback or one of treadle's own errors shows are then lines of the page.
RUNNER = """
import re, sys
page = sys.argv[1]
text = open(page, encoding="utf-8").read()
namespace = {"__name__": "__main__"}
for block in re.finditer(sys.argv[2], text, re.MULTILINE | re.DOTALL):
    above = text.count(chr(10), 0, block.start(1))
    exec(compile(chr(10) * above + block.group(1), page, "exec"), namespace)
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """The first thing a newcomer does is to paste from here."""
    if not BLOCK.search(page.read_text(encoding="utf-8")):
        return
    run = subprocess.run(
        [sys.executable, "-c", RUNNER, str(page), BLOCK.pattern],
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
    hidden = re.compile(r"^([ \t]+```|[ \t]*~~~)[ \t]*(python|py)\b|^```(py|python3)[ ]*$", re.MULTILINE)
    found = [page for page in PAGES if hidden.search(page.read_text(encoding="utf-8"))]
    assert [str(page.relative_to(ROOT)) for page in found] == []
