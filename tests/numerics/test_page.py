"""docs/numerics.md is what the table of bounds and the sweep say."""

from __future__ import annotations

import page


# A bound changed in the code is changed on the page: PYTHONPATH=tests/numerics python -m page writes it.
def test_bounds_on_the_page() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.partition(page.MARK)[2] == page.written(page.measured())
