"""`scalablevit predict --format`: other tools read the files that it writes."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from untrained import write_classifier

from command_line import scalablevit
from scalablevit.data.found_objects import CocoFile, FoundObject, encode, outlines
from scalablevit.data.orientation import turn_upright
from scalablevit.detection.found import found_in
from scalablevit.detection.predict import Detection, Detector, Prediction
from scalablevit.segmentation.found import found_in as regions_in
from scalablevit.segmentation.predict import Prediction as Segmentation
from scalablevit.weights import TrainedWeights

NAMES = ["cat", "dog, big", "süß"]


def blob(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def found(with_masks: bool) -> list[Detection]:
    masks = [blob(5, 10, 20, 30), blob(0, 50, 12, 10)]
    boxes = [(10.0, 5.0, 40.0, 25.0), (50.0, 0.0, 60.0, 12.0)]
    return [
        Detection(label, NAMES[label], score, box, encode(mask) if with_masks else None)
        for label, score, box, mask in zip((2, 0), (0.9, 0.6), boxes, masks, strict=True)
    ]


class Found:
    """Stands for a detector that finds two objects in every image."""

    class_names = NAMES

    def __init__(self, *, with_masks: bool) -> None:
        self.with_masks = with_masks

    def predict(self, paths: list[Path], **_: Any) -> Iterator[Prediction]:
        for path in paths:
            yield Prediction(path, 60, 40, found(self.with_masks))


@pytest.fixture(params=[False, True], ids=["boxes", "masks"])
def words(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """A command line whose weights are the stand-in, over images of two folders."""
    weights = TrainedWeights(tmp_path / "model.safetensors", "detection", {})
    monkeypatch.setattr("scalablevit.deploy.exported.open_trained", lambda *_: weights)
    monkeypatch.setattr(Detector, "load", lambda *_, **__: Found(with_masks=request.param))
    for name in ("left/0.png", "right/0.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        Image.new("RGB", (60, 40)).save(tmp_path / "in" / name)
    return ["predict", tmp_path / "in", "--weights", "run"]


def test_coco_evaluates_results_with_the_ids_of_an_annotation_file(words: list[str | Path], tmp_path: Path) -> None:
    categories = [{"id": 7 * k, "name": name} for k, name in enumerate([*NAMES, "bird"], 1)]
    images = [
        {"id": 2**40 + i, "file_name": f"{side}/0.png", "width": 60, "height": 40}
        for i, side in enumerate(("right", "left"))
    ]
    truth: list[dict[str, Any]] = []
    for image in images:
        for item in found(with_masks=True):
            left, top, right, bottom = item.box_xyxy
            box = [left, top, right - left, bottom - top]
            row = {"id": len(truth) + 1, "image_id": image["id"], "category_id": 7 * (item.label + 1), "iscrowd": 0}
            truth.append({**row, "bbox": box, "area": box[2] * box[3], "segmentation": item.mask})
    file, output = tmp_path / "truth.json", tmp_path / "out" / "results.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": truth}))
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("0.png") == 2
    truth_of = COCO(file)
    has_masks = "segmentation" in json.loads(output.read_text())[0]
    for kind in ["bbox", "segm"][: 1 + has_masks]:
        evaluation = COCOeval(truth_of, truth_of.loadRes(str(output)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_coco_data_set_of_its_own(words: list[str | Path], tmp_path: Path) -> None:
    output = tmp_path / "data.json"
    assert scalablevit(*words, "--format", "coco", "--output", output).code == 0
    data = COCO(output)
    assert [image["file_name"] for image in data.loadImgs(data.getImgIds())] == ["left/0.png", "right/0.png"]
    assert [category["name"] for category in data.loadCats(data.getCatIds())] == NAMES
    rows = data.loadAnns(data.getAnnIds(catIds=[3]))
    assert [(row["bbox"], row["area"], row["score"]) for row in rows] == [([10, 5, 30, 20], 600, 0.9)] * 2


def test_images_that_the_annotation_file_does_not_list_are_told(words: list[str | Path], tmp_path: Path) -> None:
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "left/0.png"}], "categories": categories}))
    output = tmp_path / "out.json"
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 1
    assert "right/0.png: the annotation file lists no such image" in outcome.err
    assert len(json.loads(output.read_text())) == 2
    file.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": "bird"}]}))
    lacking = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert lacking.code == 1
    assert "it has none of the classes that the weights know, such as 'cat'" in lacking.err


def test_yolo_files_give_the_objects_back(words: list[str | Path], tmp_path: Path) -> None:
    assert scalablevit(*words, "--format", "yolo", "--output", tmp_path / "yolo").code == 0
    assert (tmp_path / "yolo" / "classes.txt").read_text(encoding="utf-8").splitlines() == NAMES
    for side in ("left", "right"):
        lines = (tmp_path / "yolo" / side / "0.txt").read_text().splitlines()
        assert len(lines) == 2
        for line, item in zip(lines, found(with_masks=True), strict=True):
            label, *values = map(float, line.split())
            assert label == item.label
            if len(values) == 5:
                x, y, w, h, score = values
                box = ((x - w / 2) * 60, (y - h / 2) * 40, (x + w / 2) * 60, (y + h / 2) * 40)
                assert box == pytest.approx(item.box_xyxy, abs=1e-3)
                assert score == item.score
            else:
                polygon = (np.array(values).reshape(-1, 2) * (60, 40)).reshape(-1).tolist()
                drawn = coco_mask.merge(coco_mask.frPyObjects([polygon], 40, 60))
                assert coco_mask.iou([drawn], [item.mask], [0])[0, 0] > 0.95


def test_csv_of_objects(words: list[str | Path], tmp_path: Path) -> None:
    printed = scalablevit(*words, "--format", "csv")
    rows = list(csv.DictReader(printed.out.splitlines()))
    assert len(rows) == 4
    assert rows[0] == {
        "path": str(tmp_path / "in" / "left" / "0.png"),
        **{"class": "süß", "score": "0.9", "x_min": "10.0", "y_min": "5.0", "x_max": "40.0", "y_max": "25.0"},
    }
    assert scalablevit(*words, "--csv", tmp_path / "a.csv").out.startswith("image ")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == printed.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "coco"], "--format coco needs --output FILE.json"),
        (["--format", "yolo"], "--format yolo needs --output FOLDER"),
        (["--output", "x"], "go with --format"),
        (["--format", "csv", "--annotations", "x"], "gives ids to --format coco"),
        (["--format", "coco", "--output", "."], "is a folder; name a file"),
        (["--csv", "a.csv", "--format", "yolo", "--output", "boxes"], "leave out --format and --output"),
        (["--json", "--format", "csv"], "would both be printed"),
    ],
)
def test_flags_that_do_not_go_together(words: list[str | Path], flags: list[str], message: str) -> None:
    outcome = scalablevit(*words, *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_what_was_found_is_kept_when_the_command_is_stopped(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Found, paths: list[Path], **_: Any) -> Iterator[Prediction]:
        yield Prediction(paths[0], 60, 40, found(with_masks=False))
        raise KeyboardInterrupt

    monkeypatch.setattr(Found, "predict", interrupted)
    assert scalablevit(*words, "--format", "coco", "--output", tmp_path / "a.json").code == 130
    assert len(json.loads((tmp_path / "a.json").read_text())["annotations"]) == 2


def test_csv_of_classes_and_no_boxes_of_classes(tmp_path: Path) -> None:
    weights = write_classifier(tmp_path / "weights", NAMES)
    image = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(image)
    outcome = scalablevit("predict", image, "--weights", weights, "--format", "csv")
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert {row["class"] for row in rows} == set(NAMES)
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1, abs=1e-5)
    refused = scalablevit("predict", image, "--weights", weights, "--format", "coco", "--output", tmp_path / "x.json")
    assert refused.code == 2
    assert "classification has none: choose --format csv" in refused.err


def test_csv_keeps_names_in_files_and_escapes_them_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["esc\x1b[31m", "two\rlines", '=HYPERLINK("x")', "a\nb"]
    weights = write_classifier(tmp_path / "weights", names)
    image = tmp_path / "a\rb\x1b.png"
    Image.new("RGB", (9, 9)).save(image)
    words = ("predict", image, "--weights", weights, "--format", "csv")
    scalablevit(*words, "--output", tmp_path / "a.csv", "--embeddings", tmp_path / "features.csv")
    for file, count in (("a.csv", len(names)), ("features.csv", 1)):
        with (tmp_path / file).open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        assert [row["path"] for row in rows] == [str(image)] * count
        assert {row.get("class") for row in rows} == (set(names) if count > 1 else {None})
    assert scalablevit(*words).out == (tmp_path / "a.csv").open(newline="").read(), "a pipe gets the same"
    terminal = type("Terminal", (io.StringIO,), {"isatty": lambda self: True})
    monkeypatch.setattr("command_line.io.StringIO", terminal)
    shown = scalablevit(*words).out
    assert not set("\x1b\r") & set(shown)
    assert r"esc\x1b[31m" in shown
    assert r"a\rb\x1b.png" in shown


def test_regions_of_a_segmentation() -> None:
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[5:25, 10:40] = 2
    prediction = Segmentation(Path("a.png"), labels, NAMES, [(0, 0, 0)] * 3)
    size, (background, region) = regions_in(prediction)
    assert size == (40, 60)
    assert (background.label, region.label) == (0, 2)
    assert region.box_xyxy == (10, 5, 40, 25)
    assert np.array_equal(coco_mask.decode(region.mask).astype(bool), labels == 2)


def test_outlines_leave_out_holes_and_part_what_does_not_touch() -> None:
    mask = blob(5, 10, 20, 30) & ~blob(10, 15, 5, 5) | blob(30, 50, 1, 1)
    big, small = sorted(outlines(encode(mask)), key=len, reverse=True)
    assert big.min(axis=0) == pytest.approx([10, 5], abs=0.51)
    assert big.max(axis=0) == pytest.approx([40, 25], abs=0.51)
    assert small.mean(axis=0) == pytest.approx([50.5, 30.5])


def test_found_in_hands_everything_on() -> None:
    size, objects = found_in(Prediction(Path("a"), 60, 40, found(with_masks=False)))
    assert (size, objects[1]) == ((40, 60), FoundObject(0, (50.0, 0.0, 60.0, 12.0), 0.6))


@pytest.mark.parametrize(
    "written",
    [
        lambda name: f"/home/somebody/set/{name}",
        lambda name: f"C:\\set\\{name}".replace("/", "\\"),
        lambda name: f"..\\..\\upload\\{name}".replace("/", "\\").replace("upload\\", ""),
        lambda name: name.replace("/", "%2F").upper(),
    ],
    ids=["absolute", "Windows", "upwards", "percent and capitals"],
)
def test_names_of_another_machine_in_the_annotation_file(words: list[str | Path], tmp_path: Path, written: Any) -> None:
    categories = [{"id": k, "name": f"{unicodedata.normalize('NFD', name)}\n"} for k, name in enumerate(NAMES)]
    images = [{"id": f"{side} image", "file_name": written(f"{side}/0.png")} for side in ("left", "right")]
    file, output = tmp_path / "truth.json", tmp_path / "results.json"
    file.write_text(json.dumps({"images": images, "categories": categories}))
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 0, outcome.err
    rows = [(row["image_id"], row["category_id"]) for row in json.loads(output.read_text())]
    assert rows == [(f"{side} image", label) for side in ("left", "right") for label in (2, 0)]


def test_two_images_that_lead_to_one_entry(words: list[str | Path], tmp_path: Path) -> None:
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    file, output = tmp_path / "truth.json", tmp_path / "results.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "/set/0.png"}], "categories": categories}))
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 1
    assert "left/0.png is the image /set/0.png of the annotation file already" in outcome.err
    assert len(json.loads(output.read_text())) == 2


def test_classes_that_the_annotation_file_lacks_are_left_out(words: list[str | Path], tmp_path: Path) -> None:
    file, output = tmp_path / "truth.json", tmp_path / "results.json"
    images = [{"id": side, "file_name": f"{side}/0.png"} for side in ("left", "right")]
    file.write_text(json.dumps({"images": images, "categories": [{"id": 5, "name": NAMES[0]}]}))
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 0
    assert "it has no category 'dog, big', 'süß'" in outcome.err
    assert [row["category_id"] for row in json.loads(output.read_text())] == [5, 5]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_results_count_in_the_pixels_of_the_annotations(tmp_path: Path, orientation: int, frame: str) -> None:
    """Detections are in the upright image; annotations of turned images mostly are not."""
    stored = (60, 40) if orientation < 5 else (40, 60)
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", stored).save(tmp_path / "0.png", exif=exif)
    size = stored if frame == "stored" else (60, 40)
    entry = {"id": 9, "file_name": "0.png", "width": size[0], "height": size[1]}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": [entry], "categories": [{"id": 1, "name": "cat"}]}))
    upright = np.zeros((40, 60), bool)
    upright[5:25, 10:40] = True
    file = CocoFile(tmp_path / "results.json", ["cat"], annotations=truth)
    file.add(tmp_path / "0.png", "0.png", (40, 60), [FoundObject(0, (10.0, 5.0, 40.0, 25.0), 0.5, encode(upright))])
    file.close()
    (row,) = json.loads((tmp_path / "results.json").read_text())
    mask = coco_mask.decode(row["segmentation"])
    assert mask.shape == size[::-1]
    is_turned = size == stored  # without a difference in size the annotations count in the stored pixels
    assert np.array_equal(turn_upright(mask, orientation if is_turned else 1), upright)
    left, top, width, height = row["bbox"]
    filled = np.zeros_like(mask)
    filled[int(top) : int(top + height), int(left) : int(left + width)] = 1
    assert np.array_equal(filled, mask)


def test_an_image_of_another_size_than_annotated_is_told(words: list[str | Path], tmp_path: Path) -> None:
    file, output = tmp_path / "truth.json", tmp_path / "results.json"
    images = [
        {"id": k, "file_name": f"{side}/0.png", "width": 60, "height": 40 * (k + 1)}
        for k, side in enumerate(("left", "right"))
    ]
    file.write_text(
        json.dumps({"images": images, "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)]})
    )
    outcome = scalablevit(*words, "--format", "coco", "--annotations", file, "--output", output)
    assert outcome.code == 1
    assert "right/0.png: the image has 60 x 40 pixels, in the annotation file 60 x 80" in outcome.err
