"""Precise RoI pooling against the recorded values of the original's CUDA op, and against brute force."""

import numpy as np
import torch

from benchmarks.recorded import tensor
from model.roi import precise_roi_pool


def test_pooling_equals_the_recorded_one() -> None:
    rois = tensor("mixcvt_online", "prroi_rois")
    features = tensor("mixcvt_online", "prroi_in")[rois[:, 0].long()]
    assert torch.allclose(precise_roi_pool(features, rois[:, 1:], 4), tensor("mixcvt_online", "prroi_out"), atol=1e-5)


def test_pooling_is_the_mean_of_the_bilinear_surface() -> None:
    features = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    x1, y1, x2, y2 = 0.7, 1.1, 5.3, 4.9
    samples = 400
    xs, ys = x1 + (np.arange(samples) + 0.5) * (x2 - x1) / samples, y1 + (np.arange(samples) + 0.5) * (y2 - y1) / samples
    over_x = np.clip(1 - np.abs(xs[:, None] - np.arange(7)), 0, None)
    over_y = np.clip(1 - np.abs(ys[:, None] - np.arange(6)), 0, None)
    surface = over_y @ features[0, 0].numpy() @ over_x.T
    bins = surface.reshape(2, samples // 2, 2, samples // 2).mean(axis=(1, 3))
    pooled = precise_roi_pool(features, torch.tensor([[x1, y1, x2, y2]]), 2)
    assert np.allclose(pooled[0, 0].numpy(), bins, atol=1e-4)


def test_empty_and_inverted_boxes_give_zeros() -> None:
    features = torch.ones(2, 3, 5, 5)
    assert precise_roi_pool(features, torch.tensor([[2.0, 2.0, 2.0, 4.0], [3.0, 3.0, 1.0, 1.0]]), 4).abs().max() == 0
