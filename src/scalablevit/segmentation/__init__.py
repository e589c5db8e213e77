"""Semantic segmentation: models, data from images and masks, the task that trains on it, and predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalablevit.segmentation.data import MaskFolderData, MaskFolderSettings
    from scalablevit.segmentation.inference import InferenceSettings
    from scalablevit.segmentation.models import semantic_fpn, upernet
    from scalablevit.segmentation.predict import Prediction, Segmenter
    from scalablevit.segmentation.task import SegmentationSettings, SegmentationTask
    from scalablevit.segmentation.transforms import Augmentation, Preprocessing

_HOMES = {
    "Augmentation": "transforms",
    "InferenceSettings": "inference",
    "MaskFolderData": "data",
    "MaskFolderSettings": "data",
    "Prediction": "predict",
    "Preprocessing": "transforms",
    "SegmentationTask": "task",
    "Segmenter": "predict",
    "SegmentationSettings": "task",
    "semantic_fpn": "models",
    "upernet": "models",
}

__all__ = [
    "Augmentation",
    "InferenceSettings",
    "MaskFolderData",
    "MaskFolderSettings",
    "Prediction",
    "Preprocessing",
    "SegmentationSettings",
    "SegmentationTask",
    "Segmenter",
    "semantic_fpn",
    "upernet",
]


def __getattr__(name: str) -> Any:
    # Checking data needs neither torch nor lightning, so they wait until a name needs them.
    if name not in _HOMES:
        raise AttributeError(f"module 'scalablevit.segmentation' has no attribute {name!r}")
    return getattr(import_module(f"scalablevit.segmentation.{_HOMES[name]}"), name)
