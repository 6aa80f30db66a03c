"""The weights that come along."""

from pathlib import Path

DEFAULT_WEIGHTS = Path(__file__).parents[2] / "weights" / "mixvit_tiny.safetensors"
