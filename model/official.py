"""Reading an official MixFormer checkpoint without trusting it.

Such a file is a pickled dict whose `net` is the state dict; beside it stand objects of the original's own classes. Only tensors
and plain containers are built from it. Every other class or function it names becomes `Inert`, which takes anything and does nothing.
"""

import collections
import pickle
import re
import types
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

REASON_CHARACTERS = 300
"""Of what a file, or whoever reads it, says of itself in an error."""


class CheckpointError(Exception):
    """The file cannot be loaded; the message names the file and the reason."""


class Inert:
    """Stands in for any object that is not a tensor or a container."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> "Inert":
        return self

    def append(self, item: object) -> None:
        """Swallow the item."""

    def extend(self, items: object) -> None:
        """Swallow the items."""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


# The one in Python: C's makes room for every object number below the highest that a pickle names, tens of GB for a file of 20 bytes.
class _TensorUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), Inert)


def _load(file: BinaryIO, **options: Any) -> Any:
    return _TensorUnpickler(file, **options).load()


# What torch.load needs of a pickle module. It resolves storages itself and asks us for every other class.
_PICKLE = types.SimpleNamespace(
    Unpickler=_TensorUnpickler, load=_load, UnpicklingError=pickle.UnpicklingError, __name__="tensors"
)


def read_official(path: Path) -> dict[str, Tensor]:
    """The tensors of `net` under our names, without those that inference never uses. Raises CheckpointError."""
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (a hostile file can raise anything while it is read)
        reason = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from None
    # By the type's own methods: a pickle can give a container attributes that hide them.
    net = dict.get(content, "net") if isinstance(content, dict) else None
    if not isinstance(net, dict):
        raise CheckpointError(f"{path}: holds no state dict under 'net'")
    tensors = {}
    for name, tensor in dict.items(net):
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            shown = name[:REASON_CHARACTERS] if isinstance(name, str) else type(name).__name__
            raise CheckpointError(f"{path}: entry {shown!r} of 'net' is no tensor")
        if not _UNUSED.fullmatch(name):
            tensors[our_name(name)] = tensor
    return tensors


def _check_archive(path: Path) -> None:
    """Raises CheckpointError for a zip that is TorchScript's, or holds compressed entries, which torch never writes."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(f"{path}: a TorchScript archive, not a checkpoint")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path}: an entry of {entry.compress_size} bytes stands for {entry.file_size}")


_UNUSED = re.compile(r"backbone\.(norm|head)\..*|backbone\.(cls_token|pos_embed)|.*\.num_batches_tracked")

_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.stage(\d)\.", r"backbone.stages.\1."),
        (r"^backbone\.(blocks|patch_embed)\.", r"backbone.stages.0.\1."),
        (r"^backbone\.pos_embed_t$", "backbone.template_positions"),
        (r"^backbone\.pos_embed_s$", "backbone.search_positions"),
        (r"\.attn\.conv_proj_([qkv])\.conv\.", r".attention.project.\1_conv.conv."),
        (r"\.attn\.conv_proj_([qkv])\.bn\.", r".attention.project.\1_conv.norm."),
        (r"\.attn\.proj_([qkv])\.", r".attention.project.\1."),
        (r"\.attn\.qkv\.", ".attention.project.qkv."),
        (r"\.attn\.proj\.", ".attention.out."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.2."),
        (r"^box_head\.(conv|adjust)(\d)_tl\.", r"box_head.top_left.\1\2."),
        (r"^box_head\.(conv|adjust)(\d)_br\.", r"box_head.bottom_right.\1\2."),
        (r"\.conv5\.", ".logit."),
        (r"\.(conv|adjust)(\d)\.0\.(weight|bias)$", r".\1\2.conv.\3"),
        (r"\.(conv|adjust)(\d)\.1\.(weight|bias|running_mean|running_var)$", r".\1\2.norm.\3"),
        (r"\.(adjust\d)\.(\d)\.0\.", r".\1.layers.\2.conv."),
        (r"\.(adjust\d)\.(\d)\.1\.", r".\1.layers.\2.norm."),
        (r"\.(adjust\d)\.(conv|norm)\.", r".\1.layers.0.\2."),
        (r"\.adjust1\.", ".features_to_half."),
        (r"\.adjust2\.", ".features_to_quarter."),
        (r"\.adjust3\.", ".half_to_logit."),
        (r"\.adjust4\.", ".quarter_to_logit."),
        (r"\.conv1\.", ".layers.0."),
        (r"\.conv2\.", ".layers.1."),
        (r"\.conv3\.", ".layers.2."),
        (r"\.conv4\.", ".layers.3."),
        (r"^score_branch\.score_token$", "score_head.token"),
        (r"^score_branch\.score_head\.layers\.0\.", "score_head.mlp.0."),
        (r"^score_branch\.score_head\.layers\.1\.", "score_head.mlp.2."),
        (r"^score_branch\.score_head\.layers\.2\.", "score_head.mlp.4."),
        (r"^score_branch\.proj_([qkv])\.(\d)\.", r"score_head.reads.\2.\1."),
        (r"^score_branch\.proj\.(\d)\.", r"score_head.reads.\1.out."),
        (r"^score_branch\.norm2\.(\d)\.", r"score_head.reads.\1.norm."),
        (r"^score_branch\.norm1\.", "score_head.norm."),
    )
]


def our_name(official: str) -> str:
    """Our name of a tensor that the original calls `official`; a name the original does not know stays as it is."""
    name = official
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
