"""Freed memory stays with the process."""

import resource

import pytest
import torch

from service.worker.heap import keep_freed_memory

PAGES = 64 * 1024 * 1024 // resource.getpagesize()


def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("not glibc")
    _fill_64_megabytes()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    _fill_64_megabytes()
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < PAGES / 10


def _fill_64_megabytes() -> None:
    torch.ones(64, 1024, 1024, dtype=torch.uint8)
