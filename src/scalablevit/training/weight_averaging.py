"""The exponential moving average of the weights, with a decay that warms up."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from scalablevit.training.sharding import WholeTensors, copy_into, is_sharding, reshard, sharded_parts, whole


class WarmedUpAveraging(WeightAveraging):
    """Lightning's `WeightAveraging` as a moving average; validation and saved weights are the averaged ones.

    After n updates the decay is min(`decay`, (1 + n) / (10 + n)), so that a run of a few hundred steps is not
    held back by its first weights. `EMAWeightAveraging` offers no such warm-up, and averages one tensor at a
    time.

    Args:
        decay: in [0, 1); the higher, the longer the memory.

    Source: tf.train.ExponentialMovingAverage(num_updates).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=_moving_average(decay))

    @property
    def averaged(self) -> LightningModule:
        """The task with the averaged weights; there once training has begun."""
        assert self._average_model is not None
        return self._average_model.module  # type: ignore[return-value]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the averaged weights where the others are, in evaluation mode: a copy of the task never trains."""
        self.averaged.to(pl_module.device).eval()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average the weights; where they are sharded, each process keeps the whole average."""
        # whether there are sharded parts is asked of the strategy: this runs at every step
        readable: Any = WholeTensors(pl_module) if is_sharding(trainer.strategy) else pl_module
        super().on_train_batch_end(trainer, readable, *args)

    def _swap_models(self, pl_module: LightningModule) -> None:
        if not sharded_parts(pl_module):
            super()._swap_models(pl_module)
            return
        reshard(pl_module)
        for average, current in zip(self._tensors(self.averaged), self._tensors(pl_module), strict=True):
            kept = average.detach().clone()
            copy_into(average, whole(current.detach()).to(average.device))
            copy_into(current, kept)

    def _copy_average_to_current(self, pl_module: LightningModule) -> None:
        reshard(pl_module)
        for average, current in zip(self._tensors(self.averaged), self._tensors(pl_module), strict=True):
            copy_into(current, average.detach())

    @staticmethod
    def _tensors(module: LightningModule) -> chain[Tensor]:
        return chain(module.parameters(), module.buffers())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up the averaged weights, where they go on being averaged."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        weight = 1.0 - min(decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:  # counters, such as BatchNorm's num_batches_tracked
            torch._foreach_copy_(averaged, current)

    return update
