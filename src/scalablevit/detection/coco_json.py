"""The annotations of a COCO file: read, cleaned, and kept as arrays.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import math
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem
from scalablevit.detection.coco_file import (
    CocoError,
    append_numbers,
    called,
    file_name,
    integer,
    lookup,
    read_lists,
    shown,
)
from scalablevit.detection.coco_folder import find_parts as find_parts
from scalablevit.detection.coco_folder import locate_images
from scalablevit.detection.coco_masks import CocoMasks
from scalablevit.detection.orientation import AnnotationFrame
from scalablevit.detection.orientation import orient_boxes as orient_boxes
from scalablevit.detection.orientation import orient_mask as orient_mask

_SMALLEST_BOX = 0.01  # pixels; float32 still tells the sides of such a box apart in a picture of 10,000 pixels
_ROUNDING = 1.0  # pixels by which annotation tools let boxes hang over the picture's edge
_LONGEST_SIDE = 1_000_000
_MOST_LISTED = 1000
_NO_ID = -(1 << 63)

# kind -> severity, and what all problems of that kind have in common
_KINDS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "bad-image": ("error", "entries of 'images' cannot be used and are left out"),
    "duplicate-image": ("warning", "entries of 'images' are there twice; the second is left out"),
    "repeated-file": ("warning", "files stand under more than one image id"),
    "missing-file": ("error", "image files are missing; the images are left out"),
    "missing-size": ("warning", "images have no width and height; their files tell them"),
    "bad-annotation": ("error", "entries of 'annotations' cannot be used and are left out"),
    "unknown-image": ("error", "annotations name an image that is not listed and are left out"),
    "unknown-category": ("error", "annotations name a category that is not listed and are left out"),
    "bad-box": ("error", "annotations have no box of four finite numbers and are left out"),
    "empty-box": ("warning", "boxes have no area and are left out"),
    "outside-box": ("error", "boxes lie outside their pictures and are left out"),
    "clipped-box": ("warning", "boxes reach over the edge of their pictures and are clipped"),
    "duplicate-annotation": ("warning", "annotations are there twice; the second is left out"),
    "repeated-annotation-id": ("warning", "annotations share their id with another; all of them are used"),
    "bad-polygon": ("warning", "polygons cannot be used and are left out"),
    "no-mask": ("warning", "annotations have no mask and are left out where masks are trained"),
    "bad-mask": ("error", "masks are damaged; the annotations are left out where masks are trained"),
    "mask-size": (
        "error",
        "masks have another size than the image; the annotations are left out where masks are trained",
    ),
    "shared-name": ("warning", "categories share a name; the id is added to it"),
    "unused-category": ("warning", "categories have no box"),
}


class CocoAnnotations:
    """The usable annotations of one COCO file.

    Classes are numbered 0..K-1 in the order of their category ids. Everything is kept in arrays: a million
    small objects would be copied into each loading process.

    Attributes:
        path: the annotation file.
        image_folder: that the names of the images start from; None: the images were not looked for.
        class_names: by class.
        category_ids: COCO's category id of each class.
        image_ids: (N,) int64, COCO's id of each image, in the file's order.
        sizes: (N, 2) int64, width and height of each image in pixels, as the annotations count them; 0 where
            neither file tells.
        size_from_file: (N,) bool, where the annotations did not tell the size, and the image file did: it cannot
            tell what the annotations count in.
        present: (N,) bool, whether the image file is there and its size known.
        boxes_xywh: (A, 4) float64, in pixels; grouped by image. Those that reach more than a pixel over the
            picture's edge are clipped, the others are as the file has them.
        labels: (A,) int64 in 0..K-1.
        crowd: (A,) bool; a crowd region is for evaluation only.
        has_masks: whether the masks were read.
        problems: what is wrong, up to 1,000 of each kind.
        problem_counts: how many problems of each kind there are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_folder: Path | None = None
        self.class_names: list[str] = []
        self.category_ids: list[int] = []
        self.image_ids = np.zeros(0, np.int64)
        self.sizes = np.zeros((0, 2), np.int64)
        self.size_from_file = np.zeros(0, bool)
        self.present = np.zeros(0, bool)
        self.boxes_xywh = np.zeros((0, 4))
        self.labels = np.zeros(0, np.int64)
        self.crowd = np.zeros(0, bool)
        self.has_masks = False
        self.problems: list[Problem] = []
        self.problem_counts: Counter[str] = Counter()
        self._files = np.zeros(0, "S1")
        self._areas = np.zeros(0)
        self._image_of = np.zeros(0, np.int64)
        self._first_rows = np.zeros(1, np.int64)
        self._masks = CocoMasks()

    @classmethod
    def read(
        cls,
        path: str | Path,
        image_folder: str | Path | Sequence[Path] | None,
        *,
        masks: bool = False,
        annotation_frame: AnnotationFrame = "auto",
        like: "CocoAnnotations | None" = None,
    ) -> "CocoAnnotations":
        """Read an annotation file; what is wrong with single entries is counted and left out.

        Args:
            path: the JSON file.
            image_folder: where the images are; of several folders, the one with most of them is taken. None:
                do not look for the images.
            masks: read the masks too, and leave out annotations without one.
            annotation_frame: see `applied_orientation`; where the annotations tell no size, the file's is that of the
                upright picture for "upright", else that of the stored one.
            like: annotations of the training images, whose classes to use; categories are matched by name.

        Raises:
            CocoError: (a ValueError) the file is missing, cut off, no JSON or no COCO annotations; it lists no
                images or no categories; an id stands for two things; none of its images is there; no annotation
                can be used; with `masks`, none has a mask; it has classes that `like` lacks.
        """
        path = Path(path).expanduser()
        self = cls(path)
        images, annotations, categories = read_lists(path)
        class_of = self._read_categories(categories)
        index, names, sizes = self._read_images(images)
        self._find_files(names, image_folder)
        self._fill_sizes(sizes, annotation_frame)
        self._read_annotations(annotations, index, class_of, masks=masks)
        if like is not None:
            self._take_classes_of(like)
            return self
        used = np.bincount(self.labels, minlength=len(self.class_names))
        for k in np.flatnonzero(used == 0):
            message = f"{path}: no box is of the category {self.class_names[k]!r} (id {self.category_ids[k]})"
            self._note("unused-category", path, message)
        return self

    def __len__(self) -> int:
        """How many images are listed."""
        return len(self.image_ids)

    def file(self, index: int) -> Path:
        """The image file; relative if the images were not looked for."""
        name = self.file_name(index)
        return self.image_folder / name if self.image_folder is not None else Path(name)

    def file_name(self, index: int) -> str:
        """Name of the image file in the image folder."""
        return os.fsdecode(self._files[index])

    def rows(self, index: int, *, crowd: bool = False) -> np.ndarray:
        """Rows of `labels`, `boxes_xywh`, ... of one image's annotations, (R,) int64.

        Args:
            index: which image, 0..N-1.
            crowd: crowd regions in the place of single objects.
        """
        rows = np.arange(self._first_rows[index], self._first_rows[index + 1])
        return rows[self.crowd[rows] == crowd]

    def boxes_xyxy(self, rows: np.ndarray) -> np.ndarray:
        """Boxes within their pictures as left, top, right, bottom in pixels, (R, 4) float64."""
        left, top, width, height = self.boxes_xywh[rows].T
        right, bottom = left + width, top + height
        image_width, image_height = self.sizes[self._image_of[rows]].T
        return np.stack(
            [left.clip(0), top.clip(0), np.minimum(right, image_width), np.minimum(bottom, image_height)], axis=1
        )

    def count_objects(self, indices: np.ndarray) -> np.ndarray:
        """How many annotations that are no crowd each of the images has, (len(indices),) int64."""
        counts = np.bincount(self._image_of[~self.crowd], minlength=len(self))
        return counts[indices]

    def class_counts(self, indices: np.ndarray) -> np.ndarray:
        """How many annotations that are no crowd each class has in these images, (K,) int64."""
        chosen = np.zeros(len(self), bool)
        chosen[indices] = True
        return np.bincount(self.labels[chosen[self._image_of] & ~self.crowd], minlength=len(self.class_names))

    def mask(self, row: int) -> np.ndarray:
        """The mask of one annotation, (H, W) uint8 of 0 and 1, in the pixels that the annotations count.

        Raises:
            ValueError: the masks were not read.
        """
        if not self.has_masks:
            raise ValueError(f"{self.path}: the masks were not read; read it with masks=True")
        width, height = (int(side) for side in self.sizes[self._image_of[row]])
        return self._masks.decode(row, width=width, height=height)

    def ground_truth(self, image_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """What COCO's evaluation compares with: the usable annotations as a COCO file holds them.

        Crowd regions are there; `iscrowd` and `area` are filled where they were missing; annotations are
        numbered from 1, as the evaluation takes the id 0 for no annotation.

        Args:
            image_ids: of the images to take; None: all whose files are there.

        Raises:
            ValueError: an image id is not in the file.
        """
        position = {int(image_id): i for i, image_id in enumerate(self.image_ids)}
        if image_ids is None:
            indices = np.flatnonzero(self.present).tolist()
        else:
            unknown = [image_id for image_id in image_ids if image_id not in position]
            if unknown:
                raise ValueError(f"{self.path}: it lists no image with the id {unknown[0]}; take ids of this file")
            indices = [position[image_id] for image_id in image_ids]
        annotations: list[dict[str, Any]] = []
        for i in indices:
            for row in range(self._first_rows[i], self._first_rows[i + 1]):
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": int(self.image_ids[i]),
                    "category_id": self.category_ids[self.labels[row]],
                    "bbox": self.boxes_xywh[row].tolist(),
                    "area": self._area(row),
                    "iscrowd": int(self.crowd[row]),
                }
                if self.has_masks:
                    annotation["segmentation"] = self._segmentation(row)
                annotations.append(annotation)
        return {
            "info": {},
            "images": [
                {
                    "id": int(self.image_ids[i]),
                    "file_name": self.file_name(i),
                    "width": int(self.sizes[i, 0]),
                    "height": int(self.sizes[i, 1]),
                }
                for i in indices
            ],
            "annotations": annotations,
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }

    def size_conflict(
        self, index: int, stored_size: tuple[int, int], orientation: int = 1, *, frame: AnnotationFrame = "auto"
    ) -> str:
        """Path, reason and remedy for an image of another size than the annotations say.

        Args:
            index: which image, 0..N-1.
            stored_size: (width, height) of the file's own pixel grid.
            orientation: EXIF's, 1 to 8, that turns the picture upright.
            frame: see `applied_orientation`.
        """
        width, height = (int(side) for side in self.sizes[index])
        upright_size = stored_size[::-1] if orientation >= 5 else stored_size
        conflict = f"{self.path} says {width} x {height}, so that its boxes do not fit"
        picture = f"{self.file(index)}: the picture has {stored_size[0]} x {stored_size[1]} pixels"
        if frame != "auto" and (width, height) in (stored_size, upright_size):
            return (
                f"{picture}, which EXIF orientation {orientation} turns to {upright_size[0]} x {upright_size[1]}; "
                f"{conflict} with annotation_frame {frame!r}; set annotation_frame to 'auto', which goes by the size"
            )
        return f"{picture}, but {conflict}; put the original picture back, or export the annotations again"

    def describe_problems(self) -> list[str]:
        """One line for each kind of problem: how many, what is done about it, and the first of them."""
        first = {problem.kind: problem.message for problem in reversed(self.problems)}
        return [
            f"{self.path}: {count:,} {_KINDS[kind][1]}; the first: {first[kind]}"
            for kind, count in self.problem_counts.items()
        ]

    def _note(self, kind: str, path: str | Path, message: str) -> None:
        self.problem_counts[kind] += 1
        if self.problem_counts[kind] <= _MOST_LISTED:
            self.problems.append(Problem(_KINDS[kind][0], kind, str(path), message))

    def _read_categories(self, categories: list[Any]) -> dict[int, int]:
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
            ids = ", ".join(str(category_id) for category_id in sorted(names) if names[category_id] == name)
            self._note("shared-name", self.path, f"{self.path}: the categories {ids} are all named {name!r}")
        self.category_ids = sorted(names)
        self.class_names = [f"{names[i]} ({i})" if names[i] in shared else names[i] for i in self.category_ids]
        return {category_id: k for k, category_id in enumerate(self.category_ids)}

    def _read_images(self, images: list[Any]) -> tuple[dict[int, int], list[str], list[tuple[int, int]]]:
        """Set the ids; image id -> position, file names, and (width, height) or (0, 0)."""
        index: dict[int, int] = {}
        names: list[str] = []
        sizes: list[tuple[int, int]] = []
        for entry in images:
            image_id = integer(entry.get("id")) if isinstance(entry, dict) else None
            name = file_name(entry.get("file_name")) if isinstance(entry, dict) else None
            if image_id is None or name is None:
                lacks = "whole number for an id" if image_id is None else "usable file_name"
                self._note("bad-image", self.path, f"{self.path}: the image {shown(entry)} has no {lacks}")
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
                self._note("duplicate-image", name, f"{name}: the image id {image_id} is listed twice")
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
        self.image_ids = np.fromiter(index, np.int64, len(index))
        for name, count in Counter(names).items():
            if count > 1:
                self._note("repeated-file", name, f"{name}: it stands under {count} image ids")
        return index, names, sizes

    def _find_files(self, names: list[str], image_folder: str | Path | Sequence[Path] | None) -> None:
        """Set folder, file names and `present`."""
        if image_folder is None:
            self._files = np.array([os.fsencode(name) for name in names])
            self.present = np.ones(len(names), bool)
            return
        given = [image_folder] if isinstance(image_folder, str | Path) else image_folder
        folders = list(dict.fromkeys(Path(folder).expanduser() for folder in given))
        folder, names, self.present = locate_images(names, folders)
        self.image_folder = folder
        self._files = np.array([os.fsencode(name) for name in names])
        if not self.present.any():
            looked = ", ".join(str(folder) for folder in folders)
            raise CocoError(
                f"{self.path}: none of its {len(names):,} image files is there, such as {names[0]}; looked in "
                f"{looked}; name the folder that holds them (train_images, val_images)",
                kind="missing-images",
                path=folder,
            )
        for i in np.flatnonzero(~self.present):
            path = folder / names[i]
            self._note("missing-file", path, f"{path}: there is no such file; {self.path} lists it")

    def _fill_sizes(self, sizes: list[tuple[int, int]], frame: AnnotationFrame) -> None:
        """Set `sizes`, from the image files where the annotations do not tell them."""
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.size_from_file = np.zeros(len(sizes), bool)
        for i in np.flatnonzero(self.sizes[:, 0] == 0).tolist():
            path = self.file(i)
            there = self.present[i] and self.image_folder is not None
            size = _size_in_header(path, upright=frame == "upright") if there else None
            if size is None:
                if self.present[i]:
                    message = (
                        f"{path}: {self.path} has no width and height for it, and neither tells the file; left out"
                    )
                    self._note("bad-image", path, message)
                self.present[i] = False
                continue
            self.sizes[i], self.size_from_file[i] = size, True
            self._note("missing-size", path, f"{path}: {self.path} has no width and height for it")

    def _read_annotations(
        self, annotations: list[Any], index: Mapping[int, int], class_of: Mapping[int, int], *, masks: bool
    ) -> None:
        """Set everything that has a row for each annotation."""
        image_of, labels, ids, crowd = array("q"), array("q"), array("q"), array("b")
        areas, boxes, store = array("d"), array("d"), CocoMasks()
        sizes = [(width, height) for width, height in self.sizes.tolist()]
        for number, entry in enumerate(annotations):
            if not isinstance(entry, dict):
                message = f"{self.path}: annotation number {number} is {shown(entry)}, not an object"
                self._note("bad-annotation", self.path, message)
                continue
            get = entry.get
            image = lookup(index, get("image_id"))
            if image is None:
                message = f"{self.path}: {called(entry, number)} names the image {shown(get('image_id'))}"
                self._note("unknown-image", self.path, message)
                continue
            label = lookup(class_of, get("category_id"))
            if label is None:
                self._note(
                    "unknown-category",
                    self.file(image),
                    f"{self.file(image)}: {called(entry, number)} names the category {shown(get('category_id'))}",
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
                    self._note(kind, self.file(image), f"{self.file(image)}: {what}")
            image_of.append(image)
            labels.append(label)
            entry_id = integer(get("id"))
            ids.append(_NO_ID if entry_id is None else entry_id)
            crowd.append(get("iscrowd") in (1, "1"))  # also True and 1.0
            area = get("area")
            areas.append(area if isinstance(area, int | float) and 0 < area < math.inf else math.nan)

        self._image_of, self.labels = np.array(image_of, np.int64), np.array(labels, np.int64)
        self.boxes_xywh = np.array(boxes).reshape(-1, 4)
        self.crowd, self._areas = np.array(crowd, bool), np.array(areas)
        self.has_masks = masks
        store.pack()
        self._masks = store
        keep = self._clean_boxes(annotations, np.array(ids, np.int64))
        self._refuse_nothing(annotations, keep, masks=masks)
        if masks:
            keep &= store.usable()
        order = np.flatnonzero(keep)
        order = order[np.argsort(self._image_of[order], kind="stable")]
        for name in ("_image_of", "labels", "boxes_xywh", "crowd", "_areas"):
            setattr(self, name, getattr(self, name)[order])
        if masks:
            store.keep(order)
        self._first_rows = np.searchsorted(self._image_of, np.arange(len(self) + 1))

    def _clean_boxes(self, annotations: list[Any], ids: np.ndarray) -> np.ndarray:
        """Clip boxes and note what is wrong with them; which annotations to keep, (A,) bool."""
        boxes, sizes = self.boxes_xywh, self.sizes[self._image_of]
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
                    self._image_of[one] == self._image_of[other]
                    and self.labels[one] == self.labels[other]
                    and bool((boxes[one] == boxes[other]).all())
                )
                kind = "duplicate-annotation" if is_copy else "repeated-annotation-id"
                keep[other] &= not is_copy
                path = self.file(self._image_of[other])
                self._note(kind, path, f"{path}: the annotation id {values[k]} is there {counts[k]} times")
        return keep

    def _note_rows(self, kind: str, bad: Any, annotations: list[Any], ids: np.ndarray) -> None:
        rows = np.flatnonzero(bad)
        for row in rows[:_MOST_LISTED]:
            left, top, width, height = (round(float(value), 2) for value in self.boxes_xywh[row])
            image = int(self._image_of[row])
            name = "an annotation" if ids[row] == _NO_ID else f"annotation {ids[row]}"
            path, size = self.file(image), "{} x {}".format(*self.sizes[image])
            what = {
                "bad-box": "has a box with a value that is not finite",
                "empty-box": f"has a box of {width} x {height} pixels",
                "outside-box": f"has the box {[left, top, width, height]} outside the picture of {size} pixels",
                "clipped-box": f"has the box {[left, top, width, height]} in a picture of {size} pixels",
            }[kind]
            self._note(kind, path, f"{path}: {name} {what}")
        if len(rows) > _MOST_LISTED:
            self.problem_counts[kind] += len(rows) - _MOST_LISTED

    def _note_box(self, kind: str, image: int, entry: Mapping[str, Any], number: int) -> None:
        path, box = self.file(image), shown(entry.get("bbox"))
        self._note(kind, path, f"{path}: {called(entry, number)} has {box} for a bbox [left, top, width, height]")

    def _refuse_nothing(self, annotations: list[Any], keep: np.ndarray, *, masks: bool) -> None:
        """Raise where no annotation is left."""
        if not annotations:
            message = f"{self.path}: it has no annotations ('annotations' is empty); take the file that has them"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if not keep.any():
            reasons = "\n".join(f"  - {line}" for line in self.describe_problems())
            message = f"{self.path}: none of its {len(annotations):,} annotations can be used:\n{reasons}"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if masks and not (keep & self._masks.usable()).any():
            message = (
                f"{self.path}: none of its {len(annotations):,} annotations has a mask that can be used "
                "('segmentation'); train boxes only (data.masks=false with a RetinaNet), or take a file with masks"
            )
            raise CocoError(message, kind="no-masks", path=self.path)

    def _take_classes_of(self, other: "CocoAnnotations") -> None:
        """Number the classes as `other` does."""
        theirs = {name: k for k, name in enumerate(other.class_names)}
        used = np.bincount(self.labels, minlength=len(self.class_names)) > 0
        unknown = [name for k, name in enumerate(self.class_names) if used[k] and name not in theirs]
        if unknown:
            raise CocoError(
                f"{self.path}: it has boxes of {len(unknown)} categories that {other.path} lacks: "
                f"{abridged(map(repr, unknown))}; name the categories alike in both files",
                kind="unknown-class",
                path=self.path,
            )
        # Categories are matched by name: files that were exported one by one often number them differently.
        ours = dict(zip(self.class_names, self.category_ids, strict=True))
        new_class = np.array([theirs.get(name, -1) for name in self.class_names], np.int64)
        free = max([*self.category_ids, *other.category_ids]) + 1
        ids = []
        for name, their_id in zip(other.class_names, other.category_ids, strict=True):
            category_id = ours.get(name, their_id)
            if name not in ours and their_id in self.category_ids:
                category_id, free = free, free + 1
            ids.append(category_id)
        self.labels = new_class[self.labels]
        self.class_names, self.category_ids = list(other.class_names), ids

    def _segmentation(self, row: int) -> Any:
        width, height = (int(side) for side in self.sizes[self._image_of[row]])
        return self._masks.segmentation(row, width=width, height=height)

    def _area(self, row: int) -> float:
        """In pixels: the file's, else that of the mask, else of the box."""
        if not math.isnan(self._areas[row]):
            return float(self._areas[row])
        if self.has_masks:
            width, height = (int(side) for side in self.sizes[self._image_of[row]])
            return self._masks.area(row, width=width, height=height)
        return float(self.boxes_xywh[row, 2] * self.boxes_xywh[row, 3])


def _size_in_header(path: Path, *, upright: bool) -> tuple[int, int] | None:
    """(width, height) of a picture as it is stored, or after EXIF's turn."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # Pillow gives its size after the turn
                width, height = (
                    int(image.tag_v2[tag]) for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
                )
            return (height, width) if upright and _is_turned(image) else (width, height)
    # Pillow's format plugins meet broken data with almost any exception.
    except Exception:
        return None


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF swaps height and width."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    # A damaged EXIF block says nothing against the pixels, and turns nothing.
    except Exception:
        return False
