"""The earlier place of `scalablevit.data.image_transforms`, by which recipes and scripts know it."""

from scalablevit.data.image_transforms import Augmentation, Preprocessing, ResizeToCover, Transform

__all__ = ["Augmentation", "Preprocessing", "ResizeToCover", "Transform"]
