"""Runs one page of README or docs in the current directory, as a reader would who types it all in.

`python` blocks run in order in one namespace; one that opens with `# name.py` is that file, too. A `text` block right
after one is what it printed. In a `console` block each `$ command` is run and followed by its output; a `c` block that
opens with `/* name.c */` is that file. In outputs `...` stands for anything. Everything that differs is reported by the
page's own line; with `--update` it is written into the page instead.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON_FILE = re.compile(r"# (\w+\.py)\n")
C_FILE = re.compile(r"/\* (\w+\.c) \*/\n")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    start: int  # of the text, in the page
    line: int  # the page's line on which the text begins
    follows: bool  # nothing but empty lines stands between the block before and this one


@dataclass(frozen=True)
class Difference:
    """What stands in the page from `start` to `end` is not what came out."""

    start: int
    end: int
    line: int
    found: str


def blocks_of(page: str) -> list[Block]:
    found = []
    end = 0
    for match in FENCE.finditer(page):
        start = match.start(2)
        follows = not page[end : match.start()].strip()
        found.append(Block(match[1], match[2], start, page.count("\n", 0, start) + 1, follows))
        end = match.end()
    return found


def agrees(expected: str, found: str) -> bool:
    """Whether `found` is what the page says, where `...` stands for anything, lines included."""
    pattern = ".*?".join(map(re.escape, expected.rstrip("\n").split("...")))
    return re.fullmatch(pattern, found.rstrip("\n"), re.DOTALL) is not None


class Failed(Exception):
    """A block that did not run."""


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """What the block prints. Its lines are those of the file that it names, or of the page."""
    named = PYTHON_FILE.match(block.text)
    if named:
        Path(named[1]).write_text(block.text, encoding="utf-8")
    above = 0 if named else block.line - 1
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * above + block.text, named[1] if named else str(page), "exec"), namespace)
    return out.getvalue()


def run_command(command: str) -> str:
    """What a command prints, on both streams; commands of the environment come first."""
    if command.split()[0] == "cc" and shutil.which("cc") is None:
        raise FileNotFoundError("no C compiler")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    run = subprocess.run(
        command,
        shell=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if "Traceback (most recent call last)" in run.stdout:
        raise Failed(run.stdout)
    return run.stdout


def run_console(block: Block) -> list[Difference]:
    """Each command of the block with the output that stands below it."""
    different = []
    parts = re.split(r"^(\$ .*\n)", block.text, flags=re.MULTILINE)
    at = block.start + len(parts[0])
    for prompt, expected in zip(parts[1::2], parts[2::2], strict=True):
        at += len(prompt)
        try:
            found = run_command(prompt[2:].rstrip("\n"))
        except FileNotFoundError:
            return different
        if not agrees(expected, found):
            line = block.line + block.text.count("\n", 0, at - block.start)
            different.append(Difference(at, at + len(expected), line, found))
        at += len(expected)
    return different


def run_page(page: Path, text: str) -> list[Difference]:
    different: list[Difference] = []
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks_of(text):
        before, printed = printed, None
        if block.language == "python":
            try:
                printed = run_python(block, page, namespace)
            except Exception:
                raise Failed(f"{page.name}:{block.line}\n{traceback.format_exc()}") from None
        elif block.language == "text" and block.follows and before is not None:
            if not agrees(block.text, before):
                different.append(Difference(block.start, block.start + len(block.text), block.line, before))
        elif block.language == "console":
            different += run_console(block)
        elif block.language == "c" and (named := C_FILE.match(block.text)):
            Path(named[1]).write_text(block.text, encoding="utf-8")
    return different


def main(arguments: list[str]) -> int:
    page = Path(arguments[0])
    text = page.read_text(encoding="utf-8")
    sys.path.insert(0, os.getcwd())
    try:
        different = run_page(page, text)
    except Failed as failure:
        print(failure)
        return 1
    if "--update" in arguments:
        for each in reversed(different):
            text = text[: each.start] + each.found.rstrip("\n") + "\n" + text[each.end :]
        if different:
            page.write_text(text, encoding="utf-8")
        return 0
    for each in different:
        print(f"{page.name}:{each.line}: the page shows\n\n{text[each.start : each.end]}\nbut it is\n\n{each.found}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
