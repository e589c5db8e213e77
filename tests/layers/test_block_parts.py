"""The small layers: patch embedding, PEG, MLP, block, head."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scalablevit.layers import Block, ClassifierHead, Mlp, PatchEmbed, PositionalEncodingGenerator


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (32, 33)], ids=str)
@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 4), (3, 2)])
def test_patch_embed_keeps_the_true_size(kernel_size: int, stride: int, size: tuple[int, int]) -> None:
    layer = PatchEmbed(2, 5, kernel_size=kernel_size, stride=stride)
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, 2, *size)
    out = layer(x)
    assert out.shape == (2, math.ceil(size[0] / stride), math.ceil(size[1] / stride), 5)
    plain = F.conv2d(x, layer.proj.weight, layer.proj.bias, stride=stride, padding=kernel_size // 2)
    expected = F.layer_norm(plain.permute(0, 2, 3, 1), (5,), layer.norm.weight, layer.norm.bias, 1e-6)
    torch.testing.assert_close(out, expected)


def test_peg_adds_a_depthwise_convolution() -> None:
    layer = PositionalEncodingGenerator(3)
    x = torch.randn(2, 4, 6, 3)
    for c in range(3):
        conv = F.conv2d(x[..., c].unsqueeze(1), layer.conv.weight[c : c + 1], layer.conv.bias[c : c + 1], padding=1)
        torch.testing.assert_close(layer(x)[..., c], x[..., c] + conv[:, 0])


def test_mlp_is_exact_gelu_between_two_linears() -> None:
    layer = Mlp(4, 8).double()
    x = torch.randn(3, 4, dtype=torch.float64) * 3
    hidden = layer.fc1(x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(layer(x), layer.fc2(hidden))


def test_block_is_pre_norm_and_residual() -> None:
    block = Block(4, attn=nn.Linear(4, 4), mlp=Mlp(4, 8))
    x = torch.randn(2, 3, 3, 4)
    y = x + block.attn(F.layer_norm(x, (4,), eps=1e-6))
    torch.testing.assert_close(block(x), y + block.mlp(F.layer_norm(y, (4,), eps=1e-6)))


def test_drop_path_drops_whole_samples_of_a_branch() -> None:
    block = Block(4, attn=nn.Linear(4, 4), mlp=nn.Linear(4, 4), drop_path=0.5)
    x = torch.randn(1, 2, 2, 4).expand(64, -1, -1, -1)
    out = block(x)
    kinds = torch.unique(out.detach().round(decimals=4), dim=0)
    assert len(kinds) == 4  # either branch kept or dropped
    assert (out == x).flatten(1).all(1).any()
    block.eval()
    torch.testing.assert_close(block(x)[0], block(x)[1])
    assert not torch.allclose(block(x)[0], x[0])


def test_heads() -> None:
    x = torch.randn(3, 6)
    plain = ClassifierHead(6, 4)
    torch.testing.assert_close(plain(x), plain.fc(x))
    assert set(dict(plain.named_parameters())) == {"fc.weight", "fc.bias"}
    published = ClassifierHead(6, 4, hidden_dim=16)
    hidden = F.layer_norm(published.hidden(x), (16,), eps=1e-6)
    torch.testing.assert_close(published(x), published.fc(F.gelu(hidden)))
    dropped = ClassifierHead(6, 4, drop=0.5)
    assert not torch.allclose(dropped(x), dropped(x))
    torch.testing.assert_close(dropped.eval()(x), dropped.fc(x))


@pytest.mark.parametrize("eps_at", ["published head", "patch embedding", "block"])
def test_norms_use_1e_6(eps_at: str) -> None:
    norms = {
        "published head": ClassifierHead(6, 4, hidden_dim=16).norm,
        "patch embedding": PatchEmbed(3, 4, kernel_size=3, stride=2).norm,
        "block": Block(4, attn=nn.Identity(), mlp=nn.Identity()).norm2,
    }
    assert norms[eps_at].eps == 1e-6


def test_mlp_gives_the_same_with_and_without_gradients() -> None:
    layer = Mlp(4, 8)
    x = torch.randn(3, 4)
    kept = x.clone()
    expected = layer(x)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert torch.equal(x, kept)
