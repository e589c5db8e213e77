"""The checkpoints of a run folder: the best by the task's metric, and the last."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class MovableCheckpoint(ModelCheckpoint):
    """Keep the best checkpoint; of epochs that tie, the one with the lowest validation loss, then the latest.

    Lightning keeps the first of them, the least trained one. It also forgets the best score of a run folder that was
    moved, and a worse one wins.
    """

    best_loss = math.inf

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether `current` is better than the best value, or ties and the epoch is to be preferred."""
        if super().check_monitor_top_k(trainer, current):
            return True
        if current is None or not self.best_k_models:
            return False
        # a metric that is not a number counts as the worst there is
        worst = -math.inf if self.mode == "max" else math.inf
        value = worst if math.isnan(current) else float(current)
        is_preferred = (
            value == float(self.best_k_models[self.kth_best_model_path]) and self._loss(trainer) <= self.best_loss
        )
        return bool(trainer.strategy.reduce_boolean_decision(is_preferred))

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_loss = self._loss(trainer)
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def _loss(self, trainer: Trainer) -> float:
        """This epoch's validation loss; infinite where there is none."""
        loss = float(trainer.callback_metrics.get("val/loss", math.inf))
        return math.inf if math.isnan(loss) else loss

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, and the loss of the best epoch."""
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the files of this folder."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = {name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        if best and paths["kth_best_model_path"] not in best:
            raise KeyError(paths["kth_best_model_path"])
        best = {path: torch.as_tensor(score, dtype=torch.float32) for path, score in best.items()}
        self.best_loss = float(state_dict.get("best_loss", math.inf))  # runs of earlier versions have none
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
