"""Where the images and masks of a data folder lie, and what the labels of the masks stand for.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalablevit.data.bands import MOST_BANDS, reads_bands
from scalablevit.data.pixel_values import checked_value_range
from scalablevit.data.split import check_val_fraction
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.labels import IGNORED
from scalablevit.segmentation.pair_names import NamePattern
from scalablevit.segmentation.read_pair import MaskFrame

_STREAM = StreamSettings()


@dataclass(frozen=True)
class MaskSettings:
    """What is known of a folder of images and masks; training, `check-data` and their recipe keys share it.

    Args:
        train: name of the training folder; "auto": train or training.
        val: name of the validation folder; "auto": val, validation, valid or test.
        images: name of the folder of images; "auto": images, img, JPEGImages, ...
        masks: name of the folder of masks; "auto": masks, annotations, labels, SegmentationClass, ...
        image_pattern: file names of images, such as "{name}_leftImg8bit.png"; None: {name} and any ending.
        mask_pattern: file names of masks, such as "{name}_mask.png". Images and masks may lie in one folder then.
        train_list: text file that names the training images, one a line; None: those of the training folder, or VOC's
            ImageSets/Segmentation/train.txt where there is no such folder.
        val_list: the same for validation.
        val_fraction: where there is no validation folder, the share of the pairs that is set aside, chosen by a hash of
            the file names; in (0, 1).
        reduce_zero_label: label 0 of the files is no class and is ignored, label 1 is the first class, as in ADE20K.
        ignore_labels: labels of the files that are ignored; None: 255.
        class_names_file: text or JSON file with the names of the classes; see `read_class_names`.
        label_map: file that says which colour or number of the masks is which class, see `read_label_map`; "auto":
            CVAT's labelmap.txt in the folder, if there is one; None: labels are class indices.
        in_chans: channels of the network's input: 3 (RGB), 1 (grayscale), or the number of bands of TIFF files, which
            are read with rasterio and need `mean` and `std`.
        mask_frame: for images turned by an EXIF orientation: "stored": masks are drawn over the stored pixels;
            "upright": over the upright image; "auto": whichever their size fits, and "stored" if it fits both.
        value_range: values that become black and white, in grayscale images of more than 8 bits a pixel; None: see
            `read_image`.
        trained_class_names: set by `scalablevit validate`: classes of the network that is evaluated, by index.
        trained_label_map: set by `scalablevit validate`: what the labels of its masks stood for, as `LabelMap.to_dict`
            gives it. Masks with neither label map nor class file of their own have the same labels.
        stream: how shards are read, where the data are shards.

    Raises:
        ValueError: a value is out of range.
    """

    train: str = "auto"
    val: str = "auto"
    images: str = "auto"
    masks: str = "auto"
    image_pattern: str | None = None
    mask_pattern: str | None = None
    train_list: str | Path | None = None
    val_list: str | Path | None = None
    val_fraction: float = 0.1
    reduce_zero_label: bool = False
    ignore_labels: list[int] | None = None
    class_names_file: str | Path | None = None
    label_map: str | Path | None = "auto"
    in_chans: int = 3
    mask_frame: MaskFrame = "auto"
    value_range: list[float] | None = None
    trained_class_names: list[str] | None = None
    trained_label_map: dict[str, Any] | None = None
    stream: StreamSettings = _STREAM

    def __post_init__(self) -> None:
        check_val_fraction(self.val_fraction, trained_class_names=self.trained_class_names)
        if self.mask_frame not in ("auto", "stored", "upright"):
            raise ValueError(f"mask_frame must be 'auto', 'stored' or 'upright', got {self.mask_frame!r}")
        if self.val_list is not None and self.train_list is None:
            raise ValueError("val_list needs train_list beside it; name both")
        for argument in ("image_pattern", "mask_pattern"):
            self.pattern(argument)
        checked_value_range(self.value_range)
        if not 1 <= self.in_chans <= MOST_BANDS:
            raise ValueError(f"in_chans must be 1 to {MOST_BANDS}, got {self.in_chans}")
        _ = self.num_bands
        _ = self.label_map_of_network

    def pattern(self, argument: str) -> NamePattern | None:
        """The pattern that an argument gives."""
        given = getattr(self, argument)
        return None if given is None else NamePattern(given, argument)

    @property
    def num_bands(self) -> int | None:
        """Bands that are read of images; None: they are read as RGB."""
        return self.in_chans if reads_bands(self.in_chans) else None

    @property
    def black_and_white(self) -> tuple[float, float] | None:
        """Values of black and white in images of more than 8 bits; None: not given."""
        return checked_value_range(self.value_range)

    @property
    def is_evaluation(self) -> bool:
        """Whether a trained network is evaluated on the data, and nothing is trained."""
        return self.trained_class_names is not None

    @property
    def label_map_of_network(self) -> LabelMap | None:
        """Which label of the masks of training is which class of the network that is evaluated; None: not known."""
        if self.trained_label_map is None or self.trained_class_names is None:
            return None
        try:
            label_map = LabelMap.from_dict(self.trained_label_map)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"trained_label_map is no label map ({error!r}); take another checkpoint") from None
        if label_map.num_classes != len(self.trained_class_names):
            raise ValueError(
                f"trained_label_map has {label_map.num_classes} classes, trained_class_names "
                f"{len(self.trained_class_names)}; take another checkpoint"
            )
        return label_map

    @property
    def ignored(self) -> tuple[int, ...]:
        """Labels of the files that are ignored."""
        return (IGNORED,) if self.ignore_labels is None else tuple(self.ignore_labels)
