"""Stateless randomness: a random draw depends on numbers that can be computed again, not on what ran before.

A sample is augmented under a seed made of (seed, epoch, index), a training step runs under a seed made of
(seed, rank, epoch, batch). So a run that stopped in the middle of an epoch resumes bit-exactly, with any
number of workers, and no generator state has to be saved.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = (1 << 64) - 1


def seed_for(*parts: int) -> int:
    """A seed in [0, 2**63) that depends on every part and on their order; the same on every machine.

    Args:
        parts: at least one integer; negative ones are taken modulo 2**64.

    Raises:
        ValueError: no parts.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
        2014).
    """
    if not parts:
        raise ValueError("seed_for needs at least one integer")
    state = len(parts)
    for part in parts:
        z = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state = z ^ (z >> 31)
    return state >> 1


def seed_all(*parts: int) -> None:
    """Seed `random`, numpy and torch (every device) with `seed_for(*parts)`."""
    seed = seed_for(*parts)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def seed_cpu(*parts: int) -> None:
    """Seed `random`, numpy and torch's CPU generator with `seed_for(*parts)`; accelerators are left alone.

    For data workers: `torch.manual_seed` formats a stack trace a call where CUDA is there but not
    initialised.
    """
    seed = seed_for(*parts)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def isolated_cpu_randomness() -> Iterator[None]:
    """On leaving, `random`, numpy and torch's CPU generator are as they were on entering."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
