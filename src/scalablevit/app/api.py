"""`POST /predict`: the row of `scalablevit predict --json` for the image in the body of a request."""

import tempfile
from pathlib import Path, PurePosixPath

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from scalablevit.app.page import Page
from scalablevit.app.results import View, seen

_LONGEST_NAME = 200


def add_predict_route(app: FastAPI, page: Page) -> None:
    """Add the route to an application.

    Query: `name` of the file (default: image), `model` (default: the first), `top` and `threshold`. Answers 400 with
    an `error` where the file or an argument is wrong, 413 where the file is too large.

    Args:
        app: that the page will be mounted in.
        page: whose models predict.
    """

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        name = PurePosixPath(request.query_params.get("name", "image")).name[-_LONGEST_NAME:] or "image"
        with tempfile.TemporaryDirectory(dir=page.folder) as folder:
            path = Path(folder, name.replace("\0", ""))
            size = 0
            with path.open("wb") as file:
                async for part in request.stream():
                    size += len(part)
                    if size > page.max_upload:
                        most = f"{page.max_upload / 2**20:g} MB"
                        return _json(page, {"path": name, "error": f"{name}: it is larger than {most}"}, 413)
                    file.write(part)
            return await run_in_threadpool(_predict, page, request, path)


def _predict(page: Page, request: Request, path: Path) -> Response:
    query = request.query_params
    try:
        model = page.model(query.get("model") or next(iter(page.models)))
        view = View(
            top=int(_number(query.get("top"), "top", View.top)),
            threshold=_number(query.get("threshold"), "threshold", View.threshold),
        )
        row = seen(page.predicted(str(path), model).prediction, model.entry.name, view).to_dict()
    except Exception as error:
        return _json(page, {"path": path.name, "error": page.message(error)}, 400)
    return _json(page, row, 400 if "error" in row else 200)


def _number(text: str | None, name: str, default: float) -> float:
    """An argument of the query as a number."""
    try:
        return default if text is None else float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _json(page: Page, row: object, status: int) -> Response:
    content = page.wording.json_text(row).encode("utf-8", "backslashreplace")
    return Response(content, status, media_type="application/json")
