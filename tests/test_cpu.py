"""What the CPU offers: the container's quota counts, not the machine's cores."""

import os
from pathlib import Path

import pytest

from service.cpu import has_native_bfloat16, has_native_int8, usable_cores

CORES = len(os.sched_getaffinity(0))


def test_without_a_quota_all_allowed_cores_are_used(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == CORES
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == CORES


@pytest.mark.parametrize(("quota", "cores"), [(50_000, 1), (100_000, 1), (100_000 * (CORES + 4), CORES)])
def test_a_quota_limits_the_cores(tmp_path: Path, quota: int, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, CORES), (150_000, 1)])
def test_a_quota_of_the_old_cgroups_counts_too(tmp_path: Path, quota: int, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("text", "native"),
    [("flags : fpu avx512_vnni\n", True), ("flags : avx_vnni avx2\n", True), ("flags : fpu avx512f amx_bf16\n", False)],
)
def test_native_int8_is_read_from_the_flags(tmp_path: Path, text: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_native_int8(tmp_path / "cpuinfo") is native


@pytest.mark.parametrize(
    ("text", "native"),
    [("flags : fpu amx_bf16 avx\n", True), ("Features : asimd bf16\n", True), ("flags : fpu avx512f\n", False)],
)
def test_native_bfloat16_is_read_from_the_flags(tmp_path: Path, text: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_native_bfloat16(tmp_path / "cpuinfo") is native


def test_a_system_without_cpuinfo_has_none(tmp_path: Path) -> None:
    assert not has_native_bfloat16(tmp_path / "cpuinfo")
