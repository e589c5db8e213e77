"""Prediction and deployment start without the training engine and without a drawing library."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["classification.predict", "detection.predict", "segmentation.predict", "deploy.optimize", "weights.building"],
)
def test_importing_it_imports_neither_lightning_nor_torchmetrics_nor_matplotlib(module: str) -> None:
    code = (
        f"import sys, scalablevit.{module}\n"
        "print([heavy for heavy in ('lightning', 'torchmetrics', 'matplotlib') if heavy in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
