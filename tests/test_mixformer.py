"""Claims about the network that hold for every variant, on small random networks."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from model.attention import KeyValue, MixedAttention
from model.backbone import QuickGELU
from model.config import VARIANTS, Family, ModelConfig, StageConfig
from model.layers import Grid, fold_batch_norms, to_maps, to_tokens
from model.memory import MemoryPool
from model.mixformer import MixFormer


def small(name: str) -> ModelConfig:
    """The variant with one block a stage, for crops of 64 and 96."""
    config = VARIANTS[name]
    return replace(config, stages=tuple(replace(stage, depth=1) for stage in config.stages)).with_sizes(64, 96)


def random_network(name: str) -> MixFormer:
    torch.manual_seed(0)
    model = MixFormer(small(name)).eval()
    for module in model.modules():  # trained statistics are no identity
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def crops(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


FAMILIES = ["mixcvt_small", "mixvit_tiny"]


def joint_attention(
    attention: MixedAttention, templates: Tensor, search: Tensor, images: int, sides: tuple[int, int]
) -> Tensor:
    """All tokens at once with a mask that hides the search region from the templates, as the original's equations read."""
    parts = [attention.project(templates, Grid(images, sides[0])), attention.project(search, Grid(1, sides[1]))]
    queries, keys, values = (
        rearrange(torch.cat([a, b], dim=1), "b n (h d) -> b h n d", h=attention.heads) for a, b in zip(*parts, strict=True)
    )
    template_keys = parts[0][1].shape[1]
    visible = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool)
    visible[: templates.shape[1], template_keys:] = False
    logits = (queries @ keys.transpose(-1, -2)) * attention.scale
    weights = functional.softmax(logits.masked_fill(~visible, float("-inf")), dim=-1)
    attended: Tensor = attention.out((weights @ values).transpose(1, 2).flatten(2))
    return attended


@pytest.mark.parametrize("family", list(Family))
def test_two_step_attention_equals_one_masked_joint_attention(family: Family) -> None:
    torch.manual_seed(1)
    attention = MixedAttention(StageConfig(32, 2, 1, 3, 2, 1), family).eval()
    templates, search = torch.randn(2, 3 * 25, 32), torch.randn(2, 49, 32)
    joint = joint_attention(attention, templates, search, images=3, sides=(5, 7))
    of_templates, memory = attention(templates, Grid(3, 5), None)
    of_search, _ = attention(search, Grid(1, 7), memory)
    assert torch.allclose(torch.cat([of_templates, of_search], dim=1), joint, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("online", [1, 2, 5])
def test_joint_equals_two_step(name: str, online: int) -> None:
    model = random_network(name)
    templates, search = crops(2, 1 + online, 64, 64), crops(2, 96, 96, seed=1)
    with torch.inference_mode():
        joint = model(model.normalise(templates), model.normalise(search))
        scores = model.score(joint.features, joint.template_tokens, joint.corners.boxes).sigmoid()
        prediction = model.track(search, model.encode(templates))
    corner = prediction.boxes[:, :2] - prediction.boxes[:, 2:] / 2
    assert torch.allclose(corner, joint.corners.boxes[:, :2], atol=1e-6)
    assert prediction.scores is not None
    assert torch.allclose(prediction.scores, scores, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_of_three_equals_three_singles(name: str) -> None:
    model = random_network(name)
    templates, search = crops(3, 3, 64, 64), crops(3, 96, 96, seed=1)
    with torch.inference_mode():
        together = model.track(search, model.encode(templates))
        alone = [model.track(search[i : i + 1], model.encode(templates[i : i + 1])) for i in range(3)]
    assert torch.allclose(together.boxes, torch.cat([one.boxes for one in alone]), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_folded_equals_unfolded(name: str) -> None:
    model = random_network(name)
    templates, search = crops(1, 2, 64, 64), crops(1, 96, 96, seed=1)
    with torch.inference_mode():
        before = model.track(search, model.encode(templates))
        fold_batch_norms(model)
        after = model.track(search, model.encode(templates))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert torch.allclose(before.boxes, after.boxes, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_become_maps_and_maps_tokens_without_a_copy(batch: int) -> None:
    tokens = torch.randn(batch, 25, 8)
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with torch.inference_mode():
        maps = to_maps(tokens, Grid(1, 5))
        convolved = convolution(maps)
        assert maps.data_ptr() == tokens.data_ptr()
        assert to_tokens(convolved, 1).data_ptr() == convolved.data_ptr()
        assert to_tokens(convolved, 1).is_contiguous(), "the convolution kept channels last"
    assert torch.equal(maps[0, :, 1, 2], tokens[0, 7])


def test_weights_of_convolutions_lie_channels_last_after_folding() -> None:
    model = random_network("mixcvt_small")
    fold_batch_norms(model)
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_quick_gelu_in_place_has_the_formula_s_values_and_gradients() -> None:
    inputs = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(QuickGELU()(inputs * 1).sum(), inputs)
    formula = inputs * torch.sigmoid(1.702 * inputs)
    (expected,) = torch.autograd.grad(formula.sum(), inputs)
    assert torch.allclose(QuickGELU()(inputs.detach().clone()), formula)
    assert torch.allclose(gradient, expected)


def test_forward_leaves_no_trace_in_the_network() -> None:
    model = random_network("mixcvt_small")

    def attributes() -> dict[tuple[str, str], int]:
        return {(path, name): id(value) for path, module in model.named_modules() for name, value in vars(module).items()}

    before = attributes()
    with torch.inference_mode():
        model.track(crops(1, 96, 96), model.encode(crops(1, 2, 64, 64)))
    assert attributes() == before


def test_marks_name_every_stage_in_order() -> None:
    seen: list[str] = []
    model = random_network("mixcvt_small")
    with torch.inference_mode():
        model.track(crops(1, 96, 96), model.encode(crops(1, 2, 64, 64)), seen.append)
    assert seen == ["stage0", "stage1", "stage2", "backbone", "head"]


@pytest.mark.parametrize("name", FAMILIES)
def test_pool_gives_back_the_memories_of_its_slots(name: str) -> None:
    model = random_network(name)
    pool = MemoryPool(model.config, slots=4, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        memory = model.encode(crops(2, 4, 64, 64))
        pool.write([3, 1], memory)
        read = pool.read([1, 3])
    assert read.online_count == pool.online_count(1) == 3
    assert torch.equal(read.template_tokens, memory.template_tokens[[1, 0]])
    for ours, theirs in zip(read.layers, memory.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys[[1, 0]])
        assert torch.equal(ours.values, theirs.values[[1, 0]])


def test_pool_refuses_to_mix_numbers_of_online_templates() -> None:
    model = random_network("mixvit_tiny")
    pool = MemoryPool(model.config, slots=2, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        pool.write([0], model.encode(crops(1, 2, 64, 64)))
        pool.write([1], model.encode(crops(1, 3, 64, 64)))
    with pytest.raises(ValueError, match=r"\[1, 2\] online templates"):
        pool.read([0, 1])


def test_memory_of_mixcvt_base_is_as_large_as_published() -> None:
    with torch.device("meta"):
        pool = MemoryPool(VARIANTS["mixcvt_base"], slots=1, device="meta", dtype=torch.float16)
    assert pool.bytes_per_slot == pytest.approx(4.0e6, rel=0.02)


def test_half_precision_stays_near_float32() -> None:
    model = random_network("mixvit_tiny")
    templates, search = crops(1, 2, 64, 64), crops(1, 96, 96, seed=1)
    with torch.inference_mode():
        exact = model.track(search, model.encode(templates))
        model.set_precision(torch.bfloat16)
        rough = model.track(search, model.encode(templates))
    assert rough.boxes.dtype == torch.float32
    assert torch.allclose(exact.boxes, rough.boxes, atol=0.02)


def test_keys_and_values_are_the_linear_outputs() -> None:
    attention = MixedAttention(StageConfig(32, 2, 1, 16, 16, 0), Family.MIXVIT)
    tokens = torch.randn(1, 16, 32)
    _, own = attention(tokens, Grid(1, 4), None)
    keys = rearrange(attention.project(tokens, Grid(1, 4))[1], "b n (h d) -> b h n d", h=2)
    assert isinstance(own, KeyValue)
    assert torch.equal(own.keys, keys)
