"""The C++ example compiles, and finds the classes that PyTorch finds, where ONNX Runtime's headers are there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_classifier

from scalablevit.deploy.export import export

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_classify.cpp"
ROOTS = [Path(root) for root in (os.environ.get("ONNXRUNTIME_ROOT", "/opt/onnxruntime"), "/usr", "/usr/local")]


def header_folder() -> Path | None:
    """The folder of ONNX Runtime's C++ header: under $ONNXRUNTIME_ROOT, or where a system's package has it."""
    folders = (root / part for root in ROOTS for part in ("include", "include/onnxruntime"))
    return next((folder for folder in folders if (folder / "onnxruntime_cxx_api.h").is_file()), None)


@pytest.mark.slow
@pytest.mark.skipif(header_folder() is None or shutil.which("g++") is None, reason="no headers of ONNX Runtime, or g++")
def test_the_example_classifies(tmp_path: Path) -> None:
    folder = header_folder()
    assert folder is not None
    root = folder.parent if folder.name == "include" else folder.parents[1]
    program = tmp_path / "onnx_classify"
    libraries = ["-L", str(root / "lib"), f"-Wl,-rpath,{root / 'lib'}", "-lonnxruntime"]
    command = ["g++", "-std=c++17", "-Wall", "-I", str(folder), str(EXAMPLE), *libraries, "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    network = tiny_classifier(num_classes=7)
    export(network, tmp_path / "m.onnx", format="onnx", mean=(0.5,) * 3, std=(0.5,) * 3, uint8=True)
    pixels = torch.randint(0, 256, (48, 40, 3), dtype=torch.uint8)
    (tmp_path / "m.ppm").write_bytes(b"P6\n40 48\n255\n" + pixels.numpy().tobytes())
    said = subprocess.run(
        [program, tmp_path / "m.onnx", tmp_path / "m.ppm"], check=True, capture_output=True, text=True
    ).stdout
    with torch.no_grad():
        probabilities = network((pixels.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5).softmax(1)[0]
    rows = [line.split("\t") for line in said.splitlines()]
    assert [int(row[0]) for row in rows] == probabilities.argsort(descending=True)[:5].tolist()
    assert [float(row[1]) for row in rows] == pytest.approx(
        probabilities.sort(descending=True).values[:5].tolist(), abs=1e-4
    )
    failed = subprocess.run([program, tmp_path / "m.onnx", EXAMPLE], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "is no binary PPM" in failed.stderr
