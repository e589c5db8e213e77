"""Every layer with weights is called as a module: hooks, adapters, parametrizations and replacements take effect."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import scalablevit
from scalablevit.backbone import ScalableViT
from scalablevit.deploy.optimize import fold
from scalablevit.layers import InteractiveWindowSelfAttention, Mlp, ScalableSelfAttention


def network(**options: object) -> ScalableViT:
    """All kinds of layers, with SSA in both of its forms of keys and values."""
    torch.manual_seed(0)
    stages = {"embed_dims": (8, 16), "num_heads": (1, 2), "depths": (2, 2), "channel_ratios": (1.25, 1.0)}
    return ScalableViT(**{**stages, "reductions": (2, 1), "num_classes": 3, **options}).eval()


def layers_with_weights(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


class Adapter(nn.Module):
    """Stands in for a layer, as adapters do, and adds to what it gives."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.offset = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + self.offset * y.abs()


class TransparentAdapter(Adapter):
    """Has the attributes of the layer that it stands in for, as those of peft: whoever reads `weight` misses it."""

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight + 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("scale_value", [False, True])
def test_hooks_of_every_layer_run(scale_value: bool, implementation: str, training: bool) -> None:
    model = network(scale_value=scale_value).train(training)
    scalablevit.set_attention(model, implementation)
    called = set()
    for name in layers_with_weights(model):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.randn(1, 3, 40, 52))
    assert called == set(layers_with_weights(model))


@pytest.mark.parametrize("kind", [Adapter, TransparentAdapter])
@pytest.mark.parametrize("training", [False, True])
def test_an_adapter_on_any_layer_changes_the_result_and_learns(training: bool, kind: type[Adapter]) -> None:
    images = torch.randn(1, 3, 40, 52)
    plain = network().train(training)
    before = plain(images)
    for name in layers_with_weights(plain):
        model = network().train(training)
        adapter = kind(model.get_submodule(name))
        model.set_submodule(name, adapter)
        after = model(images)
        assert not torch.equal(after, before), name
        after.square().sum().backward()
        assert adapter.offset.grad is not None, name
        assert adapter.offset.grad != 0, name


def test_a_parametrized_weight_takes_effect_in_any_layer() -> None:
    images = torch.randn(1, 3, 40, 52)
    before = network()(images)
    for name in layers_with_weights(network()):
        model = network()
        parametrize.register_parametrization(model.get_submodule(name), "weight", Doubled())
        assert not torch.equal(model(images), before), name


@pytest.mark.parametrize(
    ("layer", "name"),
    [(ScalableSelfAttention(8, 2, reduction=2), "expand"), (InteractiveWindowSelfAttention(8, 2), "lim")],
)
def test_a_convolution_of_another_size_takes_effect(layer: nn.Module, name: str) -> None:
    x = torch.randn(1, 8, 8, 8)
    old = layer.get_submodule(name)
    layer.set_submodule(name, nn.Conv2d(8, 8, 5, padding=2, groups=old.groups))
    wide = layer(x)
    with torch.no_grad():
        layer.get_submodule(name).weight[..., 0, 0] += 1  # a corner that a smaller kernel has not
    assert not torch.equal(layer(x), wide)


@pytest.mark.parametrize(
    ("layer", "name"), [(Mlp(8, 16), "fc1"), (InteractiveWindowSelfAttention(8, 2, window_size=4), "lim")]
)
def test_what_a_hook_kept_is_not_overwritten(layer: nn.Module, name: str) -> None:
    kept, copies = [], []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)
        copies.append(output.clone())

    layer.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        layer(torch.randn(1, 8, 8, 8))
    assert torch.equal(kept[0], copies[0])


def test_an_mlp_without_its_first_layer_leaves_its_input_alone() -> None:
    mlp = Mlp(8, 8)
    mlp.fc1 = nn.Identity()
    x = torch.randn(2, 8)
    before = x.clone()
    with torch.no_grad():
        mlp(x)
    assert torch.equal(x, before)


def test_a_hook_on_all_modules_sees_all_of_them() -> None:
    model, called = network(), set()
    names = {module: name for name, module in model.named_modules()}
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(names[module]))
    try:
        with torch.no_grad():
            model(torch.randn(1, 3, 40, 52))
    finally:
        handle.remove()
    assert set(layers_with_weights(model)) <= called


@pytest.mark.parametrize("change", ["adapter", "parametrization", "hook"])
def test_folding_leaves_what_is_more_than_its_weights(change: str) -> None:
    model, images = network(), torch.randn(1, 3, 40, 52)
    for name in ("stages.0.peg.conv", "stages.0.blocks.1.attn.k", "stages.0.blocks.1.attn.v", "stages.1.peg.conv"):
        layer = model.get_submodule(name)
        if change == "adapter":
            model.set_submodule(name, Adapter(layer))
        elif change == "parametrization":
            parametrize.register_parametrization(layer, "weight", Doubled())
        else:
            layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    with torch.no_grad():
        expected = model(images)
        assert not torch.allclose(network()(images), expected, rtol=1e-4), "the changes do nothing"
        torch.testing.assert_close(fold(copy.deepcopy(model))(images), expected, rtol=1e-4, atol=1e-6)
