"""The runtimes of exported files, as the process that they live in sees them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scalablevit.deploy.runtimes import openvino_compute

openvino = pytest.importorskip("openvino")

OPEN_CLOSE_AND_INTERRUPT = """
import os, signal, sys
import numpy as np
from scalablevit.deploy.runtimes import openvino_compute

images = np.ones((1, 3, 8, 8), np.float32)
files = [openvino_compute(sys.argv[1]) for _ in range(2)]
assert all(np.array_equal(file(images)[0], images) for file in files)
del files[0]
del files[0]
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A graph that keeps what is above 0."""
    images = openvino.opset8.parameter([-1, 3, -1, -1], np.float32, "images")
    model = openvino.Model([openvino.opset8.relu(images)], [images])
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    return tmp_path / "m.xml"


@pytest.mark.slow
def test_ctrl_c_reaches_a_process_that_has_closed_files_of_openvino(file: Path) -> None:
    words = [sys.executable, "-c", OPEN_CLOSE_AND_INTERRUPT, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr[-500:]


def test_results_stay_when_the_file_computes_again(file: Path) -> None:
    compute = openvino_compute(str(file))
    (first,) = compute(np.full((1, 3, 4, 4), 2, np.float32))
    compute(np.full((1, 3, 4, 4), 3, np.float32))
    assert (first == 2).all()
