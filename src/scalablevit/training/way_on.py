"""Where a run can go on when one of its checkpoints cannot be used: which others are whole, and what that costs."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalablevit.training.invocation import invocation
from scalablevit.visualization.metrics_file import read_metrics

_MOST_READ = 4  # a checkpoint of the large variant takes seconds to read


class _Place(NamedTuple):
    """How far a whole checkpoint came: its file, optimizer steps, and epochs that it has finished."""

    path: Path
    step: int
    epochs: int


def way_on(path: str | os.PathLike[str], read: Callable[[Path], Mapping[str, Any]]) -> str:
    """Name the checkpoints of a folder from which a run can go on in the place of one of them.

    Args:
        path: the checkpoint that cannot be used.
        read: a checkpoint; raises ValueError or OSError where it is not whole.

    Returns:
        a sentence with the command, and what is trained again; empty where no other is whole.
    """
    folder = Path(path).parent
    names = {"best.ckpt", "last.ckpt", *(file.name for file in folder.glob("step-*.ckpt"))} - {Path(path).name}
    candidates = sorted((folder / name for name in names if (folder / name).is_file()), key=_written, reverse=True)
    places: list[_Place] = []
    for candidate in candidates[:_MOST_READ]:
        with contextlib.suppress(OSError, ValueError):
            places.append(_place(candidate, read(candidate)))
    if not places:
        return ""
    places.sort(key=lambda place: place.step, reverse=True)
    best, *others = places
    said = f". {best.path} is whole ({_said(best)}{_loss(best, folder.parent)}); to resume from it: "
    said += invocation("fit", "--resume", best.path)
    if others:
        said += f". Whole too: {', '.join(f'{place.path.name} ({_said(place)})' for place in others)}"
    return said


def _written(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _place(path: Path, checkpoint: Mapping[str, Any]) -> _Place:
    progress = checkpoint["loops"].get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    is_whole_epoch = bool(progress.get("is_last_batch", True))
    return _Place(path, int(checkpoint["global_step"]), int(checkpoint["epoch"]) + is_whole_epoch)


def _said(place: _Place) -> str:
    return f"step {place.step}, {place.epochs} {'epoch' if place.epochs == 1 else 'epochs'} done"


def _loss(place: _Place, run: Path) -> str:
    """What is trained again, by the epochs that metrics.csv has."""
    with contextlib.suppress(OSError, ValueError, KeyError, OverflowError):
        reached = max(int(row["epoch"]) for row in read_metrics(run / "metrics.csv")) + 1
        again = max(0, reached - place.epochs)
        what = "1 epoch is" if again == 1 else f"{again or 'no'} epochs are"
        return f"; the run came to epoch {reached}: {what} trained again"
    return ""
