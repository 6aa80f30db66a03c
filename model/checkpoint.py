"""Loading and saving weights: the original's pickled checkpoints and our safetensors files, both strictly.

Our files hold the folded network under our own names, with `variant` and `update_rule` in their metadata, and where it was made
ready for 8-bit integers the ranges of its layers. An official file is translated once, here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.config import VARIANTS, ModelConfig, UpdateRule
from model.layers import fold_batch_norms
from model.mixformer import MixFormer
from model.official import REASON_CHARACTERS, CheckpointError, read_official
from model.quantised import Ranges, check_ranges

_RANGES = "ranges."  # before the name of a layer


class LoadedModel(NamedTuple):
    """A network ready for inference, and what its file says about it. `ranges`: empty where it is not ready for 8-bit integers."""

    model: MixFormer
    update_rule: UpdateRule
    sha256: str
    metadata: dict[str, str]
    ranges: Ranges


def load_model(
    path: str | Path, variant: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """The network in `path`, folded, in evaluation mode. The variant is the file's own, or told from the shapes of its keys.

    Raises CheckpointError, which names the file and the key, where anything is missing, unexpected or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    ours = path.suffix == ".safetensors"
    tensors, metadata = _read_safetensors(path) if ours else (read_official(path), {})
    ranges = {name.removeprefix(_RANGES): tensors.pop(name) for name in list(tensors) if name.startswith(_RANGES)}
    config = _config(path, tensors, variant or metadata.get("variant"), folded=ours)
    model = MixFormer(config).eval()
    if ours:
        fold_batch_norms(model)
    _load_strictly(path, model, tensors)
    fold_batch_norms(model)
    _check_ranges(path, model, ranges)
    model.set_precision(dtype)
    rule = _update_rule(path, metadata)
    return LoadedModel(model.to(device).requires_grad_(False), rule, _sha256(path), metadata, ranges)


def save_model(
    path: str | Path,
    model: MixFormer,
    update_rule: UpdateRule | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
    ranges: Ranges | None = None,
) -> None:
    """Write the network, folded, with its variant, its rule (where it has one of its own), further `metadata` and its ranges.

    Raises OSError where it cannot be written; a file that was there before stays as it was.
    """
    copy = MixFormer(model.config).eval()
    if not _is_folded(model):
        copy.load_state_dict(model.state_dict())
        fold_batch_norms(copy)
    else:
        fold_batch_norms(copy)
        copy.load_state_dict(model.state_dict())
    named = copy.state_dict() | {f"{_RANGES}{name}": limits for name, limits in (ranges or {}).items()}
    tensors = {name: tensor.detach().to(dtype).cpu().contiguous() for name, tensor in named.items()}
    notes = dict(metadata or {}) | {"variant": model.config.name}
    if update_rule is not None:
        notes["update_rule"] = json.dumps(asdict(update_rule))
    # Not by safetensors' save_file, whose files nobody but their writer can read.
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.new")
    try:
        unfinished.write_bytes(save(tensors, notes))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def convert(source: str | Path, destination: str | Path, variant: str | None = None) -> ModelConfig:
    """Write an official checkpoint as a safetensors file in float32; it keeps the original's update rule. Returns its variant."""
    model = load_model(source, variant).model
    save_model(destination, model, metadata={"source": Path(source).name}, dtype=torch.float32)
    return model.config


def _is_folded(model: MixFormer) -> bool:
    return not any(name.endswith("running_var") for name, _ in model.named_buffers())


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {str(error)[:REASON_CHARACTERS]}") from None


def _config(path: Path, tensors: Mapping[str, Tensor], variant: str | None, folded: bool) -> ModelConfig:
    if variant is None:
        return max(VARIANTS.values(), key=lambda config: _likeness(config, tensors, folded))
    if variant not in VARIANTS:
        raise CheckpointError(f"{path}: unknown variant {variant[:REASON_CHARACTERS]!r}; known are {', '.join(VARIANTS)}")
    return VARIANTS[variant]


def _likeness(config: ModelConfig, tensors: Mapping[str, Tensor], folded: bool) -> tuple[int, int]:
    """Tensors of the file that this variant has too, less those it would miss (an online file also holds all of its offline kin)."""
    with torch.device("meta"):
        model = MixFormer(config).eval()
    if folded:
        fold_batch_norms(model)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shared = sum(name in tensors and tensors[name].shape == shape for name, shape in wanted.items())
    return shared, -len(wanted)


def _load_strictly(path: Path, model: MixFormer, tensors: Mapping[str, Tensor]) -> None:
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    _stop_at(path, model, "missing", sorted(wanted.keys() - tensors.keys()))
    _stop_at(path, model, "unexpected", sorted(tensors.keys() - wanted.keys()))
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            shapes = f"has shape {list(tensors[name].shape)}, {model.config.name} needs {list(tensor.shape)}"
            raise CheckpointError(f"{path}: {name} {shapes}")
        if not tensors[name].is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {tensors[name].dtype}, not floating-point numbers")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)


def _stop_at(path: Path, model: MixFormer, kind: str, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"{path}: {len(names)} {kind} for variant {model.config.name}, first {names[0][:REASON_CHARACTERS]}"
        )


def _check_ranges(path: Path, model: MixFormer, ranges: Ranges) -> None:
    try:
        check_ranges(model, ranges)
    except ValueError as error:
        raise CheckpointError(f"{path}: {str(error)[:REASON_CHARACTERS]}") from None


def _update_rule(path: Path, metadata: Mapping[str, str]) -> UpdateRule:
    try:
        return UpdateRule(**json.loads(metadata.get("update_rule", "{}")))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its update_rule is not usable: {str(error)[:REASON_CHARACTERS]}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
