"""What a name builds."""

import logging
from typing import Any

import pytest
import torch

from scalablevit.backbone import VARIANTS
from scalablevit.networks import (
    build_classifier,
    check_logits,
    check_network_name,
    is_ours,
    own_settings,
    recompute_blocks,
    similar_names,
    size_options,
)


@pytest.mark.parametrize("name", ["scalablevit_atto", "resnet10t", "resnet10t.c3_in1k", "test_vit"])
def test_names_of_both_registries(name: str) -> None:
    check_network_name(name)
    assert is_ours(name) == (name in VARIANTS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scalablevit_smal", r"no variant 'scalablevit_smal'; choose from .*; did you mean scalablevit_small"),
        ("ResNet-50", "did you mean resnet50"),
        ("swin_tiny", "did you mean swin_tiny_patch4_window7_224"),
        ("qqqqqqqqqq", r"or from timm.list_models\(\)"),
        ("resnet10t.nowhere", "timm knows resnet10t.c3_in1k"),
        ("hf-hub:timm/resnet10t.c3_in1k", "no name of a network but a place of weights"),
        ("runs/digits", "no name of a network but a place of weights"),
        ("resnet10t.pth", "no name of a network but a place of weights"),
    ],
)
def test_names_of_nothing(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_network_name(name)


def test_similar_names_are_few() -> None:
    assert similar_names("resnet") == [name for name in similar_names("resnet") if name.startswith("resnet")]
    assert 1 <= len(similar_names("resnet")) <= 3
    assert similar_names("mine_1", others=["mine_12"])[0] == "mine_12"


def test_our_variants_are_built_as_ever() -> None:
    """The same arguments, and the same numbers from the same seed."""
    from scalablevit.backbone import ScalableViT

    torch.manual_seed(0)
    ours = build_classifier("scalablevit_atto", num_classes=3, in_chans=1, window_size=[4, 4, 2, 1], lim=False)
    torch.manual_seed(0)
    direct = ScalableViT(
        num_classes=3, in_chans=1, window_size=[4, 4, 2, 1], lim=False, **VARIANTS["scalablevit_atto"]
    ).state_dict()
    assert list(ours.state_dict()) == list(direct)
    assert all(torch.equal(value, direct[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_resnet", {"lim": False}, "network_options: .*'lim'; see timm's test_resnet for its arguments"),
        ("scalablevit_atto", {"lin": False}, "network_options: .*'lin'; see ScalableViT for its arguments"),
        ("test_resnet", {"pretrained": True}, "pretrained of test_resnet: .* hf-hub:timm/test_resnet.TAG"),
        ("test_resnet", {"checkpoint_path": "a.pth"}, "checkpoint_path of test_resnet: give weights by model.weights"),
        ("test_resnet", {"pretrained_cfg": {"file": "a.pth"}}, "give weights by model.weights"),
        ("scalablevit_atto", {"pretrained_cfg_overlay": {"file": "a"}}, "give weights by model.weights"),
        ("test_resnet", {"features_only": True}, "dense tasks set it"),
        ("test_vit", {"num_heads": 5}, "test_vit cannot be built with .*num_heads 5"),
        ("nowhere", {}, "there is no variant 'nowhere'"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_classifier(name, num_classes=3, in_chans=3, **options)


def test_drop_path_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    build_classifier("dla46_c", num_classes=2, drop_path_rate=0.1)
    assert "drop_path_rate 0.1 has no effect: dla46_c drops no paths" in caplog.text
    caplog.clear()
    network = build_classifier("test_vit", num_classes=2, drop_path_rate=0.1)
    assert any(type(module).__name__ == "DropPath" for module in network.modules())
    assert not caplog.text
    swin = build_classifier("swin_tiny_patch4_window7_224", num_classes=2, img_size=32, embed_dim=12, depths=[1] * 4)
    assert not any(type(module).__name__ == "DropPath" for module in swin.modules())  # timm's own rate is 0.1


def test_settings_of_ours_alone(caplog: pytest.LogCaptureFixture) -> None:
    ours = {"window_size": [4, 4, 2, 1], "scale_value": True, "head": "published"}
    assert own_settings("scalablevit_atto", **ours) == ours
    assert own_settings("test_resnet", window_size=7, scale_value=False) == {}
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        assert own_settings("test_resnet", window_size=[4, 4, 2, 1], head="published") == {}
    assert "model.window_size [4, 4, 2, 1] and model.head published have no effect" in caplog.text
    with pytest.raises(ValueError, match="scale_value is a form of ScalableViT's attention, which test_resnet has not"):
        own_settings("test_resnet", scale_value=True)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("test_vit", {}, {"img_size": [32, 48]}),
        ("test_vit", {"img_size": 16}, {}),
        ("test_vit", {"dynamic_img_size": True}, {}),
        ("test_vit", {"strict_img_size": False}, {}),
        ("test_resnet", {}, {}),
        ("scalablevit_atto", {}, {}),
    ],
)
def test_size_of_networks_of_one_size(name: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert size_options(name, options, (32, 48)) == expected


def test_images_that_a_network_cannot_take() -> None:
    network = build_classifier("test_vit", num_classes=2, img_size=[64, 64], dynamic_img_size=False).train()
    check_logits(network, "test_vit", in_chans=3, size=(64, 64), num_classes=2)
    assert network.training
    with pytest.raises(ValueError, match=r"test_vit cannot take images of 32 x 32 pixels .*img_size"):
        check_logits(network, "test_vit", in_chans=3, size=(32, 32), num_classes=2)
    pooled = build_classifier("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match=r"test_resnet gives \(1, 96\) for an image, not logits \(1, 2\)"):
        check_logits(pooled, "test_resnet", in_chans=3, size=(32, 32), num_classes=2)


def test_recomputing_blocks() -> None:
    recompute_blocks(build_classifier("test_vit", num_classes=2), "test_vit")
    with pytest.raises(ValueError, match="grad_checkpointing: dla46_c cannot recompute its blocks"):
        recompute_blocks(build_classifier("dla46_c", num_classes=2), "dla46_c")
