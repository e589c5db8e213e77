"""`scalablevit bench`."""

import json
from pathlib import Path

import pytest

from command_line import scalablevit
from scalablevit.bench import cells, throughput
from scalablevit.cli import bench

QUICK = ("--size", "32x40", "--batch", "1", "--rounds", "2", "--warm-up", "1", "--device", "cpu")


@pytest.mark.slow
def test_table_and_file(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = scalablevit("bench", "scalablevit_atto", "plain:scalablevit_atto", *QUICK, "--output", output)
    assert done.code == 0
    assert "inference, fp32, eager, batch 1, 32 x 40 px" in done.out
    assert [line.split()[0] for line in done.out.splitlines()[4:6]] == ["scalablevit_atto", "plain:scalablevit_atto"]
    assert done.err.startswith("[1/1] inference, fp32, eager, batch 1, 32 x 40 px ... ")
    result = json.loads(output.read_text())
    assert result["finished"]
    assert result["rounds"] == 2


@pytest.mark.slow
def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "prepare", lambda *args, **options: lambda: None)
    done = scalablevit("bench", *QUICK, "--json", "--task", "training", "inference")
    (training, inference) = json.loads(done.out)["cells"]
    assert (training["task"], inference["task"]) == ("training", "inference")
    assert tuple(training["contenders"]) == bench.MODELS


def test_nothing_measured_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*args: object, **options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(throughput, "prepare", prepare)
    done = scalablevit("bench", "scalablevit_atto", *QUICK)
    assert done.code == 1
    assert "RuntimeError: broken" in done.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("scalablevit_atoo",), 1, "MODEL 'scalablevit_atoo': there is no such network; did you mean scalablevit_atto"),
        (("--batch", "0"), 1, "--batch must be at least 1, got 0"),
        (("--rounds", "1"), 1, "--rounds must be at least 2"),
        (("--threads", "0"), 1, "--threads must be at least 1, got 0"),
        (("--precision", "tf32", "--device", "cpu"), 1, "--precision tf32 is for CUDA devices, not cpu; use fp32"),
        (("--device", "cuda:99"), 1, "--device cuda:99: this machine has"),
        (("--output", "/"), 1, "--output '/' is not a file"),
        (("--size", "224x"), 2, "'224x' is no size; give a side such as 224, or height x width as 800x1280"),
        (("--size", "0"), 2, "'0' is no size"),
        (("--precision", "fp8"), 2, "invalid choice: 'fp8'"),
    ],
)
def test_wrong_words(words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        done = scalablevit("bench", *words)
        found, text = done.code, done.err
    except SystemExit as stop:
        found, text = int(stop.code or 0), capsys.readouterr().err
    assert found == code
    assert message in text


def test_help_offers_what_can_be_measured() -> None:
    assert bench.CHOICES == {
        "precision": cells.PRECISIONS,
        "mode": cells.MODES,
        "task": cells.TASKS,
    }
