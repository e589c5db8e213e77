"""How this program is called here: what a hint tells the user to type must work as it stands."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def invocation(*words: str | os.PathLike[str]) -> str:
    """A command line that runs this installation of `scalablevit`, quoted for a shell.

    It begins with `scalablevit` only where the shell finds the running script by that name; else with the
    script's path from the current folder, if it lies in it, such as `.venv/bin/scalablevit`; else with
    `PYTHON -m scalablevit`.

    Args:
        words: what stands behind the program's name, unquoted.
    """
    return shlex.join([*_program(), *(os.fspath(word) for word in words)])


def _program() -> list[str]:
    script = Path(sys.argv[0])
    # under `python -m scalablevit` it is __main__.py; where another program calls us, that program
    if script.stem == "scalablevit" and script.is_file():
        found = shutil.which("scalablevit")
        if found is not None and os.path.samefile(found, script):
            return ["scalablevit"]
        path = os.path.abspath(script)  # no links followed: a virtual environment is one
        if Path(path).is_relative_to(Path.cwd()):
            inside = os.path.relpath(path)
            # a name without a folder would be looked for in PATH
            return [inside if os.path.dirname(inside) else os.path.join(os.curdir, inside)]
    return [sys.executable, "-m", "scalablevit"]
