"""Gather the fragments beside this file under a heading of CHANGELOG.md, and remove them.

The heading is the version that the package carries; running it twice for one version adds to that heading.
Without fragments nothing is written.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def fragments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.md") if path.name != "README.md")


def gathered(log: str, version: str, sentences: list[str]) -> str:
    """`log` with the sentences as a list under `version`'s heading, the newest version first."""
    heading = f"## {version}\n\n"
    lines = "".join(f"- {sentence}\n" for sentence in sentences)
    if heading in log:
        return log.replace(heading, heading + lines, 1)
    first = log.find("\n## ")
    title, rest = (log, "") if first < 0 else (log[: first + 1], log[first + 1 :])
    return f"{title.rstrip()}\n\n{heading}{lines}" + (f"\n{rest}" if rest else "")


def main() -> None:
    found = fragments(HERE)
    if not found:
        return
    version = re.search(r'^__version__ = "(.+)"$', (HERE.parent / "__init__.py").read_text(), re.MULTILINE)
    assert version is not None
    log = HERE.parent / "CHANGELOG.md"
    log.write_text(gathered(log.read_text(), version[1], [path.read_text().strip() for path in found]))
    for path in found:
        path.unlink()


if __name__ == "__main__":
    main()
