"""Pooling to a fixed number of bins: the exported form against torch's own pooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.ops.pooling import adaptive_average_pool, bins


class Pool(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average_pool(x, self.size)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 12, 41])
def test_bins_are_those_of_torch(length: int, size: int) -> None:
    x = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool1d(x[None], size)[0]
    assert torch.allclose(x @ bins(x, length, size).t(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 6])
def test_an_exported_graph_pools_at_every_size(size: int) -> None:
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(Pool(size), (torch.randn(2, 3, 5, 8),), dynamic_shapes=({0: free, 2: free, 3: free},))
    assert not any("adaptive" in str(node.target) for node in program.graph.nodes), "ONNX has no such operator"
    for shape in ((2, 3, 5, 8), (3, 3, 13, 2), (2, 3, 7, 7)):
        x = torch.randn(shape)
        assert torch.allclose(program.module()(x), F.adaptive_avg_pool2d(x, size), atol=1e-6)


def test_outside_of_exports_the_result_is_torchs_to_the_bit() -> None:
    x = torch.randn(2, 3, 9, 11)
    assert torch.equal(Pool(6)(x), F.adaptive_avg_pool2d(x, 6))
