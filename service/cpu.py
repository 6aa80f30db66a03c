"""What the CPU offers this process."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
# AMX and AVX-512 on x86, and the Arm extension.
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
# Products of 8-bit integers added up in one instruction, in both its forms on x86.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni"}


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may run on, less where a container's CPU quota allows less; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def has_native_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether bfloat16 arithmetic is done in hardware; emulated, it takes twice as long as float32."""
    return _has_one_of(_BFLOAT16_FLAGS, cpuinfo)


def has_native_int8(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether 8-bit integers are multiplied and added up without overflow and faster than float32."""
    return _has_one_of(_INT8_FLAGS, cpuinfo)


def _has_one_of(flags: set[str], cpuinfo: Path) -> bool:
    try:
        return not flags.isdisjoint(cpuinfo.read_text().split())
    except OSError:  # no Linux
        return False


def _quota(cgroup: Path) -> float | None:
    """The CPU quota in cores, of cgroup version 2 or 1; None where there is none."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((cgroup / name).read_text() for name in names).split())
        except (OSError, ValueError):  # another version, or "max"
            continue
        return quota / period if quota > 0 else None
    return None
