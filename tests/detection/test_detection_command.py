"""The commands as detection has them: photographs, sizes, checks, and what to do where the memory ends."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from PIL import Image

import command_line
from command_line import output_of as scalablevit
from scalablevit.data.images import read_image
from scalablevit.detection import Preprocessing
from scalablevit.detection.models import build_detector
from scalablevit.detection.predict import Detector, decode_mask
from scalablevit.weights import save_network

MODEL = {
    "fpn_channels": 16, "box_head_channels": 16, "mask_convs": 1, "mask_channels": 16, "rpn_post_nms_top_n_test": 20,
    "detections_per_image": 5, "window_size": 4, "min_size": 64, "max_size": 96,
}  # fmt: skip
SKIMAGE, SKLEARN = Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = [
    *(SKLEARN / name for name in ("china.jpg", "flower.jpg")),
    *(SKIMAGE / name for name in ("rocket.jpg", "hubble_deep_field.jpg", "chelsea.png", "coffee.png", "camera.png")),
    *(SKIMAGE / name for name in ("page.png", "horse.png", "logo.png", "microaneurysms.png", "multipage.tif")),
    *(SKIMAGE / name for name in ("chessboard_GRAY.png", "no_time_for_that_tiny.gif")),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a run that never trained: a Mask R-CNN that finds something everywhere."""
    torch.manual_seed(0)
    network = build_detector("mask_rcnn", "scalablevit_atto", 2, **MODEL)
    metadata = {
        "task": "detection",
        "detector": "mask_rcnn",
        "variant": "scalablevit_atto",
        "model_args": MODEL,
        "class_names": ["cat", "dog"],
        "preprocessing": Preprocessing(min_size=64, max_size=96).to_dict(),
    }
    folder = tmp_path_factory.mktemp("run")
    save_network(network, folder, metadata=metadata)
    return folder


@pytest.mark.slow
def test_photographs_as_they_come(run: Path, tmp_path: Path) -> None:
    """Of scikit-image and scikit-learn: JPEG, PNG, TIFF and GIF; colour, gray, palette, transparent; any size."""
    kinds, expected = set(), {}
    for path in PHOTOGRAPHS:
        with Image.open(path) as image:
            kinds |= {image.format, image.mode}
            expected[str(path)] = image.size
    assert kinds >= {"JPEG", "PNG", "TIFF", "GIF", "RGB", "L", "RGBA", "P"}
    assert len(set(expected.values())) >= 10
    words = ("--weights", run, "--device", "cpu", "--threshold", "0.001", "--json", "--save", tmp_path / "out")
    said, _ = scalablevit("predict", *PHOTOGRAPHS, *words)
    found = [json.loads(line) for line in said.splitlines()]
    assert {entry["path"]: (entry["width"], entry["height"]) for entry in found} == expected
    assert sum(bool(entry["predictions"]) for entry in found) >= 10
    for entry in found:
        width, height = expected[entry["path"]]
        for one in entry["predictions"]:
            left, top, right, bottom = one["box"]
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert one["mask"]["size"] == [height, width]
            rows, columns = decode_mask(one["mask"]).nonzero()
            if len(rows):
                assert left - 1 <= columns.min() <= columns.max() <= right
                assert top - 1 <= rows.min() <= rows.max() <= bottom
        # small ones are enlarged by a whole factor, so that names can be read
        factor = math.ceil(512 / max(width, height)) if max(width, height) < 512 else 1
        saved = read_image(entry["saved"][0])
        assert saved.size == (width * factor, height * factor)
        original = read_image(entry["path"]).resize(saved.size, Image.Resampling.NEAREST)
        assert (np.asarray(saved) == np.asarray(original)).mean() < 1 or not entry["predictions"]
    assert len([file for file in (tmp_path / "out").rglob("*") if file.is_file()]) == len(PHOTOGRAPHS)


def test_sizes_can_be_said(run: Path) -> None:
    words = ("predict", SKIMAGE / "chelsea.png", "--weights", run, "--device", "cpu", "--threshold", "0.001", "--json")
    as_trained, _ = scalablevit(*words)
    assert scalablevit(*words, "--min-size", "64", "--max-size", "96")[0] == as_trained
    larger, _ = scalablevit(*words, "--min-size", "96", "--max-size", "160")
    assert larger != as_trained
    loaded = Detector.load(run, device="cpu")
    (expected,) = loaded.predict([SKIMAGE / "chelsea.png"], threshold=0.001, min_size=96, max_size=160)
    assert json.loads(larger) == expected.to_dict()
    _, refused = scalablevit(*words, "--min-size", "200", code=1)
    assert "min_size 200 and max_size 96: give both" in refused


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """Two images that EXIF turns, annotated without a size and with one mask that is damaged."""
    for i in (1, 2):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / f"{i}.png", exif=exif)
    box = {"category_id": 1, "bbox": [4, 2, 10, 33], "segmentation": [[4, 2, 14, 2, 14, 35, 4, 35]]}
    boxes = [{"id": i, "image_id": i, **box} for i in (1, 2)]
    boxes.append({"id": 3, "image_id": 1, **box, "segmentation": {"size": [3, 3], "counts": [9]}})
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ant"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    return tmp_path


def counts(*words: str | Path, code: int) -> dict[str, int]:
    report = json.loads(scalablevit("check-data", *words, "--val-fraction", "0.5", "--json", code=code)[0])
    kinds = [problem["kind"] for problem in report["problems"]]
    return {kind: kinds.count(kind) for kind in kinds}


def test_check_data_with_frame_and_without_masks(turned: Path) -> None:
    auto = counts(turned, code=1)
    assert (auto["orientation-unclear"], auto["clipped-box"], auto["mask-size"]) == (2, 3, 1)
    assert "mask-size" not in counts(turned, "--no-masks", code=0)
    upright = counts(turned, "--no-masks", "--annotation-frame", "upright", code=0)
    assert upright == {"missing-size": 2, "orientation": 2}
    _, refused = scalablevit("check-data", turned, "--annotation-frame", "turned", code=2)
    assert "invalid choice: 'turned'" in refused


@pytest.mark.parametrize("words", [["--no-masks"], ["--annotation-frame", "stored"]])
def test_what_boxes_have_is_for_boxes_alone(words: list[str], tmp_path: Path) -> None:
    for i in range(2):
        folder = tmp_path / "train" / str(i)
        folder.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(folder / "a.png")
    _, refused = scalablevit("check-data", tmp_path, *words, code=2)
    assert f"{words[0]} is for COCO annotations" in refused


def exhausted(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")


@pytest.mark.parametrize(
    ("command", "remedy", "not_this"),
    [
        ("fit", "lower data.batch_size (model.global_batch keeps the images per step)", "--batch-size"),
        ("validate", "lower data.val_batch_size", "global_batch"),
        ("predict", "lower --batch-size, or --min-size and --max-size", "data."),
    ],
)
def test_where_the_memory_ends(
    command: str, remedy: str, not_this: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str | Path] = {
        "fit": ["--config", "finetune_retinanet", "--run", tmp_path / "new"],
        "validate": [tmp_path],
        "predict": [SKIMAGE / "chelsea.png", "--weights", run],
    }[command]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    (tmp_path / "recipe.yaml").write_text("model: {class_path: scalablevit.detection.DetectionTask}")
    monkeypatch.setattr("scalablevit.training.command.TrainingCommand.__init__", exhausted)
    monkeypatch.setattr(Detector, "detect", exhausted)
    _, said = scalablevit(command, *words, code=1)
    assert said.startswith("scalablevit: error: CUDA out of memory; ")
    assert remedy in said
    assert not_this not in said


@pytest.mark.parametrize("key", ["--model.class_weights", "--data.sampling"])
def test_keys_of_other_tasks_name_what_detection_has(key: str) -> None:
    outcome = command_line.scalablevit("fit", "--config", "demo_detection", key, "balanced")
    assert outcome.code == 1
    assert f"there is no key {key.removeprefix('--')}" in outcome.err
    assert "by data.repeat_threshold" in outcome.err
