"""The op table: rows for every op, from which tests are generated here and in other rooms.

A chapter of `ir/ops` has its rows in a file of its own, with one function `samples() -> list[Sample]`; the files are
listed below. `from table import SAMPLES` (tests/pytest.ini puts this directory on the path).
"""

from __future__ import annotations

import table_composite
import table_contract
import table_control
import table_elementwise
import table_indexing
import table_movement
import table_random
import table_reduce
from sample import Sample, agree

TABLES = (
    table_elementwise,
    table_movement,
    table_reduce,
    table_contract,
    table_indexing,
    table_random,
    table_control,
    table_composite,
)

SAMPLES: list[Sample] = [sample for table in TABLES for sample in table.samples()]

BY_OP: dict[str, list[Sample]] = {}
for _sample in SAMPLES:
    BY_OP.setdefault(_sample.op, []).append(_sample)

__all__ = ["BY_OP", "SAMPLES", "TABLES", "Sample", "agree"]
