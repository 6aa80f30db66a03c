"""The losses: zero where the boxes agree, and corner maps in the coordinates of the head's expectation."""

import pytest
import torch

from model.heads import Corners, expectation
from training.losses import box_losses, corner_loss, generalised_overlap, score_labels, score_loss

BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.9, 0.4]])


def test_losses_of_equal_boxes_are_zero() -> None:
    maps = torch.zeros(2, 16, 16)
    losses = box_losses(Corners(BOXES, maps, maps), BOXES)
    assert losses.l1 == 0
    assert losses.giou == pytest.approx(0, abs=1e-6)
    assert losses.overlap == pytest.approx(1, abs=1e-6)


def test_generalised_overlap_of_disjoint_boxes_falls_with_their_distance() -> None:
    box = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    near, far = torch.tensor([[0.2, 0.0, 0.3, 0.1]]), torch.tensor([[0.8, 0.0, 0.9, 0.1]])
    assert generalised_overlap(box, near)[1].item() == pytest.approx(-1 / 3, abs=1e-5)
    assert generalised_overlap(box, far)[1].item() == pytest.approx(-7 / 9, abs=1e-5)


def test_inverted_box_overlaps_nothing_and_pulls_its_corners_apart() -> None:
    inverted = torch.tensor([[0.5, 0.6, 0.1, 0.2]], requires_grad=True)
    overlap, generalised = generalised_overlap(inverted, BOXES[:1])
    assert overlap.item() == 0
    assert torch.isfinite(torch.autograd.grad(generalised.sum(), inverted)[0]).all()


@pytest.mark.parametrize("place", [(0.25, 0.5), (0.33, 0.71)])
def test_best_corner_map_has_its_expectation_at_the_corner(place: tuple[float, float]) -> None:
    logits = torch.zeros(1, 64, 64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        corner_loss(logits, torch.tensor([place])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert expectation(logits)[0].tolist() == pytest.approx(place, abs=0.005)


def test_score_is_learned_from_clear_cases_only() -> None:
    truth = torch.tensor([[0.0, 0.0, 0.4, 0.4]] * 4)
    predicted = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.14], [0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.4, 0.4]])
    labels, counted = score_labels(predicted, truth, visible=torch.tensor([True, True, True, False]))
    assert labels.tolist() == [1, 0, 0, 0]
    assert counted.tolist() == [True, False, True, True]
    certain = torch.tensor([20.0, 5.0, -20.0, -20.0])
    assert score_loss(certain, labels, counted).item() == pytest.approx(0, abs=1e-6)
    assert score_loss(-certain, labels, counted).item() == pytest.approx(20, abs=1e-3)
