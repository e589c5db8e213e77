"""Runs, an image and a page that is served, made once."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from untrained_models import MAX_UPLOAD, write_photo, write_runs

from scalablevit.app.models import find_models
from scalablevit.cli.app import error_text, json_text

if TYPE_CHECKING:
    from scalablevit.app.page import Page


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each task. Not to be written to."""
    return write_runs(tmp_path_factory.mktemp("work") / "runs")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that is turned by its EXIF orientation. Not to be written to."""
    return write_photo(tmp_path_factory.mktemp("images") / "a photo.jpg")


@pytest.fixture(scope="session")
def served(runs: Path) -> "Iterator[tuple[str, Page]]":
    """Address of a page with all models, and the page."""
    import uvicorn  # Gradio and its server take seconds to import

    from scalablevit.app.page import Page, Wording
    from scalablevit.app.server import listen, private_folder, web_app

    models = find_models([str(runs / name) for name in ("pets", "boxes", "deeper/pixels")], on_skipped=pytest.fail)
    found = listen("127.0.0.1", 0)
    with private_folder() as folder:
        page = Page(models, folder=folder, wording=Wording(json_text, error_text), device="cpu", max_upload=MAX_UPLOAD)
        server = uvicorn.Server(uvicorn.Config(web_app(page), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.getsockname()[1]}", page
        server.should_exit = True
        thread.join(20)
    assert not folder.exists()
