"""What tests of several rooms need."""

from pathlib import Path

import pytest
import torch

from model.checkpoint import save_model
from model.config import VARIANTS, UpdateRule
from model.mixformer import MixFormer


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the smallest variant. Its values are random: it tracks nothing."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save_model(path, MixFormer(VARIANTS["mixvit_tiny"]).eval(), UpdateRule())
    return path
