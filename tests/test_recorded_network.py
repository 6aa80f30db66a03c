"""The network against recorded outputs of the original."""

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks.recorded import VARIANTS, arrays, generated, loaded, tensor, thinned
from model.mixformer import MixFormer, to_centre


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    return float((ours - recorded).abs().max() / recorded.abs().max())


def stage_outputs(model: MixFormer, templates: Tensor, search: Tensor) -> list[list[Tensor]]:
    """Feature maps of every stage: [template, online template, search] each."""
    seen: list[Tensor] = []
    hooks = [stage.register_forward_hook(lambda _module, _in, out: seen.append(out[0])) for stage in model.backbone.stages]
    with torch.inference_mode():
        model(templates, search)
    for hook in hooks:
        hook.remove()
    count = len(model.backbone.stages)
    return [[seen[i][:1], seen[i][1:2], seen[count + i]] for i in range(count)]


def both_templates(variant: str, online: int) -> Tensor:
    return torch.cat([tensor(variant, "in_Tr"), tensor(variant, "in_OTr")[:online]])[None]


@pytest.mark.parametrize("variant", ["mixcvt_online", "mixcvt"])
def test_every_stage_gives_the_recorded_features(variant: str) -> None:
    outputs = stage_outputs(loaded(variant).model, both_templates(variant, 1), tensor(variant, "in_Sr"))
    for stage, maps in enumerate(outputs):
        for image, features in enumerate(maps):
            assert relative_error(thinned(features), tensor(variant, f"full_real_stage{stage}.{image}")) < 1e-3


def test_mixvit_backbone_gives_the_recorded_features() -> None:
    variant = "mixvit_online"
    (maps,) = stage_outputs(loaded(variant).model, both_templates(variant, 1), tensor(variant, "in_Sr"))
    for image, features in enumerate(maps):
        assert relative_error(thinned(features), tensor(variant, f"full_real_backbone.{image}")) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_joint_pass_gives_the_recorded_box_and_score(variant: str) -> None:
    model = loaded(variant).model
    with torch.inference_mode():
        output = model(both_templates(variant, 1), tensor(variant, "in_Sr"))
        boxes = output.corners.boxes
        assert torch.allclose(boxes, tensor(variant, "full_real_box_xyxy"), atol=1e-4)
        if model.config.has_score_head:
            logit = model.score(output.features, output.template_tokens, boxes)
            assert torch.allclose(logit, tensor(variant, "full_real_score_raw").flatten(), atol=1e-4)


@pytest.mark.parametrize("online", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_step_pass_gives_the_recorded_outputs(variant: str, online: int) -> None:
    model = loaded(variant).model
    recording = arrays(variant)
    with torch.inference_mode():
        memory = model.backbone.encode(both_templates(variant, online))
        features = model.backbone(tensor(variant, "in_Sr"), memory, lambda _name: None)
        boxes = model.box_head(features).boxes
        recorded = tensor(variant, f"cached_real_n{online}_pred_boxes").view(1, 4)
        assert torch.allclose(to_centre(boxes), recorded, atol=1e-4)
        assert relative_error(thinned(features), tensor(variant, f"cached_real_n{online}_feat_search")) < 1e-3
        if model.config.has_score_head:
            logit = model.score(features, memory.template_tokens, boxes)
            assert np.allclose(logit.numpy(), recording[f"cached_real_n{online}_pred_scores"], atol=1e-4)
            side = model.config.template_size // model.config.stride
            tokens = rearrange(memory.template_tokens, "b (h w) c -> b c h w", h=side)
            assert relative_error(thinned(tokens), tensor(variant, f"cached_real_n{online}_feat_template")) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_corner_head_alone_gives_the_recorded_maps_and_boxes(variant: str) -> None:
    model = loaded(variant).model
    side = model.config.search_size // model.config.stride
    with torch.inference_mode():
        corners = model.box_head(generated("head_in", [2, model.config.dim, side, side]))
    assert torch.allclose(corners.boxes, tensor(variant, "head_box_xyxy"), atol=1e-4)
    assert torch.allclose(corners.top_left.flatten(1).softmax(-1), tensor(variant, "head_prob_tl"), atol=1e-5)
    assert torch.allclose(corners.bottom_right.flatten(1).softmax(-1), tensor(variant, "head_prob_br"), atol=1e-5)


@pytest.mark.parametrize("variant", ["mixcvt_online", "mixvit_online"])
def test_score_head_alone_gives_the_recorded_logits(variant: str) -> None:
    model = loaded(variant).model
    assert isinstance(model.score_head, nn.Module)
    config = model.config
    search_side, template_side = config.search_size // config.stride, config.template_size // config.stride
    features = generated("score_in_search", [8, config.dim, search_side, search_side])
    template = generated("score_in_template", [8, config.dim, template_side, template_side])
    with torch.inference_mode():
        logits = model.score(features, rearrange(template, "b c h w -> b (h w) c"), tensor(variant, "score_in_boxes_xyxy"))
    assert torch.allclose(logits, tensor(variant, "score_out").flatten(), atol=1e-4)
