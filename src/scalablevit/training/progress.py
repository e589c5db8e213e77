"""What the terminal shows of a run: a live bar, and a line for every epoch that is done."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn

from scalablevit.printable import printable
from scalablevit.training.data_wait import ADVICE, DATA_WAIT, NOTABLE_WAIT

_MOST_METRICS = 5
_SHORTEST_TO_ADVISE = 10.0  # seconds of an epoch: a shorter one mostly starts its workers


class ProgressLine(RichProgressBar):
    """Lightning's live bar, narrower and with short names; nothing where the output is no terminal."""

    def __init__(self) -> None:
        super().__init__(leave=False, console_kwargs={"soft_wrap": False})
        if not Console().is_terminal:
            self.disable()

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Narrow enough that bar and metrics share a line of 80 characters."""
        return [
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ]

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True  # a full bar below the epochs' lines is noise

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The numbers beside the bar: `train/loss_step` as `loss`, `val/top1` as `top1`."""
        metrics = super().get_metrics(trainer, pl_module)
        kept = {name: value for name, value in metrics.items() if name != "v_num" and not name.endswith("_epoch")}
        return {name.split("/")[-1].removesuffix("_step"): value for name, value in kept.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return epoch_of(current_epoch, self.trainer.max_epochs)


class EpochLines(Checkpoint):
    """Leaves a line with the metrics of every epoch, in a terminal and in a log file; of many, those of the bar.

    It is a `Checkpoint` so that Lightning calls it after the task, which logs the epoch's metrics.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._validated = False
        self._has_advised = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time: an epoch that is resumed in its middle does not start again."""
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this epoch has validation metrics; Lightning keeps those of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a line."""
        if not trainer.is_global_zero:
            return
        parts = [epoch_of(trainer.current_epoch, trainer.max_epochs)]
        metrics = trainer.callback_metrics
        if "train/loss_epoch" in metrics:
            parts.append(f"loss {metrics['train/loss_epoch']:.4f}")
        shown = {name: value for name, value in sorted(metrics.items()) if self._validated and name.startswith("val/")}
        self._validated = False
        if len(shown) > _MOST_METRICS:
            chosen = {"val/loss", *trainer.progress_bar_metrics}
            shown = {name: value for name, value in shown.items() if name in chosen}
        parts += [f"{name} {value:.4f}" for name, value in shown.items()]
        seconds = time.monotonic() - self._began
        parts.append(f"{seconds:.0f} s")
        if DATA_WAIT in metrics and seconds >= _SHORTEST_TO_ADVISE:
            parts += self._said_of_waiting(float(metrics[DATA_WAIT]))
        # The live bar's own console puts the line above it.
        console = getattr(trainer.progress_bar_callback, "_console", None) or Console(soft_wrap=True)
        console.print(printable("   ".join(parts)), highlight=False, markup=False, emoji=False)

    def _said_of_waiting(self, share: float) -> list[str]:
        """What an epoch's line says where it waited much for data; what to do about it, once."""
        if share <= NOTABLE_WAIT:
            return []
        said = f"waited {share:.0%} of the time for data"
        advice = "" if self._has_advised else f": {ADVICE}"
        self._has_advised = True
        return [said + advice]


def epoch_of(epoch: int, max_epochs: int | None) -> str:
    """`epoch  3/30`, counted from 1."""
    if max_epochs is None or max_epochs < 0:
        return f"epoch {epoch + 1}"
    return f"epoch {epoch + 1:>{len(str(max_epochs))}}/{max_epochs}"
