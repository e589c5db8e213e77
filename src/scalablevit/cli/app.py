"""`scalablevit app`."""

import importlib.util
import io
from typing import Any

from scalablevit.cli.errors import UsageError, is_user_error, message_of
from scalablevit.cli.importing import importing
from scalablevit.cli.terminal import print_json, show_warnings, tell
from scalablevit.cli.words import Parser, device, parser_of
from scalablevit.model_files import TRAINED

SUMMARY = "Serve a local page that runs inference on dropped images"
_LARGEST_PORT = 65535


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("app", SUMMARY)
    add = found.add_argument
    add(
        "runs", nargs="*", metavar="RUN",
        help=f"{TRAINED}, or a folder of runs (default: the runs in the folder runs)",
    )  # fmt: skip
    add("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0: every network (default: 127.0.0.1)")
    add("--port", type=int, default=7860, metavar="N", help="port to serve on; 0: any that is free (default: 7860)")
    add("--max-upload", type=float, default=20, metavar="MB", help="largest upload (default: 20)")
    add(
        "--max-pixels", type=int, metavar="N",
        help="read images of up to N million pixels (default: 179); raise it for files that you trust",
    )  # fmt: skip
    add("--examples", type=int, default=8, metavar="N", help="example images of each run's validation set (default: 8)")
    add("--device", type=device, help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    if not 0 <= args.port <= _LARGEST_PORT:
        raise UsageError(f"--port must lie in [0, {_LARGEST_PORT}], got {args.port}")
    if not 0 < args.max_upload <= 10_000:
        raise UsageError(f"--max-upload must lie in (0, 10000] MB, got {args.max_upload:g}")
    if args.max_pixels is not None and args.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1 (million), got {args.max_pixels}")
    if args.examples < 0:
        raise UsageError(f"--examples must be at least 0, got {args.examples}")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("scalablevit app needs Gradio; install it: pip install 'scalablevit[app]'")
    with importing():
        from scalablevit.app.models import find_models

    show_warnings()
    models = find_models(args.runs, on_skipped=tell)
    with importing():
        from scalablevit.app.page import Wording
        from scalablevit.app.server import listen, serve
        from scalablevit.device import choose_device

        choose_device(args.device)
    found = listen(args.host, args.port)
    host, port = found.getsockname()[:2]
    for model in models:
        tell(f"{model.label}: {model.entry.name}, {model.source}")
    if host not in ("127.0.0.1", "::1"):
        tell(f"warning: whoever reaches {host} may upload images to this page; it has no password")
    serve(
        models,
        found,
        wording=Wording(json_text, error_text),
        on_ready=lambda: tell(f"open http://{_shown_host(host)}:{port} in a browser; Ctrl-C stops it"),
        device=args.device,
        num_examples=args.examples,
        max_upload=int(args.max_upload * 2**20),
        max_pixels=None if args.max_pixels is None else args.max_pixels * 10**6,
    )
    return 0


def json_text(row: Any) -> str:
    """A row as `scalablevit predict --json` prints it."""
    stream = io.StringIO()
    print_json(row, file=stream)
    return stream.getvalue()


def error_text(error: Exception) -> str | None:
    """The message of an error that the user can correct; None: it is a defect of ours."""
    return message_of(error) if is_user_error(error) else None


def _shown_host(host: str) -> str:
    """The address as a browser on this machine takes it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
