"""Predicted masks into the pixels of their image."""

import math

import torch
from torch import Tensor


def paste_mask(prob: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """One predicted mask, in the pixels of its image.

    Args:
        prob: probabilities of the pixels of the box, (M, M).
        box: its corners (x1, y1, x2, y2), (4,) in pixels of the image.
        size: height and width of the image.

    Returns:
        (H, W) bool: the pixels with a probability of at least 0.5, none outside the box.
    """
    height, width = size
    x1, y1, x2, y2 = (float(v) for v in box)
    rows, row_weights = _interpolation(y1, y2, height, prob)  # (h, M)
    columns, column_weights = _interpolation(x1, x2, width, prob)  # (w, M)
    mask = torch.zeros(height, width, dtype=torch.bool, device=prob.device)
    with torch.autocast(prob.device.type, enabled=False):  # bilinear sampling is separable: two small products
        mask[rows, columns] = row_weights @ prob.float() @ column_weights.T >= 0.5
    return mask


def _interpolation(low: float, high: float, length: int, prob: Tensor) -> tuple[slice, Tensor]:
    """The pixels of a side of `length` with their centre in low..high, and their weights (pixels, M) of the M cells.

    Beyond the centres of the outer cells their value holds: a mask that fills its box reaches the box's edge.
    """
    start, stop = max(0, math.ceil(low - 0.5)), min(length, math.floor(high - 0.5) + 1)
    stop = max(start, stop)
    M = prob.shape[-1]
    centres = torch.arange(start, stop, dtype=torch.float32, device=prob.device) + 0.5
    cells = torch.arange(M, dtype=torch.float32, device=prob.device)
    position = ((centres - low) * (M / max(high - low, 1e-6)) - 0.5).clamp(0, M - 1)
    return slice(start, stop), (1 - (position[:, None] - cells).abs()).clamp(min=0)


def paste_masks(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (R, M, M) of boxes (R, 4) in the pixels of their image, one at a time: (R, H, W) bool."""
    masks = torch.zeros(len(probs), *size, dtype=torch.bool, device=probs.device)
    for i, (prob, box) in enumerate(zip(probs, boxes.tolist(), strict=True)):
        masks[i] = paste_mask(prob, torch.tensor(box), size)
    return masks
