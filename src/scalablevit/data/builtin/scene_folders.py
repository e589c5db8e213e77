"""Write digit scenes as a COCO folder or an ADE20K folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalablevit.data.builtin.digit_scenes import DIGIT_NAMES, Part, Scene, SceneObject, check_size, digit_scene
from scalablevit.data.builtin.mask_outlines import polygons, run_lengths
from scalablevit.data.builtin.whole_folder import write_whole_folder

CATEGORY_IDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
"""COCO category id of each digit 0..9: with gaps, as COCO's own ids have them."""

_JPEG_EVERY, _JPEG_AT = 10, 3


def write_coco(
    root: str | Path,
    *,
    num_train: int = 600,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (96, 160),
) -> Path:
    """Write scenes as a COCO folder: `annotations/instances_{train,val}.json` and `{train,val}/*`.

    Images are PNG, every tenth is JPEG. Masks are polygons where those give the mask back, else uncompressed RLE
    (small digits and digits with a hole); crowds are RLE with `iscrowd` 1. Category ids have gaps: see
    `CATEGORY_IDS`. The folder appears complete or not at all; processes may race to write it.

    Args:
        root: folder to make; it may exist if it is empty.
        num_train: training scenes; at least 1.
        num_val: validation scenes, of other digits than the training scenes; at least 1.
        seed: number of the set; `write_ade20k` makes the same scenes of the same seed.
        size: the shortest and the longest side of an image, in pixels; at least 32.

    Returns:
        `root`.

    Raises:
        ValueError: a number is out of range, or `root` holds something already, or is a file.

    Source of the format: T.-Y. Lin et al., Microsoft COCO, arXiv:1405.0312.
    """
    _check(num_train, num_val, size)

    def write(folder: Path) -> None:
        (folder / "annotations").mkdir()
        parts: tuple[tuple[Part, int, int], ...] = (("train", num_train, 1), ("val", num_val, num_train + 1))
        for part, count, first_id in parts:
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for image_id, (name, scene) in enumerate(_save_scenes(folder / part, part, count, seed, size), first_id):
                height, width = scene.image.shape[:2]
                images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
                objects = [(item, 0) for item in scene.digits] + ([(scene.crowd, 1)] if scene.crowd else [])
                for item, iscrowd in objects:
                    annotation = {"id": len(annotations) + 1, "image_id": image_id}
                    annotations.append(annotation | _coco_annotation(item, iscrowd))
            content = _coco_header() | {"images": images, "annotations": annotations}
            text = json.dumps(content, separators=(",", ":"))
            (folder / "annotations" / f"instances_{part}.json").write_text(text, encoding="utf-8")

    return write_whole_folder(root, write, parts=("annotations", "train", "val"))


def write_ade20k(
    root: str | Path,
    *,
    num_train: int = 2000,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (96, 160),
) -> Path:
    """Write scenes as an ADE20K folder: `{images,annotations}/{training,validation}/*` and `objectInfo150.txt`.

    Images are PNG, every tenth is JPEG. Annotations are 8-bit gray PNG: 0 is other (crowds), 1 the background,
    2..11 the digits 0..9. The folder appears complete or not at all; processes may race to write it.

    Args:
        root: folder to make; it may exist if it is empty.
        num_train: training scenes; at least 1.
        num_val: validation scenes, of other digits than the training scenes; at least 1.
        seed: number of the set; `write_coco` makes the same scenes of the same seed.
        size: the shortest and the longest side of an image, in pixels; at least 32.

    Returns:
        `root`.

    Raises:
        ValueError: a number is out of range, or `root` holds something already, or is a file.

    Source of the format: B. Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
    """
    _check(num_train, num_val, size)

    def write(folder: Path) -> None:
        num_labels = len(DIGIT_NAMES) + 2
        pixels = np.zeros(num_labels, np.int64)  # of each label, over all scenes
        found = {part: np.zeros(num_labels, np.int64) for part in ("train", "val")}  # images that hold each label
        parts: tuple[tuple[Part, str, int], ...] = (("train", "training", num_train), ("val", "validation", num_val))
        for part, part_name, count in parts:
            mask_folder = folder / "annotations" / part_name
            mask_folder.mkdir(parents=True)
            for name, scene in _save_scenes(folder / "images" / part_name, part, count, seed, size):
                labels = _mask_of(scene)
                Image.fromarray(labels).save((mask_folder / name).with_suffix(".png"))
                histogram = np.bincount(labels.ravel(), minlength=num_labels)
                pixels += histogram
                found[part] += histogram > 0
        rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
        for i, class_name in enumerate(("background", *DIGIT_NAMES), start=1):
            ratio = f"{pixels[i] / pixels.sum():.4f}"
            rows.append(f"{i}\t{ratio}\t{found['train'][i]}\t{found['val'][i]}\t{int(i == 1)}\t{class_name}")
        (folder / "objectInfo150.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")

    return write_whole_folder(root, write, parts=("annotations", "images"))


def _mask_of(scene: Scene) -> np.ndarray:
    """(H, W) uint8: 0 crowd, 1 background, 2..11 the digits 0..9."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    if scene.crowd is not None:
        labels[scene.crowd.mask] = 0
    for item in scene.digits:
        labels[item.mask] = item.label + 2
    return labels


def _save_scenes(folder: Path, part: Part, count: int, seed: int, size: tuple[int, int]) -> Iterator[tuple[str, Scene]]:
    """Make the scenes of a part and save their images in a new folder; every tenth is JPEG, as users' images are."""
    folder.mkdir(parents=True)
    for index in range(count):
        scene = digit_scene(part, index, seed=seed, size=size)
        is_jpeg = index % _JPEG_EVERY == _JPEG_AT
        name = f"{index:06d}.{'jpg' if is_jpeg else 'png'}"
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if is_jpeg else {"compress_level": 3}
        Image.fromarray(scene.image).save(folder / name, **options)
        yield name, scene


def _coco_header() -> dict[str, Any]:
    """COCO's fields that are the same for both parts."""
    return {
        "info": {
            "description": "Scenes composed from the handwritten digits of scikit-learn",
            "url": "https://archive.ics.uci.edu/dataset/80",
            "version": "1.0",
            "year": 1998,
            "contributor": "E. Alpaydin and C. Kaynak",
            "date_created": "1998/07/01",
        },
        "licenses": [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}],
        "categories": [
            {"id": category, "name": name, "supercategory": "digit"}
            for category, name in zip(CATEGORY_IDS, DIGIT_NAMES, strict=True)
        ],
    }


def _coco_annotation(item: SceneObject, iscrowd: int) -> dict[str, Any]:
    """COCO's fields of one object, less its ids."""
    outlines = None if iscrowd else polygons(item.mask)
    return {
        "category_id": CATEGORY_IDS[item.label],
        "bbox": list(item.box_xywh),
        "area": int(item.mask.sum()),
        "iscrowd": iscrowd,
        "segmentation": run_lengths(item.mask) if outlines is None else outlines,
    }


def _check(num_train: int, num_val: int, size: tuple[int, int]) -> None:
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1 scene, got {count}")
    check_size(size)
