"""Counts of known layers, in both conventions, and the sizes of the feature maps."""

import pytest
import timm
import torch
from torch import nn

from scalablevit.classification.cost import classifier_parts
from scalablevit.complexity import count, describe


def test_linear_and_convolution_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Flatten(), nn.Linear(8 * 6 * 6, 5))
    cost = count(network, torch.zeros(1, 3, 6, 6))
    expected = 6 * 6 * 8 * 3 * 9 + 8 * 36 * 5
    assert cost.multiply_adds == expected
    assert cost.flops == 2 * expected
    assert cost.parameters == 8 * 27 + 8 + 8 * 36 * 5 + 5


def test_depthwise_convolution_by_hand() -> None:
    network = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert count(network, torch.zeros(1, 8, 5, 7)).multiply_adds == 5 * 7 * 8 * 9


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_attention_products_count_as_flops_only() -> None:
    cost = count(Attention(), torch.zeros(1, 2, 10, 4))
    assert cost.multiply_adds == 0
    assert cost.flops == 2 * 2 * (2 * 10 * 10 * 4)


@pytest.mark.parametrize("size", [(224, 224), (1, 1), (37, 100)])
def test_maps_are_those_the_network_makes(size: tuple[int, int]) -> None:
    network = timm.create_model("scalablevit_atto").eval()
    weights = network.head.fc.weight.clone()
    stages = describe(classifier_parts(network, *size), *size)["stages"]
    with torch.no_grad():
        maps = network.forward_intermediates(torch.zeros(1, 3, *size), intermediates_only=True)
    assert [(s["channels"], s["height"], s["width"]) for s in stages] == [tuple(x.shape[1:]) for x in maps]
    assert torch.equal(network.head.fc.weight, weights), "the network itself is left as it was"
