"""Find the command, run it, and turn what goes wrong into a message and an exit code."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType, ModuleType
from typing import NoReturn

from scalablevit import __version__
from scalablevit.cli.errors import UsageError, fail, is_user_error, message_of
from scalablevit.cli.familiar import command_hint, did_you_mean
from scalablevit.cli.terminal import tolerate_any_character
from scalablevit.cli.words import Parser

COMMANDS = (
    "fit",
    "compare",
    "ablate",
    "validate",
    "predict",
    "explain",
    "export",
    "app",
    "info",
    "bench",
    "check-data",
    "shard",
    "recipes",
)
"""Each is a module of this package with a `SUMMARY` and a `main(words)` that returns the exit code."""
_OWN_FLAGS = ("-h", "--help", "--version")


def module_of(command: str) -> ModuleType:
    """The module that holds a command."""
    return import_module(f"scalablevit.cli.{command.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `scalablevit`.

    Args:
        argv: words after the program's name; None: those of this process.

    Returns:
        exit code: 0; 1 where something went wrong; 2 where the command line is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return fail("stopped", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SCALABLEVIT_DEBUG") or not is_user_error(error):
            raise
        return fail(message_of(error), code=2 if isinstance(error, UsageError) else 1)


def run() -> NoReturn:
    """Run the console script."""
    tolerate_any_character()
    try:
        code = main()
    finally:
        stop_in_silence()
    sys.exit(code)


def stop_in_silence() -> None:
    """From now on, as the interpreter ends, have Ctrl-C and SIGTERM end the process without a stack trace."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _end)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"scalablevit: error: stopped\n")
    os._exit(128 + signum)


def _dispatch(words: list[str]) -> int:
    if not words:
        _parser().print_help()
        return 2
    if words[0].startswith("-"):
        _parser().parse_args([word for word in words if word in _OWN_FLAGS])
        raise UsageError(_command_first(words))
    if words[0] not in COMMANDS:
        hint = command_hint(words[0]) or did_you_mean(words[0], COMMANDS) or _choices()
        raise UsageError(f"there is no command {words[0]!r}; {hint}")
    return int(module_of(words[0]).main(words[1:]))


def _command_first(words: list[str]) -> str:
    """How a line that begins with a flag should read."""
    command = next((word for word in words if word in COMMANDS), None)
    if command is None:
        guess = {"--config": "fit", "--resume": "fit", "--weights": "predict"}.get(words[0])
        line = shlex.join([guess, *words]) if guess else f"COMMAND {words[0]} ..."
        return f"the command comes first: scalablevit {line}; {_choices()}"
    others = list(words)
    others.remove(command)
    return f"the command comes first: scalablevit {shlex.join([command, *others])}"


def _choices() -> str:
    return f"choose from {', '.join(COMMANDS)}"


def _parser() -> Parser:
    """Of the program's own options; the commands are there for its help."""
    parser = Parser(
        prog="scalablevit",
        description="Train, evaluate and use ScalableViT (arXiv:2203.10790).",
        usage="scalablevit [-h] [--version] COMMAND ...",
        epilog="`scalablevit COMMAND --help` describes a command. To try it: `scalablevit fit --config digits`",
    )
    parser.add_argument("--version", action="version", version=f"scalablevit {__version__}")
    commands = parser.add_subparsers(prog="scalablevit", title="commands", metavar="COMMAND     ")
    for command in COMMANDS:
        commands.add_parser(command, help=module_of(command).SUMMARY, add_help=False)
    return parser
