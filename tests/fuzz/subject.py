"""One kind of input under test, and runs of it."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SERVED = "served"
_LONGEST_MESSAGE = 1000


class Subject(NamedTuple):
    """`draw` makes an input; `judge` gives what became of it, `SERVED` or the kind of its refusal, and fails where that must not be.

    Hypothesis and `random` can both do the drawing: the one shrinks what fails, the other is twenty times as fast.
    """

    name: str
    draw: Callable[[Random], Any]
    judge: Callable[[Any], str]

    def explore(self, count: int) -> Counter[str]:
        """About `count` inputs that hypothesis draws: how many of them became what."""
        outcomes: Counter[str] = Counter()

        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False))
        def examine(chance: Random) -> None:
            outcomes[self.judge(self.draw(chance))] += 1

        examine()
        return outcomes

    def run(self, seeds: range) -> Counter[str]:
        """One input for each seed: how many of them became what. An input that fails is named by its seed."""
        outcomes: Counter[str] = Counter()
        for seed in seeds:
            try:
                outcomes[self.judge(self.draw(Random(seed)))] += 1
            except Exception as error:
                error.add_note(f"{self.name}, seed {seed}")
                raise
        return outcomes


def reason_of(error: Exception) -> str:
    """The kind of a refusal. It must say something, and nothing of how we are built."""
    words = str(error)
    assert words and len(words) < _LONGEST_MESSAGE, f"{type(error).__name__} of {len(words)} characters: {words[:200]}"
    assert "Traceback" not in words
    return type(error).__name__
