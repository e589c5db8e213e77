"""Layer-CAM of the package grad-cam, for the golden file `grad_cam_maps.npz` and the tests that compare with it.

grad-cam brings OpenCV, so it is no dependency of the tests. To make the file again, with grad-cam 1.5.7:

    pip install --target elsewhere --no-deps grad-cam ttach opencv-python-headless
    PYTHONPATH=elsewhere python tests/golden/grad_cam_maps.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from synthetic import synthetic_images, synthetic_parameter
from torch import Tensor

import scalablevit
from scalablevit.backbone import ScalableViT

FILE = Path(__file__).with_suffix(".npz")
CLASSES = (2, 0)
"""The class that is explained of each image."""
IS_INSTALLED = importlib.util.find_spec("pytorch_grad_cam") is not None


def network() -> ScalableViT:
    """A classifier of four classes with weights that anyone can rebuild."""
    model = scalablevit.scalablevit_atto(num_classes=4).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(synthetic_parameter(name, tuple(parameter.shape))))
    return model


def images() -> Tensor:
    """(2, 3, 70, 45)."""
    return torch.from_numpy(synthetic_images(2, 70, 45))


def maps_by_grad_cam(model: ScalableViT) -> list[np.ndarray]:
    """Layer-CAM of the four stages, each (B, H, W), before grad-cam scales it to the image."""
    from pytorch_grad_cam import LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(k) for k in CLASSES]
    maps = []
    for layer in (*model.stages[:-1], model.norm):
        with LayerCAM(model, [layer], reshape_transform=lambda x: x.permute(0, 3, 1, 2)) as explainer:
            explainer(images(), targets)
            recorded = explainer.activations_and_grads
            (activations,), (gradients,) = recorded.activations, recorded.gradients
            weighted = explainer.get_cam_image(None, layer, targets, activations.numpy(), gradients.numpy(), False)
        maps.append(np.maximum(weighted, 0).astype(np.float32))
    return maps


if __name__ == "__main__":
    np.savez(FILE, **{f"stage_{i + 1}": x for i, x in enumerate(maps_by_grad_cam(network()))})
