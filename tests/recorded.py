"""The recorded runs of the original networks (tests/reference), and the networks they were recorded on."""

import importlib.util
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from model.checkpoint import LoadedModel, load_model
from model.compiled import CompiledMixFormer

FOLDER = Path(__file__).parent / "reference"
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
