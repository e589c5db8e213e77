"""Data loaders that shard, shuffle and resume to the sample, with any number of workers and processes."""

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from scalablevit.data.randomness import isolated_cpu_randomness, seed_cpu, seed_for
from scalablevit.data.stream.ahead import ShardsAhead
from scalablevit.data.stream.index import digest
from scalablevit.data.stream.shard_order import windowed_order
from scalablevit.data.workers import (
    hear_of_ended_workers,
    prepare_worker,
    raise_for_workers,
    timeout_seconds,
    waiting_for_data,
)

_MOST_EPOCHS = 2**20


class SampleKey(NamedTuple):
    """What a `ShardedSampler` hands to a `SeededDataset`: which sample, and in which epoch it is drawn."""

    index: int  # type: ignore[assignment]  # a tuple has a method of that name, of no use here
    epoch: int


class ShardedSamples(NamedTuple):
    """Samples that lie in shards.

    Fields:
        shards: (N,) the shard of each.
        window: how many shards are read at once; see `windowed_order`.
        ahead: downloads shards before they are needed; None: they are there.
    """

    shards: Any
    window: int
    ahead: ShardsAhead | None = None

    def order_hash(self) -> str | None:
        """Hash of what the shards make of the samples' order; None: nothing, as all of them are in the window."""
        shards = np.asarray(self.shards, np.int64)
        return None if self.window > shards.max() else digest(f"{self.window} ".encode() + shards.tobytes())


class ShardedSampler(DistributedSampler[Any]):
    """The samples of one process, as `SampleKey`s, in an order that depends on (seed, epoch) alone.

    The k-th batches of all ranks together are the k-th stretch of one common order, so the samples of an
    optimizer step stay the same when the same global batch is spread over another number of processes.
    A subclass of `DistributedSampler`, so that Lightning leaves it alone.

    Args:
        num_samples: size of the data set; at least 1.
        batch_size: samples a batch and process; at least 1.
        seed: together with the epoch it gives the order.
        shuffle: shuffle anew in every epoch; otherwise the data set's own order.
        rank: which process, 0 to world_size - 1.
        world_size: how many processes.
        drop_last: drop the samples at the end of the order that do not fill one batch on every rank. A data
            set too small for one such batch still makes one, smaller.
        pad: without `drop_last`, repeat samples from the start of the order until all ranks have the same
            number. Without either, every sample comes exactly once over all ranks, whose numbers then differ
            by at most 1.
        groups: a number for each sample: batches hold samples of one number, such as of landscapes or of
            portraits. What fills no batch over all ranks comes last, mixed. None: any samples.
        classes: a class for each sample: every epoch draws as many samples as there are, of each class equally many
            (samples of rare classes come several times); None: each sample once.
        batches_per_step: how many batches of a rank make an optimizer step. With `drop_last`, batches at the end
            that make no whole step are dropped too, unless there is no whole one.
        stored: the shard of each sample, of which some are read at once, without shuffling one after the other; None,
            or no more shards than that: all samples are as near.

    Raises:
        ValueError: a number out of range, or no samples.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int,
        world_size: int,
        drop_last: bool,
        pad: bool,
        groups: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
        batches_per_step: int = 1,
        stored: ShardedSamples | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the data set holds no samples: check its path and that no class folder is empty")
        for name, number in (("batch_size", batch_size), ("batches_per_step", batches_per_step)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..world_size - 1, got rank {rank} of world_size {world_size}")
        if groups is not None and len(groups) != num_samples:
            raise ValueError(f"groups needs a number for each of {num_samples} samples, got {len(groups)}")
        if classes is not None and (groups is not None or len(classes) != num_samples):
            raise ValueError(f"classes needs a number for each of {num_samples} samples, and no groups")
        # the parent's __init__ is left out on purpose: it knows neither batches nor unpadded shards
        self.num_replicas = world_size
        self.rank = rank
        self.epoch = 0
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.batch_size = batch_size
        self.skip_batches = 0
        self._dataset_size = num_samples
        self._groups = None if groups is None else torch.as_tensor(groups)
        self._classes = None if classes is None else torch.as_tensor(classes)
        self._shards = None if stored is None else torch.as_tensor(stored.shards).long()
        self._window = 1 if stored is None else stored.window
        self._ahead = None if stored is None else stored.ahead
        if drop_last:
            batches = num_samples // (world_size * batch_size)
            if batches > batches_per_step:
                batches -= batches % batches_per_step
            per_rank = batches * batch_size or max(1, num_samples // world_size)
        elif pad:
            per_rank = -(-num_samples // world_size)
        else:
            per_rank = len(range(rank, num_samples, world_size))
        self.num_samples = per_rank
        self.total_size = per_rank * world_size

    def __iter__(self) -> Iterator[SampleKey]:
        """Yield this rank's samples, without the first `skip_batches` batches of them (this once)."""
        start, self.skip_batches = self.skip_batches * self.batch_size, 0
        epoch, size = self.epoch, self._dataset_size
        order = self._order()
        used: dict[int, None] = {}
        if self._ahead is not None:
            self._ahead.begin(self._first_uses(order, start))
        for i in range(start, self.num_samples):
            position = (i * self.num_replicas + self.rank) % size
            drawn = position if order is None else int(order[position])
            if self._ahead is not None and self._shards is not None:
                used.setdefault(int(self._shards[drawn % size]))
                self._ahead.use(len(used))
            # A sample that comes again in an epoch is augmented in another way.
            yield SampleKey(drawn % size, epoch + _MOST_EPOCHS * (drawn // size))

    def _first_uses(self, order: torch.Tensor | None, start: int) -> list[int]:
        """Shards of this rank's samples from a place on, in the order of the first ones."""
        assert self._shards is not None
        positions = (torch.arange(start, self.num_samples) * self.num_replicas + self.rank) % self._dataset_size
        drawn = positions if order is None else order[positions]
        return list(dict.fromkeys(self._shards[drawn % self._dataset_size].tolist()))

    def _order(self) -> torch.Tensor | None:
        """The epoch's order of all samples; None: the data set's own.

        With `classes`, a sample that comes for the n-th time has n - 1 times the number of samples added.
        """
        generator = torch.Generator().manual_seed(seed_for(self.seed, self.epoch))
        size = self._dataset_size
        if self._classes is not None and self.shuffle:
            return self._near(_balanced_order(self._classes, generator), generator)
        order = self._near(None, generator) if self.shuffle else self._by_shard()
        if self._groups is None:
            return order
        order = torch.arange(size) if order is None else order
        per_step = self.num_replicas * self.batch_size
        steps, rest = [], []
        for group in self._groups.unique():
            members = order[self._groups[order] == group]
            full = len(members) // per_step * per_step
            steps += members[:full].split(per_step)
            rest.append(members[full:])
        if self.shuffle:  # or all batches of one group would come first
            steps = [steps[i] for i in self._order_of_steps(steps, order, generator)]
        # in the order of the epoch, so that what drop_last drops is not always of one group
        left = torch.cat(rest)
        place = torch.empty(size, dtype=torch.int64)
        place[order] = torch.arange(size)
        return torch.cat([*steps, left[place[left].argsort()]])

    def _by_shard(self) -> torch.Tensor | None:
        """The data set's own order, or one shard after the other where there are more than are read at once."""
        if self._shards is None or self._window > int(self._shards.max()):
            return None
        return self._shards.argsort(stable=True)

    def _near(self, order: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        """An order of shuffled samples in which those of a shard come near each other."""
        if self._shards is not None:
            return windowed_order(self._shards, self._window, generator, order)
        return torch.randperm(self._dataset_size, generator=generator) if order is None else order

    def _order_of_steps(self, steps: list[torch.Tensor], order: torch.Tensor, generator: torch.Generator) -> list[int]:
        """Shuffle batches of groups; those of shards stay near to where their samples would come."""
        if self._shards is None or self._window > int(self._shards.max()):
            return torch.randperm(len(steps), generator=generator).tolist()
        place = torch.empty(self._dataset_size, dtype=torch.int64)
        place[order] = torch.arange(self._dataset_size)
        return sorted(range(len(steps)), key=lambda i: int(place[steps[i][0]]))

    def __len__(self) -> int:
        """How many samples this rank draws in an epoch."""
        return self.num_samples


def _balanced_order(classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N,) samples, equally many of each class (to within one), members in rotation; see `ShardedSampler._order`."""
    size, counts = len(classes), classes.unique(return_counts=True)[1]
    # Sorted once: a search for each of many thousand classes would take minutes an epoch.
    by_class = classes.argsort(stable=True).split(counts.tolist())
    drawn = []
    # Which classes get the one that is left over depends on the epoch.
    for place, which in enumerate(torch.randperm(len(by_class), generator=generator).tolist()):
        members = by_class[which]
        quota = size // len(by_class) + (place < size % len(by_class))
        rounds = -(-quota // len(members))
        turns = [members[torch.randperm(len(members), generator=generator)] + size * turn for turn in range(rounds)]
        drawn.append(torch.cat([members[:0], *turns])[:quota])
    order = torch.cat(drawn)
    return order[torch.randperm(size, generator=generator)]


class SeededDataset(Dataset[Any]):
    """A map-style data set whose random transforms depend on (seed, epoch, index) alone.

    Args:
        dataset: map-style; its random draws may come from `random`, numpy's global generator or torch's.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Any:
        """The sample `key.index`, as augmented in epoch `key.epoch`."""
        if get_worker_info() is not None:  # a worker does nothing else: no state to protect
            seed_cpu(self.seed, key.epoch, key.index)
            return self.dataset[key.index]
        with isolated_cpu_randomness():
            seed_cpu(self.seed, key.epoch, key.index)
            return self.dataset[key.index]

    def __len__(self) -> int:
        """How many samples there are."""
        return len(cast(Sized, self.dataset))


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` over a `ShardedSampler` that can resume in the middle of an epoch.

    Iteration starts at the first `next()`, not at `iter()`: Lightning calls `iter()` before it tells the
    sampler which epoch it is, and workers would already fetch samples of the wrong one.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, **options)
        if not isinstance(self.sampler, ShardedSampler):
            raise ValueError(f"ResumableLoader needs sampler=ShardedSampler(...), got {type(self.sampler).__name__}")
        self._position = {"epoch": 0, "batches": 0}
        self._resume_at: dict[str, int] | None = None

    def __iter__(self) -> Any:
        """Yield the batches of the sampler's epoch; after `load_state_dict`, only those still due."""
        sampler = cast(ShardedSampler, self.sampler)
        resume_at, self._resume_at = self._resume_at, None
        # a state of another epoch (one that was complete) skips nothing
        skip = resume_at["batches"] if resume_at is not None and resume_at["epoch"] == sampler.epoch else 0
        sampler.skip_batches = skip
        self._position = {"epoch": sampler.epoch, "batches": skip}
        for batch in _explained_batches(super().__iter__(), self.num_workers):
            self._position["batches"] += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """{"epoch": which, "batches": how many of its batches were handed out}; the same on every rank."""
        return dict(self._resume_at or self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass over that epoch start behind that many batches, loading none of them."""
        self._resume_at = {"epoch": int(state["epoch"]), "batches": int(state["batches"])}


class EvaluationLoader(DataLoader[Any]):
    """A `DataLoader` that says what happened where a worker ended or hangs."""

    def __iter__(self) -> Any:
        """Yield the batches."""
        return _explained_batches(super().__iter__(), self.num_workers)


def _explained_batches(batches: Iterator[Any], num_workers: int) -> Iterator[Any]:
    """Hand batches on; raise a `DataWorkerError` where a worker ended or hangs."""
    if num_workers:
        hear_of_ended_workers()
    try:
        while True:
            with waiting_for_data():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch
    except (RuntimeError, EOFError, ConnectionError) as error:
        raise_for_workers(error, batches)
        raise


def train_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    groups: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    batches_per_step: int = 1,
    stored: ShardedSamples | None = None,
) -> ResumableLoader:
    """Shuffled, augmented and resumable: the loader to train from.

    All ranks get the same number of batches. A data set smaller than one batch over all ranks makes one small
    batch.

    Args:
        dataset: map-style, with a length.
        batch_size: samples a batch and process.
        num_workers: processes that load; 0 loads in the training process. The samples do not depend on it.
        seed: gives order and augmentation.
        rank: which process.
        world_size: how many processes.
        collate_fn: list of samples -> batch; None: torch's default.
        drop_last: drop what does not fill a batch on every rank; otherwise the last batch is smaller and the
            ranks are evened out by repeating samples.
        groups: as for `ShardedSampler`, as are `classes` and `batches_per_step`.
        classes: see `groups`.
        batches_per_step: see `groups`.
        stored: see `groups`.
    """
    sampler = ShardedSampler(
        len(cast(Sized, dataset)),
        batch_size=batch_size,
        seed=seed,
        shuffle=True,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        pad=True,
        groups=groups,
        classes=classes,
        batches_per_step=batches_per_step,
        stored=stored,
    )
    return ResumableLoader(SeededDataset(dataset, seed=seed), **_options(sampler, num_workers, collate_fn))


def eval_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    stored: ShardedSamples | None = None,
) -> DataLoader[Any]:
    """In the data set's order, every sample exactly once over all ranks: the loader to measure with.

    Ranks may differ by one sample, hence by one batch: a validation step must not talk to the other ranks.

    Args:
        dataset: map-style, with a length.
        batch_size: samples a batch and process.
        num_workers: processes that load; 0 loads in the calling process.
        rank: which process.
        world_size: how many processes.
        collate_fn: list of samples -> batch; None: torch's default.
        stored: as for `ShardedSampler`.
    """
    sampler = ShardedSampler(
        len(cast(Sized, dataset)),
        batch_size=batch_size,
        seed=0,
        shuffle=False,
        rank=rank,
        world_size=world_size,
        drop_last=False,
        pad=False,
        stored=stored,
    )
    return EvaluationLoader(SeededDataset(dataset, seed=0), **_options(sampler, num_workers, collate_fn))


def _options(
    sampler: ShardedSampler, num_workers: int, collate_fn: Callable[[list[Any]], Any] | None
) -> dict[str, Any]:
    """Options that loaders for training and evaluation share."""
    return {
        "batch_size": sampler.batch_size,
        "sampler": sampler,
        "num_workers": num_workers,
        "collate_fn": collate_fn,
        "worker_init_fn": prepare_worker,
        "timeout": timeout_seconds() if num_workers > 0 else 0,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
