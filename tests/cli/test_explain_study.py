"""`scalablevit explain --study` over data with boxes, masks and neither, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import write_classifier

from command_line import output_of, scalablevit
from scalablevit.segmentation.inference import InferenceSettings
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.transforms import Preprocessing
from scalablevit.weights import save_network

NAMES = ("disk", "bar")
SIDE = 64


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_classifier(root / name, NAMES, seed=seed) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    args = {"fpn_channels": 8, "channels": 8}
    metadata = {
        "task": "segmentation",
        "segmenter": "semantic_fpn",
        "variant": "scalablevit_atto",
        "model_args": args,
        "class_names": list(NAMES),
        "preprocessing": Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, short_side=None, long_side=None).to_dict(),
        "inference": InferenceSettings(short_side=None, long_side=None).to_dict(),
        "label_map": LabelMap(2, reduce_zero_label=True).to_dict(),
    }
    folder = tmp_path_factory.mktemp("runs") / "segmenter"
    save_network(build_segmenter("semantic_fpn", "scalablevit_atto", 2, **args), folder, metadata=metadata)
    return folder


def image_of(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    pixels[8:24, 8:24] += 180
    return Image.fromarray(pixels)


def boxes_in(root: Path) -> Path:
    """COCO annotations of two images: a box with a class that the networks know, and one that they do not."""
    root.mkdir(parents=True)
    for part in ("train", "val"):
        (root / part).mkdir()
        for i in range(2):
            image_of(i).save(root / part / f"{part}{i}.png")
        content = {
            "images": [{"id": i, "file_name": f"{part}{i}.png", "width": SIDE, "height": SIDE} for i in range(2)],
            "categories": [{"id": 1, "name": "disk"}, {"id": 2, "name": "cup"}],
            "annotations": [
                {"id": 2 * i + k, "image_id": i, "category_id": k, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0}
                for i in range(2)
                for k in (1, 2)
            ],
        }
        (root / f"{part}.json").write_text(json.dumps(content))
    return root


def masks_in(root: Path) -> Path:
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(2):
            image_of(i).save(root / part / "images" / f"{i}.png")
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[8:24, 8:24] = 1
            mask[40:, 40:] = 2
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
    return root


@pytest.mark.slow
def test_two_runs_are_compared_over_boxes(classifiers: list[Path], tmp_path: Path) -> None:
    data, saved = boxes_in(tmp_path / "boxes"), tmp_path / "saved"
    out, err = output_of("explain", "--study", *classifiers, "--data", data, "--save", saved)
    assert str(saved) in err
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "figure"
    assert {"first", "second", "second - first"} <= {cell.strip() for cell in lines[0].split("  ") if cell}
    content = json.loads((saved / "study.json").read_text())
    assert [run["run"] for run in content["runs"]] == ["first", "second"]
    chance = content["runs"][0]["figures"]["energy_by_chance"]
    assert chance["value"] == pytest.approx(16 * 16 / SIDE**2)
    assert chance["images"] == 2
    assert {"field_side_50%", "distance_4", "stage_end_1"} - set(content["runs"][0]["figures"]) <= {"stage_end_1"}
    assert content["differences_to_first"][0]["run"] == "second"
    assert Image.open(saved / "study.png").size[0] > 400
    assert (saved / "study.md").read_text().splitlines()[1] == "|---|---|---|---|"
    again, _ = output_of("explain", "--study", classifiers[0], "--data", data, "--images", 1, "--json")
    assert [run["images"] for run in json.loads(again)["runs"]] == [1]


def test_masks_are_regions_of_a_segmenters_classes(segmenter: Path, classifiers: list[Path], tmp_path: Path) -> None:
    data = masks_in(tmp_path / "masks")
    out, _ = output_of("explain", "--study", segmenter, "--data", data, "--json", "--threshold", 0)
    (run,) = json.loads(out)["runs"]
    assert run["task"] == "segmentation"
    assert run["figures"]["found"]["images"] == 2
    assert 0 < run["figures"]["energy_by_chance"]["value"] <= (24 * 24) / SIDE**2
    outcome = scalablevit("explain", "--study", classifiers[0], "--data", data)
    assert outcome.code == 1
    assert "whose labels only a segmenter can name" in outcome.err


def test_images_without_annotations_have_the_other_figures(classifiers: list[Path], tmp_path: Path) -> None:
    for i in range(2):
        image_of(i).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    out, err = output_of("explain", "--study", classifiers[0], "--data", tmp_path, "--json", code=1)
    (run,) = json.loads(out)["runs"]
    assert "no boxes or masks were found" in err
    assert err.count("broken.png") == 1
    assert run["images"] == 2
    assert "distance_1" in run["figures"]
    assert not [key for key in run["figures"] if key.startswith(("energy", "pointing", "found"))]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--study", "RUN"], 2, "--study needs --data FOLDER"),
        (["--study", "RUN", "--data", "nowhere"], 1, "--data nowhere: there is no such folder"),
        (["--data", "."], 2, "--data goes with --study"),
        (["a.png", "--weights", "RUN", "--images", "3"], 2, "--images goes with --study"),
        (["--study", "RUN", "--data", ".", "--images", "0"], 2, "--images must be at least 1, got 0"),
        (["--study", "RUN", "--data", ".", "--method", "cam"], 2, "leave out --method"),
        (["--study", "RUN", "--data", ".", "--at", "3,4"], 2, "leave out --at"),
        (["a.png", "--study", "RUN", "--data", "."], 2, "leave out a.png"),
        (["--study", "a.onnx", "--data", "."], 1, "a.onnx is an exported file: give its run"),
        ([], 2, "explain needs images and weights"),
    ],
)
def test_what_does_not_go_together_is_said(
    words: list[str], code: int, message: str, classifiers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"x")
    outcome = scalablevit("explain", *(str(classifiers[0]) if word == "RUN" else word for word in words))
    assert outcome.code == code, outcome.err
    assert message in outcome.err


def test_a_run_without_the_annotated_classes_is_told(tmp_path: Path) -> None:
    run = write_classifier(tmp_path / "run", ("ring", "cross"))
    words = ("explain", "--study", run, "--data", boxes_in(tmp_path / "data"), "--images", "1", "--device", "cpu")
    _, err = output_of(*words)
    assert "warning: run has none of the annotated classes, so that figures of objects are left out" in err
    assert "it knows ring, cross; annotated are " in err
