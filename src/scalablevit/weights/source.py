"""Find the weights file that a path, a run folder or a `local-dir:` name stands for."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from scalablevit.model_files import EXPORTED, TRAINED, WEIGHTS_FILE


@dataclass(frozen=True)
class Accepted:
    """What a caller takes, for the remedies of errors.

    Attributes:
        remedy: names it.
        suffixes: endings of the files to look for in a folder without weights.
    """

    remedy: str
    suffixes: tuple[str, ...]


CHECKPOINTS = Accepted(
    f"give a .safetensors or .pth file, or a folder with {WEIGHTS_FILE}",
    (".safetensors", ".pth", ".pt", ".bin", ".ckpt"),
)
"""To start from."""
TRAINED_NETWORKS = Accepted(f"give a {TRAINED}", (".safetensors", *EXPORTED.values()))
"""To run inference with."""


class WeightsError(ValueError):
    """Raised for a checkpoint that cannot be read, or that does not fit the model."""


def weights_file(source: str | os.PathLike[str], accepted: Accepted = CHECKPOINTS) -> Path:
    """Find the file with the weights.

    Args:
        source: file, folder with a `model.safetensors`, or `local-dir:` name.
        accepted: what the caller takes.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without weights.
    """
    path = Path(str(source).removeprefix("local-dir:")).expanduser()
    remedy = accepted.remedy
    if "\0" in str(path):
        raise FileNotFoundError(f"no weights at {str(path)!r}: a path has no null character; {remedy}")
    if str(source).startswith(("http://", "https://")):
        raise FileNotFoundError(f"no weights at {source}: weights are read from files; download the file, and {remedy}")
    if not path.is_dir():
        if not path.exists():
            near = _similar_name(path)
            raise FileNotFoundError(
                f"no weights at {path}: there is no such file or folder"
                f"{f' (did you mean {near}?)' if near else ''}; {remedy}"
            )
        return path
    file = path / WEIGHTS_FILE
    if not file.exists():
        last = path / "checkpoints" / "last.ckpt"
        if last.is_file():
            raise FileNotFoundError(
                f"no weights at {file}, which a run writes when it ends: resume the run with scalablevit fit "
                f"--resume {path}, or start another run from its last checkpoint: --model.weights {last}"
            )
        others = sorted(p for p in path.iterdir() if p.suffix in accepted.suffixes and p.is_file())
        if others:
            remedy = f"the folder holds {others[0].name}: give {others[0]}"
        raise FileNotFoundError(f"no weights at {file}; {remedy}")
    return file


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 300 characters, or its type where the message is empty."""
    return shortened((str(error).strip().splitlines() or [type(error).__name__])[0])


def shortened(text: object, most: int = 300) -> str:
    """Return text of at most `most` characters: what stands in a file may be of any length."""
    words = str(text)
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _similar_name(path: Path) -> str:
    """Return the file or folder beside a missing one whose name is most like it; empty where none is."""
    try:
        names = os.listdir(path.parent)
    except OSError:  # no such folder, or one that may not be read
        return ""
    close = difflib.get_close_matches(path.name, names, 1)
    return str(path.parent / close[0]) if close else ""
