"""The network with 8-bit integers where a CPU gains by them and the boxes lose nearly nothing: its Linears and convolutions.

Norms, softmax, the products of attention, GELU, the corners' expectations and the score head stay float32. Weights are rounded
for each output channel, inputs for the whole tensor, after the spread of each channel was shared out between the two (SmoothQuant,
Xiao et al. 2023, section 4).
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.memory import TemplateMemory
from model.mixformer import MixFormer

# By the layer's name: [2, channels], the least and the greatest value that each channel of its input takes.
Ranges = Mapping[str, Tensor]
Layer = nn.Linear | nn.Conv2d

# How much of an input channel's spread goes over to its weights: of 0.35, 0.5, 0.65 and 0.8 the one whose boxes differed least.
SMOOTHING = 0.8
_STEPS = 255  # an input is rounded to 0 to 255,
_WEIGHT_STEPS = 127  # a weight to -127 to 127
_SMALLEST = 1e-5  # where a channel or a layer is always 0


class TrackingPass(NamedTuple):
    """What `MixFormer.track` is given: crops uint8 [B, S, S, 3] and the memory of the same targets."""

    crops: Tensor
    memory: TemplateMemory


def quantised(model: MixFormer, ranges: Ranges) -> MixFormer:
    """A copy of `model`, folded and float32, whose layers with `ranges` round to 8 bits. Raises ValueError where they do not fit."""
    copy = deepcopy(model)
    for name, layer in _layers_with(copy, ranges):
        parent, _, own_name = name.rpartition(".")
        setattr(copy.get_submodule(parent), own_name, QuantisedLayer(layer, ranges[name].float()))
    return copy


def check_ranges(model: MixFormer, ranges: Ranges) -> None:
    """Raises ValueError, which names the layer, where a range is not one of an input of this network."""
    for name, layer in _layers_with(model, ranges):
        wanted, limits = [2, layer.weight.shape[1]], ranges[name].float()
        if list(limits.shape) != wanted:
            raise ValueError(f"the range of {name} has shape {list(limits.shape)}, its input needs {wanted}")
        if not limits.isfinite().all() or (limits[0] > limits[1]).any():
            raise ValueError(f"the range of {name} is not finite, or its lower end is above its upper")


@torch.inference_mode()
def observe_ranges(model: MixFormer, passes: Iterable[TrackingPass]) -> dict[str, Tensor]:
    """The ranges of every layer that can be quantised, as seen in these passes of `model`, folded and float32."""
    seen: dict[str, Tensor] = {}

    def look_into(name: str) -> Callable[[Layer, tuple[Tensor]], None]:
        def look(layer: Layer, given: tuple[Tensor]) -> None:
            channels = given[0].movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
            low, high = channels.amin(1), channels.amax(1)
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = torch.stack([low, high])

        return look

    hooks = [layer.register_forward_pre_hook(look_into(name)) for name, layer in _layers(model).items()]
    for crops, memory in passes:
        model.track(crops, memory)
    for hook in hooks:
        hook.remove()
    return seen


class QuantisedLayer(nn.Module):
    """A Linear or convolution that rounds its input and its weights to 8 bits, so that OpenVINO multiplies integers."""

    to_steps: Tensor
    zero_point: Tensor
    weight_steps: Tensor
    weight_zero_points: Tensor

    def __init__(self, layer: Layer, limits: Tensor) -> None:
        """`limits` [2, C in] of the layer's input."""
        super().__init__()
        self.layer = deepcopy(layer).requires_grad_(False)
        low, high = limits[0].clamp(max=0.0), limits[1].clamp(min=0.0)
        weights = self.layer.weight.transpose(0, 1).flatten(1).abs().amax(1).clamp(min=_SMALLEST)
        spread = torch.maximum(-low, high).clamp(min=_SMALLEST)
        factors = spread**SMOOTHING / weights ** (1 - SMOOTHING)
        low, high = (low / factors).min(), (high / factors).max()
        step = (high - low).clamp(min=_SMALLEST) / _STEPS
        self.register_buffer("zero_point", (-low / step).round())
        self.register_buffer("to_steps", _along_input(1 / (factors * step), layer)[0])
        self.layer.weight.mul_(_along_input(factors * step, layer))
        self.register_buffer("weight_steps", self.layer.weight.flatten(1).abs().amax(1).clamp(min=_SMALLEST) / _WEIGHT_STEPS)
        self.register_buffer("weight_zero_points", torch.zeros(len(layer.weight), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives for `x`, nearly."""
        rounded = torch.fake_quantize_per_tensor_affine(x * self.to_steps, 1.0, int(self.zero_point), 0, _STEPS)
        weight = torch.fake_quantize_per_channel_affine(
            self.layer.weight, self.weight_steps, self.weight_zero_points, 0, -_WEIGHT_STEPS, _WEIGHT_STEPS
        )
        if isinstance(self.layer, nn.Linear):
            return functional.linear(rounded, weight, self.layer.bias)
        return functional.conv2d(rounded, weight, self.layer.bias, self.layer.stride, self.layer.padding)


def _along_input(values: Tensor, layer: Layer) -> Tensor:
    """One value an input channel, in the shape that multiplies the layer's weights."""
    return values[None, :] if isinstance(layer, nn.Linear) else values[None, :, None, None]


def _layers(model: MixFormer) -> dict[str, Layer]:
    """What can be quantised, by name. Depthwise convolutions are left out: they are bound by memory, not by arithmetic."""
    return {
        name: layer
        for part in ("backbone", "box_head")
        for name, layer in model.get_submodule(part).named_modules(prefix=part)
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }


def _layers_with(model: MixFormer, ranges: Ranges) -> list[tuple[str, Layer]]:
    layers = _layers(model)
    unknown = sorted(ranges.keys() - layers.keys())
    if unknown:
        raise ValueError(f"{len(unknown)} ranges of no layer of {model.config.name} that can be quantised, first {unknown[0]}")
    return [(name, layers[name]) for name in ranges]
