"""Images and a finished run, made once."""

from pathlib import Path

import pytest
from fake_runs import COST, FakeFit, resolved_once
from tiny_runs import fit, write_images

from command_line import Outcome
from scalablevit.training.comparison import runs as comparison_runs


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images to train on, 9 to validate, three classes. Not to be written to."""
    return write_images(tmp_path_factory.mktemp("data") / "my images")


@pytest.fixture(scope="session")
def finished(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run of two epochs and what it said. Not to be written to."""
    run = tmp_path_factory.mktemp("runs") / "it's done"
    return run, fit(image_folder, run)


@pytest.fixture(scope="session")
def run(finished: tuple[Path, Outcome]) -> Path:
    """The folder of the finished run."""
    return finished[0]


@pytest.fixture
def fake_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeFit:
    """Comparisons start this in place of a training run, in an empty current folder."""
    fake = FakeFit()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison_runs, "run_fit", fake)
    monkeypatch.setattr("scalablevit.training.comparison.costs.cost_of", lambda folder: dict(COST))
    monkeypatch.setattr("scalablevit.training.comparison.asked.resolve", resolved_once)
    for name in ("plot_comparison_curves", "plot_comparison_costs"):
        monkeypatch.setattr(f"scalablevit.training.comparison.report.{name}", lambda *_: None)
    return fake
