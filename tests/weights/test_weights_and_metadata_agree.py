"""Weights and the metadata that comes with them are of one network, or they are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.classification import Classifier
from scalablevit.detection.models import build_detector
from scalablevit.detection.predict import Detector
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.predict import Segmenter
from scalablevit.weights import METADATA_KEY, WeightsError, load_model, load_weights, save_model, save_network
from scalablevit.weights.building import load_network

NAME = "scalablevit_atto"
NAMES = list("abcdefghij")
INPUT = {"mean": [0.5] * 3, "std": [0.2] * 3}
CLASSIFIER_INPUT = {"image_size": [32, 32], "crop_ratio": 1.0, "interpolation": "bilinear", **INPUT}
SMALL: dict[str, dict[str, Any]] = {
    "retinanet": {"num_convs": 1, "fpn_channels": 16},
    "mask_rcnn": {"mask_convs": 1, "fpn_channels": 16, "mask_channels": 16, "box_head_channels": 16},
    "semantic_fpn": {"channels": 16},
    "upernet": {"channels": 16, "auxiliary_channels": 8},
}


def write(kind: str, folder: Path, names: list[str] | None = NAMES, **changes: Any) -> Path:
    """Write weights of ten classes, with the metadata changed."""
    if kind == "classifier":
        metadata = {"task": "classification", "class_names": names, "preprocessing": CLASSIFIER_INPUT, **changes}
        model_args = metadata.pop("model_args", {"num_classes": 10})
        network = ScalableViT(**{**VARIANTS[NAME], "num_classes": 10})
        return save_model(network, folder, architecture=NAME, model_args=model_args, metadata=metadata)
    metadata = {"variant": NAME, "class_names": names, "model_args": SMALL[kind]}
    if kind in ("retinanet", "mask_rcnn"):
        metadata |= {"task": "detection", "detector": kind, "preprocessing": {"min_size": 32, "max_size": 64, **INPUT}}
        network = build_detector(kind, NAME, 10, **SMALL[kind])  # type: ignore[arg-type]
    else:
        metadata |= {"task": "segmentation", "segmenter": kind, "inference": {}}
        metadata["preprocessing"] = {"short_side": 32, "long_side": 64, "palette": [], **INPUT}
        network = build_segmenter(kind, NAME, 10, **SMALL[kind])  # type: ignore[arg-type]
    return save_network(network, folder, metadata={**metadata, **changes})


def load(kind: str, source: Path) -> Any:
    if kind == "classifier":
        return Classifier.load(source, device="cpu")
    return (Detector if kind in ("retinanet", "mask_rcnn") else Segmenter).load(source, device="cpu")


def change(path: Path, tensors: dict[str, Tensor | None]) -> None:
    """Replace tensors of a file, or take them out."""
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    state: dict[str, Tensor | None] = {**safetensors.torch.load_file(path), **tensors}
    safetensors.torch.save_file({k: v for k, v in state.items() if v is not None}, path, header)


KINDS = ["classifier", *SMALL]


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_names_as_classes(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    assert load(kind, path).class_names == NAMES
    for names in ([*NAMES, "k", "l"], NAMES[:9], NAMES[:1]):
        write(kind, tmp_path, names)
        with pytest.raises(WeightsError, match="does not fit what it describes"):
            load(kind, path)
    for odd in (None, [], "abcdefghij", [1] * 10, {"a": 1}, [NAMES] * 10):
        write(kind, tmp_path, odd)  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match=r"class.names"):
            load(kind, path)


@pytest.mark.parametrize("wrong", [12, 9, None], ids=str)
def test_the_number_of_classes_of_a_classifier_is_that_of_its_weights(wrong: int | None, tmp_path: Path) -> None:
    args = {} if wrong is None else {"num_classes": wrong}
    names = [f"class {i}" for i in range(wrong or 10)]
    path = write("classifier", tmp_path, names, model_args=args)
    for source in (path, tmp_path):
        with pytest.raises(WeightsError, match="does not fit what it describes"):
            load_model(source)
        with pytest.raises(WeightsError, match="does not fit what it describes"):
            Classifier.load(source, device="cpu")
    if wrong is not None:
        with pytest.raises(WeightsError, match=f"its weights have 10 classes .*its metadata names {wrong}"):
            load_weights(ScalableViT(**{**VARIANTS[NAME], "num_classes": 10}), path)


@pytest.mark.parametrize("wrong", [12, 9])
def test_timm_refuses_a_folder_whose_numbers_disagree(wrong: int, tmp_path: Path) -> None:
    write("classifier", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_classes"] = wrong
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="size mismatch"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_timm_refuses_a_folder_whose_names_are_not_as_many_as_its_classes(tmp_path: Path) -> None:
    write("classifier", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for names in (NAMES[:9], [*NAMES, "k"]):
        config["label_names"] = config["pretrained_cfg"]["label_names"] = names
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=f"its weights have 10 classes .*names {len(names)}"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_network_of_other_classes_than_its_metadata_names() -> None:
    metadata = {"task": "classification", "class_names": ["a", "b"], "preprocessing": CLASSIFIER_INPUT}
    with pytest.raises(WeightsError, match="network has 3 classes, its metadata names 2"):
        Classifier.from_metadata(ScalableViT(**{**VARIANTS[NAME], "num_classes": 3}), metadata, source="file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_surplus_or_misshapen_tensor_is_named(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    whole = path.read_bytes()
    some = next(iter(key for key in safetensors.torch.load_file(path) if key.endswith("mlp.fc1.bias")))
    for tensors, words in (
        ({some: None}, f"the weights lack {some}"),
        ({"extra.weight": torch.zeros(2)}, "the metadata has no place for extra.weight"),
        ({some: torch.zeros(3)}, rf"{some} is \(3,\), the metadata says \("),
        ({some: torch.full((64,), torch.nan)}, f"NaN or infinity in {some}"),
        ({some: torch.full((64,), -torch.inf)}, f"NaN or infinity in {some}"),
        ({some: torch.zeros(64, dtype=torch.int8)}, f"type int8, as of a quantized network, in {some}"),
    ):
        path.write_bytes(whole)
        change(path, tensors)  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match=words):
            load(kind, path)
    path.write_bytes(whole)
    assert load(kind, path).class_names == NAMES


@pytest.mark.parametrize("kind", ["classifier", "semantic_fpn", "mask_rcnn"])
def test_channels_of_network_and_preprocessing_agree(kind: str, tmp_path: Path) -> None:
    gray = {"mean": [0.5], "std": [0.2]}
    before = load(kind, write(kind, tmp_path)).preprocessing.to_dict()
    path = write(kind, tmp_path, preprocessing={**before, **gray})
    with pytest.raises(WeightsError, match="mean and std"):
        load(kind, path)


def test_a_detector_has_one_normalisation(tmp_path: Path) -> None:
    path = write("retinanet", tmp_path, model_args={**SMALL["retinanet"], "mean": [0.1, 0.2, 0.3]})
    with pytest.raises(WeightsError, match=r"mean \[0\.1, .*\] in its network's arguments, \[0\.5, 0\.5, 0\.5\]"):
        load("retinanet", path)


def test_nothing_uninitialised_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was never written is made NaN, so that it would show."""
    path = write("classifier", tmp_path)
    empty_like = torch.empty_like

    def marked(*args: Any, **kwargs: Any) -> Tensor:
        made = empty_like(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() and not made.is_meta else made

    monkeypatch.setattr(torch, "empty_like", marked)
    network, _ = load_model(path)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert not [name for name, buffer in network.named_buffers() if name not in network.state_dict()]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([1, 2], "is a list of 2, not an object"),
        (7, r"is a number \(7\), not an object"),
        ("text", "is a text of 4, not an object"),
        (None, "is null, not an object"),
        ({"task": ["classification"]}, "task is a list of 1, not a short text"),
        ({"task": "x" * 10**5}, "task is a text of 100,000, not a short text"),
        ({"model_args": [1]}, "model_args is a list of 1, not an object"),
        ({"model_args": {"depths": [10**9] * 4}}, "model_args.depths is 1000000000; its size is at most"),
        ({"model_args": {"window_size": 10**5}}, "model_args.window_size is 100000; its size is at most 512"),
        ({"model_args": {"mlp_ratio": float("inf")}}, "model_args.mlp_ratio is inf"),
        ({"preprocessing": {"mean": float("nan")}}, "preprocessing.mean is nan"),
        ({"preprocessing": 3}, r"preprocessing is a number \(3\), not an object"),
        ({"format_version": "2"}, "format_version is '2'"),
    ],
    ids=str,
)
def test_metadata_of_the_wrong_type_is_one_message(metadata: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {METADATA_KEY: json.dumps(metadata)})
    for opened in (load_model, Classifier.load, Detector.load, Segmenter.load):
        with pytest.raises(WeightsError, match=f"model.safetensors: its metadata .*{words}"):
            opened(path)


@pytest.mark.parametrize("text", ["{", "[" * 10**5, '{"a": ' * 10**5, '{"a": ' + "9" * 5000 + "}", "", "\u0000"])
def test_metadata_that_is_no_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {METADATA_KEY: text})
    with pytest.raises(WeightsError, match="its metadata is not readable JSON"):
        Classifier.load(path)


def test_metadata_of_a_larger_network_than_the_file_is_refused_before_it_is_built(tmp_path: Path) -> None:
    path = write("upernet", tmp_path, model_args={"channels": 10**5})
    with pytest.raises(WeightsError, match=r"describes more parameters than the .* of the weights"):
        Segmenter.load(path)
    path = write("retinanet", tmp_path, model_args={"num_convs": 10**6})
    with pytest.raises(WeightsError, match=r"describes more parameters than the .* of the weights"):
        Detector.load(path)


def test_unknown_keys_survive_and_a_newer_format_is_told(tmp_path: Path) -> None:
    path = write("classifier", tmp_path, labels={"0": "a"}, note=["anything"])
    _, metadata = load_model(path)
    assert metadata["labels"] == {"0": "a"}
    assert metadata["note"] == ["anything"]
    assert metadata["format_version"] == 1
    assert load("classifier", path).class_names == NAMES
    write("classifier", tmp_path, format_version=2, scalablevit_version="9.0")
    for opened in (load_model, Classifier.load):
        with pytest.raises(WeightsError, match=r"newer version \(scalablevit 9.0\): .*format 2.*upgrade: "):
            opened(path)


@pytest.mark.parametrize(
    "label_map",
    [3, "x", [1], {"num_classes": 9}, {"num_classes": "x"}, {"num_classes": 10, "ignore_labels": [float("inf")]}],
    ids=str,
)
def test_a_damaged_label_map_is_one_message(label_map: Any, tmp_path: Path) -> None:
    path = write("semantic_fpn", tmp_path, label_map=label_map)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Segmenter.load(path)


def test_any_error_of_a_builder_blames_the_metadata(tmp_path: Path) -> None:
    path = write("upernet", tmp_path)

    def fails(metadata: dict[str, Any]) -> nn.Module:
        raise ZeroDivisionError("integer division")

    with pytest.raises(WeightsError, match=r"does not say how to build its model \(integer division\)"):
        load_network(path, fails)
