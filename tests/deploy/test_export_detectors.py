"""Exported detectors: their graphs find what the detectors find, at any size, with and without objects."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_networks import tiny_detector
from torch import Tensor

from scalablevit.cli import main
from scalablevit.deploy import export_formats
from scalablevit.deploy.detector_check import (
    EagerDetector,
    blocks,
    decided_examples,
    is_decided,
    largest_detection_difference,
)
from scalablevit.deploy.detector_graph import detector_graph
from scalablevit.deploy.export import ExportError, export, record
from scalablevit.deploy.exportable import ExportableNetwork, InputShape
from scalablevit.deploy.runtimes import OPENVINO_SETTINGS, onnx_session, openvino_core
from scalablevit.detection.transforms import Preprocessing
from scalablevit.weights import save_network

SIZES = ((64, 64), (64, 191), (127, 95), (224, 224), (319, 125))
KINDS = ("retinanet", "mask_rcnn")


def graph_of(detector: Any) -> ExportableNetwork:
    transform = detector.transform
    return ExportableNetwork(detector_graph(detector), mean=transform.mean, std=transform.std, takes_bytes=False).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_finds_what_the_detector_finds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector(kind, monkeypatch)
    definition, graph = EagerDetector(detector, takes_bytes=False), graph_of(detector)
    with torch.no_grad():
        for size in (*SIZES, (32, 32)):
            ((threshold, images),) = decided_examples(definition, InputShape(3, size=size, is_detector=True))
            expected = definition(images, threshold=threshold)
            assert len(expected[0]) >= 2
            graph.network.score_threshold.fill_(threshold)
            assert largest_detection_difference(graph(images), expected) < 1e-5, size


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_objects_has_empty_outputs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(tiny_detector(kind, monkeypatch, score_thresh=1.0))
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in graph(torch.rand(1, 3, 64, 96))]
    assert shapes == [(0,), (0,), (0, 4), (0, 28, 28)][: len(shapes)]


def test_an_image_without_proposals_is_proposed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector("mask_rcnn", monkeypatch)
    detector.rpn.score_thresh = 2.0
    graph = detector_graph(detector)
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 96)
        proposals = graph.proposals(graph.features(images), images)
    assert proposals.tolist() == [[0, 0, 96, 64]]


class Anchors(torch.nn.Module):
    """(1, 3, H, W) -> the anchors of the last two levels of Mask R-CNN, where images are those levels."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.graph = detector_graph(detector)
        self.graph.strides = self.graph.strides[-2:]
        for i in range(2):
            setattr(self.graph, f"cell_anchors_{i}", getattr(self.graph, f"cell_anchors_{i + 3}"))
        self.conv = torch.nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        level = self.conv(images)
        return self.graph.anchors([level, *self.graph.coarse_levels(level, level)])


@pytest.mark.slow
def test_openvino_tells_a_level_from_every_second_row_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    network = Anchors(tiny_detector("mask_rcnn", monkeypatch)).eval()
    done = export(
        network, tmp_path / "m.xml", format="openvino", mean=(0.5,) * 3, std=(0.5,) * 3, output_names=["a", "b"],
        batch=1,
    )  # fmt: skip
    assert len(done.checks) == 4


class MasksOfNothing(torch.nn.Module):
    """(1, 3, H, W) -> the masks of the boxes in an image that has none."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.graph = detector_graph(detector)
        self.conv = torch.nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.nonzero(images[0, 0, 0, :4] > 1e6).flatten()
        boxes, labels = torch.ones_like(images[0, 0, :4, :4])[rows], torch.zeros_like(rows)
        return self.graph.masks([self.conv(images)] * 4, boxes, labels, images)


def test_onnx_runtime_normalises_the_masks_of_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = MasksOfNothing(tiny_detector("mask_rcnn", monkeypatch, head_norm=True))
    graph = ExportableNetwork(network, mean=(0.5,) * 3, std=(0.5,) * 3, takes_bytes=False).eval()
    images = torch.rand(1, 3, 32, 32)
    program = record(graph, images, InputShape(3, size=(32, 32), batch=1))
    model = export_formats._onnx_model(program, ["masks"], {})
    (masks,) = onnx_session(model.SerializeToString()).run(None, {"images": images.numpy()})
    assert masks.shape == (0, 28, 28)


@pytest.mark.parametrize("num_classes", [1, 80])
def test_classes_do_not_suppress_each_other(num_classes: int) -> None:
    from scalablevit.deploy.detector_graph import _nms_by_group

    box = torch.tensor([[3.0, 4.0, 50.0, 60.0]])
    boxes, groups = box.repeat(num_classes * 2, 1), torch.arange(num_classes).repeat(2)
    scores = torch.linspace(1, 0.1, len(boxes))
    keep = _nms_by_group(boxes, scores, groups, num_classes, 0.5, torch.rand(1, 3, 64, 96))
    assert keep.tolist() == list(range(num_classes))


def found(scores: Sequence[float], labels: Sequence[int], left: Sequence[float]) -> list[Tensor]:
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x in left]).reshape(-1, 4)
    return [torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), boxes]


def test_detections_are_compared_in_any_order() -> None:
    expected = found([0.9, 0.9, 0.5], [0, 1, 0], [1, 2, 3])
    assert largest_detection_difference(found([0.9, 0.9, 0.5], [1, 0, 0], [2, 1, 3]), expected) == 0
    assert largest_detection_difference(found([0.9, 0.9, 0.5], [0, 0, 0], [1, 2, 3]), expected) == float("inf")
    assert largest_detection_difference(found([0.9, 0.9], [0, 1], [1, 2]), expected) == float("inf")
    moved = largest_detection_difference(found([0.9, 0.9, 0.5], [0, 1, 0], [1, 2, 4]), expected)
    assert moved == pytest.approx(1 / 13)
    assert largest_detection_difference(found([torch.nan], [0], [1]), found([0.9], [0], [1])) == float("inf")
    assert largest_detection_difference(found([], [], []), found([], [], [])) == 0


def test_detectors_take_one_image_and_their_own_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector("retinanet", monkeypatch)
    transform = detector.transform
    with pytest.raises(ValueError, match="batch must be 1 for a detector, got 3: each image has another number of"):
        export(detector, tmp_path / "m.pt2", format="torch", mean=transform.mean, std=transform.std, batch=3)
    with pytest.raises(ValueError, match="normalises by the mean and std that it was built with"):
        export(detector, tmp_path / "m.pt2", format="torch", mean=(0.1,) * 3, std=(0.1,) * 3)


@pytest.mark.slow
def test_a_detector_whose_scores_are_all_alike_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tiny_detector("retinanet", monkeypatch)
    torch.nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=1e-9)
    transform = detector.transform
    with pytest.raises(ExportError, match=r"could not be checked: rounding errors decide .*nothing was written"):
        export(
            detector, tmp_path / "m.pt2", format="torch", mean=transform.mean, std=transform.std, size=(64, 96)
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_openvino_needs_onnx_for_detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector("retinanet", monkeypatch)
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None if name == "onnxscript" else "there")
    with pytest.raises(ModuleNotFoundError, match=r"by way of ONNX and needs onnxscript: .*'scalablevit\[onnx,openv"):
        export(detector, tmp_path / "m.xml", format="openvino", mean=(0.5,) * 3, std=(0.5,) * 3)


def assert_right_at(
    sizes: Sequence[tuple[int, int]], detector: Any, open_graph: Callable[[float], Callable[[Tensor], Sequence[Tensor]]]
) -> None:
    definition = EagerDetector(detector, takes_bytes=False)
    with torch.no_grad():
        for size in sizes:
            ((threshold, images),) = decided_examples(definition, InputShape(3, size=size, is_detector=True))
            expected = definition(images, threshold=threshold)
            assert len(expected[0]) >= 2
            assert largest_detection_difference(open_graph(threshold)(images), expected) < 1e-4, size


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_and_openvino_serve_every_size(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    detector = tiny_detector(kind, monkeypatch)
    transform = detector.transform
    done = export(detector, tmp_path / "m.onnx", format="onnx", mean=transform.mean, std=transform.std)
    assert all(check.detections for check in done.checks)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["scalablevit"])
    assert metadata["detections"]["score_threshold"] == 0.05
    assert metadata["detections"]["first_label"] == 0
    assert metadata["export"]["input"]["batch"] == 1
    names = [output.name for output in session.get_outputs()]
    assert names == metadata["export"]["outputs"] == ["scores", "labels", "boxes", "masks"][: len(names)]
    model = onnx.load(tmp_path / "m.onnx")

    def with_threshold(threshold: float) -> bytes:
        value = torch.tensor(threshold)
        content: bytes = export_formats._changed(model, {"network.score_threshold": value}).SerializeToString()
        return content

    def in_onnx_runtime(threshold: float) -> Callable[[Tensor], list[Tensor]]:
        session = onnxruntime.InferenceSession(with_threshold(threshold), providers=["CPUExecutionProvider"])
        return lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})]

    def in_openvino(threshold: float) -> Callable[[Tensor], list[Tensor]]:
        (tmp_path / "changed.onnx").write_bytes(with_threshold(threshold))
        compiled = openvino_core().compile_model(str(tmp_path / "changed.onnx"), "CPU", OPENVINO_SETTINGS)
        return lambda x: [torch.tensor(y) for y in compiled([x.numpy()]).values()]

    assert_right_at((*SIZES, (800, 1333)), detector, in_onnx_runtime)
    pytest.importorskip("openvino")
    assert_right_at(SIZES, detector, in_openvino)


@pytest.mark.slow
def test_a_run_of_a_detector_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tiny_detector("retinanet", monkeypatch)
    settings = Preprocessing(min_size=64, max_size=128)
    args = {"min_size": 64, "max_size": 128, "fpn_channels": 8, "num_convs": 1}
    metadata = {
        "task": "detection", "class_names": ["a", "b", "c"], "variant": "scalablevit_atto", "detector": "retinanet",
        "model_args": args, "preprocessing": settings.to_dict(),
    }  # fmt: skip
    save_network(detector, tmp_path / "run", metadata=metadata)
    words = ["export", str(tmp_path / "run"), "--format", "torch", "--size", "64", "96", "--uint8"]
    assert main(words) == 0
    assert "images 1 x 64 x 96 x 3: largest relative difference" in capsys.readouterr().out
    extra = {"scalablevit.json": ""}
    module = torch.export.load(tmp_path / "run" / "model.pt2", extra_files=extra).module()
    written = json.loads(extra["scalablevit.json"])
    assert written["class_names"] == ["a", "b", "c"]
    assert len(written["colours"]) == 3
    assert written["export"]["resize"] == {
        "rule": "fit", "short_side": 64, "long_side": 128, "interpolation": "bilinear"
    }  # fmt: skip
    shape = InputShape(3, size=(64, 96), takes_bytes=True, is_detector=True)
    definition = EagerDetector(detector, takes_bytes=True)
    with torch.no_grad():
        images = next(
            x for x in (blocks(shape, (64, 96), i) for i in range(8)) if is_decided(definition, x, definition.threshold)
        )
        assert largest_detection_difference(module(images), definition(images)) < 1e-4

    # In a process of its own: here torchvision's operators are registered already.
    Image.new("RGB", (96, 64)).save(tmp_path / "image.png")
    words = ["predict", str(tmp_path / "image.png"), "--weights", str(tmp_path / "run" / "model.pt2")]
    done = subprocess.run([sys.executable, "-m", "scalablevit", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
