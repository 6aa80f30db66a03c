"""8-bit integers: what rounding costs, which ranges it needs, and when it is chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shards import write_shards
from tiny import CONFIG, crop
from torch import Tensor, nn

from benchmarks.recorded import arrays, rounded
from model.checkpoint import LoadedModel, load_model, save_model
from model.compiled import CompiledMixFormer
from model.config import UpdateRule
from model.geometry import Box, CropBox
from model.mixformer import MixFormer
from model.official import CheckpointError
from model.quantised import QuantisedLayer, Ranges, TrackingPass, observe_ranges, quantised
from model.target import Target
from service import device
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import SettingsError
from service.cpu import has_native_int8
from service.device import choose_network
from training.__main__ import main
from training.calibrate import videos_of
from training.harm import Harm, harms, least_harmful
from training.quantise import PASSES_A_VIDEO, box_differences, sampled_passes

LAYER = "backbone.stages.0.blocks.3.mlp.2"


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    """The weights that come along."""
    return load_model(DEFAULT_WEIGHTS)


@torch.no_grad()
def recorded_passes(model: MixFormer) -> list[TrackingPass]:
    """The recorded video as a tracker without rounding meets it."""
    video = arrays("mixcvt_online")["video_rgb"]
    target = Target.start(model.config, UpdateRule(), video[0], Box(*arrays("mixcvt_online")["video_gt_xywh"][0]))
    memory = model.encode(torch.from_numpy(np.stack(target.templates))[None])
    passes = []
    for frame in video[1:]:
        passes.append(TrackingPass(torch.from_numpy(target.search(frame))[None], memory))
        target.advance(frame, CropBox(*model.track(*passes[-1]).boxes[0].tolist()), None)
    return passes


@torch.inference_mode()
def test_boxes_of_the_shipped_weights_stay_within_a_pixel_of_float32(shipped: LoadedModel) -> None:
    # A CPU without the instructions never runs the integers: there the rounding alone is judged.
    by_integers = CompiledMixFormer(shipped.model, 1, ranges=shipped.ranges)
    assert by_integers.precision == torch.int8
    network = by_integers if has_native_int8() else quantised(shipped.model, shipped.ranges)
    passes = recorded_passes(shipped.model)
    pairs = [(shipped.model.track(*each), network.track(*each)) for each in passes]
    pixels = [CONFIG.search_size * float((exact.boxes - rounded.boxes).abs().max()) for exact, rounded in pairs]
    assert 0.0 < np.median(pixels) < 1.0
    assert max(pixels) < 4.0
    scores = [
        float(abs(exact.scores - rounded.scores))
        for exact, rounded in pairs
        if exact.scores is not None and rounded.scores is not None
    ]
    assert len(scores) == len(pairs)
    assert np.median(scores) < 0.02


@torch.inference_mode()
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(24, 40), (2, 50, 24)), (nn.Conv2d(24, 16, 3, stride=2, padding=1), (2, 24, 12, 12))]
)
def test_a_channel_far_larger_than_the_others_does_not_take_their_steps(
    layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]
) -> None:
    channels = -1 if isinstance(layer, nn.Linear) else 1
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(channels, 0)
    inputs[3] *= 100
    limits = torch.stack([inputs.flatten(1).amin(1), inputs.flatten(1).amax(1)])
    inputs = inputs.movedim(0, channels)
    layer.weight[:, 3] /= 100  # as training leaves it where one channel is so large
    exact = layer(inputs)
    assert (QuantisedLayer(layer, limits)(inputs) - exact).square().mean() < (0.03 * exact.std()) ** 2


@torch.inference_mode()
def test_a_layer_whose_input_is_always_0_stays_finite() -> None:
    layer = nn.Linear(4, 3)
    assert torch.allclose(QuantisedLayer(layer, torch.zeros(2, 4))(torch.zeros(1, 4)), layer.bias)


@torch.inference_mode()
def test_ranges_span_all_passes(shipped: LoadedModel) -> None:
    first, second = (
        TrackingPass(
            torch.from_numpy(crop(seed, CONFIG.search_size))[None],
            shipped.model.encode(torch.from_numpy(crop(seed, CONFIG.template_size))[None, None].repeat(1, 2, 1, 1, 1)),
        )
        for seed in (1, 2)
    )
    alone, other, both = (observe_ranges(shipped.model, passes)[LAYER] for passes in ([first], [second], [first, second]))
    assert torch.equal(both[0], torch.minimum(alone[0], other[0]))
    assert torch.equal(both[1], torch.maximum(alone[1], other[1]))
    assert not torch.equal(alone, other)


def test_what_has_to_stay_exact_has_no_ranges(shipped: LoadedModel) -> None:
    assert not [name for name in shipped.ranges if name.startswith("score_head")]
    rounding = quantised(shipped.model, shipped.ranges)
    assert sum(isinstance(module, QuantisedLayer) for module in rounding.modules()) == len(shipped.ranges)
    assert not any(isinstance(module, QuantisedLayer) for module in shipped.model.modules()), "it must stay as it is"


def test_a_file_keeps_its_ranges(shipped: LoadedModel, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_model(again, shipped.model, shipped.update_rule, shipped.metadata, ranges=shipped.ranges)
    before, after = load_file(DEFAULT_WEIGHTS), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_without_ranges_has_none(tiny_weights: Path) -> None:
    assert load_model(tiny_weights).ranges == {}


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("backbone.nowhere", torch.zeros(2, 192), "1 ranges of no layer of mixvit_tiny .*, first backbone.nowhere"),
        ("score_head.mlp.0", torch.zeros(2, 192), "first score_head.mlp.0"),
        (LAYER, torch.zeros(2, 7), rf"{LAYER} has shape \[2, 7\], its input needs \[2, 768\]"),
        (LAYER, torch.full((2, 768), torch.inf), f"{LAYER} is not finite"),
        (LAYER, torch.tensor([[1.0], [-1.0]]).repeat(1, 768), f"{LAYER} .* its lower end is above its upper"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(
    tiny_weights: Path, tmp_path: Path, name: str, limits: Tensor, message: str
) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file(load_file(tiny_weights) | {f"ranges.{name}": limits}, path, {"variant": "mixvit_tiny"})
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


class Uncompiled(NamedTuple):
    """In the place of a compiled network: what it would be compiled from."""

    model: MixFormer
    threads: int
    cache_folder: Path
    ranges: Ranges | None
    in_bfloat16: bool


@pytest.fixture
def set_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A CPU with or without the instructions, for which nothing is compiled."""

    def set_instructions(has_int8: bool, has_bfloat16: bool = False) -> None:
        monkeypatch.setattr(device, "has_native_int8", lambda: has_int8)
        monkeypatch.setattr(device, "has_native_bfloat16", lambda: has_bfloat16)
        monkeypatch.setattr(device, "CompiledMixFormer", Uncompiled)

    return set_instructions


@pytest.mark.parametrize(
    ("has_int8", "has_ranges", "precision", "rounded"),
    [
        (True, True, "auto", True),
        (True, True, "int8", True),
        (True, True, "float32", False),
        (True, False, "auto", False),
        (False, True, "auto", False),
    ],
)
def test_integers_are_the_default_where_cpu_and_weights_allow(
    shipped: LoadedModel, set_cpu: Callable[..., None], has_int8: bool, has_ranges: bool, precision: str, rounded: bool
) -> None:
    set_cpu(has_int8)
    network: object = choose_network(shipped.model, shipped.ranges if has_ranges else {}, precision)
    assert isinstance(network, Uncompiled)
    assert bool(network.ranges) is rounded


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("float32", "float32")],
)
def test_bfloat16_is_the_default_where_the_cpu_has_it(
    shipped: LoadedModel, set_cpu: Callable[..., None], precision: str, expected: str
) -> None:
    set_cpu(has_int8=True, has_bfloat16=True)
    network: object = choose_network(shipped.model, shipped.ranges, precision)
    assert isinstance(network, Uncompiled)
    assert (bool(network.ranges), network.in_bfloat16) == (expected == "int8", expected == "bfloat16")


@pytest.mark.parametrize(
    ("precision", "backend", "has_bfloat16", "dtype"),
    [
        ("auto", "auto", True, torch.float32),
        ("auto", "torch", True, torch.bfloat16),
        ("auto", "torch", False, torch.float32),
        ("bfloat16", "openvino", True, torch.float32),
        ("bfloat16", "auto", False, torch.bfloat16),
        ("bfloat16", "torch", True, torch.bfloat16),
        ("int8", "auto", True, torch.float32),
    ],
)
def test_what_openvino_computes_in_bfloat16_is_made_of_float32(
    set_cpu: Callable[..., None], precision: str, backend: str, has_bfloat16: bool, dtype: torch.dtype
) -> None:
    set_cpu(has_int8=True, has_bfloat16=has_bfloat16)
    assert device.choose_dtype(precision, torch.device("cpu"), backend) == dtype


def test_torch_is_never_given_integers(shipped: LoadedModel, set_cpu: Callable[..., None]) -> None:
    set_cpu(True)
    assert choose_network(shipped.model, shipped.ranges, backend="torch") is shipped.model


@pytest.mark.parametrize(
    ("has_ranges", "has_int8", "backend", "message"),
    [(False, True, "auto", "weights with ranges"), (True, False, "auto", "VNNI"), (True, True, "torch", "backend openvino")],
)
def test_integers_that_cannot_be_had_are_refused_with_what_they_need(
    shipped: LoadedModel, set_cpu: Callable[..., None], has_ranges: bool, has_int8: bool, backend: str, message: str
) -> None:
    set_cpu(has_int8)
    with pytest.raises(SettingsError, match=f"precision='int8' needs .*{message}"):
        choose_network(shipped.model, shipped.ranges if has_ranges else {}, "int8", backend)


def test_passes_are_cut_where_the_target_was_in_the_frame_before(shipped: LoadedModel, tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    (video,) = videos_of(shards.validation())
    passes = list(sampled_passes(shipped.model, shards, video))
    assert len(passes) == PASSES_A_VIDEO
    differences = box_differences(shipped.model, quantised(shipped.model, shipped.ranges), passes[:2])
    assert differences.shape == (2,)
    assert 0.0 < differences.max() < 8.0


def test_layers_are_rounded_from_the_least_harm_a_product_on_until_the_limit() -> None:
    found = {"small": Harm(1.0, 1), "large": Harm(3.0, 100), "wild": Harm(90.0, 100), "none": Harm(0.0, 1)}
    assert least_harmful(found, 10.0) == ["none", "large", "wild", "small"]
    assert least_harmful(found, 2.0) == ["none", "large"]
    assert least_harmful(found, 1.0) == ["none"]


def test_a_limit_that_lets_nothing_through_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantise", "weights.safetensors", "--limit", "-1"])
    assert "argument --limit: -1 is not above 0" in capsys.readouterr().err


def test_a_layer_that_rounds_coarsely_is_the_most_harmful(shipped: LoadedModel) -> None:
    passes = recorded_passes(shipped.model)[:2]
    ranges = observe_ranges(shipped.model, passes)
    found = harms(shipped.model, ranges | {LAYER: 30 * ranges[LAYER]}, passes)
    assert max(found, key=lambda name: found[name].square) == LAYER
    assert found[LAYER].square > 100 * harms(shipped.model, {LAYER: ranges[LAYER]}, passes)[LAYER].square
    assert found[LAYER].products == 16 * 16 * 768 * 192


def test_a_network_of_made_up_weights_is_rounded_where_it_stays_within_a_pixel() -> None:
    found = rounded(limit=1.0)
    differences = box_differences(found.model, quantised(found.model, found.choice.ranges), found.others[::4])
    assert found.choice.share > 0.4
    assert 0.0 < np.median(differences) < 1.0
    assert differences.max() < 4.0


def test_one_command_gives_a_file_its_ranges(
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shards(tmp_path / "train")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    monkeypatch.setattr("training.__main__.VIDEO_SHARDS", ("davis",))
    assert main(["quantise", str(weights), "--data", str(tmp_path), "--limit", "1000"]) == 0
    before, after = load_model(tiny_weights), load_model(weights)
    assert after.ranges.keys() == observe_ranges(before.model, recorded_passes(before.model)[:1]).keys()
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    assert "px of the search crop" in capsys.readouterr().out
