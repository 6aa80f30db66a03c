"""What tests of several rooms need."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.checkpoint import save_model
from model.config import VARIANTS, UpdateRule
from model.mixformer import MixFormer


@pytest.fixture(scope="session", autouse=True)
def cache_of_compiled_networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's cache folder for this run alone: the processes that tests start compile a network once, and leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the smallest variant. Its values are random: it tracks nothing."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save_model(path, MixFormer(VARIANTS["mixvit_tiny"]).eval(), UpdateRule())
    return path
