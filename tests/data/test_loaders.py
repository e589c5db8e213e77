"""Sharding, seeding and resuming of the loaders."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from scalablevit.data.loaders import (
    ResumableLoader,
    SampleKey,
    SeededDataset,
    ShardedSampler,
    eval_loader,
    train_loader,
)


class Draws(Dataset[tuple[int, float, float, float]]):
    """Sample i: i and a draw from each generator."""

    def __init__(self, num_samples: int = 10) -> None:
        self.num_samples = num_samples
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        self.loaded.append(index)
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def sampler(n: int, batch: int, rank: int, world: int, **options: Any) -> ShardedSampler:
    options = {"seed": 3, "shuffle": True, "drop_last": True, "pad": True, **options}
    return ShardedSampler(n, batch_size=batch, rank=rank, world_size=world, **options)


def batches(loader: DataLoader[Any], epoch: int) -> list[list[list[float]]]:
    assert isinstance(loader.sampler, ShardedSampler)
    loader.sampler.set_epoch(epoch)
    return [[part.tolist() for part in batch] for batch in loader]


SIZES = {
    "n": st.integers(1, 60),
    "batch": st.integers(1, 9),
    "world": st.integers(1, 5),
    "epoch": st.integers(0, 5),
}


@settings(max_examples=60, deadline=None)
@given(**SIZES)
def test_evaluation_sees_every_sample_once(n: int, batch: int, world: int, epoch: int) -> None:
    shards = [sampler(n, batch, r, world, shuffle=False, drop_last=False, pad=False) for r in range(world)]
    keys = [list(shard) for shard in shards]
    assert sorted(key.index for shard in keys for key in shard) == list(range(n))
    assert [len(shard) for shard in keys] == [len(shard) for shard in shards]
    assert max(map(len, keys)) - min(map(len, keys)) <= 1


@settings(max_examples=60, deadline=None)
@given(**SIZES, drop_last=st.booleans())
def test_training_is_even_and_wastes_little(n: int, batch: int, world: int, epoch: int, drop_last: bool) -> None:
    shards = [sampler(n, batch, r, world, drop_last=drop_last) for r in range(world)]
    for shard in shards:
        shard.set_epoch(epoch)
    keys = [list(shard) for shard in shards]
    assert len({len(shard) for shard in keys}) == 1
    assert len(keys[0]) == len(shards[0]) > 0
    assert {key.epoch for shard in keys for key in shard} == {epoch}
    count = Counter(key.index for shard in keys for key in shard)
    if drop_last and n >= world * batch:
        assert len(keys[0]) == n // (world * batch) * batch
        assert max(count.values()) == 1
    elif not drop_last:
        assert len(count) == n  # all of them
        assert sum(count.values()) < n + world
    else:  # smaller than one batch over all ranks
        assert 1 <= len(keys[0]) <= batch


def test_the_same_steps_for_any_number_of_processes() -> None:
    def steps(world: int) -> list[set[int]]:
        batch = 8 // world
        shards = [[key.index for key in sampler(50, batch, r, world)] for r in range(world)]
        return [{i for s in shards for i in s[k * batch : (k + 1) * batch]} for k in range(50 // 8)]

    assert steps(1) == steps(2) == steps(4)


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = []
    for seed in (0, 1):
        for epoch in (0, 1):
            one = sampler(30, 4, 0, 1, seed=seed)
            one.set_epoch(epoch)
            orders.append(tuple(key.index for key in one))
    assert len(set(orders)) == 4


def test_a_sample_hangs_on_seed_epoch_and_index_alone() -> None:
    dataset = SeededDataset(Draws(), seed=1)
    first = dataset[SampleKey(3, 0)]
    torch.rand(5)
    random.random()
    np.random.rand()
    assert dataset[SampleKey(3, 0)] == first
    another_seed = SeededDataset(Draws(), seed=2)
    for other in (dataset[SampleKey(3, 1)], dataset[SampleKey(4, 0)], another_seed[SampleKey(3, 0)]):
        for generator in (1, 2, 3):
            assert other[generator] != first[generator]


def test_loading_in_the_training_process_leaves_its_generators_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    SeededDataset(Draws(), seed=1)[SampleKey(3, 0)]
    assert (torch.rand(()), random.random(), np.random.rand()) == expected


def test_workers_change_nothing() -> None:
    here = train_loader(Draws(), batch_size=3, num_workers=0, seed=4)
    there = train_loader(Draws(), batch_size=3, num_workers=2, seed=4)
    for epoch in (0, 1, 2):  # the workers persist
        assert batches(here, epoch) == batches(there, epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_another_stopped(num_workers: int) -> None:
    def make() -> ResumableLoader:
        return train_loader(Draws(), batch_size=2, num_workers=num_workers, seed=4)

    whole = make()
    expected = [batches(whole, epoch) for epoch in (0, 1, 2)]
    first = make()
    batches(first, 0)
    first.sampler.set_epoch(1)  # type: ignore[attr-defined]
    iterator = iter(first)
    got = [[part.tolist() for part in next(iterator)] for _ in range(2)]
    assert first.state_dict() == {"epoch": 1, "batches": 2}
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"epoch": 1, "batches": 2}
    assert got + batches(second, 1) == expected[1]
    assert second.state_dict() == {"epoch": 1, "batches": 5}
    assert batches(second, 2) == expected[2]
    third = make()
    third.load_state_dict(second.state_dict() | {"epoch": 1})
    assert batches(third, 2) == expected[2], "a finished epoch skips nothing of the next"


def test_skipped_samples_are_not_loaded() -> None:
    dataset = Draws()
    loader = train_loader(dataset, batch_size=2, num_workers=0, seed=4)
    loader.load_state_dict({"epoch": 0, "batches": 4})
    batches(loader, 0)
    assert len(dataset.loaded) == 2


def test_iter_alone_starts_nothing() -> None:
    """Lightning calls iter() before set_epoch(); the epoch that counts is the one at the first batch."""
    loader = train_loader(Draws(), batch_size=2, num_workers=2, seed=4)
    iterator = iter(loader)
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    got = [[part.tolist() for part in batch] for batch in iterator]
    assert got == batches(train_loader(Draws(), batch_size=2, num_workers=0, seed=4), 3)


def test_a_data_set_smaller_than_a_batch_makes_one_batch() -> None:
    for world in (1, 2):
        loaders = [
            train_loader(Draws(5), batch_size=8, num_workers=0, seed=0, rank=r, world_size=world) for r in range(world)
        ]
        assert [len(loader) for loader in loaders] == [1] * world
        assert [[len(batch[0]) for batch in loader] for loader in loaders] == [[5 // world]] * world


@pytest.mark.parametrize(
    ("batches_per_step", "expected"), [(1, 11), (2, 10), (4, 8), (11, 11), (12, 11)], ids=lambda value: str(value)
)
def test_an_epoch_ends_with_a_whole_step_where_there_is_one(batches_per_step: int, expected: int) -> None:
    for world in (1, 2):
        for rank in range(world):
            loader = train_loader(
                Draws(23 * world), batch_size=2, num_workers=0, seed=0, rank=rank, world_size=world,
                batches_per_step=batches_per_step,
            )  # fmt: skip
            assert len(loader) == len(list(loader)) == expected


def test_evaluation_keeps_the_order_and_the_last_batch() -> None:
    loader = eval_loader(Draws(5), batch_size=2, num_workers=0)
    assert [batch[0].tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(loader) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "no samples"),
        ({"batch": 0}, "batch_size must be at least 1, got 0"),
        ({"batches_per_step": 0}, "batches_per_step must be at least 1, got 0"),
        ({"rank": 2, "world": 2}, "rank 2 of world_size 2"),
    ],
)
def test_bad_numbers_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampler(**{"n": 5, "batch": 2, "rank": 0, "world": 1, **options})


def test_a_resumable_loader_needs_its_sampler() -> None:
    with pytest.raises(ValueError, match="sampler=ShardedSampler"):
        ResumableLoader(Draws(), batch_size=2)


@settings(max_examples=60, deadline=None)
@given(**SIZES, groups=st.integers(1, 3))
def test_batches_hold_one_group_while_there_are_enough(n: int, batch: int, world: int, epoch: int, groups: int) -> None:
    group_of = [(7 * i) % groups for i in range(n)]
    ranks = [sampler(n, batch, rank, world, groups=group_of, drop_last=False) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(epoch)
    drawn = [[key.index for key in rank] for rank in ranks]
    assert {i for indices in drawn for i in indices} == set(range(n))
    full = sum(group_of.count(group) // (batch * world) for group in set(group_of))
    for indices in drawn:
        for k in range(full):
            assert len({group_of[i] for i in indices[k * batch : (k + 1) * batch]}) == 1


def test_groups_are_mixed_over_the_epoch_and_change_with_it() -> None:
    group_of = [i % 2 for i in range(64)]
    one = sampler(64, 4, 0, 1, groups=group_of)
    orders = []
    for epoch in (0, 1, 1):
        one.set_epoch(epoch)
        orders.append([key.index for key in one])
    assert orders[1] == orders[2] != orders[0]
    firsts = [group_of[i] for i in orders[0][::4]]
    assert 0 < sum(firsts[:8]) < 8, "all batches of one group came first"


def test_groups_need_a_number_for_each_sample() -> None:
    with pytest.raises(ValueError, match="a number for each of 10 samples, got 3"):
        sampler(10, 2, 0, 1, groups=[0, 1, 0])
