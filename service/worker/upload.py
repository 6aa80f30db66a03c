"""Crops as they came over the wire, onto the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Upload:
    """To a GPU by a stream of its own, so that a batch travels while the one before it is computed.

    Pinned memory is given back to torch, which uses it again only when the copy from it is done: no buffers are kept here.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, crops: Sequence[bytes], side: int) -> Tensor:
        """Crops of 3 * side * side bytes -> uint8 [B, side, side, 3] on the device, for the current stream."""
        host = torch.empty((len(crops), side, side, 3), dtype=torch.uint8, pin_memory=self._stream is not None)
        for row, crop in zip(host.flatten(1).numpy(), crops, strict=True):
            row[:] = np.frombuffer(crop, np.uint8)
        if self._stream is None:
            return host
        with torch.cuda.stream(self._stream):
            uploaded = host.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        uploaded.record_stream(current)
        return uploaded
