"""Checkpoints of timm's networks."""

from pathlib import Path

import pytest
import timm
import torch

import scalablevit
from scalablevit.weights import WeightsError


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("prefix", ["", "module.", "network."])
def test_a_file_of_timm_fills_its_network(name: str, prefix: str, tmp_path: Path) -> None:
    """Other classes leave the last layer fresh; the rest is the file's."""
    theirs, ours = timm.create_model(name, num_classes=7), timm.create_model(name, num_classes=3)
    torch.save({prefix + key: value for key, value in theirs.state_dict().items()}, tmp_path / "file.pth")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    report = scalablevit.load_weights(ours, tmp_path / "file.pth")
    classifier = ours.pretrained_cfg["classifier"]
    for key, value in ours.state_dict().items():
        expected = before if key.startswith(f"{classifier}.") else theirs.state_dict()
        assert torch.equal(value, expected[key]), key
    assert set(report.adapted) == {f"{classifier}.weight", f"{classifier}.bias"}
    assert report.variant == name


def test_other_classes_and_channels() -> None:
    theirs, ours = timm.create_model("test_resnet", num_classes=3), timm.create_model("test_resnet", num_classes=3)
    report = scalablevit.load_weights(ours, theirs.state_dict(), fresh_head=True)
    assert {key for key in report.adapted if key.startswith("fc.")} == {"fc.weight", "fc.bias"}
    gray = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    report = scalablevit.load_weights(gray, theirs.state_dict())
    assert any("3 -> 1 input channels" in change for change in report.adapted.values())


def test_position_embeddings_are_resized() -> None:
    theirs = timm.create_model("test_vit", num_classes=3, img_size=64)
    ours = timm.create_model("test_vit", num_classes=3, img_size=32)
    assert theirs.pos_embed.shape != ours.pos_embed.shape
    report = scalablevit.load_weights(ours, theirs.state_dict())
    assert "pos_embed" in report.matched


def test_files_of_other_networks() -> None:
    ours = timm.create_model("test_resnet", num_classes=3)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    for other in ("test_vit", "scalablevit_atto"):
        with pytest.raises(WeightsError, match=r"does not (hold|fit) test_resnet"):
            scalablevit.load_weights(ours, timm.create_model(other).state_dict())
    damaged = {key: value for key, value in before.items() if not key.startswith("layer3.")}
    with pytest.raises(
        WeightsError, match=r"does not fit test_resnet; nothing was loaded.\n  the checkpoint lacks layer3"
    ):
        scalablevit.load_weights(ours, damaged)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
