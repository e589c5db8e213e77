"""Checkpoints that a full disk, a crash or a stranger's file cannot turn against the user."""

import contextlib
import errno
import logging
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer

from scalablevit import __version__
from scalablevit.safe_write import WriteError, write_atomically
from scalablevit.training.way_on import way_on
from scalablevit.weights.checksums import damaged_part
from scalablevit.weights.source import first_line

log = logging.getLogger(__name__)

_ERRORS_OF_DAMAGE = (
    *(RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError),
    AssertionError,
)
"""What torch raises of damaged archives and pickles; not MemoryError, which has an advice of its own."""

_RESTORES = "lightning.pytorch.trainer.connectors.checkpoint_connector"


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their place and then renamed into it; loading never runs code from the
    file.

    Lightning's own writer puts its temporary file into the system's temporary folder, often another, smaller
    disk across which a rename is a copy, and does not wait for the disk.

    Attributes:
        seconds: that went into writing so far.
    """

    seconds = 0.0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`: complete, or not at all.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
            TypeError: `storage_options` is given.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} writes to local disks and takes no storage_options")
        began = time.monotonic()
        write_atomically(path, partial(torch.save, checkpoint))
        self.seconds += time.monotonic() - began

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = lambda storage, location: storage,
        weights_only: bool | None = None,
        *,
        mmap: bool = False,
    ) -> dict[str, Any]:
        """Read a checkpoint; tensors and plain values only, whatever `weights_only` says.

        Args:
            path: of the checkpoint.
            map_location: as of `torch.load`.
            weights_only: ignored, with a warning.
            mmap: read each tensor when it is used, for whoever needs the plain values alone.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, is no checkpoint, or holds objects that only code could
                rebuild.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no checkpoint {os.fspath(path)}")
        if weights_only is False:
            log.warning("%s is read with weights_only=True all the same", os.fspath(path))
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{os.fspath(path)} is not a checkpoint of a run of ours, or is damaged: it holds objects "
                "other than tensors and plain values, and they are not loaded because that can run code"
            ) from error
        except _ERRORS_OF_DAMAGE as error:
            raise ValueError(
                f"{os.fspath(path)} is truncated or not a checkpoint ({first_line(error)}): take another file of its "
                "folder"
            ) from error
        if not isinstance(checkpoint, dict):
            raise ValueError(f"{os.fspath(path)} holds a {type(checkpoint).__name__}, not a checkpoint")
        part = None if mmap else damaged_part(path)
        if part is not None:
            raise ValueError(
                f"{os.fspath(path)} is damaged (the checksum of {part} does not fit): take another file of its folder"
            )
        return checkpoint


def seconds_writing(trainer: Trainer) -> float:
    """How long this process has been writing checkpoints."""
    checkpoint_io = trainer.strategy.checkpoint_io
    return checkpoint_io.seconds if isinstance(checkpoint_io, SafeCheckpointIO) else 0.0


class RunCheckpointIO(SafeCheckpointIO):
    """Refuses what is no checkpoint of a Trainer, which would fail deep inside Lightning, and a folder that is gone."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """As `SafeCheckpointIO`, into a folder that is still there.

        Raises:
            WriteError: the run folder was moved or removed, the disk is full, or the folder cannot be written.
        """
        folder = Path(path).parent
        if not folder.is_dir():
            raise WriteError(
                errno.ENOENT,
                f"the run folder {folder.parent} was moved or removed under the run, and {Path(path).name} is not "
                "saved. If you moved it, resume it there: fit --resume FOLDER",
            )
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As `SafeCheckpointIO`.

        Raises:
            ValueError: the file is no checkpoint of a run.
        """
        try:
            return self._read(path, *args, **kwargs)
        except ValueError as error:
            raise ValueError(f"{error}{self.way_on(path)}") from error

    def way_on(self, path: str | os.PathLike[str]) -> str:
        """How to go on where a checkpoint cannot be used: by another of its folder; empty where none is whole."""
        return way_on(path, lambda other: self._read(other, map_location="cpu"))

    def _read(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        missing = {"pytorch-lightning_version", "state_dict", "loops", "epoch", "global_step"} - checkpoint.keys()
        if missing:
            raise ValueError(
                f"{os.fspath(path)} is not a checkpoint of a run: it lacks {', '.join(sorted(missing))}. "
                "Take RUN/checkpoints/last.ckpt or best.ckpt; weights alone go to fit --model.weights"
            )
        wrong = next((key for key, is_right in _FORMS.items() if not is_right(checkpoint.get(key))), None)
        if wrong is not None:
            raise ValueError(
                f"{os.fspath(path)} is damaged: its entry {wrong} is not as a run writes it; take another "
                "checkpoint of its folder"
            )
        if not _names_what_it_trained(checkpoint.get("trained")):
            raise ValueError(
                f"{os.fspath(path)} is damaged: its entry trained does not name task, variant and class_names; "
                "take another checkpoint of its folder"
            )
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint that a better one has replaced.

        Its path stands in the checkpoint that the run was resumed from, which may be a stranger's: Lightning would
        remove whatever that names, folders with all that is in them too.
        """
        name = os.fspath(path)
        if ".." in Path(name).parts or "://" in name or not name.endswith(".ckpt"):
            log.warning("%s is not removed: no run of ours keeps a checkpoint there", name)
            return
        super().remove_checkpoint(name)


@contextlib.contextmanager
def explained_restoring(checkpoint: str | os.PathLike[str] | None) -> Iterator[None]:
    """Turn what libraries raise while they take up the state in a damaged checkpoint into a message for the user.

    Args:
        checkpoint: which is resumed from or evaluated; None: neither.

    Raises:
        ValueError: names the checkpoint and the remedy.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if checkpoint is None or not _is_of_restoring(error):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{os.fspath(checkpoint)} is damaged: its state cannot be taken up ({what})"
            f"{told_of_version(checkpoint)}; take another checkpoint of its folder"
            f"{RunCheckpointIO().way_on(checkpoint)}"
        ) from error


def told_of_version(checkpoint: str | os.PathLike[str]) -> str:
    """That another version of the package wrote a checkpoint, which may be why it does not fit; else nothing."""
    try:
        version = RunCheckpointIO()._read(checkpoint, map_location="cpu", mmap=True).get("scalablevit_version")
    except (OSError, ValueError):
        return ""
    if not isinstance(version, str) or version == __version__:
        return ""
    return f"; scalablevit {version[:40]} wrote it, and this is {__version__}: install that version to resume it"


def _is_of_restoring(error: BaseException) -> bool:
    """Whether a library, or code of ours that meant something else, raised it while state was taken up."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_globals.get("__name__", "") for frame in frames]
    # what hooks of ours raise is for the user; a load_state_dict only finds that a value is of another type
    is_ours = names[-1].startswith("scalablevit.") and frames[-1].f_code.co_name != "load_state_dict"
    return _RESTORES in names and not (is_ours and isinstance(error, ValueError))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_filled_list(value: Any) -> bool:
    """Whether it is as a run writes it; a checkpoint of weights alone has none, which Lightning tells."""
    return value is None or (isinstance(value, list) and len(value) > 0)


def _is_position(value: Any) -> bool:
    """Whether it is the state of a `ResumableLoader`, or there is none."""
    return value is None or (isinstance(value, dict) and all(_is_count(value.get(key)) for key in ("epoch", "batches")))


def _is_pair_of_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)))


def _are_counts(value: Any) -> bool:
    """Whether the progress in the state of Trainer loops is counted in whole numbers."""
    if isinstance(value, dict):
        return all(
            isinstance(inner, dict) and all(map(_is_count, inner.values()))
            if key in ("total", "current")
            else _are_counts(inner)
            for key, inner in value.items()
        )
    return not isinstance(value, list) or all(map(_are_counts, value))


_FORMS: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "global_step": _is_count,
    "pytorch-lightning_version": lambda value: isinstance(value, str),
    "state_dict": lambda value: isinstance(value, dict) and all(isinstance(x, torch.Tensor) for x in value.values()),
    "loops": lambda value: isinstance(value, dict) and _are_counts(value),
    "callbacks": lambda value: value is None or isinstance(value, dict),
    "optimizer_states": _is_filled_list,
    "lr_schedulers": _is_filled_list,
    "recipe": lambda value: value is None or isinstance(value, dict),
    "train_loader": _is_position,
    "train_loss": _is_pair_of_numbers,
    "last_lr": lambda value: value is None or _is_number(value),
}
"""Entry of a run's checkpoint -> whether its value is of the form that a run writes; earlier versions lack some."""


def _names_what_it_trained(trained: Any) -> bool:
    """Whether the entry that our tasks write is complete; checkpoints of other modules have none."""
    if trained is None:
        return True
    if not isinstance(trained, dict):
        return False
    names = trained.get("class_names")
    has_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return has_names and all(isinstance(trained.get(key), str) for key in ("task", "variant"))
