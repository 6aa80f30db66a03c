"""The compiled tracking pass against torch's, and what it keeps on disk."""

import gc
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONFIG, crop

from benchmarks.recorded import compiled, from_recorded_state, loaded
from model.compiled import CompiledMixFormer
from model.config import ModelConfig
from model.layers import fold_batch_norms
from model.memory import TemplateMemory
from model.mixformer import MixFormer, Prediction
from service.config import SettingsError
from service.device import choose_network
from training.quantise import box_differences


@pytest.fixture(scope="module")
def model() -> MixFormer:
    torch.manual_seed(0)
    model = MixFormer(CONFIG).eval().requires_grad_(False)
    fold_batch_norms(model)
    return model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def network(model: MixFormer, cache: Path) -> CompiledMixFormer:
    return CompiledMixFormer(model, 2, cache)


def crops(count: int, side: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(crop(number, side)) for number in range(count)])


@torch.inference_mode()
def memory_of(model: MixFormer, count: int, online: int) -> TemplateMemory:
    return model.encode(
        crops(count * (1 + online), model.config.template_size).reshape(count, 1 + online, *[model.config.template_size] * 2, 3)
    )


@torch.inference_mode()
def both(model: MixFormer, network: CompiledMixFormer, count: int, online: int) -> tuple[Prediction, Prediction]:
    memory, search = memory_of(model, count, online), crops(count, model.config.search_size)
    return model.track(search, memory), network.track(search, memory)


def assert_equal(one: Prediction, other: Prediction) -> None:
    assert torch.allclose(one.boxes, other.boxes, atol=1e-5)
    assert one.scores is not None
    assert other.scores is not None
    assert torch.allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize(("count", "online"), [(1, 1), (1, 5), (3, 2)])
def test_predictions_are_those_of_torch(model: MixFormer, network: CompiledMixFormer, count: int, online: int) -> None:
    assert_equal(*both(model, network, count, online))


def test_every_stage_is_marked_once_for_the_whole_batch() -> None:
    network, model = compiled("mixcvt_online"), loaded("mixcvt_online").model
    marks: list[str] = []
    network.track(crops(2, model.config.search_size), memory_of(model, 2, 1), marks.append)
    assert marks == ["stage0", "stage1", "stage2", "backbone", "head"]


def test_a_target_is_computed_alike_alone_and_among_others(model: MixFormer, network: CompiledMixFormer) -> None:
    memory, search = memory_of(model, 3, 1), crops(3, CONFIG.search_size)
    layers = tuple(type(layer)(layer.keys[1:2], layer.values[1:2]) for layer in memory.layers)
    alone = network.track(search[1:2], TemplateMemory(layers, memory.template_tokens[1:2], 1))
    assert torch.allclose(network.track(search, memory).boxes[1:2], alone.boxes, atol=1e-6)


def test_a_second_start_takes_the_graphs_from_the_cache(model: MixFormer, network: CompiledMixFormer, cache: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.xml")}
    assert len(written) == len(CONFIG.stages) + 1
    assert_equal(both(model, network, 1, 1)[1], both(model, CompiledMixFormer(model, 2, cache), 1, 1)[1])
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.xml")} == written


def test_other_weights_have_graphs_of_their_own(network: CompiledMixFormer, cache: Path) -> None:
    del network
    before = set(cache.iterdir())
    other = MixFormer(CONFIG).eval().requires_grad_(False)
    fold_batch_norms(other)
    assert_equal(*both(other, CompiledMixFormer(other, 1, cache), 1, 1))
    assert len(set(cache.iterdir()) - before) == 1


def test_a_cache_that_cannot_be_used_costs_only_time(
    model: MixFormer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    network = choose_network(model, cache_dir=str(blocked))
    assert isinstance(network, CompiledMixFormer)
    assert str(blocked) in caplog.text


def test_a_signal_finds_its_stack_after_networks_have_come_and_gone(model: MixFormer, cache: Path) -> None:
    first, second = (CompiledMixFormer(model, 1, cache) for _ in range(2))
    del first
    gc.collect()
    del second
    gc.collect()
    seen: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, former)
    assert seen == [signal.SIGUSR1]


def test_other_precisions_stay_with_torch(config: ModelConfig = CONFIG) -> None:
    model = MixFormer(config).eval()
    fold_batch_norms(model)
    assert choose_network(model, backend="torch") is model
    model.set_precision(torch.bfloat16)
    assert choose_network(model) is model
    with pytest.raises(SettingsError, match="bfloat16"):
        choose_network(model, backend="openvino")
    with pytest.raises(ValueError, match="bfloat16"):
        CompiledMixFormer(model, 1)


@torch.inference_mode()
def test_bfloat16_keeps_the_recorded_boxes_within_a_pixel() -> None:
    # Frame by frame from the recorded state. A CPU without the instructions may compute in float32 instead.
    model = loaded("mixcvt_online").model
    network = CompiledMixFormer(model, 2, in_bfloat16=True)
    assert network.precision == torch.bfloat16
    passes = from_recorded_state(model)
    differences = box_differences(model, network, passes)
    assert np.median(differences) < 1.0
    assert differences.max() < 3.0
    scores = [each.scores for each in (one.track(*passes[0]) for one in (model, network))]
    assert scores[0] is not None
    assert scores[1] is not None
    assert torch.allclose(scores[0], scores[1], atol=0.02)


def test_bfloat16_and_integers_are_not_mixed(model: MixFormer) -> None:
    with pytest.raises(ValueError, match="one or the other"):
        CompiledMixFormer(model, 1, ranges={"backbone": torch.ones(2, 1)}, in_bfloat16=True)


def test_openvino_cannot_tell_its_makers(network: CompiledMixFormer) -> None:
    del network
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules
