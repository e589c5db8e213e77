"""A run whose classes are named against terminals, markup and fonts trains, evaluates and draws."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import fit, write_images

from command_line import scalablevit

NAMES = ["[b]x[b]", ":cat:", "$\\frac$ _y", "esc\x1b[31m", "two\nlines", "画像"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_from_data_to_predictions(tmp_path: Path) -> None:
    folders = [*NAMES, os.fsdecode(b"caf\xe9")]
    names = [*NAMES, r"caf\xe9"]  # weights hold text: a byte that is none is spelled out
    data = write_images(tmp_path / "data", classes=folders, num_train=2, num_val=1)
    trained = fit(data, tmp_path / "run", epochs=1)
    assert "\x1b" not in trained.out + trained.err
    for shown in (":cat:", "[b]x[b]", r"esc\x1b[31m", r"caf\xe9"):
        assert shown in trained.out
    for name in ("predictions.png", "confusion.png", "curves.png"):
        with Image.open(tmp_path / "run" / name) as image:
            image.load()
    measured = scalablevit("validate", tmp_path / "run", "--json")
    assert measured.code == 0, measured.err
    assert "\x1b" not in measured.err
    predicted = scalablevit(
        "predict", data / "val", "--weights", tmp_path / "run", "--json", "--save", tmp_path / "out"
    )
    assert predicted.code == 0, predicted.err
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    assert {found["class"] for row in rows for found in row["predictions"]} <= set(names)
    assert all(Path(row["saved"][0]).is_file() for row in rows)
    written = scalablevit("predict", data / "val", "--weights", tmp_path / "run", "--csv", tmp_path / "out.csv")
    assert written.code == 0, written.err
    assert "\x1b" not in written.out + written.err
    with open(tmp_path / "out.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} <= set(names)
    told = scalablevit("info", tmp_path / "run")
    assert (told.code, "\x1b" in told.out + told.err) == (0, False)
