"""A pretrained backbone fills the backbone of every task, and nothing else; alone it predicts nothing."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import scalablevit
from command_line import scalablevit as command
from scalablevit.classification import ClassificationTask
from scalablevit.data.image_transforms import Preprocessing
from scalablevit.detection.models import retinanet
from scalablevit.pretraining import DistilledPretraining, MaskedPretraining
from scalablevit.pretraining.distilled import FeatureTeacherSettings
from scalablevit.pretraining.task import PretrainingTask
from scalablevit.pretraining.unlabelled_images import UnlabelledBatch
from scalablevit.segmentation.models import semantic_fpn
from scalablevit.weights import WeightsError, load_model, open_trained

NAME = "scalablevit_atto"
PREPROCESSING = Preprocessing((32, 32), 1.0, "bicubic", (0.5,) * 3, (0.25,) * 3).to_dict()
CLASSES = ["ant", "bee", "cat"]


def pretraining(variant: str = NAME) -> MaskedPretraining:
    return MaskedPretraining(variant, preprocessing=PREPROCESSING, mask_patch_size=8, window_size=2, seed=3)


@pytest.fixture(params=["model.safetensors", "last.ckpt"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What a run leaves behind: its weights, and a checkpoint to resume from."""
    task = pretraining()
    if request.param == "model.safetensors":
        task.save_weights(tmp_path, task._shared_metadata())
        return tmp_path
    trained = {"task": task.task, "variant": NAME, "class_names": []}
    torch.save({"state_dict": task.state_dict(), "trained": trained}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def fresh(build: Any) -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = build()
    return model


BUILDERS = {
    "classification": lambda: timm.create_model(NAME, num_classes=3, window_size=2),
    "published head": lambda: timm.create_model(NAME, num_classes=3, window_size=2, head="published"),
    "detection": lambda: retinanet(NAME, 3, fpn_channels=32, window_size=2),
    "segmentation": lambda: semantic_fpn(NAME, 3, channels=32, window_size=2),
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_task_takes_the_backbone_and_nothing_else(kind: str, source: Path) -> None:
    before, model = fresh(BUILDERS[kind]).state_dict(), fresh(BUILDERS[kind])
    report = scalablevit.load_weights(model, source, class_names=CLASSES)
    theirs = pretraining().network.state_dict()
    prefix = {"detection": "backbone.body.", "segmentation": "backbone."}.get(kind, "")
    taken = {key for key in before if key.startswith((f"{prefix}stages.", *(("norm.",) if not prefix else ())))}
    assert len(taken) >= len(theirs) - 2
    for key, value in model.state_dict().items():
        expected: Tensor = theirs[key.removeprefix(prefix)] if key in taken else before[key]
        assert torch.equal(value, expected), key
    assert set(report.matched) == taken
    assert set(report.fresh) == before.keys() - taken
    assert report.warning == ""


def test_other_networks_are_pretrained_and_taken_too(tmp_path: Path) -> None:
    task = MaskedPretraining("resnet10t", preprocessing=PREPROCESSING, mask_patch_size=8)
    task.save_weights(tmp_path, task._shared_metadata())
    model = timm.create_model("resnet10t", num_classes=3)
    report = scalablevit.load_weights(model, tmp_path, class_names=CLASSES)
    assert report.fresh == ["fc.weight", "fc.bias"]
    for key, value in task.network.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_what_no_loss_reaches_is_not_trained() -> None:
    """Several processes would wait for its gradient."""
    task = MaskedPretraining("convnext_atto", preprocessing=PREPROCESSING, mask_patch_size=8)
    idle = [name for name, parameter in task.network.named_parameters() if not parameter.requires_grad]
    assert idle == ["head.norm.weight", "head.norm.bias"]
    assert all(parameter.grad is None for parameter in task.parameters())


@pytest.mark.parametrize("kind", ["masked", "distill"])
@pytest.mark.parametrize("variant", [NAME, "convnext_atto"])
def test_all_that_is_trained_gets_a_gradient(kind: str, variant: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"window_size": 2} if variant == NAME else {}
    if kind == "masked":
        task: PretrainingTask = MaskedPretraining(variant, preprocessing=PREPROCESSING, mask_patch_size=8, **options)
    else:
        taught = ClassificationTask(NAME, class_names=CLASSES, preprocessing=PREPROCESSING, window_size=2)
        taught.save_weights(tmp_path, taught._shared_metadata())
        teacher = FeatureTeacherSettings(name=str(tmp_path))
        task = DistilledPretraining(variant, preprocessing=PREPROCESSING, teacher=teacher, **options)
    batch = UnlabelledBatch(torch.rand(2, 3, 32, 32), [0, 1], torch.ones(2, dtype=torch.bool), False, [])
    torch.stack(list(task.losses(task.network, batch).values())).sum().backward()
    trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert len(trained) > 20
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


def test_the_backbone_is_built_from_its_file(tmp_path: Path) -> None:
    task = pretraining().eval()
    task.save_weights(tmp_path, task._shared_metadata())
    network, metadata = load_model(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), task.network(images))
    assert metadata["task"] == "pretraining"
    assert "class_names" not in metadata


ALONE = [
    ("predict", "image.png", "--weights", "RUN"),
    ("explain", "image.png", "--weights", "RUN"),
    ("export", "RUN"),
    ("info", "RUN"),
]


@pytest.mark.parametrize("words", ALONE, ids=lambda words: words[0])
def test_alone_it_predicts_nothing_and_says_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    task = pretraining()
    task.save_weights(tmp_path, task._shared_metadata())
    (tmp_path / "recipe.yaml").write_text("model:\n")
    outcome = command(*(str(tmp_path) if word == "RUN" else word for word in words))
    assert outcome.code == 1
    assert f"{tmp_path} holds a backbone that was pretrained without labels" in outcome.err
    assert f"--model.variant {NAME} --model.weights {tmp_path}" in outcome.err
    assert outcome.err.count("\n") == 1
    with pytest.raises(WeightsError, match="it has no head and predicts nothing"):
        open_trained(tmp_path)


def test_a_classifier_without_a_head_from_elsewhere_is_still_refused() -> None:
    """Only what was pretrained here may leave the head out unasked: any other file without one is incomplete."""
    with pytest.raises(WeightsError, match="has no classifier; pass fresh_head=True"):
        scalablevit.load_weights(fresh(BUILDERS["classification"]), pretraining().network.state_dict())
