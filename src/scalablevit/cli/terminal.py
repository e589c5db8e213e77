"""What a command prints: real names in JSON, warnings as one line, no character that the stream cannot take."""

import codecs
import io
import logging
import math
import sys
from typing import Any, TextIO

from scalablevit.printable import printable, real_name
from scalablevit.safe_write import json_text


def tolerate_any_character() -> None:
    """Let standard output print characters that its encoding lacks as escapes, as standard error does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(content: Any, *, indent: int | None = None, file: TextIO | None = None) -> None:
    """Print JSON that every reader takes: names as they are, null for what is no number.

    Where the stream is not UTF-8, and for bytes of file names that are not, letters become JSON's own escapes.
    """
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    print(json_text(_exact(content), indent=indent, ascii_only=not is_utf8), file=file, flush=True)


def has_no_number(content: Any) -> bool:
    """Whether a NaN or an infinity is somewhere in it."""
    if isinstance(content, dict):
        return any(map(has_no_number, content.values()))
    if isinstance(content, list | tuple):
        return any(map(has_no_number, content))
    return isinstance(content, float) and not math.isfinite(content)


def tell(message: str) -> None:
    """Print one line to standard error."""
    print(printable(message), file=sys.stderr, flush=True)


def show_warnings() -> None:
    """Print warnings of this package as a line each, where nothing else does."""
    ours = logging.getLogger("scalablevit")
    if not ours.handlers:
        ours.addHandler(_Lines(logging.WARNING))


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; the stream is looked up at each call, as a live bar puts its own there."""
        sys.stderr.write(f"{record.levelname.lower()}: {printable(record.getMessage(), multiline=True)}\n")


def _exact(content: Any) -> Any:
    if isinstance(content, dict):
        return {_exact(key): _exact(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_exact(value) for value in content]
    return real_name(content) if isinstance(content, str) else content
