"""Annotations of one COCO file, kept as arrays.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit.data.check import Problem
from scalablevit.detection.coco.json_file import CocoError, Id
from scalablevit.detection.coco.masks import CocoMasks
from scalablevit.detection.coco.orientation import AnnotationFrame
from scalablevit.detection.coco.problems import ProblemLog


class CocoAnnotations:
    """The annotations of one COCO file; `read_annotations` makes them.

    Classes are numbered 0..K-1 in the order of their category ids. Everything is kept in arrays: a million
    small objects would be copied into each loading process.

    Attributes:
        path: annotation file.
        image_folder: folder that the names of the images start from; None: the images were not looked for.
        class_names: by class.
        category_ids: id of the category of each class, as the file has it.
        image_ids: (N,) int64, or objects where some are texts: id of each image, in the order of the file.
        file_names: (N,) bytes, names of the image files in the image folder.
        sizes: (N, 2) int64, width and height of each image in pixels, as the annotations count them; 0 where
            neither file tells.
        size_from_file: (N,) bool, where the annotations did not tell the size, and the image file did: it cannot
            tell what the annotations count in.
        present: (N,) bool, whether the image file is there and its size known.
        image_of: (A,) int64, position of the image of each annotation; sorted.
        boxes_xywh: (A, 4) float64, in pixels, as the file has them.
        usable: (A,) bool, whether the box has an area within its image; the others are for evaluation only.
        labels: (A,) int64 in 0..K-1.
        crowd: (A,) bool; a crowd region is for evaluation only.
        areas: (A,) float64, as the file has them; NaN where it has none.
        incomplete: (N,) bool, images of which annotations were left out.
        masks: of each annotation, where they were read.
        has_masks: whether the masks were read.
        frame: pixels that boxes and masks of turned images count in, where the settings leave it open.
        log: what is wrong with the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_folder: Path | None = None
        self.class_names: list[str] = []
        self.category_ids: list[Id] = []
        self.image_ids = np.zeros(0, np.int64)
        self.file_names = np.zeros(0, "S1")
        self.sizes = np.zeros((0, 2), np.int64)
        self.size_from_file = np.zeros(0, bool)
        self.present = np.zeros(0, bool)
        self.image_of = np.zeros(0, np.int64)
        self.boxes_xywh = np.zeros((0, 4))
        self.usable = np.zeros(0, bool)
        self.labels = np.zeros(0, np.int64)
        self.crowd = np.zeros(0, bool)
        self.areas = np.zeros(0)
        self.incomplete = np.zeros(0, bool)
        self.masks = CocoMasks()
        self.has_masks = False
        self.frame: AnnotationFrame = "auto"
        self.log = ProblemLog(path)
        self._first_rows = np.zeros(1, np.int64)
        self._positions: dict[Id, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_positions": {}}  # processes that load images have no use for it

    def __len__(self) -> int:
        """How many images are listed."""
        return len(self.image_ids)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong, up to 1,000 of each kind."""
        return self.log.problems

    @property
    def problem_counts(self) -> Counter[str]:
        """How many problems of each kind there are."""
        return self.log.counts

    def keep_rows(self, rows: np.ndarray) -> None:
        """Keep the annotations of these rows, grouped by image."""
        rows = rows[np.argsort(self.image_of[rows], kind="stable")]
        for name in ("image_of", "labels", "boxes_xywh", "usable", "crowd", "areas"):
            setattr(self, name, getattr(self, name)[rows])
        if self.has_masks:
            self.masks.keep(rows)
        self._first_rows = np.searchsorted(self.image_of, np.arange(len(self) + 1))

    def image_id(self, index: int) -> Id:
        """Id of an image, as the file has it."""
        value = self.image_ids[index]
        return value if isinstance(value, str) else int(value)

    def position(self, image_id: Id) -> int:
        """Position of the image with this id, 0..N-1.

        Raises:
            ValueError: the file lists no such image.
        """
        if not self._positions:
            self._positions.update((self.image_id(i), i) for i in range(len(self)))
        if image_id not in self._positions:
            raise ValueError(f"{self.path}: it lists no image with the id {image_id}; take ids of this file")
        return self._positions[image_id]

    def file(self, index: int) -> Path:
        """The image file; relative if the images were not looked for."""
        name = self.file_name(index)
        return self.image_folder / name if self.image_folder is not None else Path(name)

    def file_name(self, index: int) -> str:
        """Name of the image file in the image folder."""
        return os.fsdecode(self.file_names[index])

    def rows(self, index: int, *, crowd: bool = False) -> np.ndarray:
        """Rows of the annotations of one image that can be trained on, (R,) int64.

        Args:
            index: position of the image, 0..N-1.
            crowd: take crowd regions in the place of single objects.
        """
        rows = np.arange(self._first_rows[index], self._first_rows[index + 1])
        return rows[(self.crowd[rows] == crowd) & self.usable[rows]]

    def boxes_xyxy(self, rows: np.ndarray) -> np.ndarray:
        """Boxes within their images as left, top, right, bottom in pixels, (R, 4) float64."""
        left, top, width, height = self.boxes_xywh[rows].T
        right, bottom = left + width, top + height
        image_width, image_height = self.sizes[self.image_of[rows]].T
        return np.stack(
            [left.clip(0), top.clip(0), np.minimum(right, image_width), np.minimum(bottom, image_height)], axis=1
        )

    def count_objects(self, indices: np.ndarray) -> np.ndarray:
        """How many objects to train on each of the images has, (len(indices),) int64."""
        counts = np.bincount(self.image_of[~self.crowd & self.usable], minlength=len(self))
        return counts[indices]

    def unlearnable(self) -> np.ndarray:
        """Which images have annotations, but none to train on, (N,) bool: they are no images without objects."""
        annotated = np.bincount(self.image_of, minlength=len(self)) > 0
        result: np.ndarray = (annotated | self.incomplete) & (self.count_objects(np.arange(len(self))) == 0)
        return result

    def class_counts(self, indices: np.ndarray) -> np.ndarray:
        """How many objects to train on each class has in these images, (K,) int64."""
        chosen = np.zeros(len(self), bool)
        chosen[indices] = True
        counted = chosen[self.image_of] & ~self.crowd & self.usable
        return np.bincount(self.labels[counted], minlength=len(self.class_names))

    def has_mask(self, rows: np.ndarray) -> np.ndarray:
        """Which annotations have a mask, (R,) bool; without masks that were read, none."""
        return self.masks.usable()[rows] if self.has_masks else np.zeros(len(rows), bool)

    def require_masks(self) -> None:
        """Raise a CocoError where no annotation has a mask that can be used."""
        if self.has_mask(np.arange(len(self.labels))).any():
            return
        reasons = self.log.describe("no-mask", "bad-mask", "mask-size", "bad-polygon")
        raise CocoError(
            f"{self.path}: none of its {len(self.labels):,} annotations has a mask that can be used ('segmentation'); "
            "train boxes only (data.masks=false with a RetinaNet), or take a file with masks:\n"
            + "\n".join(f"  - {line}" for line in reasons),
            kind="no-masks",
            path=self.path,
        )

    def mask(self, row: int) -> np.ndarray:
        """Decode the mask of one annotation: (H, W) uint8 of 0 and 1, in the pixels that the annotations count.

        Raises:
            ValueError: the masks were not read.
        """
        if not self.has_masks:
            raise ValueError(f"{self.path}: the masks were not read; read it with masks=True")
        width, height = (int(side) for side in self.sizes[self.image_of[row]])
        return self.masks.decode(row, width=width, height=height)

    def ground_truth(self, image_ids: Sequence[Id] | None = None) -> dict[str, Any]:
        """What COCO's evaluation compares with: all annotations as the file has them, boxes without area included.

        `iscrowd` and `area` are filled where they were missing; annotations are numbered from 1, as the evaluation
        takes the id 0 for no annotation. Those without a mask have no `segmentation`.

        Args:
            image_ids: of the images to take; None: all whose files are there.

        Raises:
            ValueError: an image id is not in the file.
        """
        if image_ids is None:
            indices = np.flatnonzero(self.present).tolist()
        else:
            indices = [self.position(image_id) for image_id in image_ids]
        has_mask = self.has_mask(np.arange(len(self.labels)))
        annotations: list[dict[str, Any]] = []
        for i in indices:
            for row in range(self._first_rows[i], self._first_rows[i + 1]):
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": self.image_id(i),
                    "category_id": self.category_ids[self.labels[row]],
                    "bbox": self.boxes_xywh[row].tolist(),
                    "area": self._area(row),
                    "iscrowd": int(self.crowd[row]),
                }
                if has_mask[row]:
                    annotation["segmentation"] = self._segmentation(row)
                annotations.append(annotation)
        return {
            "info": {},
            "images": [
                {
                    "id": self.image_id(i),
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
        """Explain an image of another size than the annotations say: path, reason and remedy.

        Args:
            index: position of the image, 0..N-1.
            stored_size: (width, height) of the pixel grid of the file.
            orientation: EXIF's, 1 to 8, that turns the image upright.
            frame: see `applied_orientation`.
        """
        width, height = (int(side) for side in self.sizes[index])
        upright_size = stored_size[::-1] if orientation >= 5 else stored_size
        conflict = f"{self.path} says {width} x {height}, so that its boxes do not fit"
        image = f"{self.file(index)}: the image has {stored_size[0]} x {stored_size[1]} pixels"
        if frame != "auto" and (width, height) in (stored_size, upright_size):
            return (
                f"{image}, which EXIF orientation {orientation} turns to {upright_size[0]} x {upright_size[1]}; "
                f"{conflict} with annotation_frame {frame!r}; set annotation_frame to 'auto', which goes by the size"
            )
        if (height, width) in (stored_size, upright_size):
            return f"{image}, but {conflict}: width and height seem to be swapped; correct them, or export them again"
        return f"{image}, but {conflict}; put the original image back, or export the annotations again"

    def _segmentation(self, row: int) -> Any:
        width, height = (int(side) for side in self.sizes[self.image_of[row]])
        return self.masks.segmentation(row, width=width, height=height)

    def _area(self, row: int) -> float:
        """In pixels: from the file, otherwise that of the mask, otherwise of the box."""
        if not math.isnan(self.areas[row]):
            return float(self.areas[row])
        if self.has_masks and self.masks.usable()[row]:
            width, height = (int(side) for side in self.sizes[self.image_of[row]])
            return self.masks.area(row, width=width, height=height)
        return float(self.boxes_xywh[row, 2] * self.boxes_xywh[row, 3])
