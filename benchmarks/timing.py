"""Timing in turn: what is compared is run alternately, so that a slow moment of the machine meets both sides."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles

Clock = Callable[[], float]

# `cpu` counts what this process computed: for machines that others use too, and fair only with one thread.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Options:
    """How every benchmark is run. threads: of the network, 0 for all cores this process may use."""

    repeats: int
    clock: str
    threads: int


@dataclass(frozen=True)
class Figure:
    """The median of some repeats, with their quartiles and the times it was made of."""

    value: float
    lower_quartile: float
    upper_quartile: float
    unit: str
    raw: Mapping[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: list[float], unit: str, raw: Mapping[str, list[float]] | None = None) -> "Figure":
        """The figure of at least two values, one a repeat. `raw` defaults to the values themselves."""
        lower, _, upper = quantiles(values, n=4, method="inclusive")
        return cls(median(values), lower, upper, unit, {unit: values} if raw is None else raw)


def seconds_in_turn(runs: Mapping[str, Callable[[], object]], options: Options) -> dict[str, list[float]]:
    """Seconds of every run in every repeat, after one round that does not count."""
    clock = CLOCKS[options.clock]
    return in_turn({name: partial(seconds_of, run, clock) for name, run in runs.items()}, options.repeats)


def seconds_of(run: Callable[[], object], clock: Clock) -> float:
    """What one call takes."""
    start = clock()
    run()
    return clock() - start


def in_turn(stopwatches: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each of them says in every repeat, after one round that does not count."""
    rounds = [{name: stopwatch() for name, stopwatch in stopwatches.items()} for _ in range(1 + repeats)][1:]
    return {name: [each[name] for each in rounds] for name in stopwatches}


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> Figure:
    """How many times longer `above` took than `below`, repeat by repeat."""
    pairs = zip(seconds[above], seconds[below], strict=True)
    return Figure.of([a / b for a, b in pairs], "ratio", {f"{name}_seconds": seconds[name] for name in (above, below)})
