"""The earlier name of `scalablevit.data.image_transforms`: recipes and scripts written before name it."""

from scalablevit.data.image_transforms import Augmentation, Preprocessing
from scalablevit.moved import forward_moved_names

__all__ = ["Augmentation", "Preprocessing"]


forward_moved_names(__name__)
