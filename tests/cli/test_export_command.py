"""`scalablevit export`: what it writes, what it says, and what it refuses."""

import json
from pathlib import Path

import pytest
import timm
import torch
from untrained import write_classifier

import scalablevit
from scalablevit.cli import main
from scalablevit.deploy import export_formats


@pytest.mark.slow
def test_a_run_is_exported_with_what_its_weights_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_classifier(tmp_path / "run", ["cat", "dog", "[cow]"])
    assert main(["export", str(run), "--format", "torch", "--size", "32", "--batch", "1"]) == 0
    said = capsys.readouterr().out
    assert "images 1 x 3 x 32 x 32: largest relative difference" in said
    assert f"{run / 'model.pt2'}: " in said
    extra = {"scalablevit.json": ""}
    module = torch.export.load(run / "model.pt2", extra_files=extra).module()
    metadata = json.loads(extra["scalablevit.json"])
    assert metadata["class_names"] == ["cat", "dog", "[cow]"]
    assert len(metadata["colours"]) == 3
    assert metadata["preprocessing"]["crop_ratio"] == 0.875
    (logits,) = module(torch.rand(1, 3, 32, 32))
    assert logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 1, "nowhere is neither a run folder nor a variant of ours; these are scalablevit_small"),
        (["scalablevit_atto", "--size", "1", "2", "3"], 2, "--size takes a side, or height and width"),
        (["scalablevit_atto", "--format", "torch", "--output", "m.onnx"], 1, "ends in .pt2, got m.onnx"),
        (["scalablevit_atto", "--format", "torch", "--batch", "0"], 1, "batch must be at least 1 image, got 0"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_said(
    words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words, *([] if "--format" in words else ["--format", "torch"])]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_that_finds_no_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{said} 80000000000 bytes. Error code 12 (Cannot allocate memory)")

    monkeypatch.setattr("scalablevit.deploy.export.export", fail)
    assert main(["export", "scalablevit_atto", "--format", "torch", "--output", str(tmp_path / "m.pt2")]) == 1
    assert "error: the machine is out of memory, asked for 74.5 GiB; free some memory\n" in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("scalablevit_atto", num_classes=2)
    metadata = {"task": "sorting", "class_names": ["a", "b"]}
    scalablevit.save_model(model, tmp_path / "run", architecture="scalablevit_atto", model_args={}, metadata=metadata)
    assert main(["export", str(tmp_path / "run"), "--format", "torch"]) == 1
    assert (
        "holds weights for 'sorting'; export knows classification, detection, segmentation" in capsys.readouterr().err
    )


def test_a_missing_runtime_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    assert main(["export", "scalablevit_atto", "--format", "openvino"]) == 1
    said = capsys.readouterr().err
    assert "export to openvino needs openvino: python -m pip install 'scalablevit[openvino]'" in said
    assert "Traceback" not in said


def test_the_size_of_an_openvino_model_counts_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "m.xml"
    words = [
        "export",
        "scalablevit_atto",
        "--format",
        "openvino",
        "--size",
        "32",
        "--batch",
        "1",
        "--output",
        str(path),
    ]
    assert main(words) == 0
    size = sum(file.stat().st_size for file in tmp_path.iterdir()) / 1e6
    assert size > 1
    assert f"{path}: {size:.1f} MB" in capsys.readouterr().out
