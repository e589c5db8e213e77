"""torch.compile as one dynamic graph, and torch.export with dynamic batch, height and width."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.fx.experimental import _config as symbolic_config

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT

# Compiling takes minutes where something else computes.
pytestmark = pytest.mark.timeout(1800)

SIZES = [(2, 3, 64, 96), (3, 3, 65, 97), (4, 3, 128, 70), (2, 3, 224, 224)]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def atto() -> ScalableViT:
    return ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"])


def two_stages(**options: Any) -> ScalableViT:
    """All kinds of layers, in a fraction of the compiler's time."""
    dims: dict[str, Any] = {
        "embed_dims": (8, 16),
        "num_heads": (1, 2),
        "depths": (2, 2),
        "channel_ratios": (1.25, 1.0),
        "reductions": (2, 1),
    }
    return ScalableViT(**{**dims, **options}, head="plain", num_classes=3)


def run_compiled(model: ScalableViT, sizes: list[tuple[int, ...]], backend: str) -> int:
    """Compare compiled and eager outputs at every size; the number of graphs it took."""
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(*size)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_one_dynamic_graph_above_224_pixels() -> None:
    """Where a stage has but one window (up to 224 pixels), torch guards on that and makes another graph."""
    sizes = [(2, 3, 256, 288), (3, 3, 257, 301), (2, 3, 320, 260)]
    assert run_compiled(atto().eval(), sizes, "eager") == 1


@pytest.mark.slow
def test_one_dynamic_graph_for_all_sizes_when_ones_are_not_special() -> None:
    with symbolic_config.patch(backed_size_oblivious=True):
        assert run_compiled(atto().eval(), SIZES, "eager") == 1


@pytest.mark.slow
def test_one_image_and_tiny_images_compile_too() -> None:
    sizes = [(2, 3, 64, 96), (1, 3, 64, 96), (2, 3, 4, 40), (2, 3, 1, 1)]
    assert run_compiled(two_stages().eval(), sizes, "eager") <= 4


@pytest.mark.slow
def test_training_step_is_one_dynamic_graph() -> None:
    model = two_stages()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in SIZES[:3]:
        x = torch.randn(*size)
        model.zero_grad()
        model(x).square().sum().backward()
        expected = {name: p.grad for name, p in model.named_parameters()}
        model.zero_grad()
        compiled(x).square().sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_inductor_gives_the_same() -> None:
    # One block of each kind: the compiler of C++ takes most of the time. Windows come in both stages.
    model = two_stages(depths=(1, 2), reductions=(1, 2)).eval()
    assert run_compiled(model, SIZES[:3], "inductor") == 1


class _Pyramid(nn.Module):
    """A tuple, which export gives back as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = scalablevit.create_backbone("scalablevit_atto")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.backbone(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "pyramid"])
def test_export_with_dynamic_batch_height_and_width(kind: str) -> None:
    model = (atto() if kind == "classifier" else _Pyramid()).eval()
    dims = {0: Dim("batch"), 2: Dim("height", min=64), 3: Dim("width", min=64)}
    with symbolic_config.patch(backed_size_oblivious=True):
        program = torch.export.export(
            model,
            (torch.randn(2, 3, 64, 96),),
            dynamic_shapes={"x": dims},
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    exported = program.module()
    with torch.no_grad():
        for size in [(1, 3, 64, 64), (2, 3, 65, 97), (5, 3, 224, 100), (1, 3, 131, 64)]:
            x = torch.randn(*size)
            torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("scaled_dot_product_attention" in target for target in targets)
