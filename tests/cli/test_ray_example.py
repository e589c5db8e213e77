"""examples/predict_ray.py: killed in the middle and run again, it has each image once; bad images are counted."""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from command_line import scalablevit

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict_ray.py"
COUNT, PART = 120, 3
# Ray's workers have the lowest priority but four: beside other tests they would hardly begin
ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0"}


@pytest.mark.slow
def test_killed_and_run_again_each_image_comes_once(run: Path, image_folder: Path, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "found"
    images.mkdir()
    some = sorted(image_folder.glob("val/*/*.png"))
    for i in range(COUNT):
        Image.open(some[i % len(some)]).save(images / f"photo {i:03d}.png")
    (images / "photo 007.png").write_bytes(b"junk")
    command = [sys.executable, str(EXAMPLE), str(images), "--weights", str(run), "--output", str(output)]
    command += ["--part-size", str(PART), "--batch-size", "2"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while len(list(output.glob("part-*.jsonl"))) < 2:
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.5)
    kept = {file: file.stat().st_mtime_ns for file in output.glob("part-*.jsonl")}
    assert 2 <= len(kept) < COUNT // PART
    second = subprocess.run(command, capture_output=True, text=True, timeout=200, env=ENVIRONMENT)
    assert second.returncode == 1, second.stderr  # an image could not be read
    assert second.stdout.splitlines()[-2] == f"{COUNT} images in {output}, of which 1 could not be read"
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    rows = [json.loads(line) for file in sorted(output.glob("part-*.jsonl")) for line in file.open()]
    assert [Path(row["path"]).name for row in rows] == [f"photo {i:03d}.png" for i in range(COUNT)]
    assert [i for i, row in enumerate(rows) if "error" in row] == [7]
    assert all(len(row["predictions"]) == 3 for i, row in enumerate(rows) if i != 7)
    assert os.listdir(output).count("plan.json") == 1


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The script as a module; starting Ray is left to the test above."""
    spec = importlib.util.spec_from_file_location("predict_ray", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_images_in_shards(kind: str, example: ModuleType, run: Path, image_folder: Path, tmp_path: Path) -> None:
    shards = str(tmp_path / "shards")
    assert scalablevit("shard", image_folder, shards).code == 0
    names = example.Archive([shards]).names([shards])
    assert names == sorted(f"{shards}/{path.relative_to(image_folder)}" for path in image_folder.glob("*/*/*.png"))
    predictor = example.PartPredictor([shards], str(run), str(tmp_path), kind, 4, "cpu")
    part = [*names[:3], f"{shards}/val/red/none.png"]
    assert predictor({"part": [5], "paths": [json.dumps(part)]}) == {"part": [5], "images": [4], "unreadable": [1]}
    rows = list(example.read_part(example.part_file(tmp_path, 5, kind)))
    assert [row["path"] for row in rows] == part
    assert ["error" in row for row in rows] == [False, False, False, True]


def test_another_list_is_refused(example: ModuleType, tmp_path: Path) -> None:
    example.begin(tmp_path, {"images": 3, "format": "jsonl"})
    example.begin(tmp_path, {"images": 4, "format": "jsonl"})  # there is no part of the three
    (tmp_path / "part-000000.jsonl").touch()
    example.begin(tmp_path, {"images": 4, "format": "jsonl"})
    with pytest.raises(ValueError, match="was begun with images 4, and it is 5 now: give what it was begun with, or"):
        example.begin(tmp_path, {"images": 5, "format": "jsonl"})
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"holds parts and no plan.json: name another --output"):
        example.begin(tmp_path, {"images": 4})


def predicted_here(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let `main` write rows without Ray and a network; gives the numbers of the parts that it predicts."""
    numbers: list[int] = []

    def predict(args: argparse.Namespace, weights: Path, parts: dict[int, list[str]]) -> None:
        numbers.extend(parts)
        for number, paths in parts.items():
            bad = [path for path in paths if Path(path).read_bytes() == b"junk"]
            rows = [{"path": path, **({"error": "no image"} if path in bad else {})} for path in paths]
            example.write_part(args.output, number, args.format, rows)

    monkeypatch.setattr(example, "predict", predict)
    monkeypatch.setattr(example, "check_weights", lambda weights: None)
    return numbers


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_images_that_can_be_read_now_are_predicted_with_retry(
    kind: str,
    example: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = predicted_here(example, monkeypatch)
    images, weights = tmp_path / "images", tmp_path / "weights.onnx"
    images.mkdir()
    weights.touch()
    for i in range(5):
        (images / f"{i}.png").write_bytes(b"junk" if i == 3 else b"")
    words = [str(images), "--weights", str(weights), "--output", str(tmp_path / "found"), "--part-size", "2"]
    words += ["--format", kind]
    assert example.main(words) == 1
    assert "run this again with --retry" in capsys.readouterr().out
    (images / "3.png").write_bytes(b"")
    assert example.main(words) == 1
    assert numbers == [0, 1, 2]
    assert example.main([*words, "--retry"]) == 0
    assert numbers == [0, 1, 2, 1]
    assert "5 images in 3 parts; to be predicted: 1\n" in capsys.readouterr().out
    assert example.main([*words, "--retry"]) == 0
    assert numbers == [0, 1, 2, 1]


def test_what_is_missing_is_one_message(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    words = [str(tmp_path), "--output", str(tmp_path / "found"), "--weights"]
    for weights in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ValueError, match=r"there is no (none.onnx|model.safetensors); name a run folder"):
            example.main([*words, str(weights)])
    with pytest.raises(ValueError, match="--gpus must be at least 0, got -1"):
        example.main([*words, "w", "--gpus", "-1"])
    assert example.counted(1, "part") == "1 part"
    assert example.counted(1200, "part") == "1,200 parts"


def test_a_missing_package_is_one_message(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.png").touch()
    predicted_here(example, monkeypatch)
    words = [str(tmp_path), "--weights", str(EXAMPLE), "--output", str(tmp_path / "found"), "--format", "parquet"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = example.run(words)
    assert found.startswith("predict_ray.py: error: a package is missing (")
    assert "pyarrow" in found
    assert "pip install 'scalablevit[ray,stream]'" in found
    code = f"import sys, runpy\nsys.modules['ray'] = None\nrunpy.run_path({str(EXAMPLE)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith("predict_ray.py: error: a package is missing (import of ray halted"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_cause_is_told_without_the_stack_traces_of_ray(example: ModuleType) -> None:
    text = (
        "ray::MapWorker() (pid=1)\n  File 'a.py', line 3\n    raise ValueError\nValueError: 0 images a batch\n\n"
        "The above exception was the direct cause of the following exception:\n"
        "ray.exceptions.UserCodeException: UDF failed to process a data block.\nTo change retries, configure `x`."
    )
    assert example.cause_of(RuntimeError(text)) == "ValueError: 0 images a batch"
    assert example.cause_of(RuntimeError("")) == "RuntimeError"
