"""Exported files are networks like any other, and files of strangers are refused with a reason."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from exported_files import (
    MEAN,
    NAMES,
    STD,
    TinyClassifier,
    TinySegmenter,
    classifier_metadata,
    metadata_of,
    segmenter_metadata,
    with_metadata,
    write_exported,
)
from PIL import Image
from torch import Tensor

from scalablevit.classification.predict import Classifier
from scalablevit.deploy import exported_graphs
from scalablevit.deploy.exported import ExportedNetwork, is_exported, open_exported, open_weights
from scalablevit.deploy.exported_graphs import Graph
from scalablevit.deploy.exported_metadata import Description, GraphInput
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.predict import Segmenter
from scalablevit.weights import WeightsError

FORMS = ("onnx", "openvino", "torch")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> classifier of free size, exported when it is first asked for. Not to be written to."""

    class Files(dict[str, Path]):
        def __missing__(self, form: str) -> Path:
            self[form] = write_exported(tmp_path_factory.mktemp(form), form)
            return self[form]

    return Files()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_the_network_computes(form: str, files: dict[str, Path]) -> None:
    network, exported = TinyClassifier().eval(), open_exported(files[form], "classification")
    for shape in ((1, 3, 32, 32), (3, 3, 70, 41), (2, 3, 224, 224), (1, 3, 32, 32)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected, found = network(images), exported(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert exported.compute(torch.rand(1, 3, 40, 40).numpy())[0].shape == (1, 3)
    assert not list(exported.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_fixed_batch_of_bytes_is_obeyed(form: str, count: int, tmp_path: Path) -> None:
    exported = open_exported(write_exported(tmp_path, form, size=(32, 48), batch=2, uint8=True))
    assert (exported.fixed_size, exported.input.batch, exported.input.takes_bytes) == ((32, 48), 2, True)
    bytes_ = torch.randint(0, 256, (count, 3, 32, 48), generator=torch.Generator().manual_seed(0))
    images = (bytes_ / 255 - exported._mean) / exported._std
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), TinyClassifier().eval()(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match="fixed to images of 32 x 48 pixels, got 32 x 32; export the run again without"
    ):
        exported(images[..., :32])


@pytest.mark.parametrize("form", FORMS)
def test_bytes_of_any_size_are_taken(form: str, tmp_path: Path) -> None:
    network = TinySegmenter().eval()
    exported = open_exported(write_exported(tmp_path, form, network=network, metadata=segmenter_metadata(), uint8=True))
    for shape in ((1, 3, 33, 47), (3, 3, 64, 40), (1, 3, 128, 70)):
        bytes_ = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        images = (bytes_ / 255 - exported._mean) / exported._std
        with torch.inference_mode():
            torch.testing.assert_close(exported(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_classifier_feeds_the_size_that_its_file_is_fixed_to(tmp_path: Path) -> None:
    file = write_exported(tmp_path, "onnx", size=(64, 48))
    classifier = Classifier.load(file)
    assert classifier.preprocessing.image_size == (64, 48)
    (found,) = classifier.predict(Image.new("RGB", (100, 80), (200, 10, 10)))
    assert sorted(found.classes) == sorted(NAMES)
    assert sum(found.probabilities) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_segmenter_of_a_fixed_size_labels_every_pixel(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_exported(tmp_path, form, network=TinySegmenter(), metadata=segmenter_metadata(), size=(64, 64))
    segmenter = Segmenter.load(file)
    assert "is fixed to images of 64 x 64 pixels" in caplog.text
    for size in ((40, 30), (150, 90)):
        image = Image.effect_noise(size, 90).convert("RGB")
        (found,) = segmenter.predict(image)
        assert found.labels is not None
        assert found.labels.shape == size[::-1]
        if size[0] < 64:  # it fits, and is not resized
            plain = Segmenter(
                TinySegmenter(), class_names=NAMES, preprocessing=segmenter.preprocessing, inference=segmenter.inference
            )
            (expected,) = plain.predict(image)
            assert (found.labels == expected.labels).mean() > 0.97


@pytest.mark.parametrize("batch", [None, 4])
def test_a_graph_that_loses_images_is_an_error(batch: int | None) -> None:
    """As an int8 graph of OpenVINO does with images below 32 pixels."""
    given = GraphInput(channels=3, mean=MEAN, std=STD, batch=batch)
    described = Description({}, "features", given, ("logits",))

    def opened(run: Callable[[Tensor], list[Tensor]]) -> ExportedNetwork:
        return ExportedNetwork(Path("m.xml"), described, Graph(None, (), False, (None,), run))

    assert opened(lambda images: [images.mean((2, 3))])(torch.zeros(6, 3, 8, 8)).shape == (6, 3)
    with pytest.raises(ValueError, match=r"m\.xml gives 0 outputs for \d images .*take larger images"):
        opened(lambda images: [torch.zeros(0, 2)])(torch.zeros(2, 3, 16, 16))


def test_other_devices_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="computed on the CPU, by ONNX Runtime: leave out the device meta"):
        Classifier.load(files["onnx"], device="meta")


def test_names_tell_exported_files(tmp_path: Path) -> None:
    assert all(is_exported(name) for name in ("a.onnx", tmp_path / "b.XML", "c.pt2"))
    assert not any(is_exported(name) for name in ("runs/digits", "model.safetensors", 3, None))


@pytest.mark.parametrize(("form", "packages"), [("onnx", "onnx, onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_names_the_extra(
    form: str, packages: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_graphs, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=rf"{packages} is not installed: python -m pip install 'scalablevit\[{form}"):
        open_exported(files[form])


def test_another_task_and_random_weights_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a network for 'classification', not for segmentation"):
        Segmenter.load(files["onnx"])
    random = {**metadata_of(files["onnx"]), "weights": "random"}
    with pytest.raises(WeightsError, match="exported from a variant's name, with random weights: export a run"):
        Classifier.load(with_metadata(files["onnx"], random, tmp_path / "m.onnx"))


def _export_with(**changes: Any) -> dict[str, Any]:
    return {"export": changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99, "scalablevit_version": "9.0"}, r"newer version \(scalablevit 9.0\).*upgrade"),
        (_export_with(format_version=2), "its export has format 2, and this version reads up to 1; upgrade"),
        (_export_with(format_version=True), "export.format_version is True"),
        (_export_with(format_version=None), "export.format_version is None"),
        ({"export": None}, "export is missing; export the run again"),
        ({"export": [1]}, "export is no object"),
        ({"task": None}, "task is missing"),
        ({"task": ["classification"]}, "task is a list of 1, not a short text; export the run again"),
        ({"task": "x" * 10**6}, "task is a text of 1,000,000"),
        ({"class_names": "cat"}, "class_names is a text of 3, not a list"),
        ({"class_names": ["a", 1, "c"]}, "class_names holds a number"),
        ({"class_names": ["a", "b"]}, "its graph has 3 classes in its outputs, its metadata names 2"),
        ({"preprocessing": json.loads("[" * 50 + "]" * 50)}, "preprocessing is a list of 1, not an object"),
        ({"model_args": {"x": json.loads("[" * 50 + "]" * 50)}}, "nested too deeply"),
        (_export_with(outputs="logits"), "outputs is no list of names"),
        (_export_with(outputs=["a", "b"]), "its graph has 1 outputs, its metadata names 2"),
        (_export_with(input=None), "metadata is damaged: export"),
        (_export_with(input={}), "'layout' is missing"),
        (_export_with(normalisation={"mean": [0.5], "std": [0.5]}), "tells of floats, 1 channels"),
        (_export_with(normalisation={"mean": [0.5], "std": [0]}), "std above 0"),
        (_export_with(normalisation={"mean": [float("nan")], "std": [1]}), "mean holds more than numbers"),
        (_export_with(normalisation={"mean": {}, "std": [1]}), "mean is no list of numbers"),
        (
            _export_with(normalisation={"mean": [0.5] * 3, "std": [0.5] * 3}),
            r"its graph has mean \[0.5, 0.5, 0.5\].*in its preprocessing",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_damaged_and_newer_metadata_is_refused(
    changes: dict[str, Any], message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    metadata = metadata_of(files["onnx"])
    if isinstance(changes.get("export"), dict):
        changes = {"export": {**metadata["export"], **changes["export"]}}
    with pytest.raises(WeightsError, match=message) as caught:
        open_exported(with_metadata(files["onnx"], {**metadata, **changes}, tmp_path / "m.onnx"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", [10**9, 32]), ("size", ["a", "b"]), ("size", 3), ("batch", 0), ("batch", True), ("layout", ["NCHW"])],
    ids=str,
)
def test_a_strange_input_is_refused(key: str, value: object, files: dict[str, Path], tmp_path: Path) -> None:
    metadata = metadata_of(files["onnx"])
    metadata["export"]["input"][key] = value
    with pytest.raises(WeightsError, match=f"{key} .*export the run again"):
        open_exported(with_metadata(files["onnx"], metadata, tmp_path / "m.onnx"))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", '{"a": ' + "9" * 10_000 + "}"], ids=range(5))
def test_metadata_that_is_no_json_is_refused(text: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="metadata"):
        open_exported(with_metadata(files["onnx"], text, tmp_path / "m.onnx"))


@pytest.mark.parametrize("form", ["onnx", "torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_truncated_empty_and_foreign_files_are_refused(form: str, files: dict[str, Path], tmp_path: Path) -> None:
    whole = files[form].read_bytes()
    file = tmp_path / files[form].name
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[: len(whole) - 50], b"\x89PNG" + bytes(200)):
        file.write_bytes(content)
        (tmp_path / "model.bin").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"model\.(onnx|xml|pt2) (is|has|holds) "):
            open_exported(file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        open_exported(file)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_pipe_and_a_device_are_not_read(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"endless{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"folder{suffix}").mkdir()
    for name, kind in (("pipe", "a named pipe"), ("endless", "a device"), ("folder", "a folder")):
        with pytest.raises(WeightsError, match=f"{kind}; give an exported file"):
            open_exported(tmp_path / f"{name}{suffix}")


def test_weights_in_other_files_are_not_read(files: dict[str, Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4000))
    model = onnx.load(files["onnx"])
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../" + "x" * 500)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"keeps weights in another file, '\.\./x+.*which is not read") as caught:
        open_exported(tmp_path / "m.onnx")
    assert len(str(caught.value)) < 600


def test_an_onnx_file_of_others_has_no_metadata(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(WeightsError, match=r"has no metadata of scalablevit: take a file that `scalablevit export`"):
        open_exported(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<html></html>", "is an XML file, but not OpenVINO's"),
        ("<net>" + "<a>" * 100 + "</a>" * 100 + "</net>", "nested too deeply"),
        ('<!DOCTYPE n [<!ENTITY a "b">]><net>&a;</net>', "declares XML entities"),
        ("<net", "truncated or not a file of OpenVINO"),
        ("<net></net>", "has its weights in model.bin beside it"),
    ],
    ids=range(5),
)
def test_xml_is_looked_at_before_openvino_reads_it(xml: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text(xml)
    with pytest.raises(WeightsError, match=message):
        open_exported(tmp_path / "model.xml")


def _rewrite(source: Path, to: Path, *, parts: dict[str, bytes], replaced: tuple[bytes, bytes] = (b"", b"")) -> Path:
    """A copy of a zip archive with other parts, and with bytes of its model.json replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json") and replaced[0]:
                assert replaced[0] in content
                content = content.replace(*replaced)
            if name.partition("/")[2] not in parts:
                new.writestr(name, content)
        for name, content in parts.items():
            new.writestr(f"archive/{name}", content)
    return to


@pytest.mark.parametrize(
    ("parts", "replaced", "message"),
    [
        ({"data/aotinductor/model/x.so": b"\x7fELF"}, (b"", b""), "a part 'data/aotinductor"),
        ({"data/constants/opaque_obj_0": b"cos\nsystem\n"}, (b"", b""), "a part 'data/constants/opaque_obj_0'"),
        ({"data/sample_inputs/model.pt": b"cos\nsystem\n(S'true'\ntR."}, (b"", b""), "example inputs that are no"),
        (
            {
                "data/constants/model_constants_config.json": (
                    b'{"config": {"a": {"path_name": "tensor_0", "use_pickle": true}}}'
                )
            },
            (b"", b""),
            "pickled tensors",
        ),
        ({}, (b"torch.ops.aten.conv2d.default", b"torch.os.system"), "the operation 'torch.os.system'"),
        ({}, (b"torch.ops.aten.conv2d.default", b"torch.ops.aten.from_file.default"), "the operation 'torch.ops"),
        ({}, (b"torch.ops.aten.conv2d.default", b"_operator.methodcaller"), "the operation '_operator.methodcaller'"),
        ({}, (b'"expr_str": "', b'"expr_str": "__import__(\'os\').system(\'true\') + '), "the size"),
        ({}, (b'"expr_str": "', b'"expr_str": "9**9**9**9 + '), "the size"),
        ({}, (b'"name": "conv2d"', b'"name": "x=1;import os"'), "the name 'x=1;import os'"),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_torch_file_that_may_run_code_is_not_opened(
    parts: dict[str, bytes], replaced: tuple[bytes, bytes], message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    file = _rewrite(files["torch"], tmp_path / "m.pt2", parts=parts, replaced=replaced)
    with pytest.raises(WeightsError, match=message + ".*as it may run code, it is not opened"):
        open_exported(file)


def test_a_segmenter_whose_label_map_lacks_a_class_is_refused(tmp_path: Path) -> None:
    label_map = LabelMap(3, entries=((1, 0), (2, 1))).to_dict()
    metadata = {**segmenter_metadata(), "label_map": label_map}
    file = write_exported(tmp_path, "torch", network=TinySegmenter(), metadata=metadata)
    with pytest.raises(WeightsError, match=r"no label for class '\[cow\]'"):
        Segmenter.load(file)


def test_class_names_that_are_alike_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    metadata = {**metadata_of(files["onnx"]), "class_names": ["cat", "dog", "cat"]}
    path = with_metadata(files["onnx"], metadata, tmp_path / "twice.onnx")
    with pytest.raises(
        WeightsError, match=r"twice\.onnx: its metadata is damaged: class_names has 'cat' more than once"
    ):
        open_exported(path)
    with pytest.raises(ValueError, match=r"could not be read back: class_names has 'cat' more than once; change it"):
        write_exported(tmp_path, "torch", metadata=classifier_metadata(["cat", "dog", "cat"]))
    assert not (tmp_path / "model.pt2").exists()


def test_a_file_under_another_name_is_told_its_own(files: dict[str, Path], tmp_path: Path) -> None:
    for form, other, remedy in (("onnx", "model.bin", "ends in .onnx"), ("torch", "model.zip", "ends in .pt2")):
        path = tmp_path / other
        path.write_bytes(files[form].read_bytes())
        with pytest.raises(WeightsError, match=f"exported by scalablevit: rename it to a name that {remedy}"):
            open_weights(path)
    (tmp_path / "model.txt").write_text('<?xml version="1.0"?>\n<net name="Model0" version="11">\n</net>')
    with pytest.raises(WeightsError, match=r"rename it to a name that ends in \.xml"):
        open_weights(tmp_path / "model.txt")
    (tmp_path / "model.pt2").write_bytes(files["onnx"].read_bytes())
    with pytest.raises(WeightsError, match=r"not a file of torch\.export .*; copy it again, or export the run again"):
        open_weights(tmp_path / "model.pt2")


@pytest.mark.slow
def test_weights_of_another_export_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    ours = files["openvino"]
    content = bytearray(ours.with_suffix(".bin").read_bytes())
    content[:64] = content[:64][::-1]  # as of a network of the same layers that was trained again
    (tmp_path / "model.xml").write_bytes(ours.read_bytes())
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=r"other weights than model\.bin beside it holds: copy both files"):
        open_exported(tmp_path / "model.xml")


def test_an_archive_without_our_metadata_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    file = _rewrite(files["torch"], tmp_path / "m.pt2", parts={"extra/scalablevit.json": b"[1]"})
    with pytest.raises(WeightsError, match="its metadata is a list of 1, not an object"):
        open_exported(file)
    zipfile.ZipFile(tmp_path / "other.pt2", "w").writestr("a/b", "c")
    with pytest.raises(WeightsError, match=r"not a file of torch\.export"):
        open_exported(tmp_path / "other.pt2")


def test_an_open_file_is_taken_as_it_is(files: dict[str, Path]) -> None:
    exported = open_exported(files["onnx"])
    assert isinstance(exported, ExportedNetwork)
    assert open_exported(exported) is exported
    assert Classifier.load(exported).class_names == list(NAMES)
    assert classifier_metadata()["class_names"] == list(NAMES)
