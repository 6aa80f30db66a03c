"""Freed memory stays with the process."""

import resource

import pytest
import torch

from service.worker.heap import keep_freed_memory

PAGES = 64 * 1024 * 1024 // resource.getpagesize()


def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("not glibc")
    # now and then a small block that outlives a fill lies behind it, and the next one finds no room there
    assert min(_faults_of_64_megabytes() for _ in range(16)) < PAGES / 10


def _faults_of_64_megabytes() -> int:
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    torch.ones(64, 1024, 1024, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
