"""The convolution that torch.compile does not look into gives what PyTorch's gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scalablevit.layers import convolution as layer
from scalablevit.layers.convolution import convolve, convolve_and_add
from scalablevit.ops.convolution import convolution

CASES = {"7x7, stride 4": (3, 8, 7, 4, 3, 1), "3x3, stride 2": (4, 6, 3, 2, 1, 1), "depthwise": (6, 6, 3, 1, 1, 6)}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_pytorch(case: str) -> None:
    in_chans, out_chans, side, stride, padding, groups = CASES[case]
    torch.manual_seed(0)
    conv = nn.Conv2d(in_chans, out_chans, side, stride=stride, padding=padding, groups=groups).double()
    x = torch.randn(2, 9, 11, in_chans, dtype=torch.float64, requires_grad=True)
    expected = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    leaves = (x, conv.weight, conv.bias)
    found = convolution(*leaves, stride, padding, groups)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("needs", [(False, True, True), (True, False, False)], ids=str)
def test_operator_passes_opcheck(needs: tuple[bool, ...]) -> None:
    shapes = (1, 5, 4, 3), (4, 3, 3, 3), (4,)
    leaves = [torch.randn(shape, requires_grad=is_needed) for shape, is_needed in zip(shapes, needs, strict=True)]
    torch.library.opcheck(torch.ops.scalablevit.convolution.default, (*leaves, 2, 1, 1))


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
def test_layers_hand_it_their_convolutions(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.randn(1, 5, 4, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = convolve(conv, x.permute(0, 3, 1, 2)), convolve_and_add(conv, x)
        monkeypatch.setattr(layer, "may_run", lambda device: True)
        monkeypatch.setattr(layer, "_is_compiled_for_cuda", lambda x: True)
        found = convolve(conv, x.permute(0, 3, 1, 2)), convolve_and_add(conv, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


def test_a_convolution_that_is_not_square_or_is_watched_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "may_run", lambda device: True)
    monkeypatch.setattr(layer, "_is_compiled_for_cuda", lambda x: True)
    monkeypatch.setattr(layer, "convolution", lambda *_: pytest.fail("not to be called"))
    x = torch.randn(1, 3, 6, 5)
    watched = nn.Conv2d(3, 3, 3)
    watched.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(convolve(watched, x), 2 * F.conv2d(x, watched.weight, watched.bias).permute(0, 2, 3, 1))
    for options in ({"padding": "same"}, {"padding": (1, 0)}, {"dilation": 2}, {"padding_mode": "reflect"}):
        options = {"padding": 1, **options}
        conv = nn.Conv2d(3, 4, 3, **options)
        assert torch.equal(convolve(conv, x), conv(x).permute(0, 2, 3, 1))
