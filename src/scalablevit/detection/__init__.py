"""Object detection and instance segmentation: RetinaNet and Mask R-CNN, COCO data, the task, and predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalablevit.detection.data import CocoData
    from scalablevit.detection.models import mask_rcnn, retinanet
    from scalablevit.detection.predict import Detection, Detector, Prediction
    from scalablevit.detection.task import DetectionTask
    from scalablevit.detection.transforms import Augmentation, Preprocessing

_HOMES = {
    "Augmentation": "transforms",
    "CocoData": "data",
    "Detection": "predict",
    "DetectionTask": "task",
    "Detector": "predict",
    "Prediction": "predict",
    "Preprocessing": "transforms",
    "mask_rcnn": "models",
    "retinanet": "models",
}

__all__ = [
    "Augmentation",
    "CocoData",
    "Detection",
    "DetectionTask",
    "Detector",
    "Prediction",
    "Preprocessing",
    "mask_rcnn",
    "retinanet",
]


def __getattr__(name: str) -> Any:
    # Checking data needs neither torch nor lightning, so they wait until a name needs them.
    if name not in _HOMES:
        raise AttributeError(f"module 'scalablevit.detection' has no attribute {name!r}")
    return getattr(import_module(f"scalablevit.detection.{_HOMES[name]}"), name)
