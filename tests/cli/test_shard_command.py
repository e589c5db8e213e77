"""`scalablevit shard`, and `check-data` of what it wrote."""

import json
import re
import shutil
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


def test_what_cannot_be_sharded_is_told_with_what_can(tmp_path, capsys):
    table, flat = tmp_path / "my table", tmp_path / "flat"
    for folder in (table, flat):
        write_classes(folder / "images")
        for i, path in enumerate(sorted((folder / "images").rglob("*.png"))):
            path.rename(folder / f"{i}.png")
        shutil.rmtree(folder / "images")
    (table / "labels.csv").write_text("file,labels\n" + "".join(f"{i}.png,a;b\n" for i in range(8)))
    for root, said in (
        (
            table,
            f"a table of labels cannot be sharded: `scalablevit shard` packs class folders, .* --data.root '{table}'",
        ),
        (
            table / "labels.csv",
            f"a table of labels cannot be sharded: .*--config train_multi_label --data.root '{table}'",
        ),
        (flat, f"lie in no class folders, .* packs class folders, .*--config pretrain_masked --data.root {flat}"),
    ):
        assert main(["shard", str(root), str(tmp_path / "out")]) == 1
        assert re.search(said, capsys.readouterr().err)
        assert not (tmp_path / "out").exists()


def test_a_builtin_data_set_and_an_address_name_the_key_to_change(tmp_path: Path) -> None:
    words = ("fit", "--config", "digits", "--data.root", f"file://{tmp_path}", "--run", tmp_path / "run")
    outcome = scalablevit(*words)
    assert outcome.code == 1
    assert "to train from the address, set --data.builtin null" in outcome.err


def test_training_ends_with_a_message_where_no_shard_can_be_read(image_folder: Path, tmp_path: Path) -> None:
    assert scalablevit("shard", image_folder, tmp_path / "shards").code == 0
    for file in (tmp_path / "shards" / "train").glob("*.bin"):
        file.unlink()
    words = ("fit", "--config", "train_folder", *SMALL, "--data.root", tmp_path / "shards", "--run", tmp_path / "run")
    outcome = scalablevit(*words, "--epochs", "1", "--data.max_unreadable", "2")
    assert outcome.code == 1
    assert "scalablevit: error: none of the training images can be read" in outcome.err
    assert "Traceback" not in outcome.err
