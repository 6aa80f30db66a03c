"""Batches on a real (tiny, untrained) network: what a batch gives is what its items alone give, and failures stay alone."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from model.checkpoint import save_model
from model.config import VARIANTS, ModelConfig
from model.crop import cut
from model.geometry import crop_window
from model.memory import MemoryPool, TemplateMemory
from model.mixformer import MixFormer, Prediction
from service import device
from service.commands.synthetic import synthetic_clip
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import SettingsError
from service.messages import TrackItem
from service.worker.runner import Runner
from service.worker.work import Found, Refused, Work

BAD = bytes([255]) * len(tiny.search_crop())


@pytest.fixture(scope="module")
def runner(tiny_weights: Path) -> Runner:
    return Runner(tiny.settings(tiny_weights, slots=6, max_batch=4))


def work(slot: int, *, seed: int = 0, online: int = 1) -> Work:
    """Item whose memory is new in `slot`."""
    return Work(slot, tiny.search_crop(slot + seed), tiny.template_crops(slot, online))


def found(runner: Runner, *works: Work) -> list[Found]:
    outcomes = runner.run(works).outcomes
    assert all(isinstance(outcome, Found) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Found)]


def same(one: Found, other: Found) -> bool:
    assert one.score is not None
    return one.box == pytest.approx(other.box, abs=1e-5) and one.score == pytest.approx(other.score, abs=1e-5)


def test_a_batch_equals_its_items_alone(runner: Runner) -> None:
    works = [work(0), work(1, online=3), work(2), work(3, online=3)]
    together = found(runner, *works)
    alone = [found(runner, each)[0] for each in works]
    assert all(map(same, together, alone))
    assert not same(alone[0], alone[1]), "the items must differ for this to mean something"


def test_memories_with_equal_numbers_of_templates_share_a_pass(runner: Runner) -> None:
    together = found(runner, work(0), work(1, online=5), work(2))
    assert [each.batch_size for each in together] == [2, 1, 2]


def test_a_written_slot_is_tracked_without_its_templates(runner: Runner) -> None:
    first = found(runner, work(0))
    second = found(runner, work(0)._replace(templates=()))
    assert same(second[0], first[0])


def test_two_items_of_one_new_memory_encode_it_once(runner: Runner) -> None:
    result = runner.run([work(0), work(0)])
    assert (result.times.encoded, len(result.outcomes)) == (1, 2)


def test_a_padded_batch_gives_the_same_and_says_how_large_it_was(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [work(0), work(1), work(2)]
    exact = found(runner, *works)
    monkeypatch.setattr(runner, "_fixed_sizes", (1, 2, 4))
    padded = runner.run(works)
    assert padded.times.padded_size == 4
    assert all(isinstance(each, Found) and same(each, other) for each, other in zip(padded.outcomes, exact, strict=True))
    assert [each.batch_size for each in exact] == [3, 3, 3]


def test_times_of_a_network_of_one_stage_are_its_whole_backbone(runner: Runner) -> None:
    result = runner.run([work(0)])
    (outcome,) = result.outcomes
    assert isinstance(outcome, Found)
    assert result.times.stage_seconds == {"all": outcome.backbone_seconds}
    assert min(outcome.backbone_seconds, result.times.head_seconds, result.times.encode_seconds) > 0


def test_times_of_a_network_of_stages_name_each(tmp_path: Path) -> None:
    save_model(tmp_path / "cvt.safetensors", MixFormer(VARIANTS["mixcvt_small"]).eval())
    runner = Runner(tiny.settings(tmp_path / "cvt.safetensors", slots=1))
    hello = runner.hello()
    search, template = bytes(3 * hello.search_size**2), bytes(3 * hello.template_size**2)
    stages = runner.run([Work(0, search, (template, template))]).times.stage_seconds
    assert sorted(stages) == ["all", "stage0", "stage1", "stage2"]
    parts = sum(seconds for name, seconds in stages.items() if name != "all")
    assert parts == pytest.approx(stages["all"], rel=0.05)


def fail_on_bad(track: Callable[..., Prediction]) -> Callable[..., Prediction]:
    def failing(crops: Tensor, *others: object) -> Prediction:
        if (crops == 255).flatten(1).all(1).any():
            raise RuntimeError("no such crop")
        return track(crops, *others)

    return failing


def test_an_item_that_fails_fails_alone(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [work(0), work(1)._replace(search=BAD), work(2)]
    expected = [found(runner, works[0])[0], found(runner, works[2])[0]]
    monkeypatch.setattr(runner._network, "track", fail_on_bad(runner._network.track))
    first, bad, last = runner.run(works).outcomes
    assert isinstance(first, Found) and isinstance(last, Found)
    assert same(first, expected[0]) and same(last, expected[1])
    assert bad == Refused("RuntimeError: no such crop")


def test_a_memory_that_cannot_be_made_fails_its_items_alone(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = runner._network.encode

    def failing(crops: Tensor) -> TemplateMemory:
        if (crops == 255).flatten(1).all(1).any():
            raise RuntimeError("no such template")
        return encode(crops)

    monkeypatch.setattr(runner._network, "encode", failing)
    white = (bytes([255]) * len(tiny.template_crops()[0]),) * 2
    result = runner.run([work(0), work(1)._replace(templates=white), work(2)])
    assert [type(each) for each in result.outcomes] == [Found, Refused, Found]
    assert result.unwritten == frozenset([1])


def test_a_lost_device_is_no_failure_of_its_items(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(runner._network, "track", lost)
    monkeypatch.setattr(runner, "ping", lost)
    with pytest.raises(RuntimeError, match="device lost"):
        runner.run([work(0), work(1)])


def test_a_prediction_that_is_not_a_number_is_passed_on(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Prediction(torch.full((1, 4), float("nan")), torch.tensor([float("inf")]))
    monkeypatch.setattr(runner._network, "track", lambda crops, memory, mark: (mark("backbone"), mark("head"), nothing)[-1])
    (outcome,) = found(runner, work(0))
    assert outcome.box[0] != outcome.box[0]
    assert outcome.score == float("inf")


@pytest.mark.parametrize(
    ("search", "templates", "words"),
    [
        (b"short", (), "search crop of 5 bytes, mixvit_tiny needs 196608"),
        (tiny.search_crop(), (b"short", b"er"), r"template crops of \[5, 2\] bytes, mixvit_tiny needs 49152"),
        (tiny.search_crop(), tiny.template_crops(online=0), "0 online templates"),
        (tiny.search_crop(), tiny.template_crops(online=6), "6 online templates"),
    ],
)
def test_crops_that_do_not_fit_are_named(runner: Runner, search: bytes, templates: tuple[bytes, ...], words: str) -> None:
    fault = runner.fault(TrackItem(1, "alice", b"k", search, templates, 0.0, False))
    assert fault is not None
    assert re.search(words, fault)


def test_crops_that_fit_have_no_fault(runner: Runner) -> None:
    assert runner.fault(TrackItem(1, "alice", b"k", tiny.search_crop(), tiny.template_crops(online=5), 0.0, False)) is None


def test_half_precision_is_close_to_single(runner: Runner, tiny_weights: Path) -> None:
    half = Runner(replace(tiny.settings(tiny_weights, slots=1), precision="bfloat16"))
    assert half.hello().precision == "bfloat16"
    (rough,), (exact,) = found(half, work(0)), found(runner, work(0))
    assert rough.box == pytest.approx(exact.box, abs=0.02)


def test_a_runner_says_that_it_multiplies_integers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "has_native_int8", lambda: True)
    integers = Runner(replace(tiny.settings(DEFAULT_WEIGHTS, slots=1, cache_dir=str(tmp_path)), precision="int8"))
    assert integers.hello().precision == "int8"
    exact = Runner(tiny.settings(DEFAULT_WEIGHTS, slots=1, cache_dir=str(tmp_path)))
    assert exact.hello().precision == "float32"
    assert len(list(tmp_path.iterdir())) == 2, "each has graphs of its own"
    clip = iter(synthetic_clip(320, 240, 2))
    (first, box), (second, _) = next(clip), next(clip)
    config = VARIANTS["mixvit_tiny"]
    template = cut(first, crop_window(box, config.template_factor), config.template_size).tobytes()
    search = cut(second, crop_window(box, config.search_factor), config.search_size).tobytes()
    square = Work(0, search, (template, template))
    (rounded,), (float32,) = found(integers, square), found(exact, square)
    assert rounded.box != float32.box
    assert rounded.box == pytest.approx(float32.box, abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(runner: Runner, tiny_weights: Path) -> None:
    works = [work(0), work(1, online=2), work(2)]
    gpu = Runner(replace(tiny.settings(tiny_weights, slots=4, max_batch=4), device="cuda"))
    result = gpu.run(works)
    for fast, exact in zip(result.outcomes, found(runner, *works), strict=True):
        assert isinstance(fast, Found)
        assert fast.box == pytest.approx(exact.box, abs=0.005)
    assert result.times.padded_size == 3, "one pass of two, one of one"
    assert 0 < result.times.stage_seconds["all"] < 10


def test_a_device_that_is_not_there_is_a_wrong_setting(tiny_weights: Path) -> None:
    with pytest.raises(SettingsError, match="device='warp:0' cannot be used"):
        Runner(replace(tiny.settings(tiny_weights), device="warp:0"))


def test_more_slots_than_there_is_memory_for_are_a_wrong_setting(tiny_weights: Path) -> None:
    with pytest.raises(SettingsError, match="slots=10000000 need [0-9]{13,} bytes, more than this machine has"):
        Runner(tiny.settings(tiny_weights, slots=10_000_000))


def test_slots_that_the_device_refuses_are_a_wrong_setting(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDevice(MemoryPool):
        def __init__(self, config: ModelConfig, slots: int, device: torch.device | str, dtype: torch.dtype) -> None:
            if device != "meta":
                raise torch.OutOfMemoryError("out of memory")
            super().__init__(config, slots, device, dtype)

    monkeypatch.setattr("service.worker.runner.MemoryPool", FullDevice)
    with pytest.raises(SettingsError, match="slots=3 need .* cpu has no room for them: out of memory"):
        Runner(tiny.settings(tiny_weights, slots=3))


def test_batches_are_never_larger_than_the_slots(runner: Runner, tiny_weights: Path) -> None:
    few = Runner(tiny.settings(tiny_weights, slots=2, max_batch=32))
    assert (few.slots, few.max_batch) == (2, 2)
    assert (runner.slots, runner.max_batch) == (6, 4)


def test_weights_that_are_missing_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent"):
        Runner(tiny.settings(tmp_path / "absent.safetensors"))
