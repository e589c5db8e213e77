"""The Lightning Trainer of a run: loggers, checkpoints, progress and stopping as the run folder needs them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from scalablevit.training.checkpoint_interval import CheckpointInterval
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.data_wait import DataWait
from scalablevit.training.epoch_times import EpochTimes
from scalablevit.training.logger_choice import LoggerChoice
from scalablevit.training.metrics_csv import CSVMetrics
from scalablevit.training.mid_epoch_checkpoints import MidEpochCheckpoints
from scalablevit.training.progress import EpochLines, ProgressLine
from scalablevit.training.run_checkpoints import MovableCheckpoint
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.sharding import as_ours, is_sharding
from scalablevit.training.stopping import StopOnSignal
from scalablevit.training.tensorboard import TolerantTensorBoard
from scalablevit.training.terminal import rank
from scalablevit.training.trackers import build_trackers
from scalablevit.training.watched_launcher import watch_ranks

MANAGED_OPTIONS = (
    "logger",
    "plugins",
    "use_distributed_sampler",
    "default_root_dir",
    "enable_checkpointing",
)
"""Trainer options that the run folder manages; recipes that set them are refused."""
DEFAULT_TIMEOUT = timedelta(minutes=30)
"""That processes wait for each other: as long as Lightning's and torch's own, for checkpoints on slow disks."""


def build_trainer(
    options: Mapping[str, Any],
    *,
    folder: RunFolder,
    monitor: tuple[str, str],
    is_training: bool,
    every: CheckpointInterval | None = None,
    keep: int = 0,
    loggers: Sequence[LoggerChoice] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Trainer:
    """Build the Trainer of a run.

    Args:
        options: of the recipe; those of `MANAGED_OPTIONS` are left out.
        folder: of the run.
        monitor: metric by which the best checkpoint is chosen, and "max" or "min".
        is_training: write checkpoints and logs into the folder; False: evaluate only.
        every: save within an epoch too, so often; None: at its end alone.
        keep: how many checkpoints of within epochs to keep.
        loggers: trackers beside metrics.csv and TensorBoard.
        timeout: that processes wait for each other.
    """
    kept = {name: value for name, value in options.items() if name not in MANAGED_OPTIONS}
    given = kept.pop("callbacks", None) or []
    callbacks: list[Callback] = [*given] if isinstance(given, list) else [given]
    if is_training:
        callbacks += [DataWait(), EpochTimes(folder.timing), *_saving(folder, monitor)]
        if every is not None:
            callbacks.append(MidEpochCheckpoints(folder.last, every, keep=keep))
    if kept.get("enable_progress_bar") is not False:
        callbacks.append(ProgressLine())
        if is_training:
            callbacks.append(EpochLines())
    if kept.get("enable_model_summary") is None:
        kept["enable_model_summary"] = False  # `scalablevit info` says more
    kept["strategy"] = as_ours(kept.get("strategy", "auto"))
    if is_sharding(kept["strategy"]):
        kept["inference_mode"] = False  # what is gathered in it could not be trained with afterwards
    trainer = Trainer(
        **kept,
        callbacks=callbacks,
        logger=_loggers(folder, loggers) if is_training else False,
        enable_checkpointing=is_training,
        plugins=[RunCheckpointIO()],
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    watch_ranks(trainer, timeout)
    return trainer


def _saving(folder: RunFolder, monitor: tuple[str, str]) -> list[Callback]:
    metric, mode = monitor
    where: dict[str, Any] = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    return [
        MovableCheckpoint(filename="best", monitor=metric, mode=mode, **where),
        # with or without a validation: a crash shall cost one epoch at most
        MovableCheckpoint(filename="last", save_on_train_epoch_end=True, **where),
        StopOnSignal(folder.last),
    ]


def _loggers(folder: RunFolder, choices: Sequence[LoggerChoice]) -> list[Logger]:
    return [
        CSVMetrics(folder.metrics),
        TolerantTensorBoard(folder.path, name="", version="tensorboard", default_hp_metric=False),
        *(build_trackers(choices, folder=folder) if rank() == 0 else []),
    ]
