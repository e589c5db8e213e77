"""`data.value_range` gives the same pixels in training, evaluation, `check-data` and prediction, in every task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.classification import Classifier, ImageFolderData
from scalablevit.classification import Preprocessing as ClassifierInput
from scalablevit.classification.check import check_folder
from scalablevit.data.check import DataReport
from scalablevit.detection import CocoData
from scalablevit.detection.check import check_coco
from scalablevit.detection.models import build_detector
from scalablevit.detection.predict import Detector
from scalablevit.segmentation import MaskFolderData, Segmenter, semantic_fpn
from scalablevit.segmentation import Preprocessing as SegmenterInput
from scalablevit.segmentation.check import check_masks

RANGE = [0, 4095]
VALUES = np.linspace(0, 4095, 32 * 32).astype(np.uint16).reshape(32, 32)
"""Of 12 bits, as scanners and microscopes store them."""
EXPECTED = np.round(VALUES / 4095 * 255)


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(VALUES).save(path)
    return path


def pixels(tensor: torch.Tensor, preprocessing: Any) -> np.ndarray:
    """What was normalised, in 0..255, without its channels."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return ((tensor * std + mean) * 255)[0].numpy()


def assert_no_kind(report: DataReport, kind: str, without: DataReport) -> None:
    assert kind not in {problem.kind for problem in report.problems}
    assert kind in {problem.kind for problem in without.problems}


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_classification(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        for i in range(3):
            file = write(tmp_path / name / f"{i}.{ending}")
    settings = {"image_size": 32, "crop_ratio": 1.0, "augmentation": None, "num_workers": 0}
    data = ImageFolderData(tmp_path, **settings, value_range=RANGE)
    train, val = (part[0].image for part in (data.train_dataset, data.val_dataset))
    assert torch.equal(train, val)
    assert np.abs(pixels(val, data.preprocessing) - EXPECTED).max() <= 1
    seen: list[torch.Tensor] = []
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    preprocessing = ClassifierInput.from_dict(json.loads(json.dumps(data.preprocessing.to_dict())))
    list(Classifier(network, class_names=["a", "b"], preprocessing=preprocessing, device="cpu").predict(file))
    assert torch.equal(seen[-1][0], val)
    assert_no_kind(check_folder(tmp_path, value_range=RANGE), "dark-16-bit", check_folder(tmp_path))


def test_segmentation(tmp_path: Path) -> None:
    for i in range(3):
        file = write(tmp_path / f"images/{i}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / f"masks/{i}.png")
    settings = {"crop_size": 32, "short_side": None, "long_side": None, "augmentation": None, "num_workers": 0}
    data = MaskFolderData(tmp_path, **settings, value_range=RANGE)
    train, val = (part[0].image for part in (data.train_dataset, data.val_dataset))
    assert torch.equal(train, val)
    assert np.abs(pixels(val, data.preprocessing) - EXPECTED).max() <= 1
    preprocessing = SegmenterInput.from_dict(json.loads(json.dumps(data.preprocessing.to_dict())))
    network = semantic_fpn("scalablevit_atto", num_classes=2, channels=16)
    segmenter = Segmenter(network, class_names=["0", "1"], preprocessing=preprocessing, device="cpu")
    (found,) = segmenter.predict(file, keep_images=True)
    assert found.image is not None
    assert torch.equal(preprocessing.eval_transform()(found.image), val)
    assert_no_kind(check_masks(tmp_path, value_range=RANGE), "dark-16-bit", check_masks(tmp_path))


def test_detection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(1, 4)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 9, 9]} for i in range(1, 4)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    for i in range(1, 4):
        file = write(tmp_path / f"{i}.png")
    settings = {"min_size": 32, "max_size": 32, "augmentation": None, "num_workers": 0}
    CocoData(tmp_path, **settings)
    assert caplog.text.count("set data.value_range [0, 4095]") == 1
    data = CocoData(tmp_path, **settings, value_range=RANGE)
    assert caplog.text.count("16-bit grayscale") == 1
    train, val = (part[0].image for part in (data.train_dataset, data.val_dataset))
    assert torch.equal((train * 255).round().to(torch.uint8), val)
    assert np.abs(val[0].numpy() - EXPECTED).max() <= 1
    preprocessing = type(data.preprocessing).from_dict(json.loads(json.dumps(data.preprocessing.to_dict())))
    network = build_detector("retinanet", "scalablevit_atto", 1, fpn_channels=16, num_convs=1, min_size=32, max_size=32)
    (found,) = Detector(network, class_names=["cell"], preprocessing=preprocessing, device="cpu").predict(
        file, keep_images=True
    )
    assert found.image is not None
    assert np.array_equal(np.asarray(found.image)[..., 0], val[0].numpy())
    assert_no_kind(check_coco(tmp_path, value_range=RANGE), "dark-16-bit", check_coco(tmp_path))
    with pytest.raises(ValueError, match=r"value_range must be .* such as \[0, 4095\], got \[9, 9\]"):
        CocoData(tmp_path, **settings, value_range=[9, 9])
