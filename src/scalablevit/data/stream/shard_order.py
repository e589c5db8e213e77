"""The order of samples in shards: shuffled within a window of shards that moves over all of them."""

import torch


def windowed_order(
    shards: torch.Tensor,
    window: int,
    generator: torch.Generator,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shuffle samples so that those of few shards are read at once.

    Shards are shuffled, and their samples spread: a sample of the r-th shard comes at r + window * u, with u random in
    [0, 1). So each shard is read over the length of `window` shards, about `window` of them are in use at once, and one
    new shard comes into use with each that is left. The first shards start alone: nothing waits for a whole window.

    Args:
        shards: (N,) int64, shard of each sample, 0 to S - 1.
        window: in shards; at least 1.
        generator: of the random numbers.
        order: (M,) int64, samples to put in order; one that comes for the n-th time has (n - 1) * N added. None: each
            sample once.

    Returns:
        (M,) int64 samples; with `window` at least S, as they would come from no shards.
    """
    size, count = len(shards), int(shards.max()) + 1
    if window >= count:
        return torch.randperm(size, generator=generator) if order is None else order
    rank = torch.randperm(count, generator=generator)
    chosen = torch.arange(size) if order is None else order
    place = rank[shards[chosen % size]] + window * torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    return chosen[place.argsort(stable=True)]
