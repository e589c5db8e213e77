"""Settings of detection data: the keys of a recipe that say where annotations are and how images are prepared."""

from dataclasses import dataclass

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from scalablevit.detection.coco.source import AnnotationSource
from scalablevit.detection.transforms import Augmentation, Preprocessing

_FLIP_ONLY = Augmentation()
OTHER_KEYS = dict.fromkeys(
    ("class_weights", "sampling", "focal_gamma"), "detection shows rare classes more often by data.repeat_threshold"
)
"""What detection has in the place of keys that classification and segmentation have."""


@dataclass(frozen=True, kw_only=True)
class CocoSettings(AnnotationSource):
    """Where annotations are, what is read of them (see `AnnotationSource`), and how images are prepared.

    Args:
        min_size: length that the shorter side of images is resized to, in pixels.
        max_size: what the longer side may not exceed.
        mean: of red, green and blue, of pixels in 0..1; default ImageNet's.
        std: likewise.
        value_range: values that become black and white, in grayscale of more than 8 bits a pixel, such as [0, 4095];
            None: see `read_image`.
        augmentation: how training images are varied; None: not at all. Its `sizes` replace `min_size` in training,
            and `min_size` must lie in their range.
        keep_empty: train on images without objects too; what the network finds in them is false.
        repeat_threshold: repeat images with rare classes in each epoch: a class in a share f of the images is shown
            sqrt(repeat_threshold / f) times as often where f is lower; 0.001 is LVIS's. None: every image once.

    Raises:
        ValueError: a value is out of range.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: list[float] | None = None
    std: list[float] | None = None
    value_range: tuple[float, float] | None = None
    augmentation: Augmentation | None = _FLIP_ONLY
    keep_empty: bool = True
    repeat_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeat_threshold is not None and not 0 < self.repeat_threshold <= 1:
            raise ValueError(f"repeat_threshold must lie in (0, 1], got {self.repeat_threshold}; 0.001 is usual")
        self.preprocessing()
        sizes = self.augmentation.sizes if self.augmentation is not None else None
        if sizes is None or min(sizes) <= self.min_size <= max(sizes):
            return
        around = [round(self.min_size * factor) for factor in (0.85, 1.0, 1.15)]
        raise ValueError(
            f"data.min_size {self.min_size} lies outside data.augmentation.sizes {list(sizes)}, which replace it in "
            "training: the network would be measured at a size that it never saw. Set both, as in --data.min_size "
            f"{self.min_size} --data.augmentation.sizes '{around}', or --data.augmentation.sizes null to train at "
            "min_size alone"
        )

    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation."""
        return Preprocessing(
            min_size=self.min_size,
            max_size=self.max_size,
            mean=tuple(self.mean or IMAGENET_DEFAULT_MEAN),
            std=tuple(self.std or IMAGENET_DEFAULT_STD),
            value_range=self.value_range,
        )
