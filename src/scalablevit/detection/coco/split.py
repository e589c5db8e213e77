"""Training and validation images with their annotations.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalablevit.data.split import check_val_fraction, split_by_hash
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.folder import CocoPart
from scalablevit.detection.coco.json_file import CocoError
from scalablevit.detection.coco.orientation import AnnotationFrame
from scalablevit.detection.coco.read import read_annotations


@dataclass(frozen=True)
class CocoSplit:
    """Training and validation images.

    Args:
        root: the data folder.
        train: annotations of the training images.
        val: those of the validation images; the same where these are set aside from training.
        train_indices: (n,) int64, the training images whose files are there, in `train`.
        val_indices: (m,) int64, the validation images whose files are there, in `val`.
    """

    root: Path
    train: CocoAnnotations
    val: CocoAnnotations
    train_indices: np.ndarray
    val_indices: np.ndarray

    @property
    def is_split(self) -> bool:
        """Whether the validation images are set aside from training."""
        return self.train is self.val


def read_split(
    train: CocoPart,
    val: CocoPart | None,
    *,
    root: Path,
    val_fraction: float = 0.1,
    masks: bool = False,
    annotation_frame: AnnotationFrame = "auto",
) -> CocoSplit:
    """Read the parts that `find_parts` found.

    Where there is no validation part, a share of the training images is set aside, chosen by a hash of the file
    names: the same on every machine and in every run.

    Args:
        train: training part.
        val: validation part.
        root: the data folder.
        val_fraction: the share that is set aside; in (0, 1).
        masks: as for `read_annotations`.
        annotation_frame: likewise.

    Raises:
        CocoError: as `read_annotations`; or there is only one image, too few to set one aside.
        ValueError: `val_fraction` is out of range.
    """
    check_val_fraction(val_fraction)
    train_set = read_annotations(train.annotations, train.image_folders, masks=masks, annotation_frame=annotation_frame)
    there = np.flatnonzero(train_set.present)
    if val is not None:
        val_set = read_annotations(
            val.annotations, val.image_folders, masks=masks, annotation_frame=annotation_frame, like=train_set
        )
        return CocoSplit(root, train_set, val_set, there, np.flatnonzero(val_set.present))
    if len(there) < 2:
        raise CocoError(
            f"{train.annotations}: only one of its images is there, too few to set any aside for validation; add "
            "images, or name a file of validation images with val_annotations",
            kind="empty-validation",
            path=train.annotations,
        )
    kept, aside = split_by_hash(there.tolist(), val_fraction, name=train_set.file_name)
    return CocoSplit(root, train_set, train_set, np.array(kept, np.int64), np.array(aside, np.int64))
