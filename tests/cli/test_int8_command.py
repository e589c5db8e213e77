"""`scalablevit export --int8`: what it prints, what it writes, and what it refuses."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_runs import fit, write_images
from untrained import write_classifier

from scalablevit.cli import main
from scalablevit.cli.int8 import too_few
from scalablevit.deploy import quantize


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nncf", "openvino")), reason="nncf or openvino is not installed"
)
def test_a_run_is_quantized_and_measured_as_validate_does(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(image_folder, run, "--data.image_size=32", epochs=1)  # exported sizes are free from 32 pixels up
    capsys.readouterr()
    assert main(["validate", str(run)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("val/top1"))
    output = tmp_path / "m.xml"
    words = ["export", str(run), "--format", "openvino", "--int8", "--max-drop", "100", "--calibration-images", "3"]
    assert main([*words, "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert "calibrating on 3 training images" in said.err
    assert "cannot be measured" not in said.err, "a loss of 100 points can be, on 9 images"
    (fp32,) = (row.split() for row in said.out.splitlines() if row.startswith("fp32"))
    assert fp32[1] == f"{float(line.split()[1]):.2%}"
    (int8,) = (row.split() for row in said.out.splitlines() if row.startswith("int8 ") and "+" not in row)
    assert float(int8[2]) < float(fp32[2]), "the file is smaller"
    assert f"{output}: int8, preset performance, smoothing off, fast bias correction" in said.out
    assert output.with_suffix(".bin").is_file()


@pytest.mark.slow
def test_data_of_other_classes_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("nncf") is None or find_spec("openvino") is None:
        pytest.skip("nncf or openvino is not installed")
    data = write_images(tmp_path / "other", classes=("cat", "dog"))
    words = ["export", str(run), "--format", "openvino", "--int8", "--data", str(data)]
    assert main([*words, "--output", str(tmp_path / "m.xml")]) == 1
    said = capsys.readouterr().err
    assert f"{data}: classes are " in said
    assert "cat" in said
    assert "red" in said
    assert main([*words[:-1], str(tmp_path / "nowhere"), "--output", str(tmp_path / "m.xml")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "m.xml").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "torch", "--int8"], 1, "int8 is for the formats onnx and openvino, got 'torch'"),
        (["--data", "x"], 2, "--data is for --int8"),
        (["--max-drop", "0.5"], 2, "--max-drop is for --int8"),
        (["--int8", "--max-drop", "-1"], 2, "--max-drop must be at least 0 points"),
        (["--int8", "--max-drop", "nan"], 2, "--max-drop must be at least 0 points"),
        (["--int8", "--calibration-images", "0"], 2, "--calibration-images must be at least 1"),
    ],
    ids=str,
)
def test_words_that_do_not_fit_are_refused(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_classifier(tmp_path / "run", ["cat", "dog"])
    assert main(["export", str(run), *words]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*int8*"))


def test_few_validation_images_are_told() -> None:
    assert too_few(10, 1.0) == "a loss of 1 points cannot be measured on 10 validation images: name more by --data"
    assert too_few(99, 1.0)
    assert not too_few(100, 1.0)
    assert not too_few(10, 0.0), "no loss at all is a limit that can be measured"


def test_int8_needs_data_and_nncf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalablevit.deploy.export_formats.ExportFormat.check_installed", lambda *args: None)
    monkeypatch.setattr(quantize, "find_spec", lambda name: True)
    run = write_classifier(tmp_path / "run", ["cat", "dog"])
    assert main(["export", str(run), "--format", "openvino", "--int8"]) == 1
    assert "recipe.yaml is missing: name the folder that fit wrote" in capsys.readouterr().err
    assert main(["export", "scalablevit_atto", "--format", "openvino", "--int8"]) == 2
    assert "--int8 is for runs" in capsys.readouterr().err
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    assert main(["export", str(run), "--format", "openvino", "--int8"]) == 1
    assert "int8 needs nncf: python -m pip install 'scalablevit[int8]'" in capsys.readouterr().err
