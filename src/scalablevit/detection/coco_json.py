"""COCO annotation files: found in a data folder, read, cleaned, and kept as arrays.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import gc
import hashlib
import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")

AnnotationFrame = Literal["auto", "stored", "upright"]
"""Which pixels boxes and masks count in: the file's own ("stored") or those after EXIF's turn ("upright")."""

_SMALLEST_BOX = 0.01  # pixels; float32 still tells the sides of such a box apart in a picture of 10,000 pixels
_ROUNDING = 1.0  # pixels by which annotation tools let boxes hang over the picture's edge
_LONGEST_SIDE = 1_000_000
_MOST_LISTED = 1000
_NO_ID = -(1 << 63)
_NO_MASK, _POLYGONS, _RUNS = 0, 1, 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a COCO data set.

    Args:
        severity: training is not possible or loses data ("error"), or look at it ("warning").
        kind: one word that programs can sort by, such as "unknown-image" or "truncated".
        path: the image file, or the annotation file where no image is concerned.
        message: what is wrong, what is done about it, and what to do.
    """

    severity: Literal["error", "warning"]
    kind: str
    path: str
    message: str


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


class CocoError(ValueError):
    """Annotations that cannot be used at all.

    Attributes:
        kind: one word that programs can sort by.
        path: file or folder.
    """

    def __init__(self, message: str, *, kind: str = "annotations", path: str | Path = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.path = str(path)


@dataclass
class _Masks:
    """Outlines and run lengths of all annotations, in flat arrays."""

    points: Any = field(default_factory=lambda: array("d"))
    polygon_ends: Any = field(default_factory=lambda: array("q", [0]))
    runs: Any = field(default_factory=lambda: array("I"))
    kinds: Any = field(default_factory=lambda: array("b"))
    # first and last polygon of an annotation, or first and last run
    spans: Any = field(default_factory=lambda: array("q"))


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
        self._masks = _Masks()

    @classmethod
    def read(
        cls,
        path: str | Path,
        image_folder: str | Path | Sequence[Path] | None,
        *,
        masks: bool = False,
        like: "CocoAnnotations | None" = None,
    ) -> "CocoAnnotations":
        """Read an annotation file; what is wrong with single entries is counted and left out.

        Args:
            path: the JSON file.
            image_folder: where the images are; of several folders, the one with most of them is taken. None:
                do not look for the images.
            masks: read the masks too, and leave out annotations without one.
            like: annotations of the training images, whose classes to use; categories are matched by name.

        Raises:
            CocoError: (a ValueError) the file is missing, cut off, no JSON or no COCO annotations; it lists no
                images or no categories; an id stands for two things; none of its images is there; no annotation
                can be used; with `masks`, none has a mask; it has classes that `like` lacks.
        """
        path = Path(path).expanduser()
        self = cls(path)
        content = _load(path)
        images, annotations, categories = _parts(path, content)
        class_of = self._read_categories(categories)
        index, names, sizes = self._read_images(images)
        self._find_files(names, image_folder)
        self._fill_sizes(sizes)
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
        name = os.fsdecode(self._files[index])
        return self.image_folder / name if self.image_folder is not None else Path(name)

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
        first, last = self._masks.spans[row]
        if self._masks.kinds[row] == _RUNS:
            return decode_runs(self._masks.runs[first:last], height, width)
        polygons = []
        for polygon in range(first, last):
            points = self._points(polygon).reshape(-1, 2)
            # Outlines are drawn point by point: one that runs off to a million would take minutes and gigabytes.
            points = points.clip((-width, -height), (2 * width, 2 * height))
            polygons.append(points.ravel().tolist())
        # Import takes a moment, and only masks need it.
        from faster_coco_eval.core import mask as coco_mask

        mask: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        return mask

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
                    "file_name": os.fsdecode(self._files[i]),
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

    def size_conflict(self, index: int, stored_size: tuple[int, int]) -> str:
        """Path, reason and remedy for an image of another size than the annotations say.

        Args:
            index: which image, 0..N-1.
            stored_size: (width, height) of the file's own pixel grid.
        """
        width, height = self.sizes[index]
        return (
            f"{self.file(index)}: the picture has {stored_size[0]} x {stored_size[1]} pixels, but {self.path} says "
            f"{width} x {height}, so that its boxes do not fit; put the original picture back, or export the "
            "annotations again"
        )

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
            category_id = _integer(entry.get("id")) if isinstance(entry, dict) else None
            if category_id is None:
                raise CocoError(
                    f"{self.path}: the category {_shown(entry)} has no whole number for an id; give it one",
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
            image_id = _integer(entry.get("id")) if isinstance(entry, dict) else None
            name = _file_name(entry.get("file_name")) if isinstance(entry, dict) else None
            if image_id is None or name is None:
                lacks = "whole number for an id" if image_id is None else "usable file_name"
                self._note("bad-image", self.path, f"{self.path}: the image {_shown(entry)} has no {lacks}")
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
            width, height = (_integer(entry.get(side)) or 0 for side in ("width", "height"))
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
        sample = names[:: max(1, len(names) // 50)]
        # Paths of another system or machine: Windows' separators, then folders that are not here.
        forms = (str, _with_slashes, _base_name)
        scores = {
            (form, folder): sum(os.path.isfile(folder / form(name)) for name in sample)
            for form in forms
            for folder in folders
        }
        form, folder = max(scores, key=scores.__getitem__)  # the first of the best
        if scores[form, folder] == 0:
            # The few that are there may lie between the sampled ones.
            form, folder = forms[0], folders[0]
        names = [form(name) for name in names]
        self.image_folder = folder
        self._files = np.array([os.fsencode(name) for name in names])
        self.present = _are_files(folder, names)
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

    def _fill_sizes(self, sizes: list[tuple[int, int]]) -> None:
        """Set `sizes`, from the image files where the annotations do not tell them."""
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        for i in np.flatnonzero(self.sizes[:, 0] == 0).tolist():
            path = self.file(i)
            size = _size_in_header(path) if self.present[i] and self.image_folder is not None else None
            if size is None:
                if self.present[i]:
                    message = (
                        f"{path}: {self.path} has no width and height for it, and neither tells the file; left out"
                    )
                    self._note("bad-image", path, message)
                self.present[i] = False
                continue
            self.sizes[i] = size
            self._note("missing-size", path, f"{path}: {self.path} has no width and height for it")

    def _read_annotations(
        self, annotations: list[Any], index: Mapping[int, int], class_of: Mapping[int, int], *, masks: bool
    ) -> None:
        """Set everything that has a row for each annotation."""
        image_of, labels, ids, crowd = array("q"), array("q"), array("q"), array("b")
        areas, boxes, store = array("d"), array("d"), _Masks()
        sizes = [(width, height) for width, height in self.sizes.tolist()]
        for number, entry in enumerate(annotations):
            if not isinstance(entry, dict):
                message = f"{self.path}: annotation number {number} is {_shown(entry)}, not an object"
                self._note("bad-annotation", self.path, message)
                continue
            get = entry.get
            image = _lookup(index, get("image_id"))
            if image is None:
                message = f"{self.path}: {_called(entry, number)} names the image {_shown(get('image_id'))}"
                self._note("unknown-image", self.path, message)
                continue
            label = _lookup(class_of, get("category_id"))
            if label is None:
                self._note(
                    "unknown-category",
                    self.file(image),
                    f"{self.file(image)}: {_called(entry, number)} names the category {_shown(get('category_id'))}",
                )
                continue
            if sizes[image][0] == 0:
                continue  # the image is reported and cannot be used
            if not _append_numbers(boxes, get("bbox"), 4):
                self._note_box("bad-box", image, entry, number)
                continue
            if masks:
                self._read_mask(store, get("segmentation"), sizes[image], image, entry, number)
            image_of.append(image)
            labels.append(label)
            entry_id = _integer(get("id"))
            ids.append(_NO_ID if entry_id is None else entry_id)
            crowd.append(get("iscrowd") in (1, "1"))  # also True and 1.0
            area = get("area")
            areas.append(area if isinstance(area, int | float) and 0 < area < math.inf else math.nan)

        self._image_of, self.labels = np.array(image_of, np.int64), np.array(labels, np.int64)
        self.boxes_xywh = np.array(boxes).reshape(-1, 4)
        self.crowd, self._areas = np.array(crowd, bool), np.array(areas)
        self.has_masks = masks
        store.kinds = np.array(store.kinds, np.int8) if masks else np.zeros(len(labels), np.int8)
        store.spans = np.array(store.spans, np.int64).reshape(-1, 2) if masks else np.zeros((len(labels), 2), np.int64)
        store.points, store.runs = np.array(store.points), np.array(store.runs, np.uint32)
        store.polygon_ends = np.array(store.polygon_ends, np.int64)
        self._masks = store
        keep = self._clean_boxes(annotations, np.array(ids, np.int64))
        self._refuse_nothing(annotations, keep, masks=masks)
        if masks:
            keep &= store.kinds != _NO_MASK
        order = np.flatnonzero(keep)
        order = order[np.argsort(self._image_of[order], kind="stable")]
        for name in ("_image_of", "labels", "boxes_xywh", "crowd", "_areas"):
            setattr(self, name, getattr(self, name)[order])
        store.kinds, store.spans = store.kinds[order], store.spans[order]
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

        values, first, counts = np.unique(ids, return_index=True, return_counts=True)
        for k in np.flatnonzero((counts > 1) & (values != _NO_ID)):
            same = np.flatnonzero(ids == values[k])
            for row in same[1:]:
                one, other = first[k], int(row)
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
        path, box = self.file(image), _shown(entry.get("bbox"))
        self._note(kind, path, f"{path}: {_called(entry, number)} has {box} for a bbox [left, top, width, height]")

    def _read_mask(
        self,
        store: _Masks,
        segmentation: Any,
        size: tuple[int, int],
        image: int,
        entry: Mapping[str, Any],
        number: int,
    ) -> None:
        """Append the mask of one annotation to `store`."""
        path = self.file(image)
        kind, first = _NO_MASK, len(store.polygon_ends) - 1
        last = first
        if isinstance(segmentation, dict):
            try:
                runs = run_lengths(segmentation, width=size[0], height=size[1])
            except _MaskSizeError as error:
                self._note("mask-size", path, f"{path}: the mask of {_called(entry, number)} {error}")
            except ValueError as error:
                self._note("bad-mask", path, f"{path}: the mask of {_called(entry, number)} {error}")
            else:
                kind, first = _RUNS, len(store.runs)
                store.runs.frombytes(runs.astype(np.uint32).tobytes())
                last = len(store.runs)
        else:
            polygons = segmentation if isinstance(segmentation, list) else []
            if polygons and isinstance(polygons[0], int | float):
                polygons = [polygons]  # one polygon without the list around it
            for polygon in polygons:
                if _append_numbers(store.points, polygon):
                    store.polygon_ends.append(len(store.points))
                    kind, last = _POLYGONS, last + 1
                else:
                    message = (
                        f"{path}: a polygon of {_called(entry, number)} is {_shown(polygon)}; it needs x and y of at "
                        "least three points"
                    )
                    self._note("bad-polygon", path, message)
            if kind == _NO_MASK:
                self._note("no-mask", path, f"{path}: {_called(entry, number)} has no mask")
        store.kinds.append(kind)
        store.spans.extend((first, last))

    def _refuse_nothing(self, annotations: list[Any], keep: np.ndarray, *, masks: bool) -> None:
        """Raise where no annotation is left."""
        if not annotations:
            message = f"{self.path}: it has no annotations ('annotations' is empty); take the file that has them"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if not keep.any():
            reasons = "\n".join(f"  - {line}" for line in self.describe_problems())
            message = f"{self.path}: none of its {len(annotations):,} annotations can be used:\n{reasons}"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if masks and not (keep & (self._masks.kinds != _NO_MASK)).any():
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
                f"{self.path}: it has boxes of {len(unknown)} categories that {other.path} lacks: {_some(unknown)}; "
                "name the categories alike in both files",
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

    def _points(self, polygon: int) -> np.ndarray:
        """x, y, x, y, ... of one polygon."""
        ends = self._masks.polygon_ends
        points: np.ndarray = self._masks.points[ends[polygon] : ends[polygon + 1]]
        return points

    def _segmentation(self, row: int) -> Any:
        first, last = (int(i) for i in self._masks.spans[row])
        if self._masks.kinds[row] == _POLYGONS:
            return [self._points(polygon).tolist() for polygon in range(first, last)]
        width, height = (int(side) for side in self.sizes[self._image_of[row]])
        return {"size": [height, width], "counts": self._masks.runs[first:last].tolist()}

    def _area(self, row: int) -> float:
        """In pixels: the file's, else that of the mask, else of the box."""
        if not math.isnan(self._areas[row]):
            return float(self._areas[row])
        first, last = (int(i) for i in self._masks.spans[row])
        if self._masks.kinds[row] == _RUNS:
            return float(self._masks.runs[first:last][1::2].sum())
        if self._masks.kinds[row] == _POLYGONS:
            return sum(_polygon_area(self._points(polygon)) for polygon in range(first, last))
        return float(self.boxes_xywh[row, 2] * self.boxes_xywh[row, 3])


@dataclass(frozen=True)
class CocoPart:
    """Annotation file of a part of the data, and the folders that may hold its images, likeliest first."""

    annotations: Path
    image_folders: list[Path]


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


def find_parts(
    root: str | Path,
    *,
    train_annotations: str | Path | None = None,
    val_annotations: str | Path | None = None,
    train_images: str | Path | None = None,
    val_images: str | Path | None = None,
) -> tuple[CocoPart, CocoPart | None]:
    """Find the annotation files of a data folder; the second is None where there is only one.

    Looked through are `root`, `root/annotations` and the folders `root/{train,val,...}` for JSON files, which
    are told apart by the words train, val, valid, validation or test in their names or their folder's name.

    Args:
        root: the data folder, or one annotation file.
        train_annotations: file; relative to `root`, or else as it stands.
        val_annotations: likewise.
        train_images: folder, likewise; None: look for it.
        val_images: likewise.

    Raises:
        CocoError: `root` or a named file or folder is missing, or the files cannot be told apart.
    """
    root = Path(root).expanduser()
    is_one_file = root.is_file() and train_annotations is None
    if is_one_file:
        root, train_annotations = root.parent, root.absolute()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise CocoError(f"{root}: the data folder {what}; check the path", kind="missing-root", path=root)
    train_file = _named(root, train_annotations, "train_annotations", folder=False)
    val_file = _named(root, val_annotations, "val_annotations", folder=False)
    roles = _annotation_files(root, leave_out=(train_file, val_file))
    if val_file is None and not is_one_file:
        val_file = _choose(root, roles["val"] or roles["test"], "val_annotations")
    if train_file is None:
        train_file = _choose(root, roles["train"] or roles[""], "train_annotations")
        if train_file is None:
            found = f", only {val_file}, which seems to be for validation" if val_file is not None else ""
            raise CocoError(
                f"{root}: no annotation file for training was found{found}; looked for *.json in it, in annotations/ "
                "and in train/ (such as annotations/instances_train2017.json or train/_annotations.coco.json); name "
                "it with train_annotations",
                kind="no-annotation-file",
                path=root,
            )
    train = CocoPart(train_file, _image_folders(root, train_file, train_images, "train_images", TRAIN_NAMES))
    if val_file is None:
        return train, None
    return train, CocoPart(val_file, _image_folders(root, val_file, val_images, "val_images", VAL_NAMES))


def read_split(
    train: CocoPart, val: CocoPart | None, *, root: Path, val_fraction: float = 0.1, masks: bool = False
) -> CocoSplit:
    """Read the parts that `find_parts` found.

    Where there is no validation part, a share of the training images is set aside, chosen by a hash of the file
    names: the same on every machine and in every run.

    Args:
        train: training part.
        val: validation part.
        root: the data folder.
        val_fraction: the share that is set aside; in (0, 1).
        masks: as for `CocoAnnotations.read`.

    Raises:
        CocoError: as `CocoAnnotations.read`; or there is only one image, too few to set one aside.
        ValueError: `val_fraction` is out of range.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}; 0.1 is usual")
    train_set = CocoAnnotations.read(train.annotations, train.image_folders, masks=masks)
    there = np.flatnonzero(train_set.present)
    if val is not None:
        val_set = CocoAnnotations.read(val.annotations, val.image_folders, masks=masks, like=train_set)
        return CocoSplit(root, train_set, val_set, there, np.flatnonzero(val_set.present))
    if len(there) < 2:
        raise CocoError(
            f"{train.annotations}: only one of its images is there, too few to set any aside for validation; add "
            "images, or name a file of validation images with val_annotations",
            kind="empty-validation",
            path=train.annotations,
        )
    count = min(max(1, round(len(there) * val_fraction)), len(there) - 1)
    by_hash = sorted(there, key=lambda i: hashlib.sha256(bytes(train_set._files[i])).digest())
    aside = np.isin(there, by_hash[:count])
    return CocoSplit(root, train_set, train_set, there[~aside], there[aside])


def applied_orientation(
    annotated_size: tuple[int, int],
    stored_size: tuple[int, int],
    orientation: int,
    *,
    frame: AnnotationFrame = "auto",
) -> int | None:
    """By which EXIF orientation boxes and masks have to be turned to fit the upright picture.

    Args:
        annotated_size: (width, height) that the annotations give.
        stored_size: (width, height) of the file's own pixel grid.
        orientation: EXIF's, 1 to 8, that turns the stored picture upright.
        frame: "auto" goes by the size, and takes stored pixels, as COCO does, where it does not tell (a half turn,
            a mirror image, a square).

    Returns:
        1 to 8; None if the sizes contradict.
    """
    upright_size = stored_size[::-1] if orientation >= 5 else stored_size
    if frame != "upright" and annotated_size == stored_size:
        return orientation
    if frame != "stored" and annotated_size == upright_size:
        return 1
    return None


def orient_boxes(boxes_xyxy: np.ndarray, stored_size: tuple[int, int], orientation: int) -> np.ndarray:
    """Boxes of the stored picture as boxes of the upright one, (R, 4), in pixels.

    Args:
        boxes_xyxy: (R, 4), left, top, right, bottom.
        stored_size: (width, height) before the turn.
        orientation: EXIF's, 1 to 8.
    """
    left, top, right, bottom = boxes_xyxy.T
    width, height = stored_size
    turned = {
        1: (left, top, right, bottom),
        2: (width - right, top, width - left, bottom),
        3: (width - right, height - bottom, width - left, height - top),
        4: (left, height - bottom, right, height - top),
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[orientation]
    return np.stack(turned, axis=1)


def orient_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """A mask (H, W) of the stored picture, turned upright by EXIF's orientation, 1 to 8."""
    if orientation >= 5:
        mask = mask.T
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(mask[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


class _MaskSizeError(ValueError):
    """A mask of another size than its image."""


def run_lengths(segmentation: Mapping[str, Any], *, width: int, height: int) -> np.ndarray:
    """Lengths of the runs of 0 and 1 by turns of a mask in COCO's run-length code, (n,) int64.

    Args:
        segmentation: {"size": [height, width], "counts": list of lengths, or COCO's string}.
        width: of the image, in pixels.
        height: likewise.

    Raises:
        ValueError: the mask is damaged or has another size; goes on after "the mask of ...".

    Source: the code's definition, as `maskApi.c` of https://github.com/cocodataset/cocoapi gives it.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        raise ValueError("lacks 'size' or 'counts'; export it again")
    if (_integer(size[0]), _integer(size[1])) != (height, width):
        raise _MaskSizeError(f"has the size [height, width] {_shown(size)}, but its image has {[height, width]}")
    if isinstance(counts, str):
        runs = _decompress(counts)
    else:
        try:
            runs = np.array(counts)
        except (ValueError, OverflowError):
            runs = np.zeros((0, 0))
        if runs.ndim != 1 or runs.dtype.kind not in "iu":
            raise ValueError("has 'counts' that are no whole numbers; export it again")
    if runs.size == 0 or runs.min() < 0 or runs.max() > width * height or runs.sum() != width * height:
        raise ValueError(f"has 'counts' that do not add up to {height} x {width} pixels; export it again")
    return runs.astype(np.int64)


def _decompress(text: str) -> np.ndarray:
    """Run lengths from COCO's string: groups of 5 bits, and differences to the last run but one."""
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("has 'counts' that are cut off or no run-length code; export it again")
    is_last = codes & 32 == 0
    number = np.concatenate([[0], np.cumsum(is_last)[:-1]])  # which number each group belongs to
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    place = np.arange(codes.size) - starts[number]
    if place.max() > 11:  # beyond 60 bits
        raise ValueError("has 'counts' that are no run-length code; export it again")
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    last = np.flatnonzero(is_last)
    values -= np.where(codes[last] & 16 != 0, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 from lengths of runs of 0 and 1 by turns, down the columns, that fill it exactly."""
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T


def _load(path: Path) -> Any:
    """The JSON of a file; a CocoError says where it breaks off."""

    def fault(what: str, remedy: str) -> CocoError:
        return CocoError(f"{path}: {what}; {remedy}", kind="bad-json", path=path)

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise fault("there is no such annotation file", "check the path") from None
    except UnicodeDecodeError as error:
        raise fault(
            f"the annotation file is not UTF-8 text (byte {error.start:,})", "unpack it, or save it as UTF-8"
        ) from None
    except OSError as error:
        raise fault(f"the annotation file cannot be read ({error.strerror})", "check the path and its rights") from None
    if not text.strip():
        raise fault("the annotation file is empty", "copy it again")
    collects = gc.isenabled()
    # Without the collector, which goes through all objects again and again, a large file takes half the time.
    gc.disable()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        length = len(text.rstrip())
        cut = error.pos >= length or (error.pos > 0 and text[length - 1] not in "]}")
        where = f"line {error.lineno:,}, column {error.colno:,} (character {error.pos:,} of {length:,})"
        if cut:
            what = f"the annotation file is cut off: its JSON breaks off at {where}: {error.msg}"
            raise fault(what, "copy, download or export it again") from None
        raise fault(f"the annotation file is not valid JSON at {where}: {error.msg}", "export it again") from None
    except RecursionError:
        raise fault("the annotation file is nested too deeply for COCO annotations", "export it again") from None
    finally:
        if collects:
            gc.enable()


def _parts(path: Path, content: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Images, annotations and categories of a COCO file."""
    expected = "COCO annotations are an object with the lists 'images', 'annotations' and 'categories'"
    if not isinstance(content, dict):
        what = f"a list of {len(content):,}" if isinstance(content, list) else _shown(content)
        hint = ""
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            hint = " (it seems to hold results of a detector)"
        raise CocoError(
            f"{path}: it holds {what}{hint}, but {expected}; name the annotation file", kind="not-coco", path=path
        )
    missing = [name for name in ("images", "annotations", "categories") if not isinstance(content.get(name), list)]
    if missing:
        found = ", ".join(repr(key) for key in list(content)[:8]) or "nothing"
        raise CocoError(
            f"{path}: it has no list {' and no list '.join(map(repr, missing))} (found: {found}); {expected}; export "
            "it as COCO, or name another file",
            kind="not-coco",
            path=path,
        )
    for name in ("images", "categories"):
        if not content[name]:
            message = f"{path}: its list {name!r} is empty; export it again, or name another file"
            raise CocoError(message, kind=f"no-{name}", path=path)
    return content["images"], content["annotations"], content["categories"]


def _integer(value: Any) -> int | None:
    """A whole number that fits 64 bits, also from 3.0; None from anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62:
        return value
    return None


def _lookup(index: Mapping[Any, int], key: Any) -> int | None:
    return index.get(key) if isinstance(key, int | float) and not isinstance(key, bool) else None


def _append_numbers(numbers: Any, values: Any, count: int | None = None) -> bool:
    """Append to an array of doubles if they are `count` numbers, or an even count of 6 or more finite ones."""
    if not isinstance(values, list) or (len(values) != count if count else len(values) < 6 or len(values) % 2):
        return False
    before = len(numbers)
    try:
        # As fast as C, where a look at each number is not: the sum is finite only if all are.
        if count is None and not math.isfinite(sum(values)):
            return False
        numbers.extend(values)
    except (TypeError, OverflowError):
        del numbers[before:]
        return False
    return True


def _file_name(name: Any) -> str | None:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return None
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return None
    return name


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _base_name(name: str) -> str:
    return _with_slashes(name).rpartition("/")[2]


def _are_files(folder: Path, names: list[str]) -> np.ndarray:
    """Which files are there, (N,) bool; by listing folders, as asking for each file takes minutes on a network."""
    listings: dict[str, set[str]] = {}
    there = np.zeros(len(names), bool)
    for i, name in enumerate(names):
        place, base = os.path.split(os.path.join(folder, name))
        if place not in listings:
            try:
                with os.scandir(place) as entries:
                    listings[place] = {entry.name for entry in entries}
            except OSError:
                listings[place] = set()
        there[i] = base in listings[place]
    return there


def _size_in_header(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    # Pillow's format plugins meet broken data with almost any exception.
    except Exception:
        return None


def _polygon_area(points: np.ndarray) -> float:
    x, y = points[::2], points[1::2]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _called(entry: Mapping[str, Any], number: int) -> str:
    entry_id = _integer(entry.get("id"))
    return f"annotation number {number} (without an id)" if entry_id is None else f"annotation {entry_id}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _named(root: Path, given: str | Path | None, argument: str, *, folder: bool) -> Path | None:
    """A file or folder that the user named, within `root` or as it stands."""
    if given is None:
        return None
    for path in (root / Path(given).expanduser(), Path(given).expanduser()):
        if path.is_dir() if folder else path.is_file():
            return path
    what = "folder" if folder else "file"
    raise CocoError(
        f"{given}: there is no such {what}, neither in {root} nor from here; check {argument}",
        kind=f"missing-{what}",
        path=str(given),
    )


def _annotation_files(root: Path, *, leave_out: Sequence[Path | None]) -> dict[str, list[Path]]:
    """JSON files by role: "train", "val", "test" or ""."""
    known_files = [file.resolve() for file in leave_out if file is not None]
    roles: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "": []}
    known = ("annotations", "labels", *TRAIN_NAMES, *VAL_NAMES)
    folders = [root, *(entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower() in known)]
    for folder in folders:
        for file in sorted(folder.glob("*.json")):
            # COCO's other tasks, and lists of class names, which lie beside
            is_other = re.match(
                r"(captions|person_keypoints|stuff|panoptic|image_info)_|(classes|class_names)\.json$|\.", file.name
            )
            if is_other or file.resolve() in known_files:
                continue
            roles[_role(file.stem) or (_role(folder.name) if folder != root else "")].append(file)
    return roles


def _role(name: str) -> str:
    words = re.findall(r"[a-z]+", name.lower())
    if any(word in TRAIN_NAMES for word in words):
        return "train"
    if any(word in ("val", "valid", "validation") for word in words):
        return "val"
    return "test" if "test" in words else ""


def _choose(root: Path, files: list[Path], argument: str) -> Path | None:
    """The only one, or the only one that is named as COCO or Roboflow name it."""
    usual = [file for file in files if file.name.startswith(("instances_", "_annotations.coco"))]
    files = usual or files
    if len(files) > 1:
        listed = ", ".join(str(file.relative_to(root)) for file in files[:5])
        raise CocoError(
            f"{root}: several annotation files may be meant: {listed}; name one with {argument}",
            kind="ambiguous-annotations",
            path=root,
        )
    return files[0] if files else None


def _image_folders(
    root: Path, annotations: Path, given: str | Path | None, argument: str, part_names: Sequence[str]
) -> list[Path]:
    """Folders that may hold the images of an annotation file, likeliest first."""
    named = _named(root, given, argument, folder=True)
    if named is not None:
        return [named]
    # "instances_train2017" -> "train2017"
    words = [annotations.stem, annotations.stem.partition("_")[2], *part_names]
    places = [root, root / "images"]
    folders = [place / word for place in places for word in words if word]
    folders += [annotations.parent, annotations.parent / "images", root / "images", root, root / "data"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
