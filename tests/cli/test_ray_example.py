"""examples/predict_ray.py: killed in the middle and run again, it has each image once; bad images are counted."""

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
    assert second.stdout.splitlines()[-1] == f"{COUNT} images in {output}, of which 1 could not be read"
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
    example.begin(tmp_path, {"images": 4, "format": "jsonl"})
    example.begin(tmp_path, {"images": 4, "format": "jsonl"})
    with pytest.raises(ValueError, match="was begun with images 4, and it is 5 now: give what it was begun with, or"):
        example.begin(tmp_path, {"images": 5, "format": "jsonl"})
    (tmp_path / "plan.json").unlink()
    (tmp_path / "part-000000.jsonl").touch()
    with pytest.raises(ValueError, match=r"holds parts and no plan.json: name another --output"):
        example.begin(tmp_path, {"images": 4})
