"""Exported files: checked by their own runtime at several sizes, self-contained, and never wrong."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from exported_files import classifier_metadata
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.deploy import export as export_module
from scalablevit.deploy import export_formats
from scalablevit.deploy.export import ExportError, export
from scalablevit.deploy.exportable import ExportableNetwork, InputShape, describe
from scalablevit.deploy.runtimes import openvino_core
from scalablevit.segmentation.models import SegmentationModel, UperNetDecoder

pytestmark = pytest.mark.slow

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
METADATA = {"task": "classification", "class_names": ["cat", "Zürich"]}


def tiny(num_classes: int = 3) -> ScalableViT:
    """All kinds of layers, in a fraction of the exporters' time."""
    torch.manual_seed(0)
    network = ScalableViT(
        embed_dims=(8, 16), num_heads=(1, 2), depths=(2, 2), channel_ratios=(1.25, 1.0), reductions=(2, 1),
        head="plain", num_classes=num_classes,
    )  # fmt: skip
    return network.eval()


def tiny_upernet() -> nn.Module:
    backbone = PyramidBackbone(tiny())
    decoder = UperNetDecoder(backbone.channels, 3, hidden_channels=8, pool_sizes=(1, 2, 3, 6), dropout=0.1)
    return SegmentationModel(backbone, decoder, num_classes=3).eval()


def run_onnx(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["scalablevit"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})], metadata


def run_openvino(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict]:
    model = openvino_core().read_model(path)
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    metadata = json.loads(model.get_rt_info(["scalablevit"]).astype(str))
    return lambda x: [torch.tensor(y) for y in compiled({"images": x.numpy()}).values()], metadata


def run_torch(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict]:
    extra = {"scalablevit.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    return lambda x: list(module(x)), json.loads(extra["scalablevit.json"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "name", "read"),
    [("onnx", "m.onnx", run_onnx), ("openvino", "m.xml", run_openvino), ("torch", "m.pt2", run_torch)],
)
def test_a_file_serves_every_size_and_tells_what_it_is(format: str, name: str, read: Callable, tmp_path: Path) -> None:
    if any(find_spec(package) is None for package in export_formats.FORMATS[format].packages):
        pytest.skip(f"{format} is not installed")
    network = tiny()
    done = export(network, tmp_path / name, format=format, mean=MEAN, std=STD, metadata=METADATA)
    assert len(done.checks) == 4
    assert all(check.difference < 1e-5 for check in done.checks)
    run, metadata = read(tmp_path / name)
    assert metadata["class_names"] == ["cat", "Zürich"]
    assert metadata["export"]["input"]["layout"] == "NCHW"
    assert metadata["export"]["normalisation"] == {"inside": True, "mean": list(MEAN), "std": list(STD)}
    assert metadata["scalablevit_version"]
    with torch.no_grad():
        for size in ((1, 3, 64, 64), (2, 3, 97, 70), (3, 3, 200, 333), (1, 3, 224, 224), (4, 3, 65, 120)):
            images = torch.rand(size)
            normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
            torch.testing.assert_close(run(images)[0], network(normalised), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnxscript is not installed")
def test_upernet_in_onnx_is_right_at_every_size(tmp_path: Path) -> None:
    network = tiny_upernet()
    export(network, tmp_path / "m.onnx", format="onnx", mean=(0.0,) * 3, std=(1.0,) * 3)
    run, _ = run_onnx(tmp_path / "m.onnx")
    with torch.no_grad():
        for size in ((1, 3, 64, 64), (2, 3, 97, 70), (1, 3, 40, 333)):
            images = torch.rand(size)
            torch.testing.assert_close(run(images)[0], network(images), rtol=1e-4, atol=1e-5)


def test_fixed_shapes_and_bytes(tmp_path: Path) -> None:
    network = tiny()
    done = export(network, tmp_path / "m.pt2", format="torch", mean=MEAN, std=STD, size=(72, 40), batch=2, uint8=True)
    assert [check.shape for check in done.checks] == [(2, 72, 40, 3)]
    run, metadata = run_torch(tmp_path / "m.pt2")
    assert metadata["export"]["input"] | {"name": ""} == {
        "name": "", "layout": "NHWC", "dtype": "uint8", "range": [0, 255], "channels": "RGB", "batch": 2,
        "size": [72, 40],
    }  # fmt: skip
    images = torch.randint(0, 256, (2, 72, 40, 3), dtype=torch.uint8)
    floats = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(run(images)[0], network(floats), rtol=1e-4, atol=1e-5)


def test_a_pyramid_has_an_output_for_each_map(tmp_path: Path) -> None:
    pyramid = PyramidBackbone(tiny())
    export(
        pyramid, tmp_path / "m.pt2", format="torch", mean=MEAN, std=STD, output_names=["stride_4", "stride_8"], batch=1
    )
    run, metadata = run_torch(tmp_path / "m.pt2")
    assert metadata["export"]["outputs"] == ["stride_4", "stride_8"]
    assert [x.shape for x in run(torch.rand(1, 3, 70, 90))] == [(1, 8, 18, 23), (1, 16, 9, 12)]


class SizeBound(nn.Module):
    """Computes what it should at the size that it was traced with only, as a constant that an exporter wrote down."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.shape[2] if not torch.compiler.is_exporting() else 64
        return images.mean(dim=(2, 3)) * rows


def test_a_graph_that_is_wrong_at_a_second_size_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_text("earlier")
    with pytest.raises(
        ExportError, match=r"differs from PyTorch by .* for images \(1, 3, 101, 75\).*nothing was written"
    ):
        export(SizeBound(), tmp_path / "m.pt2", format="torch", mean=MEAN, std=STD)
    assert (tmp_path / "m.pt2").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_runtime_that_fails_is_an_error() -> None:
    def broken(images: Tensor) -> list[Tensor]:
        raise RuntimeError("no such operator")

    with pytest.raises(
        ExportError, match=r"PyTorch fails on the exported graph .*no such operator.*nothing was written"
    ):
        export_module.compare(broken, nn.Identity(), torch.rand(1, 3, 8, 8), "PyTorch")


def test_outputs_that_are_not_numbers_are_refused() -> None:
    assert not export_module.relative_difference(torch.tensor([torch.nan]), torch.ones(1)) <= 1
    assert export_module.relative_difference(torch.ones(2), torch.ones(1)) == float("inf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "tflite"}, "format must be one of onnx, openvino, torch, got 'tflite'"),
        ({"path": "m.onnx"}, r"file for PyTorch ends in .pt2, got .*m.onnx"),
        ({"std": (1.0, 1.0)}, "a value per channel"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"size": (0, 4)}, "size must be at least 1 pixel"),
        ({"batch": 0}, "batch must be at least 1 image"),
        ({"size": (64, 100_000)}, "size must be at most 16,384 pixels"),
        ({"batch": 10**6}, "batch must be at most 65,536 images"),
        ({"size": (2**14, 2**14)}, "would compute images 3 x 16384 x 16384, more than 67 million pixels"),
        ({"batch": 2**16}, "would compute images 65536 x 128 x 160, more than 67 million pixels"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(change: dict, words: str, tmp_path: Path) -> None:
    options = {"format": "torch", "mean": MEAN, "std": STD, "path": "m.pt2", **change}
    with pytest.raises(ValueError, match=words):
        export(nn.Identity(), tmp_path / options.pop("path"), **options)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"onnx needs onnx, onnxscript, onnxruntime: .*'scalablevit\[onnx\]'"):
        export(nn.Identity(), tmp_path / "m.onnx", format="onnx", mean=MEAN, std=STD)


def test_examples_are_of_other_sizes_and_batches() -> None:
    shapes = [tuple(x.shape) for x in InputShape(3).examples()]
    assert len({s[0] for s in shapes}) == 3
    assert any(s[2] % 2 and s[3] % 2 and s[2] != s[3] for s in shapes)
    assert [tuple(x.shape) for x in InputShape(1, size=(9, 7)).examples()] == [(2, 1, 9, 7), (1, 1, 9, 7), (3, 1, 9, 7)]


def test_a_file_of_a_fixed_size_tells_how_images_come_to_that_size() -> None:
    for size, crop in (None, [32, 32]), ((40, 56), [40, 56]):
        shape = InputShape(3, size=size)
        told = describe(classifier_metadata(), shape, outputs=["logits"], mean=MEAN, std=STD, detections=None)
        assert told["export"]["resize"] == {
            "rule": "cover", "crop": crop, "size": [int(side / 0.875) for side in crop], "interpolation": "bicubic",
        }  # fmt: skip


def test_normalisation_is_inside() -> None:
    network = ExportableNetwork(nn.Identity(), mean=MEAN, std=STD, takes_bytes=False)
    (out,) = network(torch.tensor(MEAN)[None, :, None, None])
    assert out.abs().max() == 0
