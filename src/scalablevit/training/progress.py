"""What the terminal shows of a run: a live bar, and a line for every epoch that is done."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


class ProgressLines(RichProgressBar):
    """Lightning's live bar with short names, which a line per epoch replaces; in a log file, only those lines."""

    def __init__(self) -> None:
        super().__init__(leave=False, console_kwargs={"soft_wrap": False})
        self._began = 0.0
        if not Console().is_terminal:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The numbers beside the bar: `train/loss_step` as `loss`, `val/top1` as `top1`."""
        metrics = super().get_metrics(trainer, pl_module)
        kept = {name: value for name, value in metrics.items() if name != "v_num" and not name.endswith("_epoch")}
        return {name.split("/")[-1].removesuffix("_step"): value for name, value in kept.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return epoch_of(current_epoch, self.trainer.max_epochs)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._began = time.monotonic()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a line."""
        super().on_train_epoch_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        parts = [epoch_of(trainer.current_epoch, trainer.max_epochs)]
        metrics = trainer.callback_metrics
        if "train/loss_epoch" in metrics:
            parts.append(f"loss {metrics['train/loss_epoch']:.4f}")
        parts += [f"{name} {value:.4f}" for name, value in sorted(metrics.items()) if name.startswith("val/")]
        parts.append(f"{time.monotonic() - self._began:.0f} s")
        console = self._console if self._console is not None else Console(soft_wrap=True)
        console.print("   ".join(parts), highlight=False)


def epoch_of(epoch: int, max_epochs: int | None) -> str:
    """`epoch  3/30`, counted from 1."""
    if max_epochs is None or max_epochs < 0:
        return f"epoch {epoch + 1}"
    return f"epoch {epoch + 1:>{len(str(max_epochs))}}/{max_epochs}"
