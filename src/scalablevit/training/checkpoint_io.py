"""Checkpoints that a full disk, a crash or a stranger's file cannot turn against the user."""

import errno
import logging
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from scalablevit.safe_write import WriteError, write_atomically
from scalablevit.training.invocation import invocation

log = logging.getLogger(__name__)


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their place and then renamed into it; loading never runs code from the
    file.

    Lightning's own writer puts its temporary file into the system's temporary folder, often another, smaller
    disk across which a rename is a copy, and does not wait for the disk.
    """

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
        write_atomically(path, partial(torch.save, checkpoint))

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
        except (RuntimeError, EOFError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{os.fspath(path)} is truncated or not a checkpoint ({reason}): take another file of its folder"
            ) from error
        if not isinstance(checkpoint, dict):
            raise ValueError(f"{os.fspath(path)} holds a {type(checkpoint).__name__}, not a checkpoint")
        return checkpoint


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
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except ValueError as error:
            best = Path(path).with_name("best.ckpt")
            if Path(path).name == "best.ckpt" or not self._is_whole(best):
                raise
            again = invocation("fit", "--resume", best)
            raise ValueError(f"{error}. {best} is whole; to resume from it: {again}") from error
        missing = {"pytorch-lightning_version", "state_dict", "epoch", "global_step"} - checkpoint.keys()
        if missing:
            raise ValueError(
                f"{os.fspath(path)} is not a checkpoint of a run: it lacks {', '.join(sorted(missing))}. "
                "Take RUN/checkpoints/last.ckpt or best.ckpt; weights alone go to fit --model.weights"
            )
        if not _names_what_it_trained(checkpoint.get("trained")):
            raise ValueError(
                f"{os.fspath(path)} is damaged: its entry trained does not name task, variant and class_names; "
                "take another checkpoint of its folder"
            )
        return checkpoint

    def _is_whole(self, path: Path) -> bool:
        try:
            super().load_checkpoint(path, map_location="cpu")
        except (OSError, ValueError):
            return False
        return True


def _names_what_it_trained(trained: Any) -> bool:
    """Whether the entry that our tasks write is complete; checkpoints of other modules have none."""
    if trained is None:
        return True
    if not isinstance(trained, dict):
        return False
    names = trained.get("class_names")
    has_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return has_names and all(isinstance(trained.get(key), str) for key in ("task", "variant"))
