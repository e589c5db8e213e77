"""Weights that `predict` takes, without training."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch

import scalablevit
from scalablevit.classification import Preprocessing


def write_classifier(folder: Path, names: Sequence[str], *, seed: int = 0, broken: bool = False) -> Path:
    """A classifier of images of 32 pixels; a broken one overflows to NaN."""
    torch.manual_seed(seed)
    args = {"num_classes": len(names)}
    model = timm.create_model("scalablevit_atto", **args).eval()
    if broken:
        torch.nn.init.constant_(next(model.parameters()), 3e38)
    preprocessing = Preprocessing(
        image_size=(32, 32), crop_ratio=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    metadata = {
        "task": "classification",
        "class_names": list(names),
        "preprocessing": preprocessing.to_dict(),
    }
    scalablevit.save_model(model, folder, architecture="scalablevit_atto", model_args=args, metadata=metadata)
    return folder
