"""The running machine as a target, and the readers of what Linux says about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from treadle.codegen import host as module
from treadle.codegen.cpus import MODELS
from treadle.codegen.host import cache_sizes, cgroup_quota, core_count, host
from treadle.codegen.llvm.optimize import object_code
from treadle.ir.target import parse


def test_host_is_a_target() -> None:
    target = host()
    assert parse(str(target)) == target
    assert 1 <= target.cores <= len(os.sched_getaffinity(0))
    assert target.vector_bits in (128, 256, 512)
    assert target.l1_bytes <= target.l2_bytes


# LLVM takes what host() says, silently: an unknown CPU would end the process, an unknown feature would be printed.
@pytest.mark.parametrize("target", [*MODELS.values(), host()], ids=str)
def test_llvm_knows_the_target(target: module.Target, capfd: pytest.CaptureFixture[str]) -> None:
    text = "define float @f(float %x) {\n  %y = fadd float %x, %x\n  ret float %y\n}\n"
    object_code(text, target.triple, target.llvm_cpu, target.llvm_features)
    assert capfd.readouterr() == ("", "")


def test_caches(tmp_path: Path) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1M"), ("3", "Unified", "32768K")]
    for number, (level, kind, size) in enumerate(rows):
        index = tmp_path / f"index{number}"
        index.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size), ("coherency_line_size", "64")):
            (index / name).write_text(text + "\n")
    assert cache_sizes(tmp_path) == {"l1": 48 << 10, "l2": 1 << 20, "l3": 32 << 20, "line": 64}
    assert cache_sizes(tmp_path / "nothing") == {}


# The tightest group on the way to the root counts; a container sees its own limit at the root.
def test_control_groups_version_2(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert cgroup_quota(tmp_path, "0::/a/b\n") is None
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("250000 100000\n")
    assert cgroup_quota(tmp_path, "0::/a/b\n") == 2.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cgroup_quota(tmp_path, "0::/a/b\n") == 1.5
    assert cgroup_quota(tmp_path, "0::/not/there\n") == 1.5
    assert cgroup_quota(tmp_path, "") is None


def test_control_groups_version_1(tmp_path: Path) -> None:
    group = tmp_path / "cpu" / "docker" / "x"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    membership = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"
    assert cgroup_quota(tmp_path, membership) == 3.0
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(tmp_path, membership) is None


def test_the_core_count_is_the_tighter_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_GROUPS", tmp_path)
    for quota, want in (("50000 100000", 1), ("100000 100000", 1), ("max 100000", len(os.sched_getaffinity(0)))):
        (tmp_path / "cpu.max").write_text(quota)
        assert core_count() == want


def test_what_llvm_says_can_be_kept() -> None:
    """The driver keeps it on disk: a target made from the kept text is the one that LLVM would give now."""
    module.host.cache_clear()
    assert module.host(module.described()) == module.host()
