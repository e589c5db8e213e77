"""Telling a network's attentions how to compute, and asking them."""

import pytest
import torch
from torch import nn

import scalablevit
from scalablevit.layers import attention_paths
from scalablevit.ops.choice import Choice

CPU, META = torch.device("cpu"), torch.device("meta")


def test_every_attention_of_any_network_is_told() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(scalablevit.create_backbone("scalablevit_atto").eval())
    images = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        before = backbone(images)
        scalablevit.set_attention(backbone, "reference")
        after = backbone(images)
    assert attention_paths(backbone, device=CPU, dtype=torch.float32) == [
        scalablevit.layers.AttentionPath(name, 4, Choice("reference", "asked for")) for name in ("IWSA", "SSA")
    ]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)), "the same code ran"


def test_what_runs_comes_with_a_reason() -> None:
    model = scalablevit.scalablevit_small()
    scalablevit.set_attention(model, "triton")
    paths = attention_paths(model, device=META, dtype=torch.bfloat16)
    assert [(path.attention, path.blocks) for path in paths] == [("IWSA", 13), ("SSA", 13)]
    assert {path.choice.implementation for path in paths} == {"torch"}
    assert "need a CUDA device, not meta" in paths[0].choice.reason


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="must be one of auto, triton, torch, reference, got 'cuda'"):
        scalablevit.set_attention(scalablevit.scalablevit_atto(), "cuda")
    with pytest.raises(ValueError, match="Linear has neither IWSA nor SSA"):
        scalablevit.set_attention(nn.Linear(2, 2), "torch")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated:FutureWarning")
def test_a_network_can_be_traced() -> None:
    model = scalablevit.scalablevit_atto(num_classes=3).eval()
    traced = torch.jit.trace(model, torch.randn(2, 3, 40, 70))
    assert "scalablevit::" not in str(traced.inlined_graph)
    images = torch.randn(2, 3, 40, 70)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), model(images), rtol=0, atol=0)
