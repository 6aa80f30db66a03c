"""Where the network runs and in which arithmetic: settings as torch means them."""

import torch

from service.config import SettingsError
from service.cpu import has_native_bfloat16


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
