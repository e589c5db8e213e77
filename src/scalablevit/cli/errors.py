"""What goes wrong: which errors are the user's to correct, their message, and the exit code."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from scalablevit.printable import printable
from scalablevit.tasks import PretrainingEntry, TaskEntry


class UsageError(ValueError):
    """A command line that is wrong whatever lies on the disk."""


def fail(message: str, code: int = 1) -> int:
    """Print an error to standard error and return the exit code."""
    print(f"scalablevit: error: {printable(message, multiline=True)}", file=sys.stderr)
    return code


def is_user_error(error: Exception) -> bool:
    """Whether the user can correct it; everything else is a defect of ours and keeps its stack trace."""
    ours = {"MisconfigurationException", "NonFiniteError", "OutOfMemoryError"}
    expected = isinstance(error, ValueError | OSError | MemoryError) or bool(_class_names(error) & ours)
    return expected or is_out_of_memory(error)


def message_of(error: Exception) -> str:
    """The message for the user."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "the machine is out of memory; free some memory"
    if is_out_of_memory(error):
        return f"{_what_lacked(error)}; free some memory"
    return str(error)


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch found no memory: of a GPU it raises a class of its own, of the machine a RuntimeError."""
    return "OutOfMemoryError" in _class_names(error) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextlib.contextmanager
def memory_advice(command: str, find_entry: Callable[[], TaskEntry | PretrainingEntry | None]) -> Iterator[None]:
    """Say what to change where memory runs out; `find_entry` is asked for the task then."""
    try:
        yield
    except Exception as error:
        entry = find_entry() if is_out_of_memory(error) else None
        advice = None if entry is None else entry.out_of_memory.get(command)
        if advice is None:
            raise
        raise ValueError(f"{_what_lacked(error)}; {advice}") from error


def _class_names(error: Exception) -> set[str]:
    """Names of the error's classes: importing the classes would cost seconds."""
    return {base.__name__ for base in type(error).__mro__}


def _what_lacked(error: Exception) -> str:
    said = str(error)
    if "DefaultCPUAllocator" not in said:
        return said.split(". ")[0]
    wanted = re.search(r"tried to allocate (\d+)", said)
    amount = f", asked for {int(wanted[1]) / 2**30:.1f} GiB" if wanted else ""
    return f"the machine is out of memory{amount}"
