"""Hostile pictures, tokens, snapshots, messages and files: served or refused, and nothing else. The long run is `make fuzz`."""

from random import Random

import cv2
import pytest
from fuzz.checkpoints import CHECKPOINTS
from fuzz.images import PICTURES
from fuzz.links import MESSAGES
from fuzz.sessions import STORED, TOKENS
from fuzz.subject import SERVED, Subject

EXPLORED = 100
# Each of these has served some of them, and refused others.
SUBJECTS = {PICTURES: 400, TOKENS: 300, STORED: 300, MESSAGES: 300, CHECKPOINTS: 50}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@pytest.mark.parametrize(
    ("subject", "seeds"), SUBJECTS.items(), ids=lambda given: given.name if isinstance(given, Subject) else ""
)
def test_every_input_is_served_or_refused(subject: Subject, seeds: int) -> None:
    outcomes = subject.run(range(seeds))
    assert outcomes[SERVED] and outcomes.total() > outcomes[SERVED]


@pytest.mark.parametrize("subject", [each for each in SUBJECTS if each is not CHECKPOINTS], ids=lambda each: each.name)
def test_hypothesis_finds_no_other_outcome(subject: Subject) -> None:
    assert subject.explore(EXPLORED).total() >= EXPLORED


def test_one_seed_is_always_the_same_input() -> None:
    assert PICTURES.draw(Random(5)) == PICTURES.draw(Random(5))
    assert STORED.draw(Random(5)) == STORED.draw(Random(5))
