"""The training itself: phase after phase of a recipe, resumable at any checkpoint, the same whether it was interrupted or not."""

import copy
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.mixformer import MixFormer
from training.initial import at_sizes, load_vit
from training.log import Log, draw_losses
from training.losses import box_losses, score_labels, score_loss
from training.pairs import PairSampler
from training.recipe import Phase, Recipe, RecipeError
from training.sources import Sources
from training.teacher import Teacher, unlikeness

CHECKPOINT = "last.pt"


class Batch(NamedTuple):
    """templates uint8 [B, 2, T, T, 3], search uint8 [B, S, S, 3], boxes [B, 4], visible bool [B]."""

    templates: Tensor
    search: Tensor
    boxes: Tensor
    visible: Tensor


class Trainer:
    """Runs a recipe in a folder, from its checkpoint where it has one."""

    def __init__(
        self, recipe: Recipe, sources: Sources, folder: Path, initial: Path | None, device: torch.device | str,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        """`initial`: the ImageNet network, for a recipe that starts from one; `teacher`: that of a recipe that names one."""
        self._recipe = recipe
        self._sources = sources
        self._folder = folder
        self._device = torch.device(device)
        self._teacher = teacher
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self._model = MixFormer(recipe.config(recipe.phases[0]))
        if recipe.pretrained and initial is not None:
            load_vit(self._model, initial)
        if teacher is not None:
            teacher.give_heads(self._model)
        self._average = copy.deepcopy(self._model)
        self._phase = 0
        self._step = 0
        self._optimizer_state: dict[str, Any] | None = None
        if (folder / CHECKPOINT).exists():
            self._resume()

    def run(self) -> MixFormer:
        """All that is left of the recipe. Gives the averaged weights. Raises RuntimeError where the training diverges."""
        while self._phase < len(self._recipe.phases):
            self._run_phase(self._recipe.phases[self._phase])
            self._phase, self._step, self._optimizer_state = self._phase + 1, 0, None
            self._save(None)
        return self._average

    def _run_phase(self, phase: Phase) -> None:
        config = self._recipe.config(phase)
        if config != self._model.config:
            self._model, self._average = at_sizes(self._model, config), at_sizes(self._average, config)
        if phase.part == "score" and self._step == 0:
            # the averaged network is the one that ships: its boxes and features are those the score has to judge
            self._model.load_state_dict(self._average.state_dict())
        model = self._model.to(self._device)
        self._average.to(self._device).eval().requires_grad_(False)
        trained = _trained_part(model, phase, is_taught=self._teacher is not None)
        optimizer = torch.optim.AdamW(_groups(trained, phase, self._recipe.weight_decay))
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        log = Log(self._folder, self._phase)
        for batch in tqdm(self._batches(phase), total=phase.steps, initial=self._step, unit="step", disable=None):
            _set_rates(optimizer, phase, self._step)
            log.add(self._update(model, optimizer, phase, batch), len(batch.boxes))
            self._follow(phase)
            self._step += 1
            if self._step % self._recipe.log_every == 0:
                log.write(self._step)
            if self._step % self._recipe.checkpoint_every == 0:
                self._save(optimizer)

    def _update(self, model: MixFormer, optimizer: torch.optim.Optimizer, phase: Phase, batch: Batch) -> dict[str, float]:
        batch = Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))
        with self._autocast():
            loss, figures = self._box_loss(model, batch) if phase.part == "box" else _score_step(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        # Rather than going on with weights that are no numbers: the last checkpoint stays.
        nn.utils.clip_grad_norm_(trained, self._recipe.gradient_norm, error_if_nonfinite=True)
        optimizer.step()
        return figures

    def _box_loss(self, model: MixFormer, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        templates, search = model.normalise(batch.templates), model.normalise(batch.search)
        output = model(templates, search)
        parts = box_losses(output.corners, batch.boxes)._asdict()
        recipe = self._recipe
        loss = recipe.l1_weight * parts["l1"] + recipe.giou_weight * parts["giou"] + recipe.corner_weight * parts["corners"]
        if self._teacher is not None:
            parts["unlikeness"] = unlikeness(output, self._teacher.show(templates, search))
            loss = loss + recipe.teacher_weight * parts["unlikeness"]
        return loss, {"loss": loss.item()} | {name: value.item() for name, value in parts.items()}

    def _batches(self, phase: Phase) -> Iterator[Batch]:
        """The batches of the phase that are still to come."""
        # In a score phase the averaged network's boxes stay what they are: a resumed one meets the same.
        moments = self._sources.moments(self._average, phase.mistakes) if phase.mistakes else None
        settings = self._recipe.pairs.with_absent(phase.absent)
        sampler = PairSampler(
            self._sources, self._recipe.config(phase), settings, seed=self._recipe.seed * 1000 + self._phase,
            total=phase.steps * phase.batch_size, moments=moments,
        )  # fmt: skip
        indices = range(self._step * phase.batch_size, phase.steps * phase.batch_size)
        ahead = 3 if self._recipe.workers else None
        examples = Examples(sampler, indices)
        loader = DataLoader(
            examples, phase.batch_size, num_workers=self._recipe.workers, collate_fn=_collate, prefetch_factor=ahead,
            worker_init_fn=_keep_to_one_core, pin_memory=self._device.type == "cuda",
        )  # fmt: skip
        return iter(loader)

    def _autocast(self) -> AbstractContextManager[None]:
        half = self._recipe.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=half)

    @torch.no_grad()
    def _follow(self, phase: Phase) -> None:
        """Move the averaged weights a little towards the trained ones; at the start, when those know nothing yet, a lot."""
        is_new = self._phase == 0 or phase.part == "score"
        decay = min(phase.ema_decay, (1 + self._step) / (10 + self._step)) if is_new else phase.ema_decay
        for mine, theirs in zip(self._average.state_dict().values(), self._model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        content = {
            "model": self._model.state_dict(), "average": self._average.state_dict(), "phase": self._phase, "step": self._step,
            "sizes": (self._model.config.template_size, self._model.config.search_size),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "recipe": msgspec.json.encode(self._recipe).decode(),
        }  # fmt: skip
        temporary = self._folder / f"{CHECKPOINT}.new"
        torch.save(content, temporary)
        os.replace(temporary, self._folder / CHECKPOINT)
        draw_losses(self._folder)

    def _resume(self) -> None:
        content = torch.load(self._folder / CHECKPOINT, map_location="cpu", weights_only=True)
        if content["recipe"] != msgspec.json.encode(self._recipe).decode():
            raise RecipeError(f"{self._folder}: its checkpoint was made by another recipe; name another --run-dir")
        self._phase, self._step, self._optimizer_state = content["phase"], content["step"], content["optimizer"]
        config = self._model.config.with_sizes(*content["sizes"])
        self._model, self._average = MixFormer(config), MixFormer(config)
        self._model.load_state_dict(content["model"])
        self._average.load_state_dict(content["average"])


def averaged(recipe: Recipe, *folders: Path) -> MixFormer:
    """The averaged weights of the checkpoint in a folder, at the sizes the recipe ends with: the best of an unfinished run.

    Of several folders the mean, which tracks better than each where one run began as another ended (Wortsman et al. 2022).
    Raises RecipeError where there is no checkpoint.
    """
    models = [_averaged(recipe, folder) for folder in folders]
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    return models[0]


def _averaged(recipe: Recipe, folder: Path) -> MixFormer:
    if not (folder / CHECKPOINT).exists():
        raise RecipeError(f"{folder}: no {CHECKPOINT} to export")
    content = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    model = MixFormer(recipe.config(recipe.phases[0]).with_sizes(*content["sizes"]))
    model.load_state_dict(content["average"])
    return at_sizes(model, recipe.config(recipe.phases[-1]))


class Examples(Dataset[Any]):
    """Numbered examples of a sampler, as a dataset."""

    def __init__(self, sampler: PairSampler, indices: range) -> None:
        self._sampler = sampler
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Any:
        return self._sampler.example(self._indices[position])


def _keep_to_one_core(worker: int) -> None:
    """OpenCV's own threads would crowd the cores that the network computes on."""
    del worker
    cv2.setNumThreads(0)


def _collate(examples: list[Any]) -> Batch:
    return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*examples, strict=True)))


def _trained_part(model: MixFormer, phase: Phase, is_taught: bool) -> list[tuple[str, nn.Parameter]]:
    """Switch the model to the phase's mode and give the parameters it trains."""
    parts = ("score_head.",) if phase.part == "score" else ("backbone.",) if is_taught else ("backbone.", "box_head.")
    for name, module in model.named_children():
        module.train(f"{name}." in parts and phase.part == "box")
    if phase.frozen_norms:
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.eval()
    named = list(model.named_parameters())
    for name, parameter in named:
        parameter.requires_grad_(name.startswith(parts))
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def _groups(trained: list[tuple[str, nn.Parameter]], phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """By learning rate and weight decay: none for norms, biases and tables."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained:
        rate = phase.backbone_rate if name.startswith("backbone.") else phase.head_rate
        decay = weight_decay if parameter.ndim > 1 and not name.endswith("_positions") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "top": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def _set_rates(optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> None:
    """Linear warm-up, then a cosine down to `last_share` of the top."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
    share = min(1.0, (step + 1) / phase.warmup_steps) * (phase.last_share + (1 - phase.last_share) * cosine)
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * share


def _score_step(model: MixFormer, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The score of the network's own boxes, against whether they show the target: what the tracker will ask."""
    with torch.no_grad():
        output = model(model.normalise(batch.templates), model.normalise(batch.search))
        labels, counted = score_labels(output.corners.boxes, batch.boxes, batch.visible)
    logits = model.score(output.features, output.template_tokens, output.corners.boxes)
    loss = score_loss(logits, labels, counted)
    right = ((logits > 0) == (labels > 0.5))[counted].float().mean()
    return loss, {"loss": loss.item(), "accuracy": right.item(), "positive": labels.mean().item()}
