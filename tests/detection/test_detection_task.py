"""The detection task: what is lost, what is measured, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from scalablevit.detection import CocoData, DetectionTask, Preprocessing
from scalablevit.detection.dataset import DetectionBatch
from scalablevit.detection.evaluate import counted_detections, evaluate
from scalablevit.detection.models import build_detector

PREPROCESSING = Preprocessing(min_size=32, max_size=48).to_dict()
SMALL: dict[str, dict[str, Any]] = {
    "retinanet": {"fpn_channels": 16, "num_convs": 1},
    "mask_rcnn": {"fpn_channels": 16, "box_head_channels": 16, "mask_convs": 1, "mask_channels": 16},
}


def task(detector: Any = "retinanet", **options: Any) -> DetectionTask:
    settings = {
        "class_names": ["cat", "dog"],
        "preprocessing": PREPROCESSING,
        "detector_options": SMALL.get(detector, {}),
        **options,
    }
    return DetectionTask("scalablevit_atto", detector=detector, **settings)


def batch(*num_boxes: int, masks: bool = False) -> DetectionBatch:
    """An image for each number of boxes in it."""
    targets = []
    for count in num_boxes:
        target = {"boxes": torch.tensor([[4.0, 4, 20, 24]]).repeat(count, 1), "labels": torch.arange(count) % 2}
        if masks:
            target["masks"] = torch.zeros(count, 32, 40, dtype=torch.uint8)
            target["masks"][:, 4:24, 4:20] = 1
        targets.append(target)
    n = len(num_boxes)
    return DetectionBatch([torch.rand(3, 32, 40)] * n, targets, list(range(n)), [1] * n, [True] * n, [])


@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize("num_boxes", [(2, 0), (0, 0), (1, 3)])
def test_every_parameter_learns_whatever_is_in_the_images(detector: str, num_boxes: tuple[int, ...]) -> None:
    """Under DDP, a parameter without a gradient on one rank would stop the run."""
    made = task(detector)
    loss = made.training_step(batch(*num_boxes, masks=detector == "mask_rcnn"), 0)
    assert loss.isfinite()
    loss.backward()
    assert [name for name, p in made.network.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("detector", "first"), [("retinanet", 0), ("mask_rcnn", 1)])
def test_the_network_gets_its_own_labels_and_its_losses_are_summed(detector: str, first: int) -> None:
    made, data = task(detector), batch(3, masks=True)
    given: list[Any] = []

    class Spy(nn.Module):
        first_label = made.network.first_label

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            given.extend(targets)
            return {"a": torch.tensor(1.5), "loss_b": torch.tensor(2.0, dtype=torch.bfloat16)}

    made.network = Spy()
    logged: dict[str, Any] = {}
    made.log_train_loss = lambda loss, size, parts: logged.update(parts, size=size)  # type: ignore[method-assign]
    assert made.training_step(data, 0).item() == 3.5
    assert given[0]["labels"].tolist() == [first, first + 1, first]
    assert data.targets[0]["labels"].tolist() == [0, 1, 0], "the batch is as it was"
    assert given[0]["masks"] is data.targets[0]["masks"]
    assert logged == {"loss_a": 1.5, "loss_b": 2.0, "size": 1}


def test_images_that_cannot_be_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    made.unreadable.max_files = 1
    data = batch(1)._replace(unreadable=["a.png: broken; copy it"])
    assert made.training_step(data, 0).isfinite()
    assert made.unreadable.files == ["a.png: broken; copy it"]
    with pytest.raises(ValueError, match="more than max_unreadable=1 allows"):
        made.training_step(batch(1)._replace(unreadable=["b.png: broken; copy it"]), 0)
    made = task()
    made.unreadable.max_files = 5
    monkeypatch.setattr(made, "_num_train_images", lambda: 2)
    nothing = batch(0)._replace(readable=[False], unreadable=["a.png: broken", "b.png: broken"])
    with pytest.raises(ValueError, match="none of the training images can be read"):
        made.training_step(nothing, 0)


def test_the_seed_makes_the_weights_whatever_ran_before() -> None:
    first = task(seed=3).network.state_dict()
    torch.rand(5)
    again, other = task(seed=3).network.state_dict(), task(seed=4).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_options_reach_the_network() -> None:
    made = task(
        "mask_rcnn", scale_value=True, window_size=[4, 4, 2, 1], drop_path_rate=0.3, network_options={"lim": False},
        detector_options={**SMALL["mask_rcnn"], "mask_channels": 24},
    )  # fmt: skip
    names = made.network.state_dict()
    assert any(name.endswith("attn.kv.weight") and "stages.0" in name for name in names)
    assert not any("lim" in name for name in names)
    assert names["roi_heads.mask_predictor.conv5_mask.weight"].shape[0] == 24
    assert made.network.transform.min_size == 32
    assert made.network.transform.max_size == 48
    assert json.loads(json.dumps(made.model_args)) == made.model_args
    rates = [m.p for m in made.network.modules() if type(m).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "resnet999"}, "there is no variant 'resnet999'"),
        ({"detector": "yolo"}, "there is no detector 'yolo'"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"detector_options": {"wings": 2}}, "has no option wings"),
        ({"detector_options": {"min_size": 2}}, "detector_options.min_size: the task or the data gives it"),
        ({"network_options": {"wings": 2}}, "wings"),
        ({"preprocessing": {"min_size": 2}}, "preprocessing needs exactly the keys"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    settings = {"variant": "scalablevit_atto", "class_names": ["a"], "preprocessing": PREPROCESSING,
                "detector": "retinanet", **options}  # fmt: skip
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DetectionTask(**settings)


class BrightSpot(nn.Module):
    """Finds what is brighter than half: the perfect detector of the images below."""

    first_label = 1

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        outputs = []
        for image in images:
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
            mask = image[0] > 0.5
            boxes = torch.zeros(0, 4)
            if mask.any():
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                boxes = torch.stack(corners)[None].float()
            n = len(boxes)
            outputs.append(
                {
                    "boxes": boxes,
                    "scores": torch.full((n,), 0.9),
                    "labels": torch.full((n,), 1),
                    "masks": mask[None][:n],
                }
            )
        return outputs


@pytest.fixture
def write_data(tmp_path: Path) -> Callable[..., Path]:
    """Writes images of 60 x 40 pixels with a bright rectangle each; some are special."""

    def write(*kinds: str) -> Path:
        images, annotations = [], []
        for i, kind in enumerate(kinds):
            left, top, width, height = 5 + i, 3, 20 - i, 12
            pixels = np.zeros((40, 60, 3), np.uint8)
            if kind != "empty":
                pixels[top : top + height, left : left + width] = 255
                polygon = [left, top, left + width, top, left + width, top + height, left, top + height]
                annotations.append(
                    {"id": i + 1, "image_id": i + 10, "category_id": 7, "bbox": [left, top, width, height],
                     "area": width * height, "iscrowd": 0, "segmentation": [polygon]}
                )  # fmt: skip
            exif = Image.Exif()
            if kind == "turned":
                exif[0x0112] = 6
            file = tmp_path / "images" / f"{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(file, exif=exif)
            if kind == "broken":
                file.write_bytes(file.read_bytes()[:60])
            images.append({"id": i + 10, "file_name": file.name, "width": 60, "height": 40})
        categories = [{"id": 7, "name": "cat"}, {"id": 30, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "all.json").write_text(json.dumps(content))
        return tmp_path

    return write


def data_of(root: Path, *, is_split: bool = False, masks: bool = True) -> CocoData:
    """All images for training and for validation; or one file, of which a share is set aside."""
    file, images = root / "all.json", root / "images"
    val = {} if is_split else {"val_annotations": file, "val_images": images}
    return CocoData(
        root, train_annotations=file, train_images=images, **val, masks=masks, batch_size=2, num_workers=0,
        val_fraction=0.5,
    )  # fmt: skip


def measured(
    root: Path, *, detector: str = "mask_rcnn", masks: bool = True, is_split: bool = False, **options: Any
) -> tuple[dict[str, float], DetectionTask]:
    """What validation says of the perfect detector."""
    data = data_of(root, is_split=is_split, masks=masks)
    made = task(detector, **options)
    made.network = BrightSpot()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    (metrics,) = trainer.validate(made, data, verbose=False)
    return dict(metrics), made


def test_a_perfect_detector_in_stored_and_upright_pixels(write_data: Callable[..., Path]) -> None:
    metrics, made = measured(write_data("plain", "turned", "empty", "plain", "broken"))
    names = [f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap", "ap50", "ap75", "ap_small", "ap/cat")]
    names += ["box_precision", "box_recall", "box_f1"]
    assert metrics == {f"val/{name}": 1.0 for name in names}, (
        "of sizes that are not there nothing is said, and an image that cannot be read does not count"
    )
    assert len(made.unreadable.files) == 1
    assert "4.png" in made.unreadable.files[0]
    assert made.findings.records == [], "nothing is kept"


def test_what_is_missed_counts(write_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: BrightSpot, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = seeing(self, images)
        return [{key: value[:0] for key, value in output.items()} if i else output for i, output in enumerate(found)]

    seeing = BrightSpot.forward
    monkeypatch.setattr(BrightSpot, "forward", blind)
    metrics, _ = measured(write_data("plain", "plain"))
    assert metrics["val/box_ap"] == pytest.approx(51 / 101), "half of the recalls 0, 0.01, ..., 1"


def test_a_set_without_an_object_has_no_average(write_data: Callable[..., Path]) -> None:
    metrics, _ = measured(write_data("empty", "broken"))
    assert list(metrics) == ["val/box_ap"]
    assert math.isnan(metrics["val/box_ap"])


def test_the_evaluation_of_a_run_sees_what_its_validation_saw(write_data: Callable[..., Path]) -> None:
    data = data_of(write_data("plain", "turned", "broken"))
    findings = evaluate(BrightSpot(), data.val_dataset, data.val_annotations, batch_size=2)
    assert findings.image_ids == [10, 11]
    for kind in ("box", "mask"):
        assert findings.measure(data.val_annotations, kind).ap == 1  # type: ignore[arg-type]


def test_masks_that_nobody_learns_from(write_data: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = write_data("plain", "plain")
    for detector, masks, warnings in (("retinanet", True, 1), ("retinanet", False, 0), ("mask_rcnn", True, 0)):
        caplog.clear()
        with caplog.at_level("WARNING"):
            measured(root, detector=detector, masks=masks)
        assert caplog.text.count("set data.masks to false") == warnings, (detector, masks)


def test_a_share_of_a_file_is_not_taken_for_all_of_it(
    write_data: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = write_data(*["plain"] * 4)
    with caplog.at_level("WARNING"):
        measured(root)
    assert "set aside" not in caplog.text
    with caplog.at_level("WARNING"):
        measured(root, is_split=True)
    assert f"{root / 'all.json'}: only the 2 images are measured that are set aside" in caplog.text
    assert "of 4;" in caplog.text
    assert "--data.val_annotations FILE --data.val_images FOLDER" in caplog.text


def test_data_that_does_not_fit(write_data: Callable[..., Path]) -> None:
    root = write_data("plain", "plain")
    with pytest.raises(ValueError, match="the data has 2 classes, the network 1"):
        measured(root, class_names=["cat"])
    with pytest.raises(ValueError, match=r"mask_rcnn learns from masks, and data\.masks is false"):
        measured(root, masks=False)


@pytest.mark.parametrize(("given", "counted"), [(7, 100), (100, 100), (600, 600)])
def test_as_many_detections_are_measured_as_the_network_gives(given: int, counted: int) -> None:
    for kind in ("retinanet", "mask_rcnn"):
        network = build_detector(kind, "scalablevit_atto", 1, fpn_channels=16, detections_per_image=given)
        assert counted_detections(network) == counted
