"""`scalablevit shard`, and `check-data` of what it wrote."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_runs import SMALL

from command_line import scalablevit
from scalablevit.cli import main


def write_classes(root: Path) -> Path:
    for c, name in enumerate(("ant", "bee")):
        for i in range(4):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(10 * c + i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def test_a_folder_is_packed_checked_and_refused_again(tmp_path, capsys):
    root, out = write_classes(tmp_path / "images"), tmp_path / "shards"
    assert main(["shard", str(root), str(out), "--size-mb", "0.002", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "shards (classification)" in said
    assert "8 samples in " in said
    assert main(["check-data", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_train"], report["num_val"], sorted(report["classes"])) == (6, 2, ["ant", "bee"])
    for words, message in (
        (["shard", str(root), str(out)], "it holds shards already"),
        (["shard", str(out), str(tmp_path / "again")], "these are shards already"),
        (["shard", str(root), str(root / "inside")], "lies in the data folder"),
        (["shard", str(root), str(tmp_path / "x"), "--size-mb", "0"], "size_mb must be above 0"),
        (["shard", str(tmp_path / "none"), str(tmp_path / "x")], "does not exist"),
        (
            ["check-data", str(out), "--kind", "coco"],
            "these are shards for classification, and detection was asked for",
        ),
    ):
        assert main(words) == 1, words
        assert message in capsys.readouterr().err
    assert main(["shard", str(root), str(tmp_path / "x"), "--train-annotations", "a.json"]) == 2
    assert main(["shard", str(root), str(tmp_path / "x"), "--workers", "-1"]) == 2


def test_training_ends_with_a_message_where_no_shard_can_be_read(image_folder: Path, tmp_path: Path) -> None:
    assert scalablevit("shard", image_folder, tmp_path / "shards").code == 0
    for file in (tmp_path / "shards" / "train").glob("*.bin"):
        file.unlink()
    words = ("fit", "--config", "train_folder", *SMALL, "--data.root", tmp_path / "shards", "--run", tmp_path / "run")
    outcome = scalablevit(*words, "--epochs", "1", "--data.max_unreadable", "2")
    assert outcome.code == 1
    assert "scalablevit: error: none of the training images can be read" in outcome.err
    assert "Traceback" not in outcome.err
