"""The tables of docs/numerics.md: bounds from the one table of them, and beside each what was measured.

Bounds are written from `codegen/kernels/math_bounds`; a measured error is kept until the sweep measures it again
(`pytest tests/numerics -m slow --update`), which fails where the page says something else.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from treadle.codegen.kernels.math_bounds import BOUNDS, COMPLEX_BOUNDS
from treadle.ir.dtypes import DType, c64, c128, f32, f64

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"
MARK: Final = "<!-- made by tests/numerics/page.py from here on -->\n"
TABLES: Final = (
    ("Real numbers", BOUNDS, (f32, f64)),
    ("Complex numbers", COMPLEX_BOUNDS, (c64, c128)),
)
CELL: Final = re.compile(r"^(\d+\.\d+)(?: at `(.*)`)?$")
Measured = dict[tuple[str, str], str]


def measured() -> Measured:
    """The measured cells of the page, by function and dtype."""
    found: Measured = {}
    dtypes: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").partition(MARK)[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5:
            continue
        if cells[0] == "function":
            dtypes = [cells[1].split()[0], cells[3].split()[0]]
        elif cells[0].startswith("`"):
            for dtype, cell in zip(dtypes, (cells[2], cells[4])):
                found[cells[0].strip("`"), dtype] = cell
    return found


def error_of(cell: str) -> float:
    match = CELL.match(cell)
    return float(match[1]) if match else math.nan


def written(found: Measured) -> str:
    parts = []
    for title, bounds, (short, long) in TABLES:
        parts.append(f"\n## {title}\n\n| function | {short} bound | measured | {long} bound | measured |\n")
        parts.append("|---|---|---|---|---|\n")
        for op in sorted(bounds):
            bound = bounds[op]
            cells = [found.get((op, str(dtype)), "") for dtype in (short, long)]
            parts.append(f"| `{op}` | {bound.f32:g} | {cells[0]} | {limit(bound)} | {cells[1]} |\n")
    return "".join(parts)


def limit(bound: object) -> str:
    assert hasattr(bound, "f64") and hasattr(bound, "floor")
    return f"{bound.f64:g}" + (f", at least of {bound.floor:g}" if bound.floor else "")


def keep(op: str, dtype: DType, error: float, at: str, update: bool) -> None:
    """What was measured stands on the page; rounded up to thousandths, which the oracle's own last place may shift."""
    cell = f"{math.ceil(error * 1000) / 1000:.3f} at `{at}`"
    found = measured()
    if update:
        found[op, str(dtype)] = cell
        rewrite(found)
    else:
        known = found.get((op, str(dtype)), "")
        assert abs(error_of(known) - error) <= 0.002, f"measured {cell}, the page says {known or 'nothing'}: --update"


def rewrite(found: Measured) -> None:
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + written(found), encoding="utf-8")


if __name__ == "__main__":
    rewrite(measured())
