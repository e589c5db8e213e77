"""Draw what a network reconstructs of masked images."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from scalablevit.data.image_transforms import Preprocessing
from scalablevit.safe_write import write_atomically

_ROWS = ("image", "visible", "reconstruction", "reconstruction in the masked patches")
_GRAY = 0.5


def draw_reconstructions(
    images: Tensor, pixels: Tensor, reconstruction: Tensor, preprocessing: Preprocessing, path: Path
) -> None:
    """Draw a column for each image: itself, what is visible, the reconstruction, and both together.

    Args:
        images: (B, C, H, W), normalised.
        pixels: (B, 1, H, W), True where masked.
        reconstruction: (B, C, H, W), normalised.
        preprocessing: by which the images are normalised.
        path: PNG file to write.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    original, made = (x.float().cpu() * std + mean for x in (images, reconstruction))
    hidden = pixels.cpu()
    gray = torch.full_like(original, _GRAY)
    rows = (original, torch.where(hidden, gray, original), made, torch.where(hidden, made, original))
    count = len(images)
    height, width = images.shape[-2:]
    figure = Figure(figsize=(max(1.5 * count, 4.5), 1.5 * len(rows) * height / width + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (title, found) in enumerate(zip(_ROWS, rows, strict=True)):
        for column, image in enumerate(found):
            place = axes[row, column]
            place.set_axis_off()
            place.imshow(_shown(image), interpolation="nearest")
        axes[row, 0].set_title(title, fontsize=9, loc="left")
    figure.suptitle("Held-out images, reconstructed from their visible patches", fontsize=10)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _shown(image: Tensor) -> np.ndarray:
    """(C, H, W) in 0..1 -> (H, W, 3) bytes."""
    colours = image.expand(3, -1, -1) if len(image) == 1 else image
    return (colours.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
