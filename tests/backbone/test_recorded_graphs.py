"""torch.fx and torch.jit.script, with what stands on them; torch.jit.trace is in tests/layers."""

import io

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import scalablevit

pytestmark = [
    pytest.mark.filterwarnings("error::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated"),
]
SIZES = [(2, 3, 64, 96), (1, 3, 101, 75), (3, 3, 33, 47), (1, 3, 5, 3)]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("scalablevit_atto", num_classes=5).eval()


def pyramid() -> nn.Module:
    torch.manual_seed(0)
    return scalablevit.create_backbone("scalablevit_nano", scale_value=True).eval()


def assert_same(found: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for size in SIZES:
            images = torch.randn(size)
            torch.testing.assert_close(found(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [classifier, pyramid])
@pytest.mark.parametrize("record", [torch.fx.symbolic_trace, torch.jit.script], ids=["fx", "script"])
def test_one_graph_serves_every_size(build, record) -> None:
    model = build()
    assert_same(record(model), model)


@pytest.mark.slow
def test_a_scripted_network_lives_without_python() -> None:
    model, file = classifier(), io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert_same(loaded, model)
    with pytest.raises(Exception, match=r"images must be \(B, 3, H, W\)"):
        loaded(torch.randn(1, 4, 32, 32))


@pytest.mark.parametrize("record", [torch.fx.symbolic_trace, torch.jit.script], ids=["fx", "script"])
def test_recorded_networks_learn(record) -> None:
    model = timm.create_model("scalablevit_atto", num_classes=5, drop_path_rate=0.0).train()
    recorded, images = record(model), torch.randn(2, 3, 40, 52)

    def gradients(network: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        network(images).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    found, expected = gradients(recorded), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_feature_extractors_of_torchvision_and_timm() -> None:
    model, images = classifier(), torch.randn(2, 3, 64, 96)
    found = create_feature_extractor(model, {"stages.1": "second", "head": "logits"})(images)
    assert found["second"].shape == (2, 8, 12, 32)
    torch.testing.assert_close(found["logits"], model(images))
    features = timm.create_model("scalablevit_atto", features_only=True, feature_cls="fx")
    assert len(features(images)) == 4


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_fx_keeps_the_implementation_that_was_set(implementation: str) -> None:
    model = classifier()
    scalablevit.set_attention(model, implementation)
    assert_same(torch.fx.symbolic_trace(model), model)


def test_fx_calls_every_layer() -> None:
    model = classifier()
    graph = torch.fx.symbolic_trace(model).graph
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    assert {n for n, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None} <= called
