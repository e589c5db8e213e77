"""Where annotations and images are, and what is read of them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalablevit.data.split import check_val_fraction
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.detection.coco.orientation import AnnotationFrame

DataFormat = Literal["auto", "coco", "yolo", "voc", "csv"]
_STREAM = StreamSettings()
FORMATS: tuple[DataFormat, ...] = ("auto", "coco", "yolo", "voc", "csv")


@dataclass(frozen=True, kw_only=True)
class AnnotationSource:
    """Where annotations and images are in a data folder, and what is read of them.

    Args:
        train_annotations: file, in the data folder or anywhere, or several files to put together; None: look for it.
        val_annotations: likewise.
        train_images: folder that the file names start from, in the data folder or anywhere; None: look for it.
        val_images: likewise.
        val_fraction: where there is no validation file, the share of the images that is set aside, chosen by a
            hash of the file names; in (0, 1).
        masks: read the masks, which Mask R-CNN needs.
        annotation_frame: of images with an EXIF orientation, whether boxes and masks count in the "stored" pixels
            or in those of the "upright" image; "auto" goes by the size that the annotations give.
        format: of the annotations: "coco", "yolo", "voc" or "csv"; "auto" goes by the files that are there.
        trained_class_names: set by `scalablevit validate`: classes of the network that is evaluated, by index. Then
            no training part is needed, and `val_fraction` may be 1: all images are evaluated.
        stream: how shards are read, where the data are shards.

    Raises:
        ValueError: a value is out of range.
    """

    train_annotations: str | Path | Sequence[str | Path] | None = None
    val_annotations: str | Path | Sequence[str | Path] | None = None
    train_images: str | Path | None = None
    val_images: str | Path | None = None
    val_fraction: float = 0.1
    masks: bool = False
    annotation_frame: AnnotationFrame = "auto"
    format: DataFormat = "auto"
    trained_class_names: list[str] | None = None
    stream: StreamSettings = _STREAM

    def __post_init__(self) -> None:
        if not (self.val_fraction == 1 and self.only_evaluates):
            check_val_fraction(self.val_fraction)
        if self.annotation_frame not in ("auto", "stored", "upright"):
            raise ValueError(f"annotation_frame must be 'auto', 'stored' or 'upright', got {self.annotation_frame!r}")
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    @property
    def only_evaluates(self) -> bool:
        """Whether a trained network is evaluated, so that no training part is needed."""
        return self.trained_class_names is not None
