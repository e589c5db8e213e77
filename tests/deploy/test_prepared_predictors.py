"""Predictors with a prepared network give what they gave before, but for rounding."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import scalablevit
from scalablevit.classification import Classifier, Preprocessing
from scalablevit.deploy.optimize import TorchModel
from scalablevit.deploy.packed import PackedLinear, can_pack
from scalablevit.deploy.prediction import prepare_for_prediction
from scalablevit.detection.models import retinanet
from scalablevit.detection.predict import Detector
from scalablevit.detection.transforms import Preprocessing as DetectionPreprocessing
from scalablevit.segmentation import semantic_fpn
from scalablevit.segmentation.inference import InferenceSettings
from scalablevit.segmentation.predict import Segmenter
from scalablevit.segmentation.transforms import Preprocessing as SegmentationPreprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{i}.png" for i in range(3)]
    for path, size in zip(found, ((40, 50, 3), (64, 64, 3), (33, 90, 3)), strict=True):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    return found


def test_a_classifier_names_the_same(paths: list[Path]) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing((48, 48), 0.875, "bicubic", MEAN, STD)
    names = [f"class {i}" for i in range(7)]
    made = Classifier(
        scalablevit.scalablevit_atto(num_classes=7), class_names=names, preprocessing=preprocessing, device="cpu"
    )
    before = list(made.predict(paths))
    made.prepare()
    assert isinstance(made.network, TorchModel)
    assert any(isinstance(layer, PackedLinear) for layer in made.network.modules()) == can_pack(torch.float32)
    for ours, theirs in zip(made.predict(paths), before, strict=True):
        assert ours.classes == theirs.classes
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=2e-6)


def test_a_segmenter_labels_the_same(paths: list[Path]) -> None:
    torch.manual_seed(0)
    made = Segmenter(
        semantic_fpn("scalablevit_atto", num_classes=4),
        class_names=list("abcd"),
        preprocessing=SegmentationPreprocessing(mean=MEAN, std=STD, short_side=40, long_side=None),
        inference=InferenceSettings(short_side=40),
        device="cpu",
    )
    before = list(made.predict(paths))
    made.prepare()
    assert isinstance(made.network, TorchModel)
    for ours, theirs in zip(made.predict(paths), before, strict=True):
        assert ours.labels is not None
        assert (ours.labels == theirs.labels).mean() > 0.999


def test_a_detector_finds_the_same(paths: list[Path]) -> None:
    torch.manual_seed(0)
    network = retinanet("scalablevit_atto", num_classes=3, min_size=64, max_size=96, score_thresh=0.0)
    made = Detector(
        network,
        class_names=list("abc"),
        preprocessing=DetectionPreprocessing(min_size=64, max_size=96, mean=MEAN, std=STD),
        device="cpu",
    )
    before = list(made.predict(paths, threshold=0.0))
    made.prepare()
    assert made.network is not network
    for ours, theirs in zip(made.predict(paths, threshold=0.0), before, strict=True):
        found, expected = ([thing.score for thing in said.detections[:5]] for said in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_networks_of_others_and_of_other_precisions_stay() -> None:
    ours = scalablevit.scalablevit_atto(num_classes=2).eval()
    for network in (
        nn.Linear(3, 2),
        copy.deepcopy(ours).to(torch.bfloat16),
        copy.deepcopy(ours).to("meta"),
    ):
        assert prepare_for_prediction(network) is network
    prepared = prepare_for_prediction(ours)
    assert prepared is not ours
    assert prepare_for_prediction(nn.Identity()).training
