"""The LightningDataModule that all tasks share: sharded, seeded, resumable loaders."""

import logging
from collections.abc import Callable, Sequence, Sized
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from scalablevit.data.check import evenly_spread, look_at_image, losses_of
from scalablevit.data.cores import available_cores
from scalablevit.data.loaders import ShardedSamples, eval_loader, train_loader
from scalablevit.data.stored_path import StoredPath, StoredSamples
from scalablevit.data.stream.ahead import ShardsAhead
from scalablevit.data.stream.settings import StreamSettings

_log = logging.getLogger(__name__)

_MOST_WORKERS = 8
_MOST_TO_ASK_FOR = 1024


class TaskData(LightningDataModule):
    """Training and validation samples of a task.

    A subclass sets `train_dataset` and `val_dataset`, and has the properties `class_names` (by class index) and
    `preprocessing` (with `to_dict`) and the method `summary`.

    Args:
        batch_size: samples a device and training batch; at least 1.
        num_workers: processes that load samples for each loader; "auto" leaves one core a device to the training,
            and takes 8 at most.
        max_unreadable: how many distinct files may be unreadable before training stops, for each training
            process by itself; for the task, which hands it to `UnreadableFiles`.
        seed: gives the order of the samples and their augmentation.
        collate_fn: list of samples -> batch.
        val_batch_size: samples a device and validation batch; None: `batch_size`.

    Raises:
        ValueError: an argument is out of range.
    """

    train_dataset: Dataset[Any]
    val_dataset: Dataset[Any]

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int | Literal["auto"],
        max_unreadable: int,
        seed: int,
        collate_fn: Callable[[list[Any]], Any],
        val_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._order: tuple[Dataset[Any], str | None] | None = None  # the samples whose order was hashed, and the hash
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if max_unreadable < 0:
            raise ValueError(f"max_unreadable must be at least 0, got {max_unreadable}")
        if num_workers != "auto" and num_workers < 0:
            raise ValueError(f"num_workers must be at least 0 or 'auto', got {num_workers}")
        if num_workers != "auto" and num_workers > _MOST_TO_ASK_FOR:
            raise ValueError(f"num_workers must be at most {_MOST_TO_ASK_FOR:,}, got {num_workers}: each is a process")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.max_unreadable = max_unreadable
        self.seed = seed
        self._num_workers = num_workers
        self._collate = collate_fn

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class index."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def num_workers(self) -> int:
        """Loading processes for each loader of each device."""
        if self._num_workers != "auto":
            return self._num_workers
        devices = self._world_size // self.trainer.num_nodes if self.trainer is not None else 1
        return max(0, min(available_cores() // max(1, devices) - 1, _MOST_WORKERS))

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def example_inputs(self) -> list[str]:
        """A few validation images, for the command that the user may try next; in shards, which hold no files, none."""
        dataset: Any = self.val_dataset
        count = len(dataset)
        paths = [dataset.path(i * count // 4) for i in range(min(3, count))]
        return ["IMAGE"] if any(isinstance(path, StoredPath) for path in paths) else [str(path) for path in paths]

    def warn_of_losses(self, dataset: Any, *, most: int) -> None:
        """Read a few images, and warn of what their files hold and the network will not see.

        Args:
            dataset: with a length, `path(index)` and `value_range`.
            most: images to read.
        """
        paths = [dataset.path(i) for i in evenly_spread(len(dataset), most)]
        for problem in losses_of(look_at_image(path, value_range=dataset.value_range) for path in paths):
            _log.warning(problem.message)

    def batch_groups(self) -> Sequence[int] | None:
        """A number for each training sample: batches hold samples of one number; None: any samples."""
        return None

    def balanced_classes(self) -> Sequence[int] | None:
        """A class for each training sample, of which an epoch draws equally many; None: each sample once."""
        return None

    def _shard_options(self, dataset: Dataset[Any]) -> dict[str, Any]:
        """Arguments of the loaders for samples in shards; none where they lie in a plain folder."""
        find: Callable[[], StoredSamples | None] | None = getattr(dataset, "shards", None)
        stored = None if find is None else find()
        if stored is None:
            return {}
        settings: StreamSettings = cast(Any, self).settings.stream
        ahead = None
        if stored.fetch is not None and settings.ahead > 0:
            ahead = ShardsAhead(stored.fetch, settings.ahead)
        return {"stored": ShardedSamples(stored.shards, settings.window, ahead)}

    def order_of_shards(self) -> str | None:
        """Hash of what shards make of the order of the training samples; None: nothing."""
        if self._order is None or self._order[0] is not self.train_dataset:
            # once: every checkpoint asks, and there may be millions of samples
            stored = self._shard_options(self.train_dataset).get("stored")
            self._order = self.train_dataset, None if stored is None else stored.order_hash()
        return self._order[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented; the same number of batches on all ranks, and whole optimizer steps of them."""
        return train_loader(
            self.train_dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
            collate_fn=self._collate,
            groups=self.batch_groups(),
            classes=self.balanced_classes(),
            batches_per_step=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
            **self._shard_options(self.train_dataset),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, each sample exactly once over all ranks.

        Raises:
            ValueError: there are fewer samples than ranks: one without any would not wait for the others.
        """
        count = len(cast(Sized, self.val_dataset))
        if count < self._world_size:
            raise ValueError(
                f"there are {count} validation images for {self._world_size} processes, each of which needs one: use "
                f"--devices {max(count, 1)}, or have more of them (data.val_fraction where they are set aside)"
            )
        return eval_loader(
            self.val_dataset,
            batch_size=self.val_batch_size,
            num_workers=self.num_workers,
            rank=self._rank,
            world_size=self._world_size,
            collate_fn=self._collate,
            **self._shard_options(self.val_dataset),
        )
