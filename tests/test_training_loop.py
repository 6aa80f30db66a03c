"""The loop on tiny data: the loss falls, an interrupted run equals an unbroken one, and what it exports can be loaded."""

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from shards import write_shards
from torch.nn import functional

from model.checkpoint import load_model
from model.config import VARIANTS, StageConfig
from model.mixformer import MixFormer
from training import loop
from training.__main__ import main
from training.initial import load_vit, resized_table
from training.log import LOG, PICTURE
from training.pairs import PairSettings
from training.recipe import Phase, Recipe, RecipeError, read_recipe
from training.sources import Sources

RECIPES = sorted((Path(__file__).parent.parent / "training/recipes").glob("*.toml"))
SMALL = replace(
    VARIANTS["mixvit_tiny"], name="mixvit_test", stages=(StageConfig(32, 2, 2, 16, 16, 0),), head_channels=16,
    template_size=32, search_size=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    shards = write_shards(tmp_path_factory.mktemp("shards"))
    return Sources(shards, shards.training())


def recipe(*phases: Phase) -> Recipe:
    return Recipe(
        SMALL.name, phases, PairSettings(shares={"video": 1.0}), pretrained=False, workers=0, log_every=2, checkpoint_every=3
    )


def phase(steps: int, *, part: str = "box", search: int = 64, absent: float = 0.0, mistakes: float = 0.0) -> Phase:
    return Phase(part, steps, 4, 32, search, 2e-3, 2e-3, warmup_steps=2, absent=absent, mistakes=mistakes)  # type: ignore[arg-type]


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_loss_falls(sources: Sources, tmp_path: Path) -> None:
    loop.Trainer(recipe(phase(60)), sources, tmp_path, None, "cpu").run()
    losses = [entry["loss"] for entry in log(tmp_path)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert (tmp_path / PICTURE).stat().st_size > 1000


def test_resumed_run_equals_an_unbroken_one(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipe(phase(5, search=48), phase(5), phase(4, part="score", absent=0.5, mistakes=0.5))
    unbroken = loop.Trainer(whole, sources, tmp_path / "unbroken", None, "cpu").run().state_dict()
    for stop_at in (4, 3, 7):  # once in each phase
        interrupt_after(stop_at, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            loop.Trainer(whole, sources, tmp_path / "broken", None, "cpu").run()
        monkeypatch.undo()
        monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    resumed = loop.Trainer(whole, sources, tmp_path / "broken", None, "cpu").run().state_dict()
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_frozen_norms_keep_their_statistics_and_learn_their_scale(sources: Sources, tmp_path: Path, is_frozen: bool) -> None:
    frozen = msgspec.structs.replace(phase(3), frozen_norms=is_frozen)
    trainer = loop.Trainer(recipe(frozen), sources, tmp_path, None, "cpu")
    before = {name: value.clone() for name, value in trainer._average.state_dict().items() if ".norm." in name}
    after = trainer.run().state_dict()
    changed = {name.rpartition(".")[2] for name, value in before.items() if not torch.equal(value, after[name])}
    assert {"weight", "bias"} <= changed
    assert ({"running_mean", "running_var", "num_batches_tracked"} & changed == set()) is is_frozen


def test_a_run_that_diverges_ends(sources: Sources, tmp_path: Path) -> None:
    steep = Phase("box", 20, 4, 32, 64, 1e30, 1e30, warmup_steps=1)
    with pytest.raises(RuntimeError, match="non-finite"):
        loop.Trainer(recipe(steep), sources, tmp_path, None, "cpu").run()


def test_run_is_not_resumed_under_another_recipe(sources: Sources, tmp_path: Path) -> None:
    loop.Trainer(recipe(phase(3)), sources, tmp_path, None, "cpu").run()
    with pytest.raises(RecipeError, match="another recipe"):
        loop.Trainer(recipe(phase(4)), sources, tmp_path, None, "cpu")


def interrupt_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next run in its update number `updates`."""
    original, done = loop.Trainer._update, iter(range(updates))

    def update(self: loop.Trainer, *arguments: object) -> dict[str, float]:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_update", update)


def test_score_phase_trains_the_score_head_alone(sources: Sources, tmp_path: Path) -> None:
    both = recipe(phase(3), phase(6, part="score", absent=0.5))
    before = loop.Trainer(recipe(phase(3)), sources, tmp_path / "box", None, "cpu").run().state_dict()
    after = loop.Trainer(both, sources, tmp_path / "both", None, "cpu").run().state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"score_head"}


def test_unfinished_run_can_be_exported_and_loaded(sources: Sources, tmp_path: Path) -> None:
    path, toml = tmp_path / "weights.safetensors", tmp_path / "small.toml"
    phases = "".join(
        f'[[phases]]\npart = "box"\nsteps = 3\nbatch_size = 4\ntemplate_size = {t}\nsearch_size = {s}\n'
        for t, s in ((32, 48), (32, 64))
    )
    toml.write_text(f'variant = "{SMALL.name}"\npretrained = false\nworkers = 0\n{phases}')
    whole = read_recipe(toml)
    first = Recipe(whole.variant, whole.phases[:1], pretrained=False, workers=0)
    loop.Trainer(first, sources, tmp_path / "run", None, "cpu").run()
    assert main(["export", str(toml), str(path), "--run-dir", str(tmp_path / "run")]) == 0
    loaded = load_model(path)
    assert loaded.model.config == SMALL
    assert loaded.metadata["recipe"] == "small.toml"


def test_several_runs_are_exported_as_their_mean(sources: Sources, tmp_path: Path) -> None:
    whole = recipe(phase(2))
    folders = [tmp_path / name for name in ("one", "other")]
    for seed, folder in enumerate(folders):
        loop.Trainer(msgspec.structs.replace(whole, seed=seed), sources, folder, None, "cpu").run()
    one, other = (loop.averaged(whole, folder).state_dict() for folder in folders)
    mean = loop.averaged(whole, *folders).state_dict()
    floating = [name for name, value in mean.items() if value.is_floating_point()]
    assert all(torch.allclose(mean[name], (one[name] + other[name]) / 2, atol=1e-6) for name in floating)
    assert not all(torch.equal(one[name], other[name]) for name in floating)


def test_export_without_a_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(RECIPES[0]), "x.safetensors", "--run-dir", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["train", "r.toml", "w.pth"], ["export", "r.toml", "w.pth"], ["calibrate", "w.pth"]])
def test_weights_are_written_to_safetensors_files_only(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "w.pth is no .safetensors file" in capsys.readouterr().err


def test_pretrained_network_sees_the_same_picture_through_our_normalisation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MixFormer(SMALL)
    block = {
        "norm1": (32,), "norm2": (32,), "attn.qkv": (96, 32), "attn.proj": (32, 32), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128)
    }  # fmt: skip
    vit = {"patch_embed.proj.weight": torch.randn(32, 3, 16, 16), "patch_embed.proj.bias": torch.randn(32)}
    vit["pos_embed"] = torch.randn(1, 1 + 16, 32)
    for number in range(2):
        for name, shape in block.items():
            vit[f"blocks.{number}.{name}.weight"] = torch.randn(shape)
            vit[f"blocks.{number}.{name}.bias"] = torch.randn(shape[0])
    torch.save(vit, tmp_path / "vit.pth")
    load_vit(model, tmp_path / "vit.pth")
    picture = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    theirs = functional.conv2d(
        (picture.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, vit["patch_embed.proj.weight"], vit["patch_embed.proj.bias"], 16
    )
    embed = model.backbone.stages[0].patch_embed.proj  # type: ignore[union-attr]
    assert torch.allclose(embed(model.normalise(picture)), theirs, atol=1e-3)  # type: ignore[operator]
    assert torch.allclose(model.backbone.search_positions, vit["pos_embed"][:, 1:])  # type: ignore[arg-type]
    qkv = model.state_dict()["backbone.stages.0.blocks.1.attention.project.qkv.weight"]
    assert torch.equal(qkv, vit["blocks.1.attn.qkv.weight"])


def test_resized_table_keeps_its_corners_in_order() -> None:
    table = torch.arange(16.0).reshape(1, 16, 1)
    resized = resized_table(table, 8).reshape(8, 8)
    assert (resized.diff(dim=0) > 0).all()
    assert (resized.diff(dim=1) > 0).all()
    assert torch.equal(resized_table(table, 4), table)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_read(path: Path) -> None:
    assert {phase.part for phase in read_recipe(path).phases} == {"box", "score"}


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("seed", "sead", "sead"),
        ('"mixvit_tiny"', '"mixvit_teeny"', "mixvit_teeny"),
        ("search_size = 256", "search_size = 224", "224"),
        ("seed = 1", "log_every = 0", "`int` >= 1 - at `$.log_every`"),
        ('"mixvit_tiny"', '"mixcvt_small"', "pretrained"),
        ('part = "box"', 'part = "box"\nmistakes = 0.3', "phase 0 trains boxes and has mistakes = 0.3"),
        ('part = "box"', 'part = "box"\nabsent = 0.5', "phase 0 trains boxes and has mistakes = 0 and absent = 0.5"),
    ],
)
def test_wrong_recipe_is_refused_with_what_is_wrong(tmp_path: Path, before: str, after: str, named: str) -> None:
    text = "seed = 1\n" + (Path(RECIPES[0]).with_name("mixvit_tiny_cpu.toml")).read_text()
    (tmp_path / "wrong.toml").write_text(text.replace(before, after))
    with pytest.raises(RecipeError, match=re.escape(named)):
        read_recipe(tmp_path / "wrong.toml")
