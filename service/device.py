"""Where the network runs, in which arithmetic and by what: settings as torch and OpenVINO mean them."""

import logging
import os
from pathlib import Path

import torch

from model.compiled import CompiledMixFormer
from model.mixformer import MixFormer, Network
from service.config import SettingsError
from service.cpu import has_native_bfloat16, usable_cores

_log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or the CPU where there is none. Raises SettingsError where it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device={name!r} cannot be used: {error}") from error
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of that name; `auto` is half precision where the hardware has it."""
    if precision == "auto" and device.type == "cpu":
        precision = "bfloat16" if has_native_bfloat16() else "float32"
    return {"auto": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def choose_network(model: MixFormer, backend: str = "auto", threads: int = 0, cache_dir: str = "") -> Network:
    """The network as that backend runs it; `auto` is the faster one: OpenVINO on a CPU in float32, torch everywhere else.

    `threads` 0 means every core this process may use. Raises SettingsError where the backend cannot run the network.
    """
    can_compile = model.device.type == "cpu" and model.precision == torch.float32
    if backend == "openvino" and not can_compile:
        raise SettingsError(f"backend='openvino' runs float32 on a CPU, not {model.precision} on {model.device}")
    if backend == "torch" or not can_compile:
        return model
    threads = threads or usable_cores()
    try:
        return CompiledMixFormer(model, threads, Path(cache_dir) if cache_dir else _cache_folder())
    except OSError as error:
        _log.warning("compiled networks are not kept, so every start compiles anew: %s", error)
        return CompiledMixFormer(model, threads)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixformer"
