"""Run the command line in this process."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from scalablevit.cli import main


@dataclass
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def scalablevit(*words: str | Path) -> Outcome:
    """Run a command. An exception is a stack trace to a user, and fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def output_of(*words: str | Path, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command that must end with `code`."""
    outcome = scalablevit(*words)
    assert outcome.code == code, outcome.err
    return outcome.out, outcome.err
