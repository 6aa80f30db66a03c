"""Hostile input for as long as it takes: `make fuzz INPUTS=...`. Pictures, resume tokens, stored sessions, link messages, checkpoint files.

Exit status 1 where resident memory grows; an input that is neither served nor refused ends the run and is named by its seed.
"""

import argparse
import gc
import random
import sys
import time

import cv2
import psutil
from fuzz.checkpoints import CHECKPOINTS
from fuzz.images import PICTURES
from fuzz.links import MESSAGES
from fuzz.sessions import STORED, TOKENS
from fuzz.subject import Subject

# Checkpoint files take a hundred times as long as messages.
SHARES = {PICTURES: 0.4, TOKENS: 0.2, STORED: 0.2, MESSAGES: 0.19, CHECKPOINTS: 0.01}
MAX_GROWTH_BYTES = 32 * 1024 * 1024


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    held: int = psutil.Process().memory_info().rss
    return held


def fuzz(subject: Subject, seed: int, count: int) -> bool:
    """Run so many inputs and print what became of them. Whether memory stayed flat after the first tenth."""
    warm = max(1, count // 10)
    started = time.perf_counter()
    outcomes = subject.run(range(seed, seed + warm))
    before = resident()
    outcomes += subject.run(range(seed + warm, seed + count))
    growth = resident() - before
    rate = count / (time.perf_counter() - started)
    shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    print(f"{subject.name}: {count} inputs, {rate:.0f} a second, memory {growth / 2**20:+.1f} MiB: {shown}", flush=True)
    return growth <= MAX_GROWTH_BYTES


def main() -> int:
    """The run. Its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    print(f"seed {given.seed}", flush=True)
    is_flat = [fuzz(subject, given.seed, max(10, round(share * given.inputs))) for subject, share in SHARES.items()]
    return 0 if all(is_flat) else 1


if __name__ == "__main__":
    sys.exit(main())
