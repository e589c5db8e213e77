"""Which of the layers beside attention run as our kernels."""

import pytest
import torch

from scalablevit.layers import Block, Mlp, PositionalEncodingGenerator
from scalablevit.ops import depthwise, feed_forward, layer_choice
from scalablevit.ops.choice import Choice, implementation_in

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def test_a_variable_of_its_own_leaves_the_layers_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_choice, "DEFAULT", "torch")
    options = {"dim": 64, "hidden_dim": 256, "device": CUDA, "dtype": torch.bfloat16}
    assert feed_forward.select_implementation(**options) == Choice("torch", "asked for")


def test_an_unknown_value_of_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(layer_choice.ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(
        ValueError, match="SCALABLEVIT_LAYERS must be one of auto, triton, torch, reference, got 'fast'"
    ):
        implementation_in(layer_choice.ENVIRONMENT_VARIABLE)
    monkeypatch.delenv(layer_choice.ENVIRONMENT_VARIABLE)
    assert implementation_in(layer_choice.ENVIRONMENT_VARIABLE) == "auto"


def test_on_a_cpu_pytorch_computes() -> None:
    choice = depthwise.select_implementation(dim=64, side=3, stride=1, padding=1, device=CPU, dtype=torch.bfloat16)
    assert choice.implementation == "torch"
    assert "CUDA device" in choice.reason


def make_block(dim: int, **options) -> Block:
    return Block(dim, attn=Mlp(dim, 8), mlp=Mlp(dim, 8), **options)


@pytest.mark.parametrize("make", [PositionalEncodingGenerator, make_block])
def test_an_unknown_implementation_is_refused(make) -> None:
    with pytest.raises(ValueError, match="must be one of auto, triton, torch, reference, got 'fast'"):
        make(8, implementation="fast")
