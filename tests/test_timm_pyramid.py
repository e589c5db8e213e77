"""Pyramids of timm's networks, alone and in models of both dense tasks."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import scalablevit
from scalablevit.dense_backbone import create_dense_backbone
from scalablevit.detection import Detector
from scalablevit.detection.models import build_detector
from scalablevit.detection.transforms import Preprocessing as DetectorPreprocessing
from scalablevit.segmentation import InferenceSettings, Segmenter
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.transforms import Preprocessing as SegmenterPreprocessing
from scalablevit.timm_pyramid import TimmPyramid
from scalablevit.training.param_groups import parameter_groups
from scalablevit.weights import WeightsError, save_network

SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "swin_tiny_patch4_window7_224": SWIN,  # maps of channels last, and of one image size unless asked
    "twins_svt_small": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]},
}
DETECTOR = {"fpn_channels": 16, "num_convs": 1, "min_size": 64, "max_size": 96}


def pyramid(name: str, *, in_chans: int = 3, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create_dense_backbone(
        name, in_chans=in_chans, scale_value=None, drop_path_rate=0.0, window_size=7,
        network_options={**NETWORKS.get(name, {}), **options}, grad_checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_the_strides_and_channels_that_are_told(name: str) -> None:
    made = pyramid(name, in_chans=2).train()
    assert isinstance(made, TimmPyramid)
    assert made.strides == [4, 8, 16, 32]
    maps = made(torch.randn(2, 2, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(made.channels, made.strides, strict=True)
    ]
    torch.stack([x.sum() for x in maps]).sum().backward()
    assert [key for key, parameter in made.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_maps_are_those_of_features_only(name: str) -> None:
    made = pyramid(name).eval()
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in NETWORKS[name].items()}
    if name.startswith("swin"):
        options["strict_img_size"] = False
    indices = (1, 2, 3, 4) if name == "test_resnet" else (0, 1, 2, 3)
    theirs = timm.create_model(name, features_only=True, out_indices=indices, **options).eval()
    state = {key.replace(".", "_", 1) if key.startswith("layers.") else key: value
             for key, value in made.trunk.state_dict().items()}  # fmt: skip
    theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, expected in zip(made(images), theirs(images), strict=True):
            expected = expected.permute(0, 3, 1, 2) if name.startswith("swin") else expected
            torch.testing.assert_close(ours, expected)


def test_the_seed_makes_the_weights_whatever_was_tried() -> None:
    first, again = (pyramid("swin_tiny_patch4_window7_224", seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_vit", {}, "test_vit has maps at strides 16, none at 4, 8, 32; detectors and segmenters read 4, 8, 16"),
        ("levit_128s", {}, "levit_128s has maps at strides 16, 32, 64, none at 4, 8"),
        ("test_maxvit", {}, r"test_maxvit cannot take images of 128 x 160 .*many sizes: set .*dynamic_img_size"),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}, "cannot take images of 128 x 160 .*strict_img_size: false"),
        ("test_resnet", {"lim": False}, "network_options: .*'lim'; see timm's test_resnet"),
        ("test_resnet", {"out_indices": [1]}, "out_indices of test_resnet: dense tasks set it"),
        ("resnet999", {}, "no variant 'resnet999'"),
    ],
)
def test_networks_without_such_maps(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyramid(name, **options)


def test_networks_without_maps_at_all() -> None:
    with pytest.raises(ValueError, match="Linear has no feature maps to read"):
        TimmPyramid(nn.Linear(2, 2), in_chans=3)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_layer_decay_goes_by_timms_groups(name: str) -> None:
    made = pyramid(name)
    whole = timm.create_model(name, num_classes=0, **NETWORKS[name])
    model = build_segmenter("semantic_fpn", name, 3, network_options=NETWORKS[name], channels=8, fpn_channels=8)

    def depths(network: nn.Module, prefix: str) -> list[float]:
        """Learning rates of the network's parameters that both have, as multiples of the slowest one."""
        rates = {id(p): group["lr"] for group in parameter_groups(
            network, lr=1.0, weight_decay=0.1, layer_decay=0.5) for p in group["params"]}  # fmt: skip
        named = dict(network.named_parameters())
        found = [rates[id(named[prefix + key])] for key, _ in made.trunk.named_parameters()]
        return [rate / min(found) for rate in found]

    assert depths(model, "backbone.trunk.") == depths(made, "trunk.") == depths(whole, "")


def test_groups_by_part_where_timm_has_none() -> None:
    made = pyramid("test_resnet")
    made.trunk.group_matcher = lambda coarse=False: None
    groups = parameter_groups(made, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert len({group["lr"] for group in groups}) > 4


def saved(folder: Path, task: str) -> Path:
    shared: dict[str, Any] = {"task": task, "variant": "test_resnet", "class_names": ["a", "b"]}
    torch.manual_seed(0)
    if task == "detection":
        network: nn.Module = build_detector("retinanet", "test_resnet", 2, **DETECTOR)
        preprocessing = DetectorPreprocessing(min_size=64, max_size=96).to_dict()
        metadata = {**shared, "detector": "retinanet", "model_args": DETECTOR, "preprocessing": preprocessing}
    else:
        arguments = {"channels": 8, "fpn_channels": 8, "network_options": {"drop_rate": 0.1}}
        network = build_segmenter("semantic_fpn", "test_resnet", 2, **arguments)  # type: ignore[arg-type]
        of_task = SegmenterPreprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, short_side=40).to_dict()
        inference = InferenceSettings(short_side=40).to_dict()
        metadata = {**shared, "segmenter": "semantic_fpn", "model_args": arguments, "preprocessing": of_task}
        metadata["inference"] = inference
    save_network(network, folder, metadata=metadata)
    return folder


@pytest.mark.parametrize(("task", "predictor"), [("detection", Detector), ("segmentation", Segmenter)])
def test_dense_models_come_back_from_what_is_saved(task: str, predictor: Any, tmp_path: Path) -> None:
    found = predictor.load(saved(tmp_path, task), device="cpu")
    assert any(isinstance(module, TimmPyramid) for module in found.network.modules())
    other = build_segmenter("semantic_fpn", "test_resnet", 2, channels=8, fpn_channels=8)
    report = scalablevit.load_weights(other, tmp_path)  # a whole segmenter, or the backbone of a detector
    assert {key for key in other.state_dict() if key.startswith("backbone.")} <= set(report.matched)
    assert bool(report.fresh) == (task == "detection")


def test_a_classifier_of_timm_fills_the_backbone_alone() -> None:
    classifier = timm.create_model("test_resnet", num_classes=5, in_chans=1)
    model = build_segmenter("semantic_fpn", "test_resnet", 2, channels=8, fpn_channels=8)
    report = scalablevit.load_weights(model, classifier.state_dict())
    theirs = classifier.state_dict()
    stem = classifier.pretrained_cfg["first_conv"] + ".weight"
    for key, value in model.backbone.trunk.state_dict().items():
        if key == stem:
            torch.testing.assert_close(value, theirs[key].repeat(1, 3, 1, 1) / 3)
            assert "1 -> 3 input channels" in report.adapted[f"backbone.trunk.{key}"]
        else:
            assert torch.equal(value, theirs[key]), key
    assert "fc.weight" in report.ignored
    with pytest.raises(WeightsError, match="does not hold test_resnet"):
        scalablevit.load_weights(model, timm.create_model("test_vit").state_dict())
    with pytest.raises(WeightsError, match="does not hold test_resnet"):
        scalablevit.load_weights(model, scalablevit.scalablevit_atto().state_dict())
