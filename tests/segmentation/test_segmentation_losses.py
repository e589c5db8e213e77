"""Losses of pixels by hand: weights, focal and Dice loss, ignored pixels, and nothing to learn from."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.segmentation.losses import dice_loss, segmentation_loss

WEIGHTS = torch.tensor([1.0, 5.0, 0.5])
CHOICES = [
    {},
    {"class_weights": WEIGHTS},
    {"focal_gamma": 2.0},
    {"focal_gamma": 0.0, "class_weights": WEIGHTS},
    {"dice_weight": 1.0},
    {"cross_entropy_weight": 0.0, "dice_weight": 2.0},
    {"focal_gamma": 1.5, "dice_weight": 0.5, "class_weights": WEIGHTS, "ignored_in_mean": True},
]


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 7, generator=generator).requires_grad_()
    masks = torch.randint(0, 3, (2, 5, 7), generator=generator)
    masks[0, :3] = 255
    return logits, masks


def known_pixels(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N,) classes of the pixels that count."""
    known = masks != 255
    return logits.movedim(1, -1)[known], masks[known]


def test_cross_entropy_with_class_weights_is_a_weighted_mean() -> None:
    logits, masks = batch()
    flat, target = known_pixels(logits, masks)
    expected = F.cross_entropy(flat, target, weight=WEIGHTS)
    torch.testing.assert_close(segmentation_loss(logits, masks, class_weights=WEIGHTS), expected)
    total = F.cross_entropy(flat, target, weight=WEIGHTS, reduction="sum")
    all_pixels = segmentation_loss(logits, masks, class_weights=WEIGHTS, ignored_in_mean=True)
    torch.testing.assert_close(all_pixels, total / masks.numel())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_by_hand(gamma: float, weights: Tensor | None) -> None:
    logits, masks = batch()
    flat, target = known_pixels(logits, masks)
    p = flat.softmax(1).gather(1, target[:, None])[:, 0]
    alpha = torch.ones(3)[target] if weights is None else weights[target]
    expected = (alpha * (1 - p) ** gamma * -p.log()).sum() / alpha.sum()
    found = segmentation_loss(logits, masks, focal_gamma=gamma, class_weights=weights)
    torch.testing.assert_close(found, expected)


def test_dice_loss_by_hand() -> None:
    logits, masks = batch()
    masks[masks == 1] = 0  # one class does not occur
    flat, target = known_pixels(logits, masks)
    p, truth = flat.softmax(1), F.one_hot(target, 3)
    dice = 2 * (p * truth).sum(0) / (p.sum(0) + truth.sum(0))
    torch.testing.assert_close(dice_loss(logits, masks), 1 - (dice[0] + dice[2]) / 2)
    weighted = (1 * (1 - dice[0]) + 0.5 * (1 - dice[2])) / 1.5
    torch.testing.assert_close(dice_loss(logits, masks, class_weights=WEIGHTS), weighted)
    sure = 50 * F.one_hot(masks.where(masks != 255, 1), 3).movedim(-1, 1).float()
    assert dice_loss(sure, masks) < 1e-6


def test_losses_add_up() -> None:
    logits, masks = batch()
    expected = 0.3 * segmentation_loss(logits, masks) + 2 * dice_loss(logits, masks)
    found = segmentation_loss(logits, masks, cross_entropy_weight=0.3, dice_weight=2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_ignored_pixels_change_nothing(options: dict) -> None:
    logits, masks = batch()
    other = logits.detach().clone()
    other.movedim(1, -1)[masks == 255] = 100.0
    torch.testing.assert_close(segmentation_loss(other, masks, **options), segmentation_loss(logits, masks, **options))
    segmentation_loss(logits, masks, **options).backward()
    assert logits.grad is not None
    assert not logits.grad.movedim(1, -1)[masks == 255].any()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_nothing_but_ignored_pixels_is_a_zero_with_a_gradient(options: dict) -> None:
    logits, masks = batch()
    loss = segmentation_loss(logits, torch.full_like(masks, 255), **options)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_pixels_that_are_certain_leave_no_nan(options: dict) -> None:
    _, masks = batch()
    logits = (200.0 * F.one_hot(masks.where(masks != 255, 0), 3).movedim(-1, 1)).requires_grad_()
    loss = segmentation_loss(logits, masks, **options)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_without_options_it_is_the_loss_of_before_to_the_bit() -> None:
    logits, masks = batch()
    before = F.cross_entropy(logits, masks, ignore_index=255, reduction="sum") / (masks != 255).sum()
    assert torch.equal(segmentation_loss(logits, masks), before)


def test_classes_of_weight_zero_alone_are_a_zero() -> None:
    logits, masks = batch()
    loss = segmentation_loss(logits, masks * 0, class_weights=torch.tensor([0.0, 1.0, 1.0]), dice_weight=1.0)
    assert loss.item() == 0
