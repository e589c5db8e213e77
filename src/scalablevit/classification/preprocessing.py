"""The earlier name of `scalablevit.classification.transforms`: recipes and scripts written before name it."""

from scalablevit.classification.transforms import Augmentation, Preprocessing

__all__ = ["Augmentation", "Preprocessing"]
