"""Hostile calls and frames at a whole service with the shipped network: what another session sees beside them. Longer: `make fuzz`."""

import asyncio
from pathlib import Path

from fuzz.beside import beside
from processes import PATIENCE_SECONDS, served

ROUNDS = 3


async def test_a_session_sees_the_same_boxes_beside_hostile_ones_in_its_batches(tmp_path: Path) -> None:
    # By torch, which takes a batch in one pass.
    with served(tmp_path, "--device", "cpu", "--precision", "float32", "--backend", "torch") as running:
        async with asyncio.timeout(4 * PATIENCE_SECONDS):  # when two meet in a batch is chance
            found = await beside(running.address, 0, ROUNDS, least_shared=1)
        assert "Traceback" not in running.log.read_text()
    assert found.outcomes["OK"] and found.outcomes["BAD_FRAME"] and found.outcomes["INVALID_REQUEST"], found
    assert found.distance <= 0.05
