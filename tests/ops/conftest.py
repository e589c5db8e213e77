"""Fixtures of the kernels' tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Show what a kernel forgets to write."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
