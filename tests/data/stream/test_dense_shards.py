"""COCO data and images with masks as shards: the same samples to the bit as from the folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sets import shard, write_image
from PIL import Image

from scalablevit.data.stream.index import ShardsError
from scalablevit.detection.check import check_coco
from scalablevit.detection.data import CocoData
from scalablevit.segmentation.check import check_masks
from scalablevit.segmentation.data import MaskFolderData


def write_coco(root: Path, *, parts: tuple[str, ...] = ("train", "val")) -> Path:
    """Images of 24 x 20 pixels with a box each, ten a part, and COCO files as COCO names them."""
    for p, part in enumerate(parts):
        images, annotations = [], []
        for i in range(10):
            write_image(root / part / f"{i}.jpg", seed=100 * p + i)
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 24, "height": 20})
            annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [2, 3, 10 + i, 8]})
        categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def write_pairs(root: Path, *, parts: tuple[str, ...] = ("training", "validation")) -> Path:
    """Ten images with masks a part, and the names of three classes."""
    for p, part in enumerate(parts):
        for i in range(10):
            write_image(root / "images" / part / f"{i}.jpg", seed=100 * p + i)
            mask = root / "annotations" / part / f"{i}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            labels = np.random.default_rng(i).integers(0, 3, (20, 24), dtype=np.uint8)
            Image.fromarray(labels).save(mask)
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    return root


def coco(root: Path, **options: Any) -> CocoData:
    return CocoData(root, batch_size=2, num_workers=0, min_size=32, max_size=64, augmentation=None, **options)


def masks(root: Path, **options: Any) -> MaskFolderData:
    return MaskFolderData(root, batch_size=2, num_workers=0, crop_size=16, short_side=None, **options)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a batch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for inner in value for found in tensors(inner)] if isinstance(value, list | tuple) else []


def same_batches(folder: Any, stream: Any) -> bool:
    for name in ("train_dataloader", "val_dataloader"):
        batches = [list(getattr(data, name)()) for data in (folder, stream)]
        for first, second in zip(*batches, strict=True):
            pairs = list(zip(tensors(first), tensors(second), strict=True))
            if not pairs or not all(torch.equal(a, b) for a, b in pairs):
                return False
    return True


@pytest.mark.parametrize("parts", [("train", "val"), ("train",)], ids=["val file", "split"])
def test_coco_batches_equal_those_of_the_folder(tmp_path, parts):
    root = write_coco(tmp_path / "folder", parts=parts)
    shard(root, tmp_path / "shards", task="detection")
    folder, stream = coco(root), coco(tmp_path / "shards")
    assert stream.class_names == folder.class_names == ["ant", "bee"]
    assert stream.train_dataset.shards().shards.max() > 1
    assert folder.train_dataset.shards() is None
    assert same_batches(folder, stream)
    assert folder.summary().splitlines()[1:] == stream.summary().splitlines()[1:]


@pytest.mark.parametrize("parts", [("training", "validation"), (".",)], ids=["val folder", "split"])
def test_mask_batches_equal_those_of_the_folder(tmp_path, parts):
    root = write_pairs(tmp_path / "folder", parts=parts)
    shard(root, tmp_path / "shards", task="segmentation")
    folder, stream = masks(root), masks(tmp_path / "shards")
    assert stream.class_names == folder.class_names == ["road", "car", "sky"]
    assert stream.train_dataset.shards().shards.max() > 1
    assert same_batches(folder, stream)
    assert folder.summary().splitlines()[1:] == stream.summary().splitlines()[1:]


def test_check_data_reads_shards_and_names_a_damaged_one(tmp_path):
    write_coco(tmp_path / "boxes")
    write_pairs(tmp_path / "masks")
    for task, check in (("detection", check_coco), ("segmentation", check_masks)):
        root, out = tmp_path / {"detection": "boxes", "segmentation": "masks"}[task], tmp_path / task
        shard(root, out, task=task)
        plain, found = check(root, num_workers=0), check(out, num_workers=0)
        assert (found.num_train, found.num_val, found.classes) == (plain.num_train, plain.num_val, plain.classes)
        assert len(found.problems) == len(plain.problems)
        damaged = out / "train" / "chunk-0-0.bin"
        damaged.write_bytes(damaged.read_bytes()[:-3] + b"abc")
        assert str(damaged) in "\n".join(problem.message for problem in check(out, num_workers=0).errors)
        damaged.unlink()
        (problem,) = check(out, num_workers=0).errors
        assert re.search(r"chunk-0-0.bin: No such .*, and (\d+) of its \1 samples cannot be read", problem.message)


def test_shards_of_another_task_and_keys_of_a_folder_are_refused(tmp_path):
    shard(write_coco(tmp_path / "folder"), tmp_path / "shards", task="detection")
    with pytest.raises(ShardsError, match="these are shards for detection, and segmentation was asked for"):
        masks(tmp_path / "shards")
    with pytest.raises(ShardsError, match=r"data\.train_images 'train' says where files lie in a folder"):
        coco(tmp_path / "shards", train_images="train")
