"""What a control group allows, read from made-up trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.runtime import cgroup


def group(root: Path, path: str, **files: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"": {"cpu__max": "max 100000\n"}}, None),
        ("0::/\n", {"": {"cpu__max": "150000 100000\n"}}, 2),
        ("0::/a/b\n", {"a/b": {"cpu__max": "max 100000\n"}, "a": {"cpu__max": "300000 100000\n"}}, 3),
        ("0::/a/b\n", {"a/b": {"cpu__max": "50000 100000\n"}, "a": {"cpu__max": "300000 100000\n"}}, 1),
        ("0::/not/seen/here\n", {"": {"cpu__max": "200000 100000\n"}}, 2),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {"cpu/x": {"cpu__cfs_quota_us": "250000\n", "cpu__cfs_period_us": "100000\n"}},
            3,
        ),
        ("3:cpu,cpuacct:/x\n", {"cpu/x": {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}}, None),
        ("nonsense", {"": {"cpu__max": "many few\n"}}, None),
    ],
)
def test_the_quota_of_the_control_group_is_found(
    tmp_path: Path, membership: str, files: dict[str, dict[str, str]], cpus: int | None
) -> None:
    """In a container with half a CPU, sixty-four threads are sixty-three too many. Both versions, parents
    included."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for path, contents in files.items():
        group(root, path, **contents)
    (tmp_path / "membership").write_text(membership)
    assert cgroup.cpus(root, tmp_path / "membership") == cpus


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/\n", {"": {"memory__max": "max\n"}}, None),
        ("0::/a/b\n", {"a": {"memory__max": "1048576\n"}, "a/b": {"memory__max": "max\n"}}, 1 << 20),
        ("9:memory:/x\n", {"memory/x": {"memory__limit_in_bytes": "4096\n"}}, 4096),
        ("9:memory:/x\n", {}, None),
    ],
)
def test_the_limit_of_memory_is_found(
    tmp_path: Path, membership: str, files: dict[str, dict[str, str]], limit: int | None
) -> None:
    """A pool that keeps an eighth of the host's memory would kill a small container."""
    for path, contents in files.items():
        group(tmp_path / "cgroup", path, **contents)
    (tmp_path / "membership").write_text(membership)
    assert cgroup.memory_bytes(tmp_path / "cgroup", tmp_path / "membership") == limit
