"""Write predictions in formats that other tools read: COCO JSON and YOLO text files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit.data.annotated_images import AnnotatedImages
from scalablevit.data.orientation import orient_boxes, turn_upright, turned_back
from scalablevit.printable import real_name
from scalablevit.safe_write import write_atomically, write_json


@dataclass(frozen=True)
class FoundObject:
    """One object, or the region of one class, in an image.

    Attributes:
        label: index of its class.
        box_xyxy: left, top, right and bottom in pixels, from the image's upper left corner.
        score: in 0..1; None where there is none.
        mask: COCO's compressed run-length code of its pixels; None where there are boxes only.
    """

    label: int
    box_xyxy: tuple[float, float, float, float]
    score: float | None = None
    mask: Mapping[str, Any] | None = None


class CocoFile:
    """Results in COCO's JSON.

    Without `annotations` the file is a data set of its own: images and categories numbered from 1, and annotations with
    a score. With `annotations`, an annotation file of the same images, it is a list of results with that file's image
    and category ids, in the pixels that its boxes count in, as COCO's evaluation reads it.

    Args:
        path: of the file.
        class_names: by class index.
        annotations: annotation file whose ids are used; None: ids of its own.

    Raises:
        ValueError: the annotation file cannot be read, or has none of the classes.
    """

    def __init__(self, path: Path, class_names: Sequence[str], *, annotations: Path | None = None) -> None:
        self.path = path
        self._names = [real_name(name) for name in class_names]
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._listed = None if annotations is None else AnnotatedImages(annotations, self._names)

    def add(self, path: Path, name: str, size: tuple[int, int], found: Sequence[FoundObject]) -> None:
        """Add an image.

        Args:
            path: of the image.
            name: relative, with "/".
            size: height and width in pixels, upright.
            found: its objects.

        Raises:
            ValueError: the annotation file does not list the image, or gives it another size.
        """
        if self._listed is not None:
            entry, orientation = self._listed.find(path, size)
            for item in found:
                category_id = self._listed.category_ids[item.label]
                if category_id is not None:
                    row = {"image_id": entry.image_id, "category_id": category_id}
                    self._found.append({**row, **_row(_as_stored(item, size, orientation))})
            return
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": real_name(name), "width": size[1], "height": size[0]})
        for item in found:
            row = {"id": len(self._found) + 1, "image_id": image_id, "category_id": item.label + 1, **_row(item)}
            area = row["bbox"][2] * row["bbox"][3] if item.mask is None else _area(item.mask)
            self._found.append({**row, "area": area, "iscrowd": 0})

    def close(self) -> None:
        """Write the file."""
        categories = [{"id": i, "name": name} for i, name in enumerate(self._names, 1)]
        whole = {"images": self._images, "categories": categories, "annotations": self._found}
        write_json(self.path, whole if self._listed is None else self._found, indent=None)


def _row(item: FoundObject) -> dict[str, Any]:
    """What COCO's JSON says of an object, apart from ids."""
    left, top, right, bottom = item.box_xyxy
    row: dict[str, Any] = {"bbox": [left, top, right - left, bottom - top]}
    if item.mask is not None:
        row["segmentation"] = dict(item.mask)
    if item.score is not None:
        row["score"] = item.score
    return row


def _as_stored(item: FoundObject, size: tuple[int, int], orientation: int) -> FoundObject:
    """An object of the upright image, of `size` (height, width), in the pixels of the stored one."""
    if orientation == 1:
        return item
    back, (height, width) = turned_back(orientation), size
    (box,) = orient_boxes(np.array([item.box_xyxy]), (width, height), back).tolist()
    left, top, right, bottom = (round(value, 3) for value in box)
    mask = None if item.mask is None else encode(turn_upright(decode(item.mask), back))
    return replace(item, box_xyxy=(left, top, right, bottom), mask=mask)


class YoloFolder:
    """Results in YOLO's text files: a line for each object, coordinates divided by the image's width and height.

    A line holds the class, centre x, centre y, width, height and the score; where there are masks, the class and the
    corners of an outline, a line for each of the mask's parts. `classes.txt` names the classes.

    Args:
        folder: that gets a text file for each image, under the image's relative name.
        class_names: by class index.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder
        names = "".join(f"{' '.join(real_name(name).split())}\n" for name in class_names)
        self._write(Path("classes.txt"), names)

    def add(self, stem: Path, size: tuple[int, int], found: Sequence[FoundObject]) -> None:
        """Write the file of an image; it is empty where nothing was found.

        Args:
            stem: relative path without ending.
            size: height and width in pixels.
            found: its objects.
        """
        self._write(stem.with_name(f"{stem.name}.txt"), "".join(self._lines(size, found)))

    def _lines(self, size: tuple[int, int], found: Sequence[FoundObject]) -> list[str]:
        height, width = size
        lines = []
        for item in found:
            if item.mask is not None:
                for outline in outlines(item.mask):
                    corners = (outline / (width, height)).clip(0, 1).reshape(-1)
                    lines.append(f"{item.label} {' '.join(f'{value:.6f}' for value in corners)}\n")
                continue
            left, top, right, bottom = item.box_xyxy
            box = ((left + right) / 2 / width, (top + bottom) / 2 / height)
            values = [*box, (right - left) / width, (bottom - top) / height]
            values += [] if item.score is None else [item.score]
            lines.append(f"{item.label} {' '.join(f'{value:.6f}' for value in values)}\n")
        return lines

    def _write(self, name: Path, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        write_atomically(self.folder / name, data)


def outlines(mask: Mapping[str, Any]) -> list[np.ndarray]:
    """Outer outlines of a mask's connected parts; holes are filled, as polygons have none.

    Args:
        mask: COCO's compressed run-length code.

    Returns:
        for each part (P, 2) corners x, y in pixels, from the image's upper left corner.
    """
    from contourpy import FillType, contour_generator

    pixels = np.pad(decode(mask).astype(np.float32), 1)
    traced = contour_generator(z=pixels, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    parts = [points[: ends[1] - 1] for points, ends in zip(*traced, strict=True)]  # the first corner stands there twice
    # pixel j of the padded mask has its centre at j - 0.5
    return [points - 0.5 for points in parts if len(points) >= 3]


def decode(mask: Mapping[str, Any]) -> np.ndarray:
    """(H, W) pixels of COCO's compressed run-length code."""
    from faster_coco_eval import mask as coco_mask

    return np.asarray(coco_mask.decode(dict(mask)))


def encode(pixels: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code of (H, W) pixels, as JSON takes it."""
    from faster_coco_eval import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _area(mask: Mapping[str, Any]) -> float:
    from faster_coco_eval import mask as coco_mask

    return float(coco_mask.area(dict(mask)))
