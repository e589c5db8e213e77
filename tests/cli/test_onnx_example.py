"""The example without this package reads images as it does."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.images import read_image

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P", "transparent P", "CMYK", "16", "turned"])
def test_the_example_reads_images_as_predict_does(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    example = runpy.run_path(str(EXAMPLE))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "turned") else "a.png")
    options: dict[str, Any] = {}
    image = Image.fromarray(pixels)
    if mode == "16":
        image = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1])
    elif mode == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        image = image.convert("RGB")
    else:
        image = image.convert("RGB").convert("P") if mode == "transparent P" else image.convert(mode)
        options = {"transparency": 3} if mode == "transparent P" else {}
    image.save(path, **options)
    ours, theirs = (np.asarray(read(path)).astype(int) for read in (example["read"], read_image))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1


def test_the_example_prints_no_control_characters() -> None:
    pytest.importorskip("onnxruntime")
    visible = runpy.run_path(str(EXAMPLE))["visible"]
    assert visible("gr\u00fcn \u753b [b]\x1b[31m\n\u202e") == "gr\u00fcn \u753b [b]\\x1b[31m\\n\\u202e"


def run_example(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Exit code, or the message that it ends with."""
    monkeypatch.setattr(sys, "argv", ["onnx_predict.py", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return caught.value.code


def test_the_example_names_files_that_it_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    for path in (tmp_path / "m.onnx", tmp_path / "nowhere.onnx"):
        assert f"{path} cannot be opened as an ONNX file" in str(run_example(monkeypatch, path, "a.png"))
    value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2])
    nodes = [onnx.helper.make_node("GlobalAveragePool", ["images"], ["x"])]
    nodes += [
        onnx.helper.make_node("Slice", ["x", "start", "stop", "axis"], ["y"]),
        onnx.helper.make_node("Flatten", ["y"], ["logits"]),
    ]
    numbers = [
        onnx.numpy_helper.from_array(np.array([n], np.int64), name)
        for name, n in (("start", 0), ("stop", 2), ("axis", 1))
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value], [out], numbers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    assert "was not exported by scalablevit" in str(run_example(monkeypatch, tmp_path / "m.onnx", "a.png"))
    metadata: dict[str, Any] = {"task": "features", "export": {"input": {"channels": "RGB"}}}
    onnx.helper.set_model_props(model, {"scalablevit": json.dumps(metadata)})
    onnx.save(model, tmp_path / "m.onnx")
    assert "holds feature maps, which predict nothing" in str(run_example(monkeypatch, tmp_path / "m.onnx", "a.png"))


def test_the_example_goes_on_behind_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    example = runpy.run_path(str(EXAMPLE))

    class Model:
        def __init__(self, path: str) -> None:
            self.metadata = {"task": "classification"}

    shown = Image.new("RGB", (4, 4))
    shown.save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    names = ["cut.png", "text.png", "nowhere.png", "float.tif", "a.png"]
    parts = example["main"].__globals__
    monkeypatch.setitem(parts, "Model", Model)
    monkeypatch.setitem(parts, "classify", lambda model, image, threshold: ([("cat", "99.0%")], image))
    monkeypatch.setattr(sys, "argv", ["onnx_predict.py", "m.onnx", *(str(tmp_path / name) for name in names)])
    with pytest.raises(SystemExit) as caught:
        example["main"]()
    assert caught.value.code == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'a.png'}\tcat\t99.0%\n"
    assert [f"skipped {tmp_path / name}: " in said.err for name in names] == [True] * 4 + [False]
