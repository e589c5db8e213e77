"""Classification: data from a folder per class, the task that trains on it, and predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalablevit.classification.data import ImageFolderData
    from scalablevit.classification.predict import Classifier, Prediction
    from scalablevit.classification.task import ClassificationTask, MixupSettings
    from scalablevit.classification.transforms import Augmentation, Preprocessing

_HOMES = {
    "Augmentation": "transforms",
    "ClassificationTask": "task",
    "Classifier": "predict",
    "ImageFolderData": "data",
    "MixupSettings": "task",
    "Prediction": "predict",
    "Preprocessing": "transforms",
}

__all__ = [
    "Augmentation",
    "ClassificationTask",
    "Classifier",
    "ImageFolderData",
    "MixupSettings",
    "Prediction",
    "Preprocessing",
]


def __getattr__(name: str) -> Any:
    # Checking data needs neither torch nor lightning, so they wait until a name needs them.
    if name not in _HOMES:
        raise AttributeError(f"module 'scalablevit.classification' has no attribute {name!r}")
    return getattr(import_module(f"scalablevit.classification.{_HOMES[name]}"), name)
