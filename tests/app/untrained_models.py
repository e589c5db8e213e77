"""Untrained models of all tasks, and an image."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from scalablevit.data.image_transforms import Preprocessing as ClassifierPreprocessing
from scalablevit.detection.models import build_detector
from scalablevit.detection.transforms import Preprocessing as DetectorPreprocessing
from scalablevit.segmentation import InferenceSettings
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.transforms import Preprocessing as SegmenterPreprocessing
from scalablevit.weights import save_model, save_network

MAX_UPLOAD = 2**20
"""Bytes that the served page takes."""
NAMES = ["<b>cat</b>", "grün", "dog"]
DETECTOR_ARGS: dict[str, Any] = {
    "fpn_channels": 16, "box_head_channels": 16, "mask_convs": 1, "mask_channels": 16, "rpn_post_nms_top_n_test": 50,
    "min_size": 64, "max_size": 96,
}  # fmt: skip
SEGMENTER_ARGS = {"channels": 16, "fpn_channels": 16}
METRICS = "epoch,step,lr,train/loss,val/top1\n0,4,0.1,1.5,0.4\n1,8,0.05,1.2,0.6\n"


def write_runs(root: Path) -> Path:
    """A folder with a run of each task; the classifier's has examples, curves and figures."""
    torch.manual_seed(0)
    _classifier(root / "pets")
    shared = {"variant": "scalablevit_atto", "class_names": NAMES}
    preprocessing = DetectorPreprocessing(min_size=64, max_size=96)
    detection = {
        **shared, "task": "detection", "detector": "mask_rcnn", "model_args": DETECTOR_ARGS,
        "preprocessing": preprocessing.to_dict(),
    }  # fmt: skip
    network = build_detector("mask_rcnn", "scalablevit_atto", 3, **DETECTOR_ARGS)
    save_network(network, root / "boxes", metadata=detection)
    segmentation = {
        **shared, "task": "segmentation", "segmenter": "semantic_fpn", "model_args": SEGMENTER_ARGS,
        "preprocessing": SegmenterPreprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, short_side=40).to_dict(),
        "inference": InferenceSettings(short_side=40).to_dict(),
    }  # fmt: skip
    segmenter = build_segmenter("semantic_fpn", "scalablevit_atto", 3, **SEGMENTER_ARGS)
    save_network(segmenter, root / "deeper" / "pixels", metadata=segmentation)
    return root


def write_photo(path: Path) -> Path:
    """A photograph of noise, turned by its EXIF orientation."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def _classifier(folder: Path) -> None:
    args = {"num_classes": len(NAMES)}
    preprocessing = ClassifierPreprocessing(
        image_size=(32, 32), crop_ratio=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    metadata = {"task": "classification", "class_names": NAMES, "preprocessing": preprocessing.to_dict()}
    model = timm.create_model("scalablevit_atto", **args).eval()
    save_model(model, folder, architecture="scalablevit_atto", model_args=args, metadata=metadata)
    data = folder.parent.parent / "data"
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (data / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20, 20), (40 * i, 0, 90)).save(data / part / name / f"{i}.png")
    (folder / "recipe.yaml").write_text(
        f"data:\n  init_args:\n    root: {data}\n    val_fraction: 0.1\n    batch_size: 4\n"
    )
    (folder / "metrics.csv").write_text(METRICS)
    Image.new("RGB", (30, 30), "white").save(folder / "confusion.png")
    (folder / "results.json").write_text(
        '{"top1": 0.5, "per_class": [{"class": "<b>cat</b>", "recall": 0.25, "support": 4}]}'
    )
