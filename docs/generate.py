"""Writes the pages that are made from the code: docs/errors.md and docs/configuration.md.

Each page keeps its own words above the line that says so; what stands below is made from the rooms' README tables and
from `frontend/options.py`. Run `make docs`, or `python docs/generate.py`; a test says when a page is out of date.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from treadle.frontend.options import Options

HERE = Path(__file__).resolve().parent
ROOMS = {
    "frontend": "What you wrote",
    "ir": "What operations mean",
    "passes": "Derivatives, batches, plans",
    "codegen": "Kernels and code",
    "runtime": "Calls and saved models",
}
MARK = "<!-- made by docs/generate.py from here on -->\n"
ROW = re.compile(r"^\| (TD\d{4})(?: to (TD\d{4}))? \| (.+?) \| (.+?) \|$", re.MULTILINE)


def error_rows(room: str) -> list[tuple[str, str, str, str]]:
    """First and last code, what is wrong, and who says so, from the room's own table."""
    text = (HERE.parent / room / "README.md").read_text(encoding="utf-8")
    return sorted((first, last or first, what, where) for first, last, what, where in ROW.findall(text))


def errors() -> str:
    parts = []
    for room, title in ROOMS.items():
        parts.append(f"\n## {title}\n\n| code | what is wrong | raised by |\n|---|---|---|\n")
        for first, last, what, where in error_rows(room):
            codes = f"`{first}`" if first == last else f"`{first}` to `{last}`"
            parts.append(f"| {codes} | {what} | {where} |\n")
    return "".join(parts)


def default_of(option: dataclasses.Field[object]) -> str:
    if option.name == "cache_dir":
        return "`~/.cache/treadle`"
    return f"`{option.default}`"


def configuration() -> str:
    parts = ["\n| option | environment | type | default | what it does |\n|---|---|---|---|---|\n"]
    for option in dataclasses.fields(Options):
        variable = f"TREADLE_{option.name.upper()}"
        doc = option.metadata["doc"]
        parts.append(f"| `{option.name}` | `{variable}` | {option.type} | {default_of(option)} | {doc} |\n")
    return "".join(parts)


PAGES = {"errors.md": errors, "configuration.md": configuration}


def page(name: str) -> str:
    """The page as it should be: its own words, then what is made."""
    own = (HERE / name).read_text(encoding="utf-8").partition(MARK)[0]
    return own + MARK + PAGES[name]()


if __name__ == "__main__":
    for name in PAGES:
        (HERE / name).write_text(page(name), encoding="utf-8")
