"""How fast an epoch trains, and what share of it the loop waits for data."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from scalablevit.data.workers import seconds_waited_in_all

IMAGES_PER_SECOND = "images_per_second"
DATA_WAIT = "data_wait"
NOTABLE_WAIT = 0.2
"""Share of an epoch's training time above which the epoch's line says so."""


ADVICE = "raise --data.num_workers, store smaller images, or read shards (scalablevit shard)"
"""What to do about it."""


class DataWait(Callback):
    """Log each epoch's training images a second, over all ranks, and the share of the time that it waited for data.

    Time is what the training loop takes, without validations. Waiting is what the loop stands still at its loader for,
    so with workers that keep up it is near 0; without workers it is all of the loading. Nothing is read from a device
    before the epoch's end, where ranks meet once. An epoch that was resumed in its middle is measured from there.
    """

    def __init__(self) -> None:
        self._began = self._waited_before = self._apart = self._validation_began = self._validation_waited = 0.0
        self._waited_apart = 0.0
        self._num_batches = 0
        self.training_seconds = 0.0
        self.wait_seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock: an epoch that is resumed in its middle has no start."""
        self._restart()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def _restart(self) -> None:
        self._began, self._waited_before = time.monotonic(), seconds_waited_in_all()
        self._apart = self._waited_apart = 0.0
        self._num_batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self._num_batches += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self._validation_began, self._validation_waited = time.monotonic(), seconds_waited_in_all()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        self._apart += time.monotonic() - self._validation_began
        self._waited_apart += seconds_waited_in_all() - self._validation_waited

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log both."""
        self.training_seconds = max(time.monotonic() - self._began - self._apart, 1e-9)
        self.wait_seconds = seconds_waited_in_all() - self._waited_before - self._waited_apart
        found = torch.tensor(
            [self._num_batches * images_per_batch(trainer), self.training_seconds, self.wait_seconds],
            dtype=torch.float64,
        )
        if trainer.world_size > 1:
            # float32 is what every device adds up
            on_device = found.to(trainer.strategy.root_device, torch.float32)
            found = trainer.strategy.reduce(on_device, reduce_op="sum").cpu().double()
        images, seconds, waited = found.tolist()
        if images == 0:  # a resumed epoch that had no step left
            return
        pl_module.log(IMAGES_PER_SECOND, images * trainer.world_size / seconds)
        pl_module.log(DATA_WAIT, min(max(waited / seconds, 0.0), 1.0))


def images_per_batch(trainer: Trainer) -> int:
    """How many training images a batch of one rank holds; a data set smaller than that makes one small batch."""
    data: Any = getattr(trainer, "datamodule", None)
    batch_size = int(getattr(data, "batch_size", None) or 1)
    dataset = getattr(data, "train_dataset", None)
    if dataset is None or not hasattr(dataset, "__len__"):
        return batch_size
    return max(1, min(batch_size, len(dataset) // trainer.world_size))
