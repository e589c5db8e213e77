"""Training and validation images with their annotations.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalablevit.data.split import split_by_hash
from scalablevit.data.stream.opened import open_stream
from scalablevit.detection.coco import AnnotationSource, CocoAnnotations, CocoError, CocoPart, read_annotations
from scalablevit.detection.formats import find_parts
from scalablevit.detection.sharded import stream_parts


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
        """Whether the validation images are a share of one file's, set aside from training."""
        return self.train is self.val and len(self.val_indices) < int(self.val.present.sum())


def read_split(root: str | Path, source: AnnotationSource) -> CocoSplit:
    """Find and read the annotations of a data folder.

    Where there is no validation part, a share of the training images is set aside, chosen by a hash of the file
    names: the same on every machine and in every run.

    Args:
        root: the data folder, or one annotation file, or shards.
        source: where the parts are, and what to read of them.

    Raises:
        CocoError: as `find_parts` and `read_annotations`; or there is only one image, too few to set one aside.
    """
    stream = open_stream(root, source.stream, task="detection")
    if stream is None:
        root = Path(root).expanduser()
        train, val = find_parts(root, source)
    else:
        root = stream.root
        train, val = stream_parts(stream, source)
    if source.trained_class_names is not None:
        return _evaluated(root, source, val or train, is_whole=val is not None)
    train_set = _read(train, source)
    there = np.flatnonzero(train_set.present)
    if val is not None:
        val_set = _read(val, source, like=train_set)
        _note_shared_files(train_set, val_set)
        return CocoSplit(root, train_set, val_set, there, np.flatnonzero(val_set.present))
    kept, aside = _set_aside(train_set, there, source.val_fraction)
    return CocoSplit(root, train_set, train_set, kept, aside)


def _note_shared_files(train: CocoAnnotations, val: CocoAnnotations) -> None:
    """Note image files that both parts list: figures would be too good."""
    if train.image_folder is None or val.image_folder is None:
        return
    places = [os.path.realpath(part.image_folder) for part in (train, val) if part.image_folder is not None]
    trained = {os.path.join(places[0], train.file_name(int(i))) for i in np.flatnonzero(train.present)}
    for i in np.flatnonzero(val.present).tolist():
        path = os.path.join(places[1], val.file_name(i))
        if path in trained:
            val.log.note("shared-file", path, f"{val.file(i)}: {train.path} lists it, too; remove it from one")


def _evaluated(root: Path, source: AnnotationSource, part: CocoPart, *, is_whole: bool) -> CocoSplit:
    """The images on which a trained network is evaluated: all, or the share that was set aside from training."""
    found = _read(part, source, like=source.trained_class_names)
    there = np.flatnonzero(found.present)
    if not is_whole and source.val_fraction < 1:
        _, there = _set_aside(found, there, source.val_fraction)
    return CocoSplit(root, found, found, there[:0], there)


def _set_aside(annotations: CocoAnnotations, there: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on, and the share that is set aside."""
    if len(there) < 2:
        raise CocoError(
            f"{annotations.path}: only one of its images is there, too few to set any aside for validation; add "
            "images, or name a file of validation images with val_annotations",
            kind="empty-validation",
            path=annotations.path,
        )
    kept, aside = split_by_hash(there.tolist(), fraction, name=annotations.file_name)
    return np.array(kept, np.int64), np.array(aside, np.int64)


def _read(
    part: CocoPart, source: AnnotationSource, *, like: CocoAnnotations | Sequence[str] | None = None
) -> CocoAnnotations:
    annotations = read_annotations(
        part.annotations,
        part.image_folders,
        lists=None if part.lists is None else part.lists(),
        masks=source.masks,
        annotation_frame=source.annotation_frame,
        like=like,
    )
    annotations.frame = part.frame
    return annotations
