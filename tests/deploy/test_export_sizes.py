"""One exported file serves batches and images of any size, in ONNX Runtime and in OpenVINO."""

from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_classifier, tiny_segmenter
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone
from scalablevit.deploy.export import export, relative_difference
from scalablevit.deploy.runtimes import OPENVINO_SETTINGS, openvino_core

pytestmark = pytest.mark.slow

SHAPES = ((1, 64, 64), (3, 97, 70), (1, 120, 333), (3, 224, 224), (3, 64, 201), (1, 800, 1333))


def network_of(kind: str) -> nn.Module:
    if kind == "classifier":
        return tiny_classifier(stages=4)
    return PyramidBackbone(tiny_classifier(stages=4)) if kind == "pyramid" else tiny_segmenter(kind)


def as_list(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@pytest.mark.parametrize("kind", ["classifier", "pyramid", "semantic_fpn", "upernet"])
def test_one_file_serves_all(kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    network = network_of(kind)
    names = [f"stride_{4 << i}" for i in range(4)] if kind == "pyramid" else None
    options = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "output_names": names}
    export(network, tmp_path / "m.onnx", format="onnx", **options)
    export(network, tmp_path / "m.xml", format="openvino", **options)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    compiled = openvino_core().compile_model(str(tmp_path / "m.xml"), "CPU", OPENVINO_SETTINGS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for i, (batch, height, width) in enumerate(SHAPES):
            images = torch.rand((batch, 3, height, width), generator=generator)
            expected = as_list(network(images))
            found = [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]
            assert max(map(relative_difference, found, expected)) < 1e-4, images.shape
            if i < 3:
                found = [torch.tensor(x) for x in compiled([images.numpy()]).values()]
                assert max(map(relative_difference, found, expected)) < 1e-4, images.shape
