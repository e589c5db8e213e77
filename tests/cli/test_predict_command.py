"""`scalablevit predict`: inputs, table, JSON lines, annotated images, files that cannot be read."""

import errno
import json
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image
from tiny_runs import CLASSES

from command_line import scalablevit
from scalablevit.data.images import read_image


def test_files_folders_and_globs(image_folder: Path, run: Path) -> None:
    val = image_folder / "val"
    outcome = scalablevit("predict", val / "red", val / "gr*" / "*.png", val / "red" / "pic 0.png", "--weights", run)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["image", "class", "probability"]
    assert sum(line.startswith(str(image_folder)) for line in lines) == 6
    assert len(lines) == 1 + 6 * 3


def test_json_lines_and_top(image_folder: Path, run: Path) -> None:
    words = (
        "predict",
        image_folder / "val",
        "--weights",
        run / "model.safetensors",
        "--json",
        "--batch-size",
        "2",
    )
    for top, expected in ((2, 2), (99, 3)):
        outcome = scalablevit(*words, "--top", str(top))
        rows = [json.loads(line) for line in outcome.out.splitlines()]
        assert [row["path"] for row in rows] == sorted(map(str, (image_folder / "val").rglob("*.png")))
        for row in rows:
            found = row["predictions"]
            assert len(found) == expected
            assert {item["class"] for item in found} <= set(CLASSES)
            probabilities = [item["probability"] for item in found]
            assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert "grün" in outcome.out


def test_it_agrees_with_the_results_of_the_run(image_folder: Path, run: Path) -> None:
    outcome = scalablevit("predict", image_folder / "val", "--weights", run, "--json", "--top", "1")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    right = [Path(row["path"]).parent.name == row["predictions"][0]["class"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(json.loads((run / "results.json").read_text())["top1"])


def test_annotated_images_keep_their_names_apart(image_folder: Path, run: Path, tmp_path: Path) -> None:
    val = image_folder / "val"
    outcome = scalablevit("predict", val / "red", val / "grün", "--weights", run, "--save", tmp_path / "out")
    assert outcome.code == 0
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert names == {f"{folder}/pic {i}.png" for folder in ("red", "grün") for i in range(3)}
    assert min(read_image(tmp_path / "out" / "red" / "pic 0.png").size) >= 256


def test_annotated_images_replace_no_file(image_folder: Path, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder / "val" / "red", tmp_path / "mine"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for copies in (2, 3):
        known = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert scalablevit("predict", *map(folder.joinpath, before), "--weights", run, "--save", folder).code == 0
        now = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert {name: now[name] for name in known} == known
        assert now.keys() - known.keys() == {f"{Path(name).stem}_{copies}.png" for name in before}
    for wrong in (folder / "pic 0.png", ""):
        refused = scalablevit("predict", folder, "--weights", run, "--save", wrong)
        assert refused.code == 1
        assert "is not a folder" in refused.err


def test_a_full_disk_leaves_no_half_image(
    image_folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(image: Image.Image, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill)
    outcome = scalablevit("predict", image_folder / "val", "--weights", run, "--save", tmp_path / "out")
    assert outcome.code == 1
    assert "could not be written (No space left on device)" in outcome.err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_what_cannot_be_read_is_skipped_and_told(image_folder: Path, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder / "val" / "red", tmp_path / "in"))
    (folder / "bad.png").write_bytes(b"junk")
    (folder / "empty.jpg").touch()
    outcome = scalablevit("predict", folder, "--weights", run)
    assert outcome.code == 1
    assert sorted(line.split(":")[0] for line in outcome.err.splitlines()) == [
        f"skipped {folder}/bad.png",
        f"skipped {folder}/empty.jpg",
    ]
    assert outcome.out.count("pic ") == 3
    lines = scalablevit("predict", folder, "--weights", run, "--json").out.splitlines()
    assert [("error" in json.loads(line)) for line in lines].count(True) == 2
    only = scalablevit("predict", folder / "bad.png", "--weights", run)
    assert (only.code, only.out) == (1, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top=0"], "top must be at least 1, got 0"),
        (["--device=foo"], "--device foo: no such device"),
        (["--device=cuda:99"], "--device cuda:99: this machine has"),
    ],
)
def test_wrong_words(image_folder: Path, run: Path, words: list[str], message: str) -> None:
    outcome = scalablevit("predict", *words, image_folder / "val", "--weights", run)
    assert outcome.code == 1
    assert outcome.err.startswith(f"scalablevit: error: {message}")


def test_weights_that_are_none_of_a_run(run: Path, image_folder: Path, tmp_path: Path) -> None:
    nowhere = scalablevit("predict", image_folder, "--weights", tmp_path / "none")
    assert nowhere.code == 1
    assert "no weights at" in nowhere.err
    checkpoint = scalablevit("predict", image_folder, "--weights", run / "checkpoints" / "best.ckpt")
    assert checkpoint.code == 1
    assert "is a checkpoint to resume from; predicting takes its run" in checkpoint.err
    missing = scalablevit("predict", image_folder)
    assert missing.code == 2
    assert "--weights" in missing.err
