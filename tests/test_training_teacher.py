"""A network that learns from a trained one begins with its heads, keeps them and comes to give its features."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shards import write_shards

from model.checkpoint import load_model, save_model
from model.config import VARIANTS, StageConfig
from model.mixformer import JointOutput, MixFormer
from training.loop import Trainer
from training.pairs import PairSettings
from training.recipe import Phase, Recipe, RecipeError
from training.sources import Sources
from training.teacher import Teacher, unlikeness

TEACHING = replace(
    VARIANTS["mixvit_tiny"], name="teaching", stages=(StageConfig(32, 2, 2, 16, 16, 0),), head_channels=16,
    template_size=32, search_size=64,
)  # fmt: skip
STAGES = tuple(
    replace(stage, dim=dim, heads=heads, depth=1)
    for stage, dim, heads in zip(VARIANTS["mixcvt_small"].stages, (8, 16, 32), (1, 1, 2), strict=True)
)
LEARNING = replace(
    VARIANTS["mixcvt_small"], name="learning", stages=STAGES, head_channels=16, template_size=32, search_size=64
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (TEACHING, LEARNING):
        monkeypatch.setitem(VARIANTS, config.name, config)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network that tells crops apart, with statistics in its BatchNorms as after a training."""
    torch.manual_seed(1)
    network = MixFormer(TEACHING).train()
    for _ in range(3):
        network(torch.randn(4, 2, 3, 32, 32), torch.randn(4, 3, 64, 64))
    path = tmp_path / "teaching.safetensors"
    save_model(path, network.eval(), dtype=torch.float32)
    return path


def student() -> MixFormer:
    torch.manual_seed(2)
    return MixFormer(LEARNING).eval()


def test_heads_that_were_given_read_features_as_the_teacher_s_do(weights: Path) -> None:
    model, teacher = student(), load_model(weights).model
    Teacher(weights, "cpu").give_heads(model)
    features, tokens = torch.randn(2, 32, 4, 4), torch.randn(2, 4, 32)
    with torch.no_grad():
        ours, theirs = model.predict(features, tokens), teacher.predict(features, tokens)
    assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-5)
    assert ours.scores is not None and theirs.scores is not None
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_a_teacher_shows_what_its_network_gives_at_any_size(weights: Path) -> None:
    teacher, network = Teacher(weights, "cpu"), load_model(weights).model
    templates, search = torch.randn(2, 2, 3, 32, 32), torch.randn(2, 3, 64, 64)
    shown = teacher.show(templates, search)
    expected = network(templates, search)
    assert torch.allclose(shown.features, expected.features, atol=1e-5)
    assert torch.allclose(shown.template_tokens, expected.template_tokens, atol=1e-5)
    assert teacher.show(torch.randn(2, 2, 3, 16, 16), torch.randn(2, 3, 48, 48)).features.shape == (2, 32, 3, 3)


def test_unlikeness_is_0_for_the_same_and_1_each_for_mere_means(weights: Path) -> None:
    shown = Teacher(weights, "cpu").show(torch.randn(8, 2, 3, 32, 32), torch.randn(8, 3, 64, 64))
    means = JointOutput(
        shown.corners,
        shown.features.mean((0, 2, 3), keepdim=True).expand_as(shown.features),
        shown.template_tokens.mean((0, 1), keepdim=True).expand_as(shown.template_tokens),
    )
    assert unlikeness(shown, shown).item() == 0.0
    assert unlikeness(means, shown).item() == pytest.approx(2.0, rel=0.1)  # the variance of a sample


def test_box_phase_trains_the_backbone_alone_towards_the_teacher_s_features(weights: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    sources = Sources(shards, shards.training())
    box = Phase("box", 30, 4, 32, 64, backbone_rate=2e-3, warmup_steps=2)
    recipe = Recipe(LEARNING.name, (box,), PairSettings(shares={"video": 1.0}), pretrained=False, workers=0, log_every=10)
    teacher, begun = Teacher(weights, "cpu"), student()
    teacher.give_heads(begun)
    trained = Trainer(recipe, sources, tmp_path / "run", None, "cpu", teacher).run()
    before, after = begun.state_dict(), trained.state_dict()
    assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} == {"backbone"}
    templates, search = torch.randn(4, 2, 3, 32, 32), torch.randn(4, 3, 64, 64)
    shown = teacher.show(templates, search)
    with torch.no_grad():
        assert unlikeness(trained.eval()(templates, search), shown) < 0.7 * unlikeness(begun(templates, search), shown)


def test_networks_that_do_not_fit_are_refused_with_what_differs(weights: Path, tmp_path: Path) -> None:
    other = MixFormer(replace(LEARNING, head_channels=8))
    with pytest.raises(RecipeError, match=r"'channels': 16.*those of learning.*'channels': 8"):
        Teacher(weights, "cpu").give_heads(other)
    path = tmp_path / "learning.safetensors"
    save_model(path, student())
    with pytest.raises(RecipeError, match="learning cannot teach"):
        Teacher(path, "cpu")


def test_the_teacher_shows_the_same_after_crops_of_another_size(weights: Path) -> None:
    teacher = Teacher(weights, "cpu")
    crops = torch.randn(2, 2, 3, 32, 32), torch.randn(2, 3, 64, 64)
    before = teacher.show(*crops)
    teacher.show(torch.randn(2, 2, 3, 48, 48), torch.randn(2, 3, 96, 96))
    assert torch.equal(teacher.show(*crops).features, before.features)
