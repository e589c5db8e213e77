"""Reading a COCO file: entries that cannot be used are left out, counted and told.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import math
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from scalablevit.abridged import abridged
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.folder import locate_images
from scalablevit.detection.coco.json_file import (
    CocoError,
    append_numbers,
    called,
    file_name,
    integer,
    lookup,
    read_lists,
    shown,
)
from scalablevit.detection.coco.masks import CocoMasks
from scalablevit.detection.coco.orientation import AnnotationFrame
from scalablevit.detection.coco.problems import MOST_LISTED, ProblemLog

_SMALLEST_BOX = 0.01  # pixels; float32 still tells the sides of such a box apart in an image of 10,000 pixels
_ROUNDING = 1.0  # pixels by which annotation tools let boxes hang over the edge of the image
_LONGEST_SIDE = 1_000_000
_NO_ID = -(1 << 63)


def read_annotations(
    path: str | Path,
    image_folder: str | Path | Sequence[Path] | None,
    *,
    masks: bool = False,
    annotation_frame: AnnotationFrame = "auto",
    like: CocoAnnotations | None = None,
) -> CocoAnnotations:
    """Read an annotation file; what is wrong with single entries is counted and left out.

    Args:
        path: the JSON file.
        image_folder: where the images are; of several folders, the one with most of them is taken. None:
            do not look for the images.
        masks: read the masks too, and leave out annotations without one.
        annotation_frame: see `applied_orientation`. Where the annotations tell no size, it is that of the upright
            image for "upright", otherwise that of the stored one.
        like: annotations of the training images, whose classes to use; categories are matched by name.

    Raises:
        CocoError: (a ValueError) the file is missing, cut off, no JSON or no COCO annotations; it lists no
            images or no categories; an id stands for two things; none of its images is there; no annotation
            can be used; with `masks`, none has a mask; it has classes that `like` lacks.
    """
    path = Path(path).expanduser()
    images, annotations, categories = read_lists(path)
    reader = _Reader(path)
    into, log = reader.into, reader.log
    class_of = reader.read_categories(categories)
    index, names, sizes = reader.read_images(images)
    reader.find_files(names, image_folder)
    reader.fill_sizes(sizes, annotation_frame)
    reader.read_annotations(annotations, index, class_of, masks=masks)
    if like is not None:
        _take_classes(into, like)
        return into
    used = np.bincount(into.labels, minlength=len(into.class_names))
    for k in np.flatnonzero(used == 0):
        message = f"{path}: no box is of the category {into.class_names[k]!r} (id {into.category_ids[k]})"
        log.note("unused-category", path, message)
    return into


class _Reader:
    """Fills the `CocoAnnotations` of one file, list by list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.into = CocoAnnotations(path)
        self.log: ProblemLog = self.into.log

    def read_categories(self, categories: list[Any]) -> dict[int, int]:
        """Set the classes; category id -> class."""
        names: dict[int, str] = {}
        for entry in categories:
            category_id = integer(entry.get("id")) if isinstance(entry, dict) else None
            if category_id is None:
                raise CocoError(
                    f"{self.path}: the category {shown(entry)} has no whole number for an id; give it one",
                    kind="bad-category",
                    path=self.path,
                )
            name = str(entry.get("name") or category_id)
            if names.setdefault(category_id, name) != name:
                raise CocoError(
                    f"{self.path}: the category id {category_id} stands for {names[category_id]!r} and for {name!r}; "
                    "give each category an id of its own",
                    kind="duplicate-category",
                    path=self.path,
                )
        shared = {name for name, count in Counter(names.values()).items() if count > 1}
        for name in sorted(shared):
            alike = ", ".join(str(category_id) for category_id in sorted(names) if names[category_id] == name)
            self.log.note("shared-name", self.path, f"{self.path}: the categories {alike} are all named {name!r}")
        self.into.category_ids = sorted(names)
        self.into.class_names = [
            f"{names[i]} ({i})" if names[i] in shared else names[i] for i in self.into.category_ids
        ]
        return {category_id: k for k, category_id in enumerate(self.into.category_ids)}

    def read_images(self, images: list[Any]) -> tuple[dict[int, int], list[str], list[tuple[int, int]]]:
        """Set the ids; image id -> position, file names, and (width, height) or (0, 0)."""
        index: dict[int, int] = {}
        names: list[str] = []
        sizes: list[tuple[int, int]] = []
        for entry in images:
            image_id = integer(entry.get("id")) if isinstance(entry, dict) else None
            name = file_name(entry.get("file_name")) if isinstance(entry, dict) else None
            if image_id is None or name is None:
                lacks = "whole number for an id" if image_id is None else "usable file_name"
                self.log.note("bad-image", self.path, f"{self.path}: the image {shown(entry)} has no {lacks}")
                continue
            if image_id in index:
                other = names[index[image_id]]
                if other != name:
                    raise CocoError(
                        f"{self.path}: the image id {image_id} stands for {other} and for {name}, so that nobody can "
                        "tell whose its annotations are; give each image an id of its own (files that were joined "
                        "have to be numbered anew)",
                        kind="duplicate-image-id",
                        path=self.path,
                    )
                self.log.note("duplicate-image", name, f"{name}: the image id {image_id} is listed twice")
                continue
            index[image_id] = len(names)
            names.append(name)
            width, height = (integer(entry.get(side)) or 0 for side in ("width", "height"))
            known = 0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE
            sizes.append((width, height) if known else (0, 0))
        if not names:
            raise CocoError(
                f"{self.path}: none of its {len(images)} images can be used; each needs an 'id' (a whole number) and "
                "a 'file_name'",
                kind="no-images",
                path=self.path,
            )
        self.into.image_ids = np.fromiter(index, np.int64, len(index))
        for name, count in Counter(names).items():
            if count > 1:
                self.log.note("repeated-file", name, f"{name}: it stands under {count} image ids")
        return index, names, sizes

    def find_files(self, names: list[str], image_folder: str | Path | Sequence[Path] | None) -> None:
        """Set folder, file names and `present`."""
        if image_folder is None:
            self.into.file_names = np.array([os.fsencode(name) for name in names])
            self.into.present = np.ones(len(names), bool)
            return
        given = [image_folder] if isinstance(image_folder, str | Path) else image_folder
        folders = list(dict.fromkeys(Path(folder).expanduser() for folder in given))
        folder, names, self.into.present = locate_images(names, folders)
        self.into.image_folder = folder
        self.into.file_names = np.array([os.fsencode(name) for name in names])
        if not self.into.present.any():
            looked = ", ".join(str(folder) for folder in folders)
            raise CocoError(
                f"{self.path}: none of its {len(names):,} image files is there, such as {names[0]}; looked in "
                f"{looked}; name the folder that holds them (train_images, val_images)",
                kind="missing-images",
                path=folder,
            )
        for i in np.flatnonzero(~self.into.present):
            path = folder / names[i]
            self.log.note("missing-file", path, f"{path}: there is no such file; {self.path} lists it")

    def fill_sizes(self, sizes: list[tuple[int, int]], frame: AnnotationFrame) -> None:
        """Set `sizes`, from the image files where the annotations do not tell them."""
        self.into.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.into.size_from_file = np.zeros(len(sizes), bool)
        for i in np.flatnonzero(self.into.sizes[:, 0] == 0).tolist():
            path = self.into.file(i)
            there = self.into.present[i] and self.into.image_folder is not None
            size = _size_in_header(path, upright=frame == "upright") if there else None
            if size is None:
                if self.into.present[i]:
                    message = (
                        f"{path}: {self.path} has no width and height for it, and neither tells the file; left out"
                    )
                    self.log.note("bad-image", path, message)
                self.into.present[i] = False
                continue
            self.into.sizes[i], self.into.size_from_file[i] = size, True
            self.log.note("missing-size", path, f"{path}: {self.path} has no width and height for it")

    def read_annotations(
        self, annotations: list[Any], index: Mapping[int, int], class_of: Mapping[int, int], *, masks: bool
    ) -> None:
        """Set everything that has a row for each annotation."""
        image_of, labels, ids, crowd = array("q"), array("q"), array("q"), array("b")
        areas, boxes, store = array("d"), array("d"), CocoMasks()
        sizes = [(width, height) for width, height in self.into.sizes.tolist()]
        for number, entry in enumerate(annotations):
            if not isinstance(entry, dict):
                message = f"{self.path}: annotation number {number} is {shown(entry)}, not an object"
                self.log.note("bad-annotation", self.path, message)
                continue
            get = entry.get
            image = lookup(index, get("image_id"))
            if image is None:
                message = f"{self.path}: {called(entry, number)} names the image {shown(get('image_id'))}"
                self.log.note("unknown-image", self.path, message)
                continue
            label = lookup(class_of, get("category_id"))
            if label is None:
                self.log.note(
                    "unknown-category",
                    self.into.file(image),
                    f"{self.into.file(image)}: {called(entry, number)} names the category {shown(get('category_id'))}",
                )
                continue
            if sizes[image][0] == 0:
                continue  # the image is reported and cannot be used
            if not append_numbers(boxes, get("bbox"), 4):
                self._note_box("bad-box", image, entry, number)
                continue
            if masks:
                width, height = sizes[image]
                for kind, what in store.append(entry, number, width=width, height=height):
                    self.log.note(kind, self.into.file(image), f"{self.into.file(image)}: {what}")
            image_of.append(image)
            labels.append(label)
            entry_id = integer(get("id"))
            ids.append(_NO_ID if entry_id is None else entry_id)
            crowd.append(get("iscrowd") in (1, "1"))  # also True and 1.0
            area = get("area")
            areas.append(area if isinstance(area, int | float) and 0 < area < math.inf else math.nan)

        self.into.image_of, self.into.labels = np.array(image_of, np.int64), np.array(labels, np.int64)
        self.into.boxes_xywh = np.array(boxes).reshape(-1, 4)
        self.into.crowd, self.into.areas = np.array(crowd, bool), np.array(areas)
        self.into.has_masks = masks
        store.pack()
        self.into.masks = store
        keep = self._clean_boxes(annotations, np.array(ids, np.int64))
        self._refuse_nothing(annotations, keep, masks=masks)
        if masks:
            keep &= store.usable()
        self.into.keep_rows(np.flatnonzero(keep))

    def _clean_boxes(self, annotations: list[Any], ids: np.ndarray) -> np.ndarray:
        """Clip boxes and note what is wrong with them; which annotations to keep, (A,) bool."""
        boxes, sizes = self.into.boxes_xywh, self.into.sizes[self.into.image_of]
        finite = np.isfinite(boxes).all(axis=1)
        boxes[~finite] = 0
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        inner_low, inner_high = low.clip(0), np.minimum(high, sizes)
        empty = finite & (boxes[:, 2:] < _SMALLEST_BOX).any(axis=1)
        outside = finite & ~empty & (inner_high - inner_low < _SMALLEST_BOX).any(axis=1)
        over = (np.maximum(inner_low - low, high - inner_high) > _ROUNDING).any(axis=1)
        over &= finite & ~empty & ~outside
        keep = finite & ~empty & ~outside
        self._note_rows("bad-box", ~finite, annotations, ids)
        self._note_rows("empty-box", empty, annotations, ids)
        self._note_rows("outside-box", outside, annotations, ids)
        self._note_rows("clipped-box", over, annotations, ids)
        boxes[over, :2], boxes[over, 2:] = inner_low[over], (inner_high - inner_low)[over]

        order = np.argsort(ids, kind="stable")
        values, first, counts = np.unique(ids[order], return_index=True, return_counts=True)
        for k in np.flatnonzero((counts > 1) & (values != _NO_ID)):
            one, *others = order[first[k] : first[k] + counts[k]].tolist()
            for other in others:
                is_copy = (
                    self.into.image_of[one] == self.into.image_of[other]
                    and self.into.labels[one] == self.into.labels[other]
                    and bool((boxes[one] == boxes[other]).all())
                )
                kind = "duplicate-annotation" if is_copy else "repeated-annotation-id"
                keep[other] &= not is_copy
                path = self.into.file(self.into.image_of[other])
                self.log.note(kind, path, f"{path}: the annotation id {values[k]} is there {counts[k]} times")
        return keep

    def _note_rows(self, kind: str, bad: Any, annotations: list[Any], ids: np.ndarray) -> None:
        rows = np.flatnonzero(bad)
        for row in rows[:MOST_LISTED]:
            left, top, width, height = (round(float(value), 2) for value in self.into.boxes_xywh[row])
            image = int(self.into.image_of[row])
            name = "an annotation" if ids[row] == _NO_ID else f"annotation {ids[row]}"
            path, size = self.into.file(image), "{} x {}".format(*self.into.sizes[image])
            what = {
                "bad-box": "has a box with a value that is not finite",
                "empty-box": f"has a box of {width} x {height} pixels",
                "outside-box": f"has the box {[left, top, width, height]} outside the image of {size} pixels",
                "clipped-box": f"has the box {[left, top, width, height]} in an image of {size} pixels",
            }[kind]
            self.log.note(kind, path, f"{path}: {name} {what}")
        if len(rows) > MOST_LISTED:
            self.log.counts[kind] += len(rows) - MOST_LISTED

    def _note_box(self, kind: str, image: int, entry: Mapping[str, Any], number: int) -> None:
        path, box = self.into.file(image), shown(entry.get("bbox"))
        self.log.note(kind, path, f"{path}: {called(entry, number)} has {box} for a bbox [left, top, width, height]")

    def _refuse_nothing(self, annotations: list[Any], keep: np.ndarray, *, masks: bool) -> None:
        """Raise where no annotation is left."""
        if not annotations:
            message = f"{self.path}: it has no annotations ('annotations' is empty); take the file that has them"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if not keep.any():
            reasons = "\n".join(f"  - {line}" for line in self.log.describe())
            message = f"{self.path}: none of its {len(annotations):,} annotations can be used:\n{reasons}"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if masks and not (keep & self.into.masks.usable()).any():
            message = (
                f"{self.path}: none of its {len(annotations):,} annotations has a mask that can be used "
                "('segmentation'); train boxes only (data.masks=false with a RetinaNet), or take a file with masks"
            )
            raise CocoError(message, kind="no-masks", path=self.path)


def _take_classes(ours: CocoAnnotations, other: CocoAnnotations) -> None:
    """Number the classes of `ours` as `other` does."""
    theirs = {name: k for k, name in enumerate(other.class_names)}
    used = np.bincount(ours.labels, minlength=len(ours.class_names)) > 0
    unknown = [name for k, name in enumerate(ours.class_names) if used[k] and name not in theirs]
    if unknown:
        raise CocoError(
            f"{ours.path}: it has boxes of {len(unknown)} categories that {other.path} lacks: "
            f"{abridged(map(repr, unknown))}; name the categories alike in both files",
            kind="unknown-class",
            path=ours.path,
        )
    # Categories are matched by name: files that were exported one by one often number them differently.
    own_ids = dict(zip(ours.class_names, ours.category_ids, strict=True))
    new_class = np.array([theirs.get(name, -1) for name in ours.class_names], np.int64)
    free = max([*ours.category_ids, *other.category_ids]) + 1
    ids = []
    for name, their_id in zip(other.class_names, other.category_ids, strict=True):
        category_id = own_ids.get(name, their_id)
        if name not in own_ids and their_id in ours.category_ids:
            category_id, free = free, free + 1
        ids.append(category_id)
    ours.labels = new_class[ours.labels]
    ours.class_names, ours.category_ids = list(other.class_names), ids


def _size_in_header(path: Path, *, upright: bool) -> tuple[int, int] | None:
    """(width, height) of an image as it is stored, or after EXIF's turn."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # Pillow gives its size after the turn
                width, height = (
                    int(image.tag_v2[tag]) for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
                )
            return (height, width) if upright and _is_turned(image) else (width, height)
    # Pillow's plugins raise almost any exception for broken data.
    except Exception:
        return None


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF swaps height and width."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    # A damaged EXIF block says nothing against the pixels, and turns nothing.
    except Exception:
        return False
