"""Networks of timm's registry under the classification task."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from scalablevit.classification import ClassificationTask, Classifier, Preprocessing
from scalablevit.training.param_groups import parameter_groups
from scalablevit.weights import load_model, save_model

PREPROCESSING = Preprocessing((32, 32), 1.0, "bicubic", (0.5,), (0.5,)).to_dict()
METADATA = {"task": "classification", "class_names": ["a", "b", "c"], "preprocessing": PREPROCESSING}
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}


def task(variant: str, **options: Any) -> ClassificationTask:
    return ClassificationTask(variant, class_names=["a", "b", "c"], preprocessing=PREPROCESSING, **options)


@pytest.mark.parametrize(
    ("variant", "options"),
    [("test_resnet", {}), ("test_vit", {}), ("swin_tiny_patch4_window7_224", SWIN), ("test_efficientnet", {})],
)
def test_networks_come_back_from_what_is_saved(variant: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With buffers that no state dict holds, such as Swin's masks and ViT's position grids."""
    made = task(variant, network_options=options)
    network = made.network.eval()
    torch.manual_seed(1)
    for _, buffer in network.named_buffers():  # as if trained
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.uniform_(0.5, 1.5)
    made.save_weights(tmp_path, {**METADATA, **made._shared_metadata()})
    state = torch.get_rng_state()
    again, metadata = load_model(tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
    assert metadata["architecture"] == variant
    assert metadata["timm_version"] == timm.__version__
    assert Classifier.load(tmp_path, device="cpu").class_names == ["a", "b", "c"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"]["classifier"] == network.pretrained_cfg["classifier"]
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(by_timm(images), network(images))


def test_layer_decay_goes_by_timms_groups() -> None:
    network = task("test_resnet").network
    rates = {
        name: group["lr"]
        for group in parameter_groups(network, lr=1.0, weight_decay=0.1, layer_decay=0.5)
        for name, parameter in network.named_parameters()
        if any(parameter is one for one in group["params"])
    }
    assert rates["fc.weight"] == 1.0
    assert rates["conv1.0.weight" if "conv1.0.weight" in rates else "conv1.weight"] < rates["layer4.0.conv1.weight"] < 1


def test_position_embeddings_are_not_decayed() -> None:
    network = task("test_vit").network
    decayed = [
        id(parameter)
        for group in parameter_groups(network, lr=1.0, weight_decay=0.1, layer_decay=None)
        if group["weight_decay"]
        for parameter in group["params"]
    ]
    named = dict(network.named_parameters())
    assert id(named["pos_embed"]) not in decayed
    assert id(named["head.weight"]) in decayed


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (
            "test_vit",
            {"network_options": {"img_size": 64, "dynamic_img_size": False}},
            "test_vit cannot take images of 32 x 32 pixels",
        ),
        ("test_vit", {"network_options": {"depth": "two"}}, "test_vit cannot|network_options"),
        ("test_resnet", {"scale_value": True}, "model.scale_value is a form of ScalableViT's attention"),
        ("test_resnet", {"network_options": {"window_size": 4}}, "window_size.*see timm's test_resnet"),
        ("dla46_c", {"grad_checkpointing": True}, "model.grad_checkpointing: dla46_c cannot"),
    ],
)
def test_what_other_networks_cannot(variant: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(variant, **options)


def test_metadata_that_reads_files_is_refused(tmp_path: Path) -> None:
    made = task("test_resnet")
    options = {"num_classes": 3, "in_chans": 1, "checkpoint_path": str(tmp_path / "other.pth")}
    save_model(made.network, tmp_path, architecture="test_resnet", model_args=options, metadata=METADATA)
    with pytest.raises(ValueError, match=r"does not say how to build its network .*checkpoint_path"):
        load_model(tmp_path)
    save_model(made.network, tmp_path, architecture="hf-hub:a/b", model_args={"num_classes": 3}, metadata=METADATA)
    with pytest.raises(ValueError, match="no name of a network but a place of weights"):
        load_model(tmp_path)
