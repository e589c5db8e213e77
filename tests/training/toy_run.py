"""A toy task and data module, and a script that trains them: what the tests of the training room share.

As a script: `python toy_run.py '[{"folder": ...}, ...]'` trains run by run and writes a line
a batch into FOLDER/log-RANK.jsonl.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scalablevit.data.loaders import eval_loader, train_loader
from scalablevit.training.checkpoint_interval import CheckpointInterval
from scalablevit.training.checkpoint_io import SafeCheckpointIO
from scalablevit.training.mid_epoch_checkpoints import MidEpochCheckpoints
from scalablevit.training.module import TrainingModule
from scalablevit.training.settings import OptimizerSettings, ScheduleSettings
from scalablevit.training.stopping import StopOnSignal, TrainingStopped, leave

NUM_SAMPLES = 23


class NoisySamples(Dataset[tuple[Tensor, Tensor]]):
    """Sample i: (4,) numbers that hang on i, plus noise from torch's global generator; and i itself."""

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        self.values = torch.randn(num_samples, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.values[index] + 0.1 * torch.randn(4), torch.tensor(index)


class ToyData(LightningDataModule):
    """23 training samples."""

    def __init__(self, batch_size: int = 2, num_workers: int = 0, seed: int = 5, num_validation: int = 11) -> None:
        super().__init__()
        self.num_validation = num_validation
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    def _shard(self) -> dict[str, Any]:
        trainer = self.trainer
        assert trainer is not None
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        steps = self.trainer.accumulate_grad_batches
        return train_loader(NoisySamples(), seed=self.seed, batches_per_step=steps, **self._shard())

    def val_dataloader(self) -> DataLoader[Any]:
        return eval_loader(NoisySamples(self.num_validation), **self._shard())


class ToyTask(TrainingModule):
    """Regression to the sum through dropout, so that steps draw random numbers; notes what it sees."""

    task = "toy"
    variant = "perceptron"
    class_names: ClassVar[list[str]] = []

    def __init__(self, poison: dict[int, float] | None = None, batch_norm: bool = False, **options: Any) -> None:
        options = {
            "optimizer": OptimizerSettings(lr=0.01, lr_batch=None),
            "schedule": ScheduleSettings(warmup_epochs=0.5, warmup_lr=1e-4, min_lr=1e-5),
            **options,
        }
        super().__init__(**options)
        self.poison = poison or {}
        torch.manual_seed(1)
        norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.network = nn.Sequential(nn.Linear(4, 8), norm, nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.seen: list[list[int]] = []
        self.losses: list[float] = []
        self.rates: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, index = batch
        loss = (self.network(x)[:, 0] - x.sum(1)).square().mean()
        loss = loss * self.poison.get(self.trainer.fit_loop.total_batch_idx, 1.0)
        self.seen.append(index.tolist())
        self.losses.append(loss.item())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        loss = (self.network(x)[:, 0] - x.sum(1)).square().mean()
        self.log("val/loss", loss, batch_size=len(x), sync_dist=True)


class Journal(Callback):
    """One line a batch into a file of this rank; at a place of choice, a signal to its own process."""

    def __init__(self, path: Path, signal_at: tuple[str, int, int] | None = None) -> None:
        self.path = path
        self.signal_at = signal_at
        self.wait_at: int | None = None
        self.validated = 0
        self.validations = 0

    def _maybe(self, place: str, count: int) -> None:
        if self.wait_at is not None and (place, count) == ("step", self.wait_at):
            (self.path.parent / "waits").touch()
            while (self.path.parent / "waits").exists():
                time.sleep(0.01)
            sys.stdout.write("said to a closed terminal\n")
            sys.stdout.flush()
        if self.signal_at is not None and (place, count) == (self.signal_at[0], self.signal_at[1]):
            os.kill(os.getpid(), self.signal_at[2])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._maybe("step", trainer.global_step)

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._maybe("batch", trainer.fit_loop.total_batch_idx)

    def on_validation_batch_start(self, trainer: Any, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking and self.path.exists():
            self._maybe("validation", self.validated)
            self.validated += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        line = {"epoch": trainer.current_epoch, "batch": batch_idx, "step": trainer.global_step}
        line |= {"seen": pl_module.seen[-1], "loss": pl_module.losses[-1], "lr": pl_module.rates[-1]}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            line = {"epoch": trainer.current_epoch, "val": float(trainer.callback_metrics["val/loss"])}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._maybe("validated", self.validations)
            self.validations += 1


def make_trainer(folder: Path, callbacks: list[Callback] | None = None, **options: Any) -> Trainer:
    """A silent CPU trainer that saves into `folder`."""
    options = {"max_epochs": 3, "num_sanity_val_steps": 0, "logger": False, **options}
    saver = ModelCheckpoint(dirpath=folder, filename="best", save_last=True, enable_version_counter=False)
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[saver, *(callbacks or [])],
        plugins=[SafeCheckpointIO()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def main(settings: dict[str, Any]) -> None:
    """Train as `settings` say; leave as `scalablevit fit` does."""
    folder = Path(settings["folder"])
    task = ToyTask(**settings.get("task", {}))
    if "poison_rank" in settings:
        poisoned = int(os.environ.get("LOCAL_RANK", "0")) == settings["poison_rank"]
        task.poison = {int(k): float("nan") for k in settings["poison_steps"]} if poisoned else {}
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    signal_at = settings.get("signal_at") if settings.get("signal_rank", 0) in (rank, "all") else None
    journal = Journal(folder / f"log-{rank}.jsonl", tuple(signal_at) if signal_at else None)
    journal.wait_at = settings.get("wait_at")
    callbacks: list[Callback] = [journal, StopOnSignal(folder / "last.ckpt")]
    if "every_seconds" in settings:
        every = CheckpointInterval(seconds=settings["every_seconds"])
        callbacks.append(MidEpochCheckpoints(folder / "last.ckpt", every))
    trainer = make_trainer(folder, callbacks, **settings.get("trainer", {}))
    try:
        trainer.fit(task, datamodule=ToyData(**settings.get("data", {})), ckpt_path=settings.get("resume"))
    except TrainingStopped as stopped:
        leave(stopped, run=folder, is_global_zero=rank == 0)
    if rank == 0:
        torch.save(task.network.state_dict(), folder / "network.pt")


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):
        main(run)
