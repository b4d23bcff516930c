"""The memory planner on the op-by-op usage records of published networks: MiB of the plan beside the
least possible."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.lines import Chapter, exactly

CHAPTER = Chapter("planning")


def networks() -> Any:
    """The layer tables stand beside the planner's tests."""
    path = Path(__file__).resolve().parents[2] / "tests" / "passes" / "networks.py"
    found = importlib.util.spec_from_file_location("networks", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["networks"] = module  # its dataclasses look themselves up there
    found.loader.exec_module(module)
    return module


def planned(network: str) -> Callable[[], float]:
    def mebibytes() -> float:
        from treadle.passes import arena

        records = getattr(networks(), network)()
        return arena.height(records, arena.plan(records)) / 2**20

    return mebibytes


def bound(network: str) -> Callable[[], float]:
    def mebibytes() -> float:
        from treadle.passes import arena

        return arena.peak(getattr(networks(), network)()) / 2**20

    return mebibytes


for _name, _network, _least in (
    ("MobileNet v1", "mobilenet", 4.594),
    ("MobileNet v2", "mobilenet_with_residuals", 5.742),
    ("Inception v3", "inception", 7.913),
):
    CHAPTER.line(
        f"{_name}, memory of its intermediates",
        way="value",
        unit="MiB",
        bar=exactly(_least),
        treadle=planned(_network),
        bound=bound(_network),
    )
