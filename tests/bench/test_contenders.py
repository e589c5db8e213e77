"""Names of networks, and that what they build is what they say."""

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from timm.models.twins import LocallyGroupedAttn
from torch import nn

from scalablevit.bench import contenders
from scalablevit.bench.contenders import PEERS, CannotMeasure, build_contender, find_contender


def test_a_mode_of_its_own() -> None:
    found = find_contender("scalablevit_atto@optimized")
    assert (found.label, found.name, found.mode) == ("scalablevit_atto@optimized", "scalablevit_atto", "optimized")
    assert find_contender("scalablevit_atto").mode is None


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_known(name: str) -> None:
    assert find_contender(name).name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("swin_tiny_patch4_window7_24", "did you mean swin_tiny_patch4_window7_224"),
        ("plain:scalablevit_smal", "did you mean plain:scalablevit_small"),
        ("twins_svt:4d", "twins_svt_small:4d"),
        ("resnet18:4d", "did you mean"),
        ("vit_pytorch:scalable", "did you mean vit_pytorch:scalable_vit"),
        ("zzzzzzzz", "take a name of timm.list_models()"),
        ("", "take a name of timm.list_models()"),
    ],
)
def test_unknown_names_get_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"MODEL {name!r}: there is no such network; ") + ".*") as error:
        find_contender(name)
    assert hint in str(error.value)


def test_plain_definition_has_our_weights() -> None:
    ours, plain = (build_contender(find_contender(f"{p}scalablevit_atto"), (32, 32)) for p in ("", "plain:"))
    images = torch.randn(1, 3, 32, 45)
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(images), ours.eval()(images), rtol=1e-4, atol=1e-5)


def test_4d_windows_change_no_output() -> None:
    attention = LocallyGroupedAttn(24, num_heads=3, ws=7)
    four = contenders._with_4d_windows(nn.Sequential(attention))[0]
    assert type(four) is not type(attention)
    assert [*four.state_dict()] == [*attention.state_dict()]
    for height, width in ((14, 7), (9, 16)):
        x = torch.randn(2, height * width, 24)
        torch.testing.assert_close(four(x, (height, width)), attention(x, (height, width)))
    shapes = []
    original = nn.functional.scaled_dot_product_attention

    def look(q: torch.Tensor, *args: Any) -> torch.Tensor:
        shapes.append(q.shape)
        return original(q, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders.F, "scaled_dot_product_attention", look)
        four(torch.randn(2, 14 * 7, 24), (14, 7))
    assert shapes == [(2 * 2, 3, 49, 8)]


def test_networks_of_a_fixed_size_are_built_for_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create(name: str, **arguments: Any) -> nn.Module:
        calls.append(arguments.get("img_size"))
        if calls[-1] == (30, 30):
            raise AssertionError("not divisible")
        return nn.Sequential(nn.Dropout(0.3), DropPath(0.2))

    monkeypatch.setattr(contenders.timm, "create_model", create)
    swin = find_contender("swin_tiny_patch4_window7_224")
    network = build_contender(swin, (224, 320))
    assert network[0].p == network[1].drop_prob == 0
    build_contender(swin, (224, 224))
    build_contender(find_contender("convnext_tiny"), (96, 96))
    assert calls == [(224, 320), None, None]
    with pytest.raises(CannotMeasure, match="cannot be built for 30 x 30 pixels: not divisible"):
        build_contender(swin, (30, 30))


def test_vit_pytorch_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vit_pytorch", None)
    with pytest.raises(CannotMeasure, match="vit-pytorch is missing: python -m pip install vit-pytorch"):
        build_contender(find_contender("vit_pytorch:scalable_vit"), (256, 256))


def test_vit_pytorch_gets_the_arguments_of_its_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("vit_pytorch.scalable_vit")
    package.ScalableViT = lambda **arguments: (
        setattr(  # type: ignore[attr-defined]
            network := nn.Identity(), "arguments", SimpleNamespace(**arguments)
        )
        or network
    )
    monkeypatch.setitem(sys.modules, "vit_pytorch", ModuleType("vit_pytorch"))
    monkeypatch.setitem(sys.modules, "vit_pytorch.scalable_vit", package)
    readme: Any = build_contender(find_contender("vit_pytorch:scalable_vit"), (256, 200)).arguments
    assert (readme.dim, readme.heads, readme.depth) == (64, (2, 4, 8, 16), (2, 2, 20, 2))
    assert (readme.ssa_dim_key, readme.reduction_factor) == ((40, 40, 40, 32), (8, 4, 2, 1))
    paper: Any = build_contender(find_contender("vit_pytorch:scalable_vit_paper"), (224, 448)).arguments
    assert (paper.depth, paper.window_size) == ((1, 1, 10, 1), 7)
    with pytest.raises(CannotMeasure, match="multiples of 224 pixels"):
        build_contender(find_contender("vit_pytorch:scalable_vit_paper"), (256, 224))
