"""What rounding a layer to 8 bits does to the boxes, and which layers are rounded for how much of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.mixformer import MixFormer
from model.quantised import Ranges, TrackingPass, quantised


class Harm(NamedTuple):
    """Of one layer. `square`: mean over some passes of a box's squared differences in x, y, width and height, added up, in pixels
    of the search crop; `products`: the multiplications that become cheaper."""

    square: float
    products: int


def least_harmful(layers: Mapping[str, Harm], limit: float) -> list[str]:
    """As many layers as together move a box by at most `limit` pixels (root of the mean square), the least harm a product first.

    Their errors know nothing of each other, so that squares add up.
    """
    chosen, square = [], 0.0
    for name in sorted(layers, key=lambda name: layers[name].square / layers[name].products):
        square += layers[name].square
        if square > limit**2:
            break
        chosen.append(name)
    return chosen


def harms(model: MixFormer, ranges: Ranges, passes: Sequence[TrackingPass]) -> dict[str, Harm]:
    """Of every layer with ranges, to first order: the error of its outputs times the gradient of the box.

    The gradient is that of the coordinates' sum with random signs: the square of what the error does to it is in the mean the sum of
    the squares of what it does to each, for a quarter of the passes backwards. `passes` are made without inference mode.
    """
    rounding = quantised(model, ranges)
    errors: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def look_into(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def look(_: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
            with torch.no_grad():
                errors[name] = rounding.get_submodule(name)(given[0]) - output
            probes[name] = torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return look

    hooks = [model.get_submodule(name).register_forward_hook(look_into(name)) for name in ranges]
    squares = dict.fromkeys(ranges, 0.0)
    generator = torch.Generator().manual_seed(0)
    for crops, memory in passes:
        boxes = model.config.search_size * model.track(crops, memory).boxes
        signs = 2.0 * torch.randint(0, 2, boxes.shape, generator=generator) - 1.0
        gradients = torch.autograd.grad((signs * boxes).sum(), list(probes.values()))
        for name, gradient in zip(probes, gradients, strict=True):
            squares[name] += float((gradient * errors[name]).sum()) ** 2 / len(passes)
    for hook in hooks:
        hook.remove()
    weights = {name: model.get_submodule(name).get_parameter("weight") for name in ranges}
    return {name: Harm(squares[name], errors[name].numel() * weights[name][0].numel()) for name in ranges}
