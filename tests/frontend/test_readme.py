"""The door plate of the room: the error codes it lists are the ones that are raised."""

from __future__ import annotations

import re
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2] / "frontend"


def test_every_error_code_is_listed_once() -> None:
    """Users search for a code, so each one of this room has a row, one meaning, and something that raises it."""
    listed = re.findall(r"^\| (TD\d{4}) \|", (ROOM / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOM.rglob("*.py")))
    raised = set(re.findall(r"\b(TD0[678]\d\d)\b", sources))
    assert listed == sorted(set(listed)), "in order, each once"
    assert raised - set(listed) == set()
    assert set(listed) - raised == set()
