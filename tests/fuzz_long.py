"""Hostile input for as long as it takes: `make fuzz INPUTS=...`. Pictures, resume tokens, stored sessions, link messages, checkpoint files.

At last hostile calls and frames at a whole service with the shipped network, beside a session that means well.

Exit status 1 where resident memory grows or that session's boxes are others; an input that is neither served nor refused ends the run and is named by its seed.
"""

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from pathlib import Path

import cv2
import psutil
from fuzz.beside import beside
from fuzz.checkpoints import CHECKPOINTS
from fuzz.images import PICTURES
from fuzz.links import MESSAGES
from fuzz.sessions import STORED, TOKENS
from fuzz.subject import Subject
from processes import served

# Checkpoint files take a hundred times as long as messages.
SHARES = {PICTURES: 0.4, TOKENS: 0.2, STORED: 0.2, MESSAGES: 0.19, CHECKPOINTS: 0.01}
# Rounds of a session beside hostile ones; each takes seconds.
ROUNDS_AN_INPUT = 0.0001
MAX_DISTANCE = 0.05
MAX_GROWTH_BYTES = 32 * 1024 * 1024
# Of each kind, before its memory is looked at: the first checkpoint of a new variant keeps 70 MiB for good.
LEAST_WARM_UP = 100


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    held: int = psutil.Process().memory_info().rss
    return held


def fuzz(subject: Subject, seed: int, count: int) -> bool:
    """Run so many inputs, or twice the warm-up, and print what became of them. Whether memory stayed flat after the warm-up."""
    warm = max(LEAST_WARM_UP, count // 10)
    count = max(count, 2 * warm)
    started = time.perf_counter()
    outcomes = subject.run(range(seed, seed + warm))
    before = resident()
    outcomes += subject.run(range(seed + warm, seed + count))
    growth = resident() - before
    rate = count / (time.perf_counter() - started)
    shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    print(f"{subject.name}: {count} inputs, {rate:.0f} a second, memory {growth / 2**20:+.1f} MiB: {shown}", flush=True)
    return growth <= MAX_GROWTH_BYTES


def fuzz_service(seed: int, rounds: int, max_batch: int) -> bool:
    """The same against a whole service with the shipped network. Whether a session beside it had the boxes that it has alone:
    to the bit, where no batch is shared.
    """
    # Room for all sessions, however many fit into a batch.
    flags = ["--device", "cpu", "--precision", "float32", "--backend", "torch", "--max-under-way", "32"]
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *flags, "--max-batch", str(max_batch)) as running:
        found = asyncio.run(beside(running.address, seed, rounds))
        is_whole = "Traceback" not in running.log.read_text()
    shown = ", ".join(f"{number} {outcome}" for outcome, number in found.outcomes.most_common())
    frames = f"{rounds} rounds, {found.shared} of its frames in shared batches"
    print(f"beside a session of {frames}, boxes off by {found.distance:g} px: {shown}")
    return is_whole and found.distance <= (MAX_DISTANCE if max_batch > 1 else 0.0)


def main() -> int:
    """The run. Its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    print(f"seed {given.seed}", flush=True)
    is_flat = [fuzz(subject, given.seed, round(share * given.inputs)) for subject, share in SHARES.items()]
    rounds = max(1, round(ROUNDS_AN_INPUT * given.inputs))
    is_unmoved = [fuzz_service(given.seed, rounds, max_batch) for max_batch in (32, 1)]
    return 0 if all(is_flat) and all(is_unmoved) else 1


if __name__ == "__main__":
    sys.exit(main())
