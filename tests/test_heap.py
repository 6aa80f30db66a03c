"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

from service.worker.heap import keep_freed_memory

# In a process of its own: what else a process holds decides where 64 MiB fit.
PROGRAM = """
import resource, torch
from service.worker.heap import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    torch.ones(64, 1024, 1024, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
print(min(faults() for _ in range(4)) * resource.getpagesize())
"""


def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("not glibc")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 64 * 1024 * 1024 / 10
