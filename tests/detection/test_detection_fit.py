"""The whole path: a COCO folder becomes a run, stops, resumes, predicts; two processes agree; images are learned."""

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from command_line import output_of as scalablevit
from run_metrics import learned_by
from scalablevit.data.builtin.scene_folders import write_coco
from scalablevit.data.images import read_image
from scalablevit.detection import DetectionTask, Detector
from scalablevit.visualization.metrics_file import read_metrics
from scalablevit.weights import read_metadata

SCRIPT = str(Path(sys.executable).with_name("scalablevit"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# Of each detector: small enough for a test.
OPTIONS: dict[str, dict[str, Any]] = {
    "retinanet": {
        "fpn_channels": 16, "num_convs": 1, "anchor_sizes": [16, 24, 40, 64, 96], "score_thresh": 1e-4,
    },
    "mask_rcnn": {
        "fpn_channels": 16, "box_head_channels": 32, "mask_convs": 1, "mask_channels": 16,
        "rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 50, "anchor_sizes": [8, 16, 32, 64, 96],
        "score_thresh": 1e-4,
    },
}  # fmt: skip


# Of each detector: enough to learn four images.
LEARNERS: dict[str, dict[str, Any]] = {
    "retinanet": {
        "optimizer": {"lr": 2e-3, "lr_batch": None, "weight_decay": 0.0},
        "detector_options": {
            "fpn_channels": 64, "num_convs": 2, "head_norm": True, "anchor_sizes": [16, 24, 40, 64, 96],
        },
    },
    "mask_rcnn": {
        "optimizer": {"lr": 4e-3, "lr_batch": None, "weight_decay": 0.0},
        "detector_options": {
            "fpn_channels": 32, "box_head_channels": 256, "mask_convs": 2, "mask_channels": 32, "head_norm": True,
            "anchor_sizes": [16, 32, 48, 64, 96], "rpn_fg_iou_thresh": 0.5, "rpn_pre_nms_top_n_train": 200,
            "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 50,
            "box_batch_size_per_image": 64, "box_positive_fraction": 0.5,
        },
    },
}  # fmt: skip
EPOCHS = {"retinanet": 40, "mask_rcnn": 90}


def write_recipe(
    path: Path,
    root: Path,
    detector: str,
    *,
    task: str = "scalablevit.detection.DetectionTask",
    **changes: dict[str, Any],
) -> Path:
    """A tiny recipe; `changes` to the arguments of model, data and trainer."""
    model = {
        "variant": "scalablevit_atto",
        "detector": detector,
        "detector_options": OPTIONS[detector],
        "window_size": 4,
        "optimizer": {"lr": 1e-3, "lr_batch": None},
        "schedule": {"name": "multistep", "milestones": [1], "warmup_steps": 1},
    }
    inputs = {
        "root": str(root), "masks": detector == "mask_rcnn", "min_size": 48, "max_size": 64, "batch_size": 2,
        "num_workers": 0,
    }  # fmt: skip
    trainer = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    content = {
        "model": {
            "class_path": task,
            "init_args": {**model, **changes.get("model", {})},
        },
        "data": {
            "class_path": "scalablevit.detection.CocoData",
            "init_args": {**inputs, **changes.get("data", {})},
        },
        "trainer": {**trainer, **changes.get("trainer", {})},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def stop_at_batch(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Let a run get Ctrl-C at its `batch`-th training batch, once."""
    original, begun = DetectionTask.on_train_batch_start, []

    def and_stop(self: DetectionTask, *args: Any) -> None:
        begun.append(True)
        if len(begun) == batch:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, *args)

    monkeypatch.setattr(DetectionTask, "on_train_batch_start", and_stop)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model.safetensors")


def pycocotools_ap(annotations: Path, results: Path, kind: str) -> list[float]:
    """AP, AP50 and AP75 of files on the disk."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 training and 3 validation scenes, with a crowd and an empty one among them. Not to be written to."""
    return write_coco(tmp_path_factory.mktemp("data") / "scenes", num_train=4, num_val=3, size=(40, 64))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """From a detector to four scenes and the run that learned them, made once. Not to be written to."""

    @functools.cache
    def learn(detector: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(detector)
        root = write_coco(folder / "data", num_train=4, num_val=1, size=(64, 80), seed=2)
        file, epochs = "annotations/instances_train.json", EPOCHS[detector]
        recipe = write_recipe(
            folder / "tiny.yaml", root, detector,
            model={
                **LEARNERS[detector],
                "drop_path_rate": 0.0,
                "schedule": {"name": "cosine", "warmup_steps": 5, "warmup_lr": 1e-5, "min_lr": 1e-5},
            },
            data={
                "train_annotations": file, "val_annotations": file, "train_images": "train", "val_images": "train",
                "min_size": 64, "max_size": 80, "batch_size": 4, "augmentation": None,
            },
            trainer={"max_epochs": epochs, "check_val_every_n_epoch": epochs, "gradient_clip_val": 5.0},
        )  # fmt: skip
        scalablevit("fit", "--config", recipe, "--run", folder / "run")
        return root, folder / "run"

    return learn


@pytest.mark.slow
def test_other_boxes_are_measured_in_whole_after_a_run_that_repeats_rare_classes(scenes: Path, tmp_path: Path) -> None:
    """Training images without a validation part; categories in another order, and one of them left out."""
    recipe = write_recipe(tmp_path / "tiny.yaml", scenes, "retinanet", data={"repeat_threshold": 1.0})
    said, _ = scalablevit("fit", "--config", recipe, "--run", tmp_path / "run", "--epochs", "1")
    shown = int(said.split("training    ")[1].split()[0])
    assert shown > 4, "some of the four images come again"

    other = tmp_path / "other"
    shutil.copytree(scenes / "train", other)
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    lacking = content["categories"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != lacking]
    content["categories"] = [c for c in content["categories"] if c["id"] != lacking]
    renumbered = {c["id"]: 1000 - c["id"] for c in content["categories"]}
    for entry, key in [
        *((c, "id") for c in content["categories"]),
        *((a, "category_id") for a in content["annotations"]),
    ]:
        entry[key] = renumbered[entry[key]]
    (other / "labels.json").write_text(json.dumps(content))
    out, said = scalablevit("validate", tmp_path / "run", "--data.root", other, "--json")
    assert "validation  4 images" in said
    assert "evaluated   4 images" in said

    ids = {c["name"]: c["id"] for c in content["categories"]}
    found = []
    images = {entry["file_name"]: entry["id"] for entry in content["images"]}
    files = [other / name for name in images]
    for prediction in Detector.load(tmp_path / "run", device="cpu").predict(files, threshold=0.0):
        for entry in prediction.to_dict()["predictions"]:
            left, top, right, bottom = entry["box"]
            if entry["class"] in ids:
                found.append(
                    {
                        "image_id": images[prediction.path.name],
                        "category_id": ids[entry["class"]],
                        "bbox": [left, top, right - left, bottom - top],
                        "score": entry["score"],
                    }
                )
    (tmp_path / "found.json").write_text(json.dumps(found))
    expected = pycocotools_ap(other / "labels.json", tmp_path / "found.json", "bbox")
    measured = json.loads(out)
    assert measured["val/box_ap"] == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_a_run_stops_resumes_and_predicts(
    detector: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of two steps; stopped within the second."""
    recipe = write_recipe(tmp_path / "tiny.yaml", scenes, detector)
    said, _ = scalablevit("fit", "--config", recipe, "--run", tmp_path / "whole")
    assert "validation  3 images" in said
    assert f"validation of {tmp_path}/whole/model.safetensors: box AP " in said
    assert ("mask AP" in said) == (detector == "mask_rcnn")
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        scalablevit("fit", "--config", recipe, "--run", tmp_path / "cut", code=130)
    scalablevit("fit", "--resume", tmp_path / "cut")
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    assert learned_by(tmp_path / "whole") == learned_by(tmp_path / "cut")
    for name in ("results.json", "detections.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text(), name

    run = tmp_path / "cut"
    rows = read_metrics(run / "metrics.csv")
    assert len(rows) == 2
    results = json.loads((run / "results.json").read_text())
    assert (results["count"], results["unreadable"]) == (3, [])
    assert results["box"]["ap"] == pytest.approx(max(row["val/box_ap"] for row in rows), abs=1e-6)
    assert list(results["box"]["per_class"]) == read_metadata(run)["class_names"]
    annotations = scenes / "annotations" / "instances_val.json"
    for ours, theirs in (("box", "bbox"), ("mask", "segm")):
        if ours in results:
            (tmp_path / "of.json").write_text((run / "detections.json").read_text())
            if ours == "mask":  # pycocotools sorts by the area of the box where there is one
                records = json.loads((run / "detections.json").read_text())
                records = [{key: r[key] for key in r if key != "bbox"} for r in records]
                (tmp_path / "of.json").write_text(json.dumps(records))
            expected = pycocotools_ap(annotations, tmp_path / "of.json", theirs)
            assert [results[ours][name] for name in ("ap", "ap50", "ap75")] == pytest.approx(expected, abs=1e-12)
    sheet = read_image(run / "predictions.png")
    assert min(sheet.size) > 400

    measured, _ = scalablevit("validate", run, "--json")
    assert json.loads(measured)["val/box_ap"] == pytest.approx(results["box"]["ap"], abs=1e-6)
    words = ("predict", scenes / "val", "--weights", run, "--threshold", "0.001")
    said, _ = scalablevit(*words, "--json", "--save", tmp_path / "drawn")
    found = [json.loads(line) for line in said.splitlines()]
    assert len(found) == len(list((tmp_path / "drawn").iterdir())) == 3
    detector_itself = Detector.load(run, device="cpu")
    expected = detector_itself.predict([entry["path"] for entry in found], threshold=0.001)
    saved = [entry.pop("saved") for entry in found]
    assert all(Path(file).is_file() for (file,) in saved)
    assert [prediction.to_dict() for prediction in expected] == found
    assert sum(len(entry["predictions"]) for entry in found) > 0
    said, _ = scalablevit(*words)
    assert "000000" in said


@pytest.mark.slow
def test_mask_rcnn_starts_from_a_retinanet(scenes: Path, tmp_path: Path) -> None:
    """What fits is taken: the backbone; the heads stay fresh."""
    first = write_recipe(tmp_path / "first.yaml", scenes, "retinanet", trainer={"max_epochs": 1})
    scalablevit("fit", "--config", first, "--run", tmp_path / "first")
    second = write_recipe(
        tmp_path / "second.yaml", scenes, "mask_rcnn", trainer={"max_epochs": 1},
        model={
            "weights": str(tmp_path / "first"), "optimizer": {"lr": 1e-9, "lr_batch": None},
            "schedule": {"name": "constant", "warmup_steps": 0},
        },
    )  # fmt: skip
    said, _ = scalablevit("fit", "--config", second, "--run", tmp_path / "second")
    assert "weights     loaded" in said
    before, after = weights_of(tmp_path / "first"), weights_of(tmp_path / "second")
    name = "backbone.body.stages.0.patch_embed.proj.weight"
    assert torch.allclose(before[name], after[name], atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_two_processes_one_of_them_without_a_box(
    detector: str, learned: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Of four training images one has a box: every step has a rank without; each image is measured once.

    What is measured are three of the four images that a run has learned, which goes on at no speed.
    """
    scenes, first = learned(detector)
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "val").symlink_to(scenes / "train")
    validation = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    validation["images"] = validation["images"][:3]
    measured = sorted(image["id"] for image in validation["images"])
    validation["annotations"] = [a for a in validation["annotations"] if a["image_id"] in measured]
    (root / "annotations" / "instances_val.json").write_text(json.dumps(validation))
    (root / "train").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "train" / f"{i}.png")
    categories = validation["categories"]
    box = {
        "id": 1, "image_id": 2, "category_id": categories[0]["id"], "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0,
        "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]],
    }  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(4)]
    content = {"images": images, "annotations": [box], "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))

    still = {
        "weights": str(first), "optimizer": {"lr": 1e-9, "lr_batch": None, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup_steps": 0},
    }  # fmt: skip
    recipe = write_recipe(
        tmp_path / "tiny.yaml", root, detector, task="recording_task.RecordingTask",
        model={**LEARNERS[detector], **still}, data={"batch_size": 1, "min_size": 64, "max_size": 80},
    )  # fmt: skip
    run, records = tmp_path / "run", tmp_path / "records"
    records.mkdir()
    words = ["fit", "--config", recipe, "--run", run, "--devices", "2"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parent), "RECORDS": str(records)}
    result = subprocess.run([SCRIPT, *map(str, words)], capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    rows = read_metrics(run / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 3]
    results = json.loads((run / "results.json").read_text())
    assert results["count"] == 3
    for rank in (0, 1):
        seen = json.loads((records / f"{rank}.json").read_text())
        assert sorted(seen["gathered"]) == measured, "each image once, in both processes"
        assert len(seen["own"]) == 2 - rank
    for kind in ("box", "mask") if detector == "mask_rcnn" else ("box",):
        best = max(row[f"val/{kind}_ap"] for row in rows)
        assert best > 0.3, "or that would say nothing"
        assert results[kind]["ap"] == pytest.approx(best, rel=1e-4), "one process counts what two counted"
    assert all(torch.isfinite(value).all() for value in weights_of(run).values())


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_a_few_images_are_learned(detector: str, learned: Callable[[str], tuple[Path, Path]]) -> None:
    """Four scenes, from scratch, one step an epoch, measured on the same four."""
    _, run = learned(detector)
    results = json.loads((run / "results.json").read_text())
    assert results["count"] == 4
    assert results["box"]["ap50"] >= 0.9
    if detector == "mask_rcnn":
        assert results["mask"]["ap50"] >= 0.9
