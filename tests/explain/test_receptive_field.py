"""The effective receptive field: of convolution stacks whose field is known, of our networks and of timm's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from scalablevit.backbone import ScalableViT, create_backbone
from scalablevit.explain.receptive_field import ReceptiveField, effective_receptive_field, timm_network

TINY = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(2, 2, 2, 2), head="plain")


def box_stack(kernels, strides=None):
    """Convolutions of ones, whose gradient is the convolution of their boxes."""
    layers = []
    for kernel, stride in zip(kernels, strides or [1] * len(kernels), strict=True):
        layer = nn.Conv2d(1, 1, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.ones_(layer.weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def test_a_convolution_stack_has_the_field_that_is_known():
    field = effective_receptive_field(box_stack([3, 5, 3]), torch.rand(2, 1, 33, 41) + 0.1)
    line = np.convolve(np.convolve(np.ones(3), np.ones(5)), np.ones(3))  # 9 pixels
    expected = np.zeros((33, 41))
    expected[16 - 4 : 16 + 5, 20 - 4 : 20 + 5] = np.outer(line, line)
    assert field.centre == (16, 20)
    assert field.num_images == 2
    np.testing.assert_allclose(field.contribution.numpy(), expected, rtol=1e-6)
    assert field.square(1.0).side == 9
    total = line.sum() ** 2
    for share in (0.2, 0.5, 0.99):
        sides = [2 * r + 1 for r in range(5) if line[4 - r : 5 + r].sum() ** 2 >= share * total]
        assert field.square(share).side == sides[0], share


def test_strides_widen_the_field_and_a_token_lies_over_its_pixel():
    field = effective_receptive_field(box_stack([7, 3], [4, 2]), torch.rand(1, 1, 64, 64) + 0.1)
    line = np.zeros(64)
    for token in (-1, 0, 1):  # of the first map, around the middle: at pixel 32 + 4 * token
        line[32 + 4 * token - 3 : 32 + 4 * token + 4] += 1
    np.testing.assert_allclose(field.contribution.numpy(), np.outer(line, line), rtol=1e-6)
    assert field.centre == (32, 32)
    assert field.stride == 8
    assert field.square(1.0).side == 15


def test_shares_of_the_input():
    flat = ReceptiveField(torch.ones(101, 101, dtype=torch.float64), (50, 50), 1, 32)
    for share in (0.2, 0.5, 0.99):
        square = flat.square(share)
        assert square.area_share >= share
        assert square.side_share == pytest.approx(square.side / 101)
        assert ((square.side - 2) / 101) ** 2 < share
    cut = ReceptiveField(torch.ones(10, 10, dtype=torch.float64), (9, 9), 1, 4).square(1.0)
    assert cut.area_share == 1  # what lies outside of the input does not count
    assert cut.side == 19
    numbers = flat.numbers()
    assert numbers["squares"]["50%"]["side"] == flat.square(0.5).side
    assert list(numbers["squares"]) == ["20%", "50%", "99%"]


def test_our_networks_and_their_stages():
    torch.manual_seed(0)
    classifier = ScalableViT(num_classes=3, **TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    last = effective_receptive_field(classifier, images)
    first = effective_receptive_field(classifier, images, stage=0)
    assert (first.stride, last.stride) == (4, 32)
    assert last.centre == first.centre == (32, 32)
    assert last.contribution.shape == (64, 64)
    for model in (copy.deepcopy(classifier).half(), torch.compile(classifier, backend="eager"), classifier.train()):
        other = effective_receptive_field(model, images)
        error = float((other.contribution - last.contribution).abs().max() / last.contribution.max())
        assert error < (0.05 if next(model.parameters()).dtype == torch.float16 else 1e-5)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in classifier.parameters())
    assert classifier.training
    pyramid = create_backbone("scalablevit_atto")
    assert effective_receptive_field(pyramid, images, stage=2).stride == 16  # its LayerNorms sum to a constant


def test_attention_widens_the_field():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 128)
    fields = {}
    for pattern in (("iwsa",), ("iwsa", "ssa")):
        torch.manual_seed(0)
        model = ScalableViT(num_classes=0, pattern=pattern, window_size=2, **TINY).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "attn" in name and parameter.ndim == 2:
                    parameter.mul_(20)
        fields[pattern] = effective_receptive_field(model, images, stage=0).square(0.99).side
    assert fields["iwsa",] < 60 < fields["iwsa", "ssa"]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.slow
def test_networks_of_timm(name):
    torch.manual_seed(0)
    field = effective_receptive_field(timm_network(name, size=224), torch.randn(1, 3, 224, 224))
    assert field.contribution.shape == (224, 224)
    assert field.stride == (16 if name.startswith("vit") else 32)
    assert field.centre == {"resnet18": (96, 96), "vit_tiny_patch16_224": (120, 120)}.get(name, (112, 112))
    # of a network whose residual branches start at zero, too
    assert field.square(0.99).side > 50


def test_maps_in_channels_last_are_read_by_rows_and_columns():
    class Last(nn.Module):
        output_fmt = "NHWC"

        def __init__(self):
            super().__init__()
            self.stack = box_stack([3])

        def forward(self, x):
            return [self.stack(x).permute(0, 2, 3, 1)]

    images = torch.rand(1, 1, 16, 24) + 0.1
    expected = effective_receptive_field(box_stack([3]), images)
    assert torch.equal(effective_receptive_field(Last(), images).contribution, expected.contribution)


def test_what_cannot_be_measured_is_said():
    stack = box_stack([3])
    with pytest.raises(ValueError, match="at least one image"):
        effective_receptive_field(stack, torch.rand(0, 1, 8, 8))
    with pytest.raises(ValueError, match="one size"):
        effective_receptive_field(stack, [torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9)])
    with pytest.raises(ValueError, match=r"stage must lie in 0..0, got 1"):
        effective_receptive_field(stack, torch.rand(1, 1, 8, 8), stage=1)
    with pytest.raises(ValueError, match="zero everywhere"):
        effective_receptive_field(stack, -torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="features_only"):
        effective_receptive_field(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"no network 'resnet1888'; did you mean resnet"):
        timm_network("resnet1888", size=224)
