"""Read the words of a command line: parsers whose errors say how to correct them."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from scalablevit.cli.errors import UsageError
from scalablevit.cli.familiar import did_you_mean, flag_hint
from scalablevit.tasks import Flag


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError`, takes no abbreviations and names the nearest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words; of an unknown flag the message names one that is close, or what it is called here."""
        for word in args or ():
            if word == "--":
                break
            if word[:1] == "-" and word not in self.flags() and Path(word).exists():
                raise UsageError(f"{word} is taken for a flag; to name the file, write ./{word}")
            if word.startswith("--") and word.partition("=")[0] not in self.flags():
                raise UsageError(self._unknown(word))
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(self._unknown(unknown[0]))
        return found

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        required = re.fullmatch(r"the following arguments are required: (.+)", message)
        if required is not None:
            raise UsageError(f"{self.prog} needs {required[1]}; `{self.prog} --help` tells more")
        raise UsageError(f"{message.removeprefix('argument ')}; `{self.prog} --help` tells more")

    def flags(self) -> list[str]:
        """All flags that it knows."""
        return [flag for action in self._actions for flag in action.option_strings]

    def _positional(self) -> str | None:
        return next((str(a.metavar or a.dest) for a in self._actions if not a.option_strings), None)

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is not understood; `{self.prog} --help` tells more"
        name = word.partition("=")[0]
        hint = flag_hint(name, program=self.prog, known=self.flags(), positional=self._positional())
        hint = hint or did_you_mean(name, self.flags()) or f"`{self.prog} --help` lists the flags"
        return f"{self.prog} has no flag {name}; {hint}"


def device(text: str) -> str:
    """Name of a device; "gpu" stands for the kind that torch knows here."""
    return "cuda" if text == "gpu" else text


def parser_of(command: str, summary: str, **options: Any) -> Parser:
    """The parser of a command."""
    return Parser(prog=f"scalablevit {command}", description=f"{summary}.", **options)


def add_flags(parser: Parser, title: str, flags: Sequence[Flag]) -> None:
    """Add a task's flags as a group; those that are there already are shared. What is not given is left out."""
    there = set(parser.flags())
    group = parser.add_argument_group(title)
    for flag in flags:
        if flag.name not in there:
            group.add_argument(flag.name, default=argparse.SUPPRESS, **flag.argparse_options())


def given_arguments(
    args: argparse.Namespace, flags: dict[str, tuple[Flag, ...]], chosen: str, found: str
) -> dict[str, Any]:
    """Argument -> value of the flags that were given.

    Args:
        args: what a parser with `add_flags` has read.
        flags: title -> its flags.
        chosen: the title whose flags are allowed.
        found: what the message says of a flag of another title, such as "DATA holds COCO annotations".

    Raises:
        UsageError: a flag of another title was given.
    """
    allowed = {flag.name: flag for flag in flags[chosen]}
    given = {}
    for flag in (flag for group in flags.values() for flag in group):
        if not hasattr(args, flag.dest):
            continue
        if flag.name not in allowed:
            titles = [title for title, group in flags.items() if any(other.name == flag.name for other in group)]
            raise UsageError(f"{flag.name} is for {' and '.join(titles)}; {found}")
        given[allowed[flag.name].argument] = getattr(args, flag.dest)
    return given
