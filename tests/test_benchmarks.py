"""The benchmarks measure what they say: both sides do the same work, in turn. No test looks at a time."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from benchmarks import gpu, original, speedup
from benchmarks.arithmetic import count_flops
from benchmarks.chart import HEIGHT, LINE, WIDTH, draw
from benchmarks.front import FLOOR
from benchmarks.growth import Point
from benchmarks.load import Load, running_front
from benchmarks.networks import folded_network
from benchmarks.runners import tracked_targets
from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from model.config import VARIANTS
from model.layers import fold_batch_norms
from model.mixformer import MixFormer
from model.quantised import TrackingPass
from service.commands.clip import made_up_clip
from service.config import ServeSettings
from service.worker.runner import Runner
from service.worker.work import Step, Work


def small_network(name: str) -> MixFormer:
    config = VARIANTS[name]
    config = replace(config, stages=tuple(replace(stage, depth=1) for stage in config.stages)).with_sizes(64, 96)
    torch.manual_seed(0)
    return MixFormer(config).eval().requires_grad_(False)


def crops(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_original_s_way_gives_our_boxes_and_scores() -> None:
    theirs, ours = small_network("mixcvt_small"), small_network("mixcvt_small")
    fold_batch_norms(ours)
    templates, search = crops(1, 3, 64, 64), crops(1, 96, 96, seed=1)
    with torch.inference_mode():
        expected = original.track(theirs, search, original.remember(theirs, templates))
        found = ours.track(search, ours.encode(templates))
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-5)
    assert found.scores is not None and expected.scores is not None
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)


def test_the_original_runs_in_a_process_whose_threads_wait_as_torch_s_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(speedup.WAITING, "passive")
    with speedup._process_of_its_own(1) as aside:
        assert aside.submit(os.getenv, speedup.WAITING).result() is None
        assert aside.submit(os.getpid).result() != os.getpid()
    assert os.environ[speedup.WAITING] == "passive"


def test_speedup_has_the_times_of_all_sides_once_their_boxes_agree() -> None:
    config = VARIANTS["mixcvt_small"]
    network = folded_network(config.name)
    memory = network.encode(crops(1, 2, config.template_size, config.template_size))
    given = TrackingPass(crops(1, config.search_size, config.search_size), memory)
    figures = speedup.compare(Options(2, "cpu", 1), {"int8": network}, given, config.name)
    for side, figure in (("float32", "mixcvt_speedup"), ("float32", "mixcvt_float32_speedup"), ("int8", "mixcvt_int8_speedup")):
        raw = figures[f"{figure}_over_original"].raw
        assert {name: len(seconds) for name, seconds in raw.items()} == {"original_seconds": 2, f"{side}_seconds": 2}
        assert all(second > 0 for seconds in raw.values() for second in seconds)
    where_it_is_native = speedup.compare(Options(2, "cpu", 1), {"bfloat16": network}, given, config.name)
    assert "bfloat16_seconds" in where_it_is_native["mixcvt_speedup_over_original"].raw


def test_attention_is_counted_among_the_operations() -> None:
    model = small_network("mixvit_tiny")
    with torch.inference_mode():
        one, three = (count_flops(model, crops(1, 96, 96), model.encode(crops(1, 1 + online, 64, 64))) for online in (1, 3))
    queries, more_keys, width = 6 * 6, 2 * 4 * 4, model.config.dim
    of_the_memory = 2 * 2 * queries * more_keys * width  # two products, each a multiplication and an addition
    assert three - one == of_the_memory


def test_what_is_compared_takes_turns_after_one_round_that_does_not_count() -> None:
    calls: list[str] = []
    seconds = seconds_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, Options(2, "wall", 1))
    assert calls == ["a", "b"] * 3
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_over_repeats_and_keeps_its_times() -> None:
    seconds = {"slow": [2.0, 9.0, 4.0], "fast": [1.0, 3.0, 1.0], "other": [7.0, 7.0, 7.0]}
    figure = ratio(seconds, "slow", "fast")
    assert (figure.value, figure.lower_quartile, figure.upper_quartile) == (3.0, 2.5, 3.5)
    assert figure.raw == {"slow_seconds": [2.0, 9.0, 4.0], "fast_seconds": [1.0, 3.0, 1.0]}


def test_a_point_of_growth_has_its_rate_and_percentiles() -> None:
    point = Point.of(4, frames=300, seconds=2.0, latencies=[number / 1000 for number in range(1, 102)])
    assert (point.name, point.frames_per_second) == ("4", 150.0)
    assert [point.p50_ms, point.p99_ms] == pytest.approx([51, 100])


def test_a_chart_has_a_column_an_axis_and_a_row_a_name_with_a_line_in_each() -> None:
    rows = {"frames/s": [("1", 5.0), ("2", 8.0)], "p50 ms": [("1", 9.0), ("2", 9.5)]}
    picture = draw({"sessions": rows, "size": rows, "templates": rows})
    assert picture.shape == (2 * HEIGHT, 3 * WIDTH, 3)
    for row, column in itertools.product(range(2), range(3)):
        assert (picture[row * HEIGHT : (row + 1) * HEIGHT, column * WIDTH : (column + 1) * WIDTH] == LINE).all(
            axis=2
        ).sum() > 100


@pytest.mark.parametrize(("values", "median"), [([1.0, 2.0, 9.0], 2.0), ([4.0, 2.0], 3.0)])
def test_a_figure_is_a_median(values: list[float], median: float) -> None:
    figure = Figure.of(values, "frames/s")
    assert figure.value == median
    assert figure.raw == {"frames/s": values}


def test_every_session_has_its_turn_in_full_batches(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(tiny.settings(tiny_weights, slots=3, max_batch=2))
    batches: list[list[int]] = []
    start = runner.start
    targets = tracked_targets(runner, 3)
    monkeypatch.setattr(gpu, "ROUNDS", 2)

    def noted(works: Sequence[Work]) -> Step:
        batches.append([work.slot for work in works])
        return start(works)

    monkeypatch.setattr(runner, "start", noted)
    assert gpu.frames_per_second(runner, targets) > 0
    assert batches == [[0, 1], [2]] * 2
    figures = gpu.measure_runner("tiny", runner, (1, 3), Options(2, "wall", 1))
    assert sorted(figures) == ["tiny_gpu_fps_1", "tiny_gpu_fps_3", "tiny_gpu_ms_one"]


async def test_the_floor_answers_every_frame_and_tells_what_decoding_took() -> None:
    settings = ServeSettings(listen="127.0.0.1:0")
    with running_front(settings, FLOOR) as (address, front):
        measured = await Load(made_up_clip(64, 48), address, front).run(2, seconds=0.1, least=10)
    assert measured.frames >= 10
    assert 0 < measured.decode
