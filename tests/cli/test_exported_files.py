"""Exported files in the place of their runs: predict, validate, bench, and the example without PyTorch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import fit

from command_line import output_of as scalablevit
from scalablevit.backbone import ScalableViT
from scalablevit.classification import Classifier
from scalablevit.detection.models import build_detector
from scalablevit.detection.transforms import Preprocessing
from scalablevit.weights import save_network

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


class Exported(NamedTuple):
    """A run with exported files in its folder, and images of its task."""

    run: Path
    data: Path
    images: list[Path]


def _file(run: Path, suffix: str) -> Path:
    """The exported file of a run; exported once, when a test first asks."""
    path = run / f"model{suffix}"
    if not path.exists():
        form = next(form for form, ending in FORMATS.items() if ending == suffix)
        scalablevit("export", run, "--format", form)
    return path


@pytest.fixture(scope="session")
def classifier(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A classifier of 32 pixels; not to be written to."""
    run = tmp_path_factory.mktemp("exported") / "classifier"
    fit(image_folder, run, "--data.image_size=32", "--model.window_size=7", epochs=1)
    return Exported(run, image_folder, sorted((image_folder / "val").rglob("*.png")))


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Semantic FPN on rectangles; not to be written to."""
    return _trained_segmenter(tmp_path_factory.mktemp("exported") / "segmenter", "semantic_fpn")


@pytest.fixture(scope="session")
def upernet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """UperNet on the same; not to be written to."""
    return _trained_segmenter(tmp_path_factory.mktemp("exported") / "upernet", "upernet")


def _trained_segmenter(root: Path, decoder: str) -> Exported:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3)):
        for kind in ("images", "masks"):
            (root / "data" / part / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((40, 40 + 8 * i), dtype=np.uint8)
            mask[5:20, 5:30], mask[22:38, 10:36] = 1, 2
            pixels = np.array([(90, 90, 90), (220, 40, 40), (40, 200, 60)])[mask]
            pixels = (pixels + rng.integers(-30, 30, pixels.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "data" / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / "data" / part / "masks" / f"{i}.png")
    (root / "data" / "classes.txt").write_text("ground\nred thing\ngrün\n")
    model = {
        "variant": "scalablevit_atto",
        "segmenter": decoder,
        "segmenter_options": {"channels": 32},
        "optimizer": {"lr": 2e-3, "lr_batch": None},
        "schedule": {"name": "poly", "warmup_steps": 1, "warmup_lr": 1e-4, "min_lr": 0.0},
    }
    data = {"root": str(root / "data"), "crop_size": 32, "short_side": 48, "batch_size": 2, "num_workers": 0}
    recipe = {
        "model": {"class_path": "scalablevit.segmentation.SegmentationTask", "init_args": model},
        "data": {"class_path": "scalablevit.segmentation.MaskFolderData", "init_args": data},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    scalablevit("fit", "--config", root / "recipe.yaml", "--run", root / "run")
    return Exported(root / "run", root / "data", sorted((root / "data" / "val" / "images").iterdir()))


@pytest.fixture(params=["classifier", "segmenter"])
def task(request: pytest.FixtureRequest) -> Exported:
    """Each of them."""
    found: Exported = request.getfixturevalue(request.param)
    return found


def assert_same(found: Any, expected: Any, *, off: float) -> None:
    """Compare JSON: numbers may be `off`, the rest is equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value, off=off)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, off=off)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=off)
    elif isinstance(expected, int) and not isinstance(expected, bool):
        assert abs(found - expected) <= 2  # pixels
    else:
        assert found == expected


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_predict_says_what_the_run_says(task: Exported, suffix: str, tmp_path: Path) -> None:
    expected, _ = scalablevit("predict", *task.images, "--weights", task.run, "--json", "--device", "cpu")
    file = _file(task.run, suffix)
    found, _ = scalablevit("predict", *task.images, "--weights", file, "--json", "--save", tmp_path / "drawn")
    rows = _json_lines(found)
    drawn = [path for row in rows for path in row.pop("saved")]
    assert_same(rows, _json_lines(expected), off=2e-3)
    assert len(drawn) >= len(task.images)
    assert all(Path(path).is_file() for path in drawn)


def test_tiles_scales_and_flips_go_through_an_exported_file(segmenter: Exported) -> None:
    options = ("--tile", "32", "--scales", "1", "1.5", "--flip", "--batch-size", "2", "--json")
    expected, _ = scalablevit("predict", *segmenter.images, "--weights", segmenter.run, *options, "--device", "cpu")
    found, _ = scalablevit("predict", *segmenter.images, _file(segmenter.run, ".onnx"), *options)
    assert_same(_json_lines(found), _json_lines(expected), off=2e-3)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_upernet_labels_pixels_as_its_run(upernet: Exported, suffix: str, tmp_path: Path) -> None:
    """Its pyramid pooling is what exporters get wrong at sizes that they did not see."""
    file = _file(upernet.run, suffix)
    for options in ((), ("--tile", "32", "--flip")):
        masks = []
        for name, weights in (("run", upernet.run), ("file", file)):
            folder = tmp_path / f"{name}{len(options)}"
            scalablevit("predict", *upernet.images, "--weights", weights, *options, "--save", folder, "--device", "cpu")
            masks.append([np.asarray(Image.open(path)) for path in sorted(folder.glob("*-mask.png"))])
        assert len(masks[0]) == len(masks[1]) == len(upernet.images)
        for found, expected in zip(*masks, strict=True):
            assert (found != expected).mean() <= 1e-3
    expected_figures = json.loads(scalablevit("validate", upernet.run, "--json")[0])
    assert json.loads(scalablevit("validate", file, "--json")[0]) == pytest.approx(expected_figures, abs=1e-3)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_validate_gives_the_figures_of_the_run(task: Exported, suffix: str, tmp_path: Path) -> None:
    expected = json.loads(scalablevit("validate", task.run, "--json")[0])
    beside, said = scalablevit("validate", _file(task.run, suffix), "--json")
    assert f"model{suffix}, {'ONNX Runtime' if suffix == '.onnx' else 'OpenVINO'}" in said
    assert json.loads(beside) == pytest.approx(expected, abs=2e-5)
    for name in (f"model{suffix}", "model.bin"):
        if (task.run / name).exists():
            shutil.copy(task.run / name, tmp_path / name)
    elsewhere, _ = scalablevit(
        "validate", tmp_path / f"model{suffix}", "--json", "--data.root", task.data, "--data.num_workers", "0"
    )
    assert json.loads(elsewhere) == pytest.approx(expected, abs=2e-5)
    assert not (tmp_path / "run").exists()


def test_validate_says_what_is_lacking(classifier: Exported, segmenter: Exported, tmp_path: Path) -> None:
    file = shutil.copy(_file(classifier.run, ".onnx"), tmp_path / "model.onnx")
    _, said = scalablevit("validate", file, code=1)
    assert "lies in no run folder: name the data to evaluate it on by --data.root FOLDER" in said
    _, said = scalablevit("validate", file, "--checkpoint", "x.ckpt", code=2)
    assert "--checkpoint is for runs; an exported file is evaluated as it is" in said
    shutil.copy(classifier.run / "recipe.yaml", tmp_path)
    shutil.copy(_file(segmenter.run, ".onnx"), tmp_path / "other.onnx")
    _, said = scalablevit("validate", tmp_path / "other.onnx", code=1)
    assert "is no export of the run whose recipe.yaml lies beside it" in said
    # the data would be normalised by one, and the file take back the other
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["data"]["init_args"]["mean"] = [0.25, 0.25, 0.25]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    _, said = scalablevit("validate", file, code=1)
    assert "they differ in their task, classes or normalisation" in said


def test_predict_builds_no_network_and_imports_no_training(
    classifier: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(ScalableViT, "__init__", refuse)
    assert next(iter(Classifier.load(_file(classifier.run, ".onnx")).predict(classifier.images))).error is None
    words = ["predict", str(classifier.images[0]), "--weights", str(_file(classifier.run, ".onnx"))]
    code = (
        f"import sys; from scalablevit.cli import main; code = main({words!r})\n"
        "print(code, [name for name in ('lightning', 'torchmetrics') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip().endswith("0 []")


def test_options_that_cannot_apply_are_errors(classifier: Exported, tmp_path: Path) -> None:
    words = ("predict", classifier.images[0], "--weights", _file(classifier.run, ".onnx"))
    assert "--tile" in scalablevit(*words, "--tile", "64", code=2)[1]
    assert "is computed on the CPU, by ONNX Runtime" in scalablevit(*words, "--device", "meta", code=1)[1]
    scalablevit("export", "scalablevit_atto", "--pyramid", "--format", "torch", "--output", tmp_path / "p.pt2")
    _, said = scalablevit("predict", classifier.images[0], "--weights", tmp_path / "p.pt2", code=1)
    assert "holds weights for 'features'; this version predicts classification" in said


def test_formats_are_measured_side_by_side(classifier: Exported) -> None:
    models = [_file(classifier.run, ".onnx"), _file(classifier.run, ".xml"), classifier.run, "scalablevit_atto"]
    out, _ = scalablevit(
        "bench", *models, "--size", "32", "--batch", "2", "--rounds", "2", "--warm-up", "1", "--device", "cpu", "--json"
    )
    (cell,) = json.loads(out)["cells"]
    assert list(cell["contenders"]) == [str(model) for model in models]
    for found in cell["contenders"].values():
        assert "note" not in found
        assert found["images_per_second"] > 0
    out, said = scalablevit("bench", models[0], "--precision", "bf16", "--rounds", "2", "--json", code=1)
    assert "an exported file is measured as it is: --precision fp32" in out + said
    assert "there is no such file" in scalablevit("bench", "nowhere.onnx", code=1)[1]


def test_the_example_predicts_where_torch_cannot_be_imported(task: Exported, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')\n")
    words = [str(EXAMPLE), str(_file(task.run, ".onnx")), *map(str, task.images), "--save", str(tmp_path / "drawn")]
    done = subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert len(list((tmp_path / "drawn").iterdir())) == len(task.images)
    found: dict[str, list[tuple[str, float]]] = {}
    for line in done.stdout.splitlines():
        path, name, share = line.split("\t")
        found.setdefault(path, []).append((name, float(share.rstrip("%")) / 100))
    expected, _ = scalablevit("predict", *task.images, "--weights", _file(task.run, ".onnx"), "--json")
    for row in _json_lines(expected):
        rows = row.get("predictions") or row["classes"]
        given = [(one["class"], one.get("probability", one.get("share"))) for one in rows]
        assert [name for name, _ in found[row["path"]]] == [name for name, _ in given]
        for (_, ours), (_, theirs) in zip(found[row["path"]], given, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-3)


def test_an_exported_detector_finds_what_its_run_finds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = {
        "fpn_channels": 16, "num_convs": 1, "anchor_sizes": [16, 24, 40, 64, 96], "min_size": 128, "max_size": 256,
        "score_thresh": 0.01, "detections_per_image": 10,
    }  # fmt: skip
    network = build_detector("retinanet", "scalablevit_atto", 3, **args).eval()
    with torch.no_grad():
        logits = network.head.classification_head.cls_logits
        logits.weight.normal_(0, 0.3)
        logits.bias.fill_(-2)
    metadata = {
        "task": "detection", "class_names": ["a", "b", "c"], "detector": "retinanet", "variant": "scalablevit_atto",
        "preprocessing": Preprocessing(min_size=128, max_size=256).to_dict(), "model_args": args,
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    save_network(network, tmp_path / "run", metadata=metadata)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((200, 140)).save(tmp_path / "image.png")
    words = ("predict", tmp_path / "image.png", "--json", "--threshold", "0.02")
    file = _file(tmp_path / "run", ".onnx")
    for options in ((), ("--class-agnostic",), ("--tile", "96")):
        (expected,) = _json_lines(scalablevit(*words, *options, "--weights", tmp_path / "run", "--device", "cpu")[0])
        (found,) = _json_lines(scalablevit(*words, *options, "--weights", file)[0])
        assert len(expected["predictions"]) >= 5
        assert_same(found, expected, off=2e-2)
    _, said = scalablevit("predict", tmp_path / "image.png", "--threshold", "0.001", "--weights", file, code=1)
    assert "gives no objects that score below 0.01" in said
    _, said = scalablevit(*words, "--nms-iou", "0.3", "--weights", file, code=1)
    assert "suppresses overlaps above 0.5 in its graph: nms_iou 0.3 needs the run" in said
