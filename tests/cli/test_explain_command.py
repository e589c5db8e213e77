"""`scalablevit explain`: pictures and numbers of each task, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from untrained import write_classifier

from app.untrained_models import write_photo, write_runs
from command_line import output_of, scalablevit

NAMES = ("cat", "grün", "$dog$")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("data") / "runs")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("runs") / "classifier", NAMES)


@pytest.mark.parametrize("run", ["pets", "boxes", "deeper/pixels"])
def test_a_picture_and_its_numbers_for_each_task(runs: Path, tmp_path: Path, run: str) -> None:
    photo = write_photo(tmp_path / "photo.jpg")
    words = ["explain", photo, "--weights", runs / run, "--save", tmp_path / "out", "--json", "--threshold", "0.01"]
    row = json.loads(output_of(*words)[0])
    assert row["method"] == "cam"
    assert 1 <= len(row["targets"]) <= 6
    for target in row["targets"]:
        assert target["is_empty"] or (0 <= target["maximum_at"][0] < 60 and 0 <= target["maximum_at"][1] < 90)
    picture, numbers = map(Path, row["saved"])
    assert min(Image.open(picture).size) > 100
    saved = json.loads(numbers.read_text())
    assert saved["targets"] == row["targets"]
    again = json.loads(output_of(*words)[0])  # files are kept
    assert [Path(path).name for path in again["saved"]] == ["photo_2-cam.png", "photo_2-cam.json"]


def test_several_methods_images_of_mixed_sizes_and_one_that_cannot_be_read(classifier: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (50, 20), "red").save(folder / "wide.png")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)).save(folder / "gray16.png")
    Image.new("RGBA", (1, 1)).save(folder / "dot.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    outcome = scalablevit(
        "explain", folder, "--weights", classifier, "--method", "cam", "features", "occlusion",
        "--class", "$dog$", "--windows", "2", "--save", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 1
    assert outcome.err.count("broken.png") == 1
    assert outcome.out.count("cam: $dog$") == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "out").glob("*.json"))) == 9


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--class", "grun"], 1, "there is no class 'grun'; did you mean grün?"),
        (
            ["--class", "cat", "--method", "features"],
            2,
            "--class is for --method cam or occlusion; --method is features",
        ),
        (["--most", "0"], 2, "--most must be at least 1, got 0"),
        (["--windows", "0", "--method", "occlusion"], 2, "--windows must be at least 1, got 0"),
        (["--threshold", "2"], 2, "--threshold must lie in [0, 1], got 2"),
        (["--method", "gradcam"], 2, "invalid choice: 'gradcam'"),
    ],
    ids=str,
)
def test_bad_words(classifier: Path, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    outcome = scalablevit("explain", tmp_path / "a.png", "--weights", classifier, *words)
    assert outcome.code == code
    assert message in outcome.err


def test_a_point_left_of_the_image_is_no_flag(classifier: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    words = ("explain", tmp_path / "a.png", "--weights", classifier, "--method", "attention", "--at")
    for point in ("-1,5", "-1.5,-5"):
        outcome = scalablevit(*words, point)
        assert outcome.code == 1
        assert f"point {point} lies outside the image of 9 x 9 pixels" in outcome.err
    out, _ = output_of(*words, "3,3", "5,5", "--json")
    assert [json.loads(line)["at"] for line in out.splitlines()] == [[3, 3], [5, 5]]


def test_stages_count_from_1_in_the_message_too(classifier: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    words = ("--method", "receptive-field", "--size", "64", "--stage", "5")
    assert "stage must be 1..4, got 5" in scalablevit("explain", tmp_path, "--weights", classifier, *words).err


def test_an_exported_file_has_no_gradients(tmp_path: Path) -> None:
    outcome = scalablevit("explain", "a.png", "--weights", "model.onnx", "--method", "features", "cam")
    assert outcome.code == 1
    assert outcome.err == (
        "scalablevit: error: --method features cam needs the network itself, but model.onnx is an exported file: give "
        "the run that it was exported from as --weights, or choose --method occlusion\n"
    )


def test_nothing_above_the_threshold_is_no_error(runs: Path, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "photo.jpg")
    outcome = scalablevit("explain", photo, "--weights", runs / "boxes", "--threshold", "1")
    assert (outcome.code, outcome.out.split()[-3:]) == (0, ["nothing", "to", "explain"])
