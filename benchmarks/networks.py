"""Networks and crops to measure with. Random ones: how fast a network is does not depend on its weights."""

import torch
from torch import Tensor

from model.compiled import CompiledMixFormer
from model.config import VARIANTS
from model.layers import fold_batch_norms
from model.mixformer import MixFormer, Network
from model.quantised import Ranges
from service.cpu import has_native_bfloat16, has_native_int8


def random_network(name: str) -> MixFormer:
    """The variant with random weights, as it is trained: BatchNorm not folded. Equal names give equal weights."""
    torch.manual_seed(0)
    return MixFormer(VARIANTS[name]).eval().requires_grad_(False)


def folded_network(name: str) -> MixFormer:
    """The same network as a checkpoint gives it: folded."""
    model = random_network(name)
    fold_batch_norms(model)
    return model


def in_reduced_precision(model: MixFormer, ranges: Ranges, threads: int) -> dict[str, CompiledMixFormer]:
    """A network in 8-bit integers and in bfloat16, where the CPU has instructions for it: the service takes no others."""
    networks = {}
    if has_native_int8():
        networks["int8"] = CompiledMixFormer(model, threads, ranges=ranges)
    if has_native_bfloat16():
        networks["bfloat16"] = CompiledMixFormer(model, threads, in_bfloat16=True)
    return networks


def random_crops(*shape: int) -> Tensor:
    """uint8 [*shape, 3]."""
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def template_crops(model: Network) -> Tensor:
    """A template and an online template, uint8 [1, 2, T, T, 3]."""
    return random_crops(1, 2, model.config.template_size, model.config.template_size)


def search_crops(model: Network) -> Tensor:
    """uint8 [1, S, S, 3]."""
    return random_crops(1, model.config.search_size, model.config.search_size)
