"""`POST /predict` and `POST /explain`: rows of `scalablevit --json` for the image in the body of a request."""

import math
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from scalablevit.app.explaining import Wish
from scalablevit.app.models import Model
from scalablevit.app.page import Page
from scalablevit.app.results import View, seen
from scalablevit.explain.methods import point

_LONGEST_NAME = 200


def add_routes(app: FastAPI, page: Page) -> None:
    """Add the routes to an application.

    Query of both: `name` of the file (default: image), `model` (default: the first) and `threshold`; of `/predict` also
    `top`, of `/explain` `method`, `class`, `at` and `per`. They answer 400 with an `error` where the file or an
    argument is wrong, 413 where the file is too large.

    Args:
        app: that the page will be mounted in.
        page: whose models predict.
    """

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        return await _answer(page, request, _predicted)

    @app.post("/explain")
    async def explain(request: Request) -> Response:
        return await _answer(page, request, _explained)


async def _answer(page: Page, request: Request, row_of: Callable[[Page, Request, Path], Mapping[str, Any]]) -> Response:
    """Store the image in the body of a request, and answer with the row that is made of it."""
    name = _file_name(request.query_params.get("name", ""))

    def answer() -> Response:
        try:
            row = row_of(page, request, path)
        except Exception as error:
            return _json(page, {"path": path.name, "error": page.message(error)}, 400)
        return _json(page, row, 400 if "error" in row else 200)

    with tempfile.TemporaryDirectory(dir=page.folder) as folder:
        path = Path(folder, name)
        size = 0
        with path.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > page.max_upload:
                    most = f"{page.max_upload / 2**20:g} MB"
                    return _json(page, {"path": name, "error": f"{name}: it is larger than {most}"}, 413)
                file.write(part)
        return await run_in_threadpool(answer)


def _file_name(text: str) -> str:
    """The name of a file that any disk takes: the end of a path, of 200 bytes at most."""
    name = PurePosixPath(text.replace("\0", "")).name
    name = name.encode("utf-8", "replace")[-_LONGEST_NAME:].decode("utf-8", "ignore")
    return "image" if name in ("", "..") else name


def _predicted(page: Page, request: Request, path: Path) -> Mapping[str, Any]:
    query, model = request.query_params, _model(page, request)
    view = View(
        top=int(_number(query.get("top"), "top", View.top)),
        threshold=_number(query.get("threshold"), "threshold", View.threshold),
    )
    row: Mapping[str, Any] = seen(page.predicted(str(path), model).prediction, model.entry.name, view).to_dict()
    return row


def _explained(page: Page, request: Request, path: Path) -> Mapping[str, Any]:
    query, model = request.query_params, _model(page, request)
    at = query.get("at")
    wish = Wish(
        method=query.get("method", Wish.method),
        class_name=query.get("class"),
        at=None if at is None else _point(at),
        per=query.get("per", Wish.per),
        threshold=_number(query.get("threshold"), "threshold", Wish.threshold),
    )
    return page.explained(str(path), model, wish).row


def _model(page: Page, request: Request) -> Model:
    return page.model(request.query_params.get("model") or next(iter(page.models)))


def _point(text: str) -> tuple[float, float]:
    """A place of the query as numbers."""
    try:
        return point(text)
    except ArgumentTypeError as error:
        raise ValueError(f"at {error}") from None


def _number(text: str | None, name: str, default: float) -> float:
    """An argument of the query as a number."""
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {text!r}")
    return number


def _json(page: Page, row: object, status: int) -> Response:
    content = page.wording.json_text(row).encode("utf-8", "backslashreplace")
    return Response(content, status, media_type="application/json")
