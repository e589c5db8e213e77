"""Write predictions in formats that other tools read: COCO JSON and YOLO text files."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

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
    and category ids, as COCO's evaluation reads it.

    Args:
        path: of the file.
        class_names: by class index.
        annotations: annotation file whose ids are used; None: ids of its own.

    Raises:
        ValueError: the annotation file cannot be read, or lacks a class.
    """

    def __init__(self, path: Path, class_names: Sequence[str], *, annotations: Path | None = None) -> None:
        self.path = path
        self._names = [real_name(name) for name in class_names]
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._ids: dict[str, list[tuple[tuple[str, ...], Any]]] | None = None
        self._category_ids: list[Any] = list(range(1, len(self._names) + 1))
        if annotations is not None:
            self._read_ids(annotations)

    def add(self, path: Path, name: str, size: tuple[int, int], found: Sequence[FoundObject]) -> None:
        """Add an image.

        Args:
            path: of the image.
            name: relative, with "/".
            size: height and width in pixels.
            found: its objects.

        Raises:
            ValueError: the annotation file does not list the image.
        """
        if self._ids is None:
            image_id: Any = len(self._images) + 1
            self._images.append({"id": image_id, "file_name": real_name(name), "width": size[1], "height": size[0]})
        else:
            image_id = self._id_of(path)
        for item in found:
            left, top, right, bottom = item.box_xyxy
            box = [left, top, right - left, bottom - top]
            row: dict[str, Any] = {"image_id": image_id, "category_id": self._category_ids[item.label], "bbox": box}
            if item.mask is not None:
                row["segmentation"] = dict(item.mask)
            if item.score is not None:
                row["score"] = item.score
            if self._ids is None:
                area = box[2] * box[3] if item.mask is None else _area(item.mask)
                row = {"id": len(self._found) + 1, **row, "area": area, "iscrowd": 0}
            self._found.append(row)

    def close(self) -> None:
        """Write the file."""
        categories = [{"id": i, "name": name} for i, name in zip(self._category_ids, self._names, strict=True)]
        whole = {"images": self._images, "categories": categories, "annotations": self._found}
        write_json(self.path, whole if self._ids is None else self._found, indent=None)

    def _read_ids(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            images = [(str(image["file_name"]), image["id"]) for image in content["images"]]
            categories = {str(category["name"]): category["id"] for category in content["categories"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--annotations {file}: not an annotation file of COCO ({error!r})") from error
        missing = [name for name in self._names if name not in categories]
        if missing:
            raise ValueError(f"--annotations {file}: it has no category {missing[0]!r}, which the weights know")
        self._category_ids = [categories[name] for name in self._names]
        self._ids = defaultdict(list)
        for name, image_id in images:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            self._ids[parts[-1]].append((parts, image_id))

    def _id_of(self, path: Path) -> Any:
        assert self._ids is not None
        parts = tuple(real_name(part) for part in path.absolute().parts)
        fitting = [(len(known), i) for known, i in self._ids.get(parts[-1], []) if parts[-len(known) :] == known]
        longest = [i for length, i in fitting if length == max(fitting)[0]] if fitting else []
        if len(longest) != 1:
            raise ValueError(f"{path}: the annotation file lists {'no' if not longest else 'more than one'} such image")
        return longest[0]


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
        write_atomically(self.folder / name, lambda file: file.write(data))


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
