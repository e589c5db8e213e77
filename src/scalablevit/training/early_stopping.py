"""Ending a run before its last epoch, and saying why."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer


class Patience(EarlyStopping):
    """End a run whose monitored metric no longer improves.

    Args:
        monitor: name of the metric.
        mode: "max" or "min".
        patience: how many validations in a row may bring no better value; at least 1.
    """

    def __init__(self, monitor: str, mode: str, patience: int) -> None:
        super().__init__(monitor=monitor, mode=mode, patience=patience, check_finite=False)
        self.best_epoch: int | None = None

    @property
    def state_key(self) -> str:
        """The same for every patience, which may change on resume."""
        return type(self).__qualname__

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the metric, and remember the epoch of the best value."""
        before = float(self.best_score)
        super().on_validation_end(trainer, pl_module)
        self._remember_epoch(before, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where an epoch ends with its validation: Lightning then compares here."""
        before = float(self.best_score)
        super().on_train_epoch_end(trainer, pl_module)
        self._remember_epoch(before, trainer)

    def _remember_epoch(self, before: float, trainer: Trainer) -> None:
        if float(self.best_score) != before:
            self.best_epoch = trainer.current_epoch

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, and the epoch of the best value."""
        return {**super().state_dict(), "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was counted, not the patience: that is the recipe's."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        self.best_epoch = state_dict["best_epoch"]
        # whether the patience is exhausted is decided anew: it may differ now
        self.stopped_epoch, self.stopping_reason_message = 0, None


def why_ended_early(trainer: Trainer) -> str | None:
    """Why a run that has ended had fewer epochs or steps than it was given; None: it had them all."""
    epoch, most = trainer.current_epoch, trainer.max_epochs
    if (most is not None and most >= 0 and epoch >= most) or 0 <= trainer.max_steps <= trainer.global_step:
        return None
    of = "" if most is None or most < 0 else f" of {most}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and callback.time_remaining() is not None and callback.time_remaining() <= 0:  # type: ignore[operator]
            return f"stopped after epoch {epoch}{of}: the time given by trainer.max_time or a Timer is over"
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message is not None:
            return f"stopped early, after epoch {epoch}{of}: {_reason(callback)}"
    if trainer.should_stop:
        return f"stopped after epoch {epoch}{of}: a callback asked for it (trainer.should_stop)"
    return None


def _reason(callback: EarlyStopping) -> str:
    if callback.wait_count >= callback.patience:
        best_epoch = getattr(callback, "best_epoch", None)  # Lightning's own does not know it
        where = "" if best_epoch is None else f" in epoch {best_epoch + 1}"
        return (
            f"{callback.monitor} did not improve in {callback.wait_count} validations in a row (patience "
            f"{callback.patience}); its best value was {float(callback.best_score):.4f}{where}"
        )
    return (callback.stopping_reason_message or f"{callback.monitor} reached a threshold").partition(" Signaling ")[0]
