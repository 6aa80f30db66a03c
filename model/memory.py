"""What a target's templates leave behind for every later frame, as a value, and a store of such values on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention import KeyValue
from model.config import MAX_ONLINE_TEMPLATES, Family, ModelConfig


class TemplateMemory(NamedTuple):
    """Keys and values of every block and the original template's last tokens, for a batch of targets.

    layers: one KeyValue a block, [B, heads, (1 + online_count) * tokens, head width]
    template_tokens: [B, tokens, C], of the last stage
    online_count: online templates of each target, the same for all of the batch
    """

    layers: tuple[KeyValue, ...]
    template_tokens: Tensor
    online_count: int


class MemoryPool:
    """A fixed number of slots on the device, each of room for one target's memory with up to five online templates."""

    def __init__(self, config: ModelConfig, slots: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.slots = slots
        self._online_counts = [0] * slots
        images = 1 + MAX_ONLINE_TEMPLATES
        shapes = [
            (slots, stage.heads, images * side * side, stage.dim // stage.heads)
            for stage, side in zip(config.stages, _key_sides(config), strict=True)
            for _ in range(stage.depth)
        ]
        self._layers = tuple(
            KeyValue(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
            for shape in shapes
        )
        last_side = config.template_size // config.stride
        self._template_tokens = torch.zeros((slots, last_side * last_side, config.dim), device=device, dtype=dtype)

    @property
    def bytes_per_slot(self) -> int:
        """Device memory of one slot."""
        tensors = [tensor for layer in self._layers for tensor in layer] + [self._template_tokens]
        return sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)

    def online_count(self, slot: int) -> int:
        """Online templates of the memory in `slot`; 0 where it was never written."""
        return self._online_counts[slot]

    def write(self, slots: Sequence[int], memory: TemplateMemory) -> None:
        """Put entry i of the batch into slots[i]."""
        index = torch.as_tensor(slots, device=self._template_tokens.device)
        for mine, theirs in zip(self._layers, memory.layers, strict=True):
            length = theirs.keys.shape[2]
            mine.keys[index, :, :length] = theirs.keys
            mine.values[index, :, :length] = theirs.values
        self._template_tokens[index] = memory.template_tokens
        for slot in slots:
            self._online_counts[slot] = memory.online_count

    def read(self, slots: Sequence[int]) -> TemplateMemory:
        """The memories in `slots` as one batch, copied. Raises ValueError where their numbers of online templates differ."""
        count = self.common_online_count(slots)
        index = torch.as_tensor(slots, device=self._template_tokens.device)
        return TemplateMemory(self.layers(index, count, range(len(self._layers))), self.template_tokens(index), count)

    def common_online_count(self, slots: Sequence[int]) -> int:
        """Online templates of the memories in `slots`. Raises ValueError where it is not the same number for all."""
        counts = {self._online_counts[slot] for slot in slots}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"slots {list(slots)} hold memories of {sorted(counts)} online templates; a batch needs equal ones"
            )
        return counts.pop()

    def layers(self, slots: Tensor, online_count: int, blocks: range) -> tuple[KeyValue, ...]:
        """Keys and values of these blocks for the targets in `slots` (int64 [B], on the device), copied."""
        read = []
        for keys, values in self._layers[blocks.start : blocks.stop]:
            length = keys.shape[2] // (1 + MAX_ONLINE_TEMPLATES) * (1 + online_count)
            read.append(KeyValue(keys[:, :, :length][slots], values[:, :, :length][slots]))
        return tuple(read)

    def template_tokens(self, slots: Tensor) -> Tensor:
        """The original templates' last tokens [B, N, C] for the targets in `slots` (int64 [B], on the device), copied."""
        return self._template_tokens[slots]


def _key_sides(config: ModelConfig) -> list[int]:
    """Side of each stage's key grid for one template: MixCvT's convolutions halve it, rounding up."""
    sides = []
    side = config.template_size
    for stage in config.stages:
        side = (side + 2 * stage.patch_padding - stage.patch_kernel) // stage.patch_stride + 1
        sides.append((side + 1) // 2 if config.family is Family.MIXCVT else side)
    return sides
