"""int8 files: quantized by the first settings that lose no more than is allowed, measured, or not written at all."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_files import write_exported
from test_export import MEAN, METADATA, STD, tiny
from tiny_networks import tiny_detector
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone
from scalablevit.deploy import quantize as quantize_module
from scalablevit.deploy.graph_parts import part_of, without_weights
from scalablevit.deploy.int8 import Quantization, _stacked, export_int8
from scalablevit.deploy.quantize import (
    TRIALS,
    QuantizationError,
    Settings,
    Trial,
    best_quantization,
    check_can_quantize,
)
from scalablevit.deploy.runtimes import openvino_core
from scalablevit.segmentation.models import SegmentationModel, SemanticFPNDecoder

needs_nncf = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nncf", "openvino")), reason="nncf or openvino is not installed"
)
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nncf", "onnxscript", "onnxruntime")), reason="nncf or onnx is missing"
)


def images_of(count: int, size: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, *size, generator=generator) for _ in range(count)]


def agreement(network: nn.Module, images: list[Tensor]) -> Callable[[nn.Module], float]:
    """1 less the mean error, relative to the spread of the outputs."""

    def measure(other: nn.Module) -> float:
        with torch.no_grad():
            errors = [((other(x) - network(x)).abs().mean() / network(x).std()).item() for x in images]
        return 1 - float(np.mean(errors))

    return measure


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalablevit.deploy.int8.check_can_quantize", lambda format: None)
    monkeypatch.setattr("scalablevit.deploy.int8.export", lambda *_, **__: pytest.fail("minutes of work"))
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "m.xml").mkdir()
    quantization = Quantization([], lambda network: 1.0, "agreement")
    for path, error, said in (
        (tmp_path / "file" / "m.xml", OSError, r"file/m.xml could not be written .*Name another folder"),
        (tmp_path / "m.xml", ValueError, "m.xml is a folder; name a file"),
        (tmp_path / "m.onnx", ValueError, r"ends in \.xml, got"),
    ):
        with pytest.raises(error, match=said):
            export_int8(nn.Identity(), path, quantization, format="openvino", mean=MEAN, std=STD)


@pytest.mark.slow
@needs_nncf
def test_a_classifier_is_quantized_measured_and_written(tmp_path: Path) -> None:
    network, images = tiny(), images_of(4, (64, 64))
    metadata = {**METADATA, "class_names": ["cat", "Zürich", "dog"]}
    steps: list[str] = []
    done = export_int8(
        network, tmp_path / "m.xml", Quantization(images, agreement(network, images), "agreement", max_drop=50),
        format="openvino", mean=MEAN, std=STD, metadata=metadata, on_step=steps.append,
    )  # fmt: skip
    assert [variant.name for variant in done.variants if "bf16" not in variant.name] == ["fp32", "int8"]
    fp32, int8 = done.variants[0], done.variants[len(done.variants) // 2]
    assert fp32.metric == pytest.approx(1, abs=1e-4)
    assert 0.5 <= int8.metric < 1, "a quantized network differs"
    assert done.trial.settings == TRIALS[0]
    assert len(done.differences) >= 3, "free sizes stay free"
    assert any("int8, preset performance, smoothing off" in step for step in steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    model = openvino_core().read_model(tmp_path / "m.xml")
    told = json.loads(model.get_rt_info(["scalablevit"]).astype(str))
    assert told["class_names"] == metadata["class_names"]
    assert told["int8"]["calibration_images"] == 4
    assert told["int8"]["int8"] == int8.metric
    kinds = [operator.get_type_name() for operator in model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") > 10


@pytest.mark.slow
@needs_onnx
def test_a_segmentation_model_is_quantized_in_onnx(tmp_path: Path) -> None:
    backbone = PyramidBackbone(tiny())
    decoder = SemanticFPNDecoder(backbone.channels, 3, fpn_channels=8, hidden_channels=8, dropout=0.1)
    network = SegmentationModel(backbone, decoder, num_classes=3).eval()
    images = images_of(3, (64, 96))
    done = export_int8(
        network, tmp_path / "m.onnx", Quantization(images, agreement(network, images), "agreement", max_drop=60),
        format="onnx", mean=MEAN, std=STD,
    )  # fmt: skip
    assert [variant.name for variant in done.variants] == ["fp32", "int8"]
    import onnx

    model = onnx.load(str(tmp_path / "m.onnx"))
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 10
    assert "int8" in json.loads(model.metadata_props[0].value)


@pytest.mark.slow
@needs_nncf
def test_only_the_layers_of_a_detector_are_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector("retinanet", monkeypatch)
    transform = detector.transform
    seen: list[str] = []

    def measure(network: nn.Module) -> float:
        seen.append(network.output_names[0])
        return 0.5

    done = export_int8(
        detector, tmp_path / "m.xml", Quantization(images_of(2, (64, 96)), measure, "box AP"),
        format="openvino", mean=transform.mean, std=transform.std, metadata={"task": "detection"},
    )  # fmt: skip
    assert set(seen) == {"scores"}
    assert not done.differences, "numbers of objects may differ"
    assert len(done.batch) == 1
    layers = {"Convolution", "GroupConvolution", "MatMul"}
    moved = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "VariadicSplit", "Split", "Pad", "Gather", "ShapeOf"}
    quantized = 0
    for operator in openvino_core().read_model(tmp_path / "m.xml").get_ordered_ops():
        if operator.get_type_name() == "FakeQuantize":
            quantized += 1
            users = {port.get_node().get_type_name() for port in operator.output(0).get_target_inputs()}
            assert users <= layers | moved, users
    assert quantized > 10


def test_a_batch_that_is_fixed_is_timed_as_it_is() -> None:
    batches = [np.full((2, 3, 4, 4), i, np.float32) for i in range(3)]
    assert _stacked(batches, 2).shape == (2, 3, 4, 4)
    assert _stacked(batches[:1], None).shape == (2, 3, 4, 4)
    assert _stacked([batch[:1] for batch in batches], None).shape == (3, 3, 4, 4)
    assert _stacked([batch[:1] for batch in batches], 1).shape == (1, 3, 4, 4), "a detector takes one image"


@needs_nncf
def test_operators_without_weights_are_told(tmp_path: Path) -> None:
    path = write_exported(tmp_path, "openvino")
    names = without_weights(path)
    operators = openvino_core().read_model(path).get_ordered_ops()
    layers = [x for x in operators if x.get_type_name() in ("Convolution", "MatMul")]
    assert len(layers) == 2
    assert not names & {x.get_friendly_name() for x in layers}
    assert {x.get_friendly_name() for x in operators if x.get_type_name() in ("Relu", "ReduceMean")} <= names


@pytest.mark.slow
@needs_nncf
def test_a_loss_above_the_limit_names_parts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = tiny(), images_of(2, (64, 64))
    short = {**best_quantization.__kwdefaults__, "trials": TRIALS[:1]}
    monkeypatch.setattr(best_quantization, "__kwdefaults__", short)
    with pytest.raises(
        QuantizationError,
        match=r"int8 loses .* points of agreement .*--max-drop allows 0; nothing was written; .*(--exclude|raise)",
    ):
        export_int8(
            network, tmp_path / "m.xml", Quantization(images, agreement(network, images), "agreement", max_drop=0),
            format="openvino", mean=MEAN, std=STD,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_first_settings_that_lose_little_are_taken_else_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[set[str]] = []
    parts = {"patch_embed": ["a"], "stages.0": ["b"], "head": ["c"]}
    monkeypatch.setattr(quantize_module, "parts_of_graph", lambda *args: parts)
    monkeypatch.setattr(quantize_module, "quantize", lambda *args, keep: kept.append(set(keep)))
    metrics = {"0.xml": 0.7, "1.xml": 0.9, "2.xml": 0.8, "3.xml": 0.95, "4.xml": 0.5}
    seen: list[Trial] = []

    def search(floor: float, **options: object) -> Trial:
        return best_quantization(
            tmp_path / "m.xml", tmp_path, images=[np.zeros(1)], weights={}, measure=lambda path: metrics[path.name],
            floor=floor, on_trial=seen.append, **options,
        )  # fmt: skip

    assert search(0.85).settings == TRIALS[1]
    assert len(seen) == 2, "what comes after is not tried"
    assert search(0.99, exclude=["stages.0"]).settings == TRIALS[3]
    assert kept[2:] == [{"b"}, {"b"}, {"b"}, {"a", "b", "c"}, {"a", "b", "c"}]
    with pytest.raises(ValueError, match=r"no part stage\.9; its parts are patch_embed, stages\.0, head"):
        search(0.5, exclude=["stage.9"])


def test_an_nncf_that_fails_with_all_settings_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no such operator\nat length")

    monkeypatch.setattr(quantize_module, "parts_of_graph", lambda *args: {"head": ["c"]})
    monkeypatch.setattr(quantize_module, "quantize", fails)
    with pytest.raises(QuantizationError, match=r"cannot quantize this network \(RuntimeError: no such operator\)"):
        best_quantization(
            tmp_path / "m.onnx", tmp_path, images=[np.zeros(1)], weights={}, measure=lambda path: 1.0, floor=0
        )
    with pytest.raises(ValueError, match="at least one image"):
        best_quantization(tmp_path / "m.onnx", tmp_path, images=[], weights={}, measure=lambda path: 1.0, floor=0)


@pytest.mark.parametrize(
    ("parameter", "part"),
    [
        ("network.stages.0.patch_embed.proj.weight", "patch_embed"),
        ("backbone.stages.0.blocks.1.attn.q.weight", "stages.0"),
        ("network.backbone.stages.2.patch_embed.proj.weight", "stages.2"),
        ("network.head.1.weight", "head"),
        ("decoder.levels.3.2.weight", "decoder"),
    ],
)
def test_parameters_belong_to_parts(parameter: str, part: str) -> None:
    assert part_of(parameter) == part


def test_what_cannot_be_quantized_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="int8 is for the formats onnx and openvino, got 'torch'"):
        check_can_quantize("torch")
    monkeypatch.setattr(quantize_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"int8 needs nncf: .*scalablevit\[int8\]"):
        check_can_quantize("onnx")
    with pytest.raises(ValueError, match="max_drop must be at least 0 points, got -1"):
        Quantization([], lambda network: 1.0, "top-1", max_drop=-1)
    assert str(Settings("mixed", smoothing=True)) == "preset mixed, smoothing on, fast bias correction"


@needs_onnx
def test_a_size_that_is_not_that_of_the_images_is_refused_before_the_export(tmp_path: Path) -> None:
    quantization = Quantization([torch.zeros(1, 3, 16, 16)], lambda network: 1.0, "top-1")
    with pytest.raises(ValueError, match=r"--size 32 32 does not fit .* sees at 16x16 pixels: leave out --size"):
        export_int8(
            tiny(), tmp_path / "m.onnx", quantization, format="onnx", mean=MEAN, std=STD, size=(32, 32)
        )  # fmt: skip
