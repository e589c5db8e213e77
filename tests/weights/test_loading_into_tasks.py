"""Detectors and segmentation models from classifiers, from their own kind, and from others."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import scalablevit
from scalablevit.detection.models import mask_rcnn, retinanet
from scalablevit.segmentation.models import semantic_fpn, upernet
from scalablevit.weights import WeightsError, holds_scaled_values, load_network, save_network, trained_task

NAME = "scalablevit_atto"
BUILDERS = {"retinanet": retinanet, "mask_rcnn": mask_rcnn, "semantic_fpn": semantic_fpn, "upernet": upernet}

SMALL: dict[str, dict[str, int]] = {
    "retinanet": {"fpn_channels": 32},
    "mask_rcnn": {"fpn_channels": 32, "mask_channels": 32, "box_head_channels": 32},
    "semantic_fpn": {"channels": 32},
    "upernet": {"channels": 32, "auxiliary_channels": 16},
}


def build(kind: str, num_classes: int = 3, *, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return BUILDERS[kind](NAME, num_classes, **{**SMALL[kind], **options})


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def where(kind: str) -> str:
    return "backbone.body." if kind in ("retinanet", "mask_rcnn") else "backbone."


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_classifier_fills_the_backbone_alone(kind: str) -> None:
    classifier = timm.create_model(NAME, num_classes=7)
    model, before = build(kind), state(build(kind))
    report = scalablevit.load_weights(model, classifier.state_dict())
    prefix = where(kind)
    theirs = classifier.state_dict()
    for key, value in model.state_dict().items():
        inner = key.removeprefix(prefix)
        if key.startswith(f"{prefix}stages."):
            assert torch.equal(value, theirs[inner]), key
            assert key in report.matched
        else:
            assert torch.equal(value, before[key]), key
            assert key in report.fresh
    assert {"head.fc.weight", "norm.weight"} <= set(report.ignored)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("wrapper", ["", "network.", "module."])
def test_its_own_kind_fills_all(kind: str, wrapper: str) -> None:
    source, model = build(kind, seed=1), build(kind)
    report = scalablevit.load_weights(model, {wrapper + key: value for key, value in source.state_dict().items()})
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    assert set(report.matched) == set(model.state_dict())
    assert not report.fresh
    assert not report.adapted


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("others", ["more", "named"])
def test_layers_of_other_classes_stay_fresh(kind: str, others: str, tmp_path: Path) -> None:
    source = build(kind, seed=1)
    save_network(source, tmp_path, metadata={"task": "test", "class_names": ["a", "b", "c"]})
    names = ["a", "b", "c", "d"] if others == "more" else ["a", "b", "x"]
    model = build(kind, len(names))
    before = state(model)
    report = scalablevit.load_weights(model, tmp_path, class_names=names)
    for key, value in model.state_dict().items():
        fresh = key.startswith(model.class_layers)
        assert torch.equal(value, before[key] if fresh else source.state_dict()[key]), key
        assert (key in report.adapted) == fresh
    assert report.adapted
    assert "d" not in report.adapted


def test_another_kind_fills_the_backbone(caplog: pytest.LogCaptureFixture) -> None:
    source, model = build("mask_rcnn", seed=1), build("upernet")
    report = scalablevit.load_weights(model, source.state_dict())
    inner = source.backbone.body.state_dict()
    assert all(torch.equal(value, inner[key]) for key, value in model.backbone.state_dict().items())
    assert {key for key in report.fresh if not key.startswith("backbone.")} == {
        key for key in model.state_dict() if not key.startswith("backbone.")
    }
    assert any(key.startswith("roi_heads.") for key in report.ignored)


def test_another_network_of_its_own_kind_is_refused_and_changes_nothing() -> None:
    torch.manual_seed(1)
    source, model = semantic_fpn("scalablevit_nano", 3), build("semantic_fpn")
    before = state(model)
    with pytest.raises(WeightsError, match="holds scalablevit_nano, the model is scalablevit_atto"):
        scalablevit.load_weights(model, source.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "theirs", "ours", "surplus"),
    [
        ("retinanet", {"num_convs": 4}, {"num_convs": 2}, "head.classification_head.conv.2"),
        ("mask_rcnn", {"mask_convs": 3}, {"mask_convs": 1}, "roi_heads.mask_head.1"),
        ("mask_rcnn", {"rpn_convs": 2}, {"rpn_convs": 1}, "rpn.head.conv.1"),
        ("upernet", {"pool_sizes": (1, 2, 3)}, {"pool_sizes": (1, 2)}, "decoder.pools.2"),
    ],
)
def test_layers_that_the_model_lacks_are_not_dropped(
    kind: str, theirs: dict[str, Any], ours: dict[str, Any], surplus: str
) -> None:
    source, model = build(kind, seed=1, **theirs), build(kind, **ours)
    before = state(model)
    for wrapper in ("", "network."):
        tensors = {wrapper + key: value for key, value in source.state_dict().items()}
        with pytest.raises(WeightsError, match=rf"(?s)has no place for {surplus}\..*made with other options"):
            scalablevit.load_weights(model, tensors)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_channels_of_another_number_are_refused() -> None:
    source, model = build("retinanet", seed=1, fpn_channels=16), build("retinanet", fpn_channels=32)
    with pytest.raises(WeightsError, match=r"(?s)the model needs .*made with other options.*model.detector_options"):
        scalablevit.load_weights(model, source.state_dict())


@pytest.mark.parametrize("wrapper", ["", "network."])
def test_the_report_says_why_the_backbone_alone_was_taken(wrapper: str) -> None:
    source = build("mask_rcnn", seed=1, fpn_channels=16, mask_channels=16, mask_convs=2)
    model = build("mask_rcnn", num_classes=5)
    report = scalablevit.load_weights(model, {wrapper + key: value for key, value in source.state_dict().items()})
    assert report.warning == (
        "only the backbone was taken: backbone.fpn.inner_blocks.0.0.weight is (16, 16, 1, 1) there and "
        "(32, 16, 1, 1) here, and there is no roi_heads.mask_head.2.0.weight there; give the same model.detector and "
        "model.detector_options as that run's recipe.yaml to take all of it"
    )
    assert f"\n  warning  {report.warning}\n" in str(report)
    assert torch.equal(
        model.backbone.body.stages[0].patch_embed.proj.weight, source.backbone.body.stages[0].patch_embed.proj.weight
    )


def test_the_report_says_that_the_checkpoint_is_of_another_kind() -> None:
    report = scalablevit.load_weights(build("mask_rcnn"), build("retinanet", seed=1).state_dict())
    assert "taken: there is no rpn and no roi_heads there; give the same model.detector and" in report.warning
    report = scalablevit.load_weights(build("semantic_fpn"), build("upernet", seed=1).state_dict())
    assert "there is no decoder." in report.warning
    assert "give the same model.segmenter and model.segmenter_options as" in report.warning
    for theirs in (timm.create_model(NAME), build("upernet")):
        report = scalablevit.load_weights(build("mask_rcnn"), theirs.state_dict())
        assert not report.warning
        assert "warning" not in str(report)


def test_a_part_that_is_for_training_alone_is_ignored() -> None:
    source, model = build("upernet", seed=1), build("upernet", auxiliary_channels=0)
    report = scalablevit.load_weights(model, {f"network.{key}": v for key, v in source.state_dict().items()})
    assert set(report.matched) == set(model.state_dict())
    assert report.ignored
    assert all(key.startswith("network.auxiliary.") for key in report.ignored)
    extra = {**source.state_dict(), "train_loss.mean_value": torch.zeros(1)}
    wrapped = {f"network.{key}" if "train" not in key else key: value for key, value in extra.items()}
    assert "train_loss.mean_value" in scalablevit.load_weights(model, wrapped).ignored


def test_a_network_is_built_from_its_file(tmp_path: Path) -> None:
    source = build("upernet", channels=16, auxiliary_channels=0).eval()
    save_network(source, tmp_path, metadata={"task": "segmentation", "num_classes": 3, "model_args": {"channels": 16}})
    assert trained_task(tmp_path) == "segmentation"

    def rebuild(metadata: dict[str, Any]) -> nn.Module:
        return upernet(NAME, metadata["num_classes"], auxiliary_channels=0, **metadata["model_args"])

    model, metadata = load_network(tmp_path, rebuild)
    assert not model.training
    assert metadata["num_classes"] == 3
    images = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(model(images), source(images))
    with pytest.raises(WeightsError, match="does not say how to build its model"):
        load_network(tmp_path, lambda metadata: upernet(metadata["variant"]))
    with pytest.raises(WeightsError, match="does not fit what it describes"):
        load_network(tmp_path, lambda metadata: upernet(NAME, 3, channels=8, auxiliary_channels=0))


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    torch.save(build("upernet").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"predicting takes a run folder, its model\.safetensors"):
        trained_task(tmp_path / "weights.pth")
    scalablevit.save_weights(build("semantic_fpn"), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="without the task"):
        trained_task(tmp_path)


@pytest.mark.parametrize("scale_value", [True, False])
def test_the_form_of_ssa_is_read_from_the_file(scale_value: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    scalablevit.save_weights(build("retinanet", scale_value=scale_value), path)
    assert holds_scaled_values(path) is scale_value
