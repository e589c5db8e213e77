"""`scalablevit predict --embeddings`: the features of each image before the classifier's head, in one file."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scalablevit.cli.csv_row import write_row
from scalablevit.cli.errors import UsageError
from scalablevit.printable import real_name
from scalablevit.safe_write import check_writable, write_atomically
from scalablevit.tasks import TaskEntry

_ENDINGS = (".npz", ".csv")


def check_embeddings(entry: TaskEntry, path: str, *, output: str | None = None) -> None:
    """Refuse a file, or a task, that there are no embeddings for.

    Args:
        entry: of the task.
        path: of the file.
        output: where the predictions are written; None: nowhere.

    Raises:
        UsageError: with the remedy.
        WriteError: nothing can be written there.
    """
    if not entry.embeds:
        raise UsageError(f"--embeddings are of classifiers, and these weights are for {entry.name}: leave it out")
    if Path(path).suffix.lower() not in _ENDINGS:
        raise UsageError(f"--embeddings {path} must end in {' or '.join(_ENDINGS)}")
    if Path(path).is_dir():
        raise UsageError(f"--embeddings {path} is a folder; name a file")
    if output and Path(output).resolve() == Path(path).resolve():
        raise UsageError(f"--embeddings {path} would replace the predictions, which go to that file too: name another")
    check_writable(Path(path))


class EmbeddingsFile:
    """Collects embeddings, and writes them when the command ends or is stopped.

    `.npz` holds `paths` (N texts) and `embeddings` (N, C) float32, which `numpy.load` reads; `.csv` has a row for each
    image: its path, then its C values.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._paths: list[str] = []
        self._rows: list[Any] = []

    def add(self, prediction: Any) -> None:
        """Add the embedding of an image."""
        self._paths.append(real_name(prediction.path))
        self._rows.append(prediction.embedding)

    def close(self) -> None:
        """Write the file; nothing where no image could be read.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        if not self._rows:
            return
        import numpy as np

        if self.path.suffix.lower() == ".npz":
            arrays = {"paths": np.array(self._paths), "embeddings": np.stack(self._rows)}
            save: Callable[..., None] = np.savez  # its keywords are names of arrays
            write_atomically(self.path, partial(save, **arrays))
        else:
            write_atomically(self.path, self._csv().encode("utf-8", "surrogateescape"))

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        write_row(text, ["path", *(f"feature_{i}" for i in range(len(self._rows[0])))])
        for path, row in zip(self._paths, self._rows, strict=True):
            write_row(text, [path, *(f"{value:.7g}" for value in row.tolist())])
        return text.getvalue()
