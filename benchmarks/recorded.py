"""The recorded runs of the original networks (tests/reference), and the networks they were recorded on. Tests and benchmarks use them."""

import importlib.util
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from model.checkpoint import LoadedModel, load_model
from model.compiled import CompiledMixFormer
from model.config import UpdateRule
from model.geometry import Box
from model.mixformer import MixFormer
from model.quantised import TrackingPass
from model.target import Target
from training.quantise import Choice, chosen_ranges

FOLDER = Path(__file__).parents[1] / "tests" / "reference"
VARIANTS = ("mixcvt_online", "mixvit_online", "mixcvt")


@cache
def arrays(variant: str) -> NpzFile:
    """The recorded inputs and outputs of a variant; the video and the crops stand with mixcvt_online."""
    recording: NpzFile = np.load(FOLDER / f"{variant}.npz")
    return recording


def tensor(variant: str, name: str) -> Tensor:
    """One recorded array as a tensor."""
    return torch.from_numpy(arrays(variant)[name])


@cache
def weights_module() -> ModuleType:
    """tests/reference/weights.py, which rebuilds the weights."""
    spec = importlib.util.spec_from_file_location("reference_weights", FOLDER / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def official_state(variant: str) -> dict[str, Tensor]:
    """The state dict of an official checkpoint of this variant, under the official names."""
    state: dict[str, Tensor] = weights_module().state_dict(variant)
    return state


@cache
def loaded(variant: str) -> LoadedModel:
    """The network as our loader gives it from a file in the official layout."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.pth.tar"
        torch.save({"net": official_state(variant), "epoch": 500}, path)
        return load_model(path)


@cache
def compiled(variant: str) -> CompiledMixFormer:
    """The same network, compiled for two threads."""
    return CompiledMixFormer(loaded(variant).model, threads=2)


def generated(name: str, shape: list[int]) -> Tensor:
    """The recorded heads' inputs: twice the seeded noise of weights.py."""
    return 2 * torch.from_numpy(weights_module().generate(name, shape))


def thinned(maps: Tensor) -> Tensor:
    """Features as they were recorded."""
    return maps[:, ::8, ::2, ::2]


@torch.no_grad()
def from_recorded_state(model: MixFormer) -> list[TrackingPass]:
    """Every frame of the recorded MixCvT run, cut out where the original was in the frame before."""
    recording = arrays("mixcvt_online")
    video, states = recording["video_rgb"], recording["track_osz3_state"]
    height, width = video.shape[1:3]
    target = Target.start(model.config, UpdateRule(), video[0], Box(*states[0]))
    memory = model.encode(torch.from_numpy(np.stack(target.templates))[None])
    passes = []
    for number in range(1, len(video)):
        target.relocate(Box(*states[number - 1]), width, height)
        passes.append(TrackingPass(torch.from_numpy(target.search(video[number]))[None], memory))
    return passes


class Rounded(NamedTuple):
    """MixCvT's recorded network and which of its layers may be rounded. `others`: passes that had no part in the choice."""

    model: MixFormer
    choice: Choice
    others: list[TrackingPass]


def rounded(limit: float) -> Rounded:
    """Rounded where boxes move by at most `limit` pixels of the search crop, as every sixth frame of `from_recorded_state` shows it."""
    model = loaded("mixcvt_online").model
    passes = from_recorded_state(model)
    shown, others = passes[::6], [each for number, each in enumerate(passes) if number % 6]
    return Rounded(model, chosen_ranges(model, shown, shown, limit), others)
