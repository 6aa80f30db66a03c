"""Where the network runs, in which arithmetic and by what: settings as torch and OpenVINO mean them."""

import logging
import os
from functools import partial
from pathlib import Path

import torch

from model.compiled import CompiledMixFormer
from model.mixformer import MixFormer, Network
from model.quantised import Ranges
from service.config import SettingsError
from service.cpu import has_native_bfloat16, has_native_int8, usable_cores

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


def choose_dtype(precision: str, device: torch.device, backend: str = "auto") -> torch.dtype:
    """What the weights are loaded in: `auto` is half precision on a GPU, and on a CPU that has bfloat16 where torch is to run them.
    What OpenVINO runs is made of float32 (`choose_network`)."""
    if device.type != "cpu":
        precision = "float16" if precision == "auto" else precision
    elif _takes_bfloat16(precision):
        precision = "bfloat16" if backend == "torch" else "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def choose_network(
    model: MixFormer,
    ranges: Ranges | None = None,
    precision: str = "auto",
    backend: str = "auto",
    threads: int = 0,
    cache_dir: str = "",
) -> Network:
    """The network as that backend runs it; `auto` is the faster one: OpenVINO on a CPU for a model in float32, torch everywhere else.
    By itself OpenVINO computes in bfloat16 where the CPU has it, else with 8-bit integers where the CPU has instructions for it and the
    weights have `ranges`; `precision` may say otherwise.

    `threads` 0 means every core this process may use. Raises SettingsError where the backend cannot run the network.
    """
    can_compile = model.device.type == "cpu" and model.precision == torch.float32
    if precision == "int8":
        _check_int8(model, ranges, backend)
    if backend == "openvino" and not can_compile:
        raise SettingsError(f"backend='openvino' runs float32 on a CPU, not {model.precision} on {model.device}")
    if backend == "torch" or not can_compile:
        return model
    in_bfloat16 = _takes_bfloat16(precision)
    used = ranges if precision == "int8" or (precision == "auto" and has_native_int8() and not in_bfloat16) else None
    compiled = partial(CompiledMixFormer, model, threads or usable_cores(), ranges=used, in_bfloat16=in_bfloat16)
    try:
        return compiled(Path(cache_dir) if cache_dir else _cache_folder())
    except OSError as error:
        _log.warning("compiled networks are not kept, so every start compiles anew: %s", error)
        return compiled()


def _takes_bfloat16(precision: str) -> bool:
    """Whether a CPU is to compute in bfloat16 by its own instructions. Where it lacks them, torch has to emulate them for who asks."""
    return precision in ("auto", "bfloat16") and has_native_bfloat16()


def _check_int8(model: MixFormer, ranges: Ranges | None, backend: str) -> None:
    wanting = {
        "weights with ranges (python -m training quantise)": bool(ranges),
        "a CPU, not a GPU": model.device.type == "cpu",
        "a CPU with VNNI instructions": has_native_int8(),
        "the backend openvino, not torch": backend != "torch",
    }
    for what, is_there in wanting.items():
        if not is_there:
            raise SettingsError(f"precision='int8' needs {what}")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixformer"
