"""The kernels' own tests, in a process of their own: Triton must know before it is imported that it interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes, where something else computes
def test_kernels_give_what_their_definitions_give() -> None:
    pytest.importorskip("triton")
    files = sorted(str(file) for file in HERE.glob("test_*_kernel.py"))
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "SCALABLEVIT_ATTENTION": ""},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-5000:]
