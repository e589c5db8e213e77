"""Serve the page: a socket of our own, headers that keep the browser from other hosts, a folder that goes with it."""

import contextlib
import errno
import os
import re
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before gradio is imported: it would send usage figures, and look for a newer version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from scalablevit.app.api import add_routes
from scalablevit.app.guard import Guard
from scalablevit.app.models import Model
from scalablevit.app.page import Page, Wording, stylesheet, theme

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
"""What the browser may fetch: what this server serves."""
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_OUTSIDE = re.compile(
    rb"""<link[^>]*\shref="(?:https?:)?//[^"]*"[^>]*>|<script[^>]*\ssrc="(?:https?:)?//[^"]*"[^>]*>\s*</script>|"""
    rb"""<meta[^>]*\scontent="https?://[^"]*"[^>]*>""",
    re.DOTALL,
)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that the page is served on.

    Args:
        host: address or name of this machine; "127.0.0.1" is reached from this machine alone.
        port: 0: any that is free.

    Raises:
        ValueError: the port is taken or may not be used, or this machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise ValueError(f"--host {host}: there is no such address; 127.0.0.1 is this machine") from error
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} of {host} is taken, perhaps by another app; stop it, or choose another: --port {port + 1}"
            ) from error
        if error.errno == errno.EACCES:
            raise ValueError(f"port {port} may not be used by this user; choose one above 1023: --port 7860") from error
        raise ValueError(f"--host {host} --port {port}: {error.strerror}; 127.0.0.1 is this machine") from error
    return found


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for what is uploaded and produced, that only this user may read; it is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="scalablevit-app-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        earlier = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        try:
            yield folder
        finally:
            if earlier is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = earlier


def web_app(page: Page, *, hosts: Sequence[str] = _LOOPBACK) -> FastAPI:
    """The page as an ASGI application that serves nothing but itself and the files in the page's folder.

    Args:
        page: with its models.
        hosts: names that browsers may know this machine by; others are refused, so that no other web site can make a
            browser read the page.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, page)

    @app.middleware("http")
    async def stay_at_home(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if not response.headers.get("content-type", "").startswith("text/html"):
            return response
        body = b"".join([part async for part in response.body_iterator])
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return Response(_OUTSIDE.sub(b"", body), response.status_code, headers)

    app.add_middleware(Guard, folder=page.folder)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return gr.mount_gradio_app(
        app,
        page.build(),
        path="/",
        footer_links=["gradio"],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=page.max_upload,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=stylesheet(),
    )


def serve(
    models: Sequence[Model],
    found: socket.socket,
    *,
    wording: Wording,
    on_ready: Callable[[], None],
    **options: Any,
) -> None:
    """Serve the page until the process is stopped.

    Args:
        models: that can be chosen; at least one.
        found: socket that listens.
        wording: how results and errors become text.
        on_ready: is called as soon as the page can be opened.
        options: further arguments of `Page`.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    with private_folder() as folder:
        page = Page(models, folder=folder, wording=wording, **options)
        app = web_app(page, hosts=_LOOPBACK if found.getsockname()[0] in ("127.0.0.1", "::1") else ("*",))
        server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1), on_ready)
        server.run(sockets=[found])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._on_ready()
