"""Refuse requests that the page never sends: for other files than were uploaded or produced, or for other hosts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGE = ("/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/config")
_API = ("info", "file=/", "heartbeat/", "queue/", "upload", "startup-events", "theme.css", "app_id", "reset", "cancel")
"""What the page needs of Gradio; its other routes fetch files of other hosts, edit the program or keep a history."""
_FOR_PROGRAMS = ("/predict", "/explain")
"""Paths whose body is an image."""
_LARGEST_BODY = 2**20
"""Bytes of JSON that the page sends: names of files and settings, never an image."""


class Guard:
    """ASGI middleware that reads the JSON of each request before Gradio does.

    Gradio copies files that a request names into its own folder, also some of those that were never uploaded, and
    fetches those that are named by an address.

    Args:
        app: that is guarded.
        folder: the only one whose files requests may name.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app, self._folder = app, folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer it with what is wrong."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] == "http" and not _is_needed(str(scope["path"])):
            await JSONResponse({"error": "there is no such page"}, 404)(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "POST" or _is_upload(scope, headers):
            await self._app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > _LARGEST_BODY:
                await JSONResponse({"error": "the request is too large"}, 413)(scope, receive, send)
                return
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        problem = self._problem(body, headers.get("host", ""))
        if problem:
            await JSONResponse({"error": problem}, 403)(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _problem(self, body: bytes, host: str) -> str:
        """What is wrong with a request; empty where nothing is."""
        try:
            content = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return "the request is not JSON"
        for entry in _objects(content):
            path, url = entry.get("path"), entry.get("url")
            if path is not None and not self._is_ours(path):
                return "only files that were uploaded to this page are read; upload it first"
            if url is not None and (not isinstance(url, str) or urlsplit(url).netloc not in ("", host)):
                return "files of other hosts are not read; download it and upload it here"
        return ""

    def _is_ours(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path or "://" in path:
            return False
        try:
            return Path(path).resolve().is_relative_to(self._folder)
        except (OSError, ValueError, RuntimeError):
            return False


def _is_needed(path: str) -> bool:
    """Whether the page sends requests to a path."""
    api = path.removeprefix("/gradio_api/")
    return path in ("/", *_FOR_PROGRAMS) or path.startswith(_PAGE) or (api != path and api.startswith(_API))


def _is_upload(scope: Scope, headers: Headers) -> bool:
    """Whether the body is a file: it has a limit of its own, and is no JSON."""
    path = str(scope["path"])
    is_form = headers.get("content-type", "").startswith("multipart/form-data")
    return path in _FOR_PROGRAMS or (path.rstrip("/").endswith("/upload") and is_form)


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    """Every object in JSON."""
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield value
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
