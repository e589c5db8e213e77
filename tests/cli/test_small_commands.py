"""`info`, `check-data` and `recipes`."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_runs import write_images

from command_line import scalablevit
from scalablevit.cli import main
from scalablevit.recipes import recipe_names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "millions", "billions"),
    [
        (["scalablevit_small"], 32.0, 4.09),
        (["scalablevit_small", "--scale-value"], 32.4, 4.14),
        (["scalablevit_base"], 81.9, 8.56),
        (["scalablevit_large"], 109.3, 14.68),
    ],
    ids=["S", "S-scaled", "B", "L"],
)
def test_info_gives_the_published_figures(words: list[str], millions: float, billions: float) -> None:
    (row,) = json.loads(scalablevit("info", *words, "--json").out).values()
    assert row["parameters"] / 1e6 == pytest.approx(millions, abs=0.05)
    assert row["multiply_adds"] / 1e9 == pytest.approx(billions, rel=0.005)
    assert row["flops"] > 2 * row["multiply_adds"]
    assert [stage["height"] for stage in row["stages"]] == [56, 28, 14, 7]


@pytest.mark.slow
def test_info_as_text() -> None:
    every = scalablevit("info").out
    assert [line.split()[1] for line in every.splitlines()[1:4]] == ["32.00", "81.88", "109.29"]
    one = scalablevit("info", "scalablevit_atto", "--size", "100", "333", "--classes", "10").out
    assert "for 100 x 333 pixels" in one
    assert "25 x 84 tokens" in one


def test_check_data(image_folder: Path, tmp_path: Path) -> None:
    good = scalablevit("check-data", image_folder)
    assert good.code == 0
    assert "no errors" in good.out
    data = Path(shutil.copytree(image_folder, tmp_path / "data"))
    (data / "train" / "red" / "pic 0.png").write_bytes(b"junk")
    bad = scalablevit("check-data", data, "--json")
    assert bad.code == 1
    assert [problem["path"] for problem in json.loads(bad.out)["problems"] if problem["severity"] == "error"] == [
        str(data / "train" / "red" / "pic 0.png")
    ]
    nowhere = scalablevit("check-data", tmp_path / "none")
    assert nowhere.code == 1
    assert "the data folder does not exist" in nowhere.out


def test_check_data_sets_a_share_aside(image_folder: Path) -> None:
    words = ("check-data", image_folder / "train", "--json", "--val-fraction")
    counts = [json.loads(scalablevit(*words, share).out)["num_val"] for share in ("0.2", "0.5")]
    assert counts[0] < counts[1]
    wrong = scalablevit(*words, "2")
    assert wrong.code == 1
    assert "val_fraction must be between 0 and 1, got 2.0" in wrong.err


def test_check_data_shows_progress_in_a_terminal(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    piped = scalablevit("check-data", image_folder, "--json")
    assert piped.err == ""
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), Terminal()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["check-data", str(image_folder), "--json"]) == 0
    assert out.getvalue() == piped.out
    assert "27/27" in err.getvalue()


def test_recipes() -> None:
    listed = scalablevit("recipes")
    assert listed.code == 0
    names = [line.split()[0] for line in listed.out.split("\n\n")[0].splitlines()]
    assert names == recipe_names()
    assert {"digits", "finetune_folder", "imagenet_small", "imagenet_base", "imagenet_large"} <= set(names)
    printed = scalablevit("recipes", "digits").out
    assert printed.startswith("# Demonstration")
    assert yaml.safe_load(printed)["data"]["init_args"]["builtin"] == "digits"


def test_check_data_shows_names_as_they_are(tmp_path: Path) -> None:
    names = ["[b]", "esc\x1b[31m", "two\nlines"]
    data = write_images(tmp_path / "data", classes=names, num_train=2, num_val=1)
    (data / "train" / names[1] / "bad.png").write_bytes(b"junk")
    told = scalablevit("check-data", data)
    assert "\x1b" not in told.out
    assert r"esc\x1b[31m/bad.png" in told.out
    report = json.loads(scalablevit("check-data", data, "--json").out)
    assert set(report["classes"]) == set(names)


def test_check_data_reads_a_range_of_values(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    pixels = np.full((16, 16), 900, dtype=np.uint16)
    Image.fromarray(pixels).save(data / "train" / "red" / "deep.png")
    assert scalablevit("check-data", data, "--value-range", "0", "1000").code == 0
    wrong = scalablevit("check-data", data, "--value-range", "5", "5")
    assert wrong.code == 1
    assert "value_range" in wrong.err


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        (["test_vit", "--size", "48"], [64] * 6),
        (["test_resnet", "--model", "semantic_fpn", "--size", "64"], [32, 48, 192, 96]),
        (["test_resnet", "--model", "retinanet", "--size", "64"], [32, 48, 192, 96]),
    ],
)
def test_info_of_networks_of_timm(words: list[str], channels: list[int]) -> None:
    (cost,) = json.loads(scalablevit("info", *words, "--json").out).values()
    assert [stage["channels"] for stage in cost["stages"]] == channels
    assert 0 < cost["multiply_adds"] < cost["flops"]
    text = scalablevit("info", *words).out
    assert "tokens" in text
    assert "blocks" not in text


def test_info_of_what_networks_of_timm_cannot() -> None:
    outcome = scalablevit("info", "test_maxvit", "--size", "100")
    assert outcome.code == 1
    assert "cannot" in outcome.err
    outcome = scalablevit("info", "resnet5")
    assert "there is no variant 'resnet5'" in outcome.err
    assert "did you mean resnet50" in outcome.err
