"""Runs and an image, made once."""

from pathlib import Path

import pytest
from untrained_models import write_photo, write_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each task. Not to be written to."""
    return write_runs(tmp_path_factory.mktemp("work") / "runs")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that is turned by its EXIF orientation. Not to be written to."""
    return write_photo(tmp_path_factory.mktemp("images") / "a photo.jpg")
