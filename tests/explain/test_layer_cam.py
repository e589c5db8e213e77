"""Layer-CAM: the formula, and that the network is left as it was."""

import copy
from collections.abc import Callable

import grad_cam_maps
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import scalablevit
from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.explain import cam
from scalablevit.explain.cam import layer_cam, level_maps, merged_maps
from scalablevit.explain.explainable import explainable
from scalablevit.segmentation.decoders import SemanticFPNDecoder
from scalablevit.segmentation.models import SegmentationModel

IMAGES = torch.randn(2, 3, 70, 45, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def classifier() -> ScalableViT:
    torch.manual_seed(0)
    network = scalablevit.scalablevit_atto(num_classes=4)
    with torch.no_grad():  # a fresh network's logits hardly depend on the image
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def segmenter(classifier: ScalableViT) -> SegmentationModel:
    torch.manual_seed(0)
    backbone = PyramidBackbone(copy.deepcopy(classifier))
    decoder = SemanticFPNDecoder(backbone.channels, 3, fpn_channels=8, hidden_channels=8, dropout=0.1)
    return SegmentationModel(backbone, decoder, num_classes=3).eval()


def forward_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def by_definition(network: ScalableViT, images: Tensor, level: int, classes: list[int]) -> Tensor:
    """Layer-CAM of one stage, written out: the map is a leaf, and what follows is computed from it."""
    with torch.no_grad():
        maps = network.forward_intermediates(images, output_fmt="NHWC", norm=True, intermediates_only=True)
    leaf = x = maps[level].clone().requires_grad_()
    for stage in network.stages[level + 1 :]:
        x = stage(x.permute(0, 3, 1, 2))
    x = x if level == len(network.stages) - 1 else network.norm(x)
    logits = network.forward_head(x)
    sum(logits[i, k] for i, k in enumerate(classes)).backward()
    weights = torch.clamp(leaf.grad, min=0)
    return torch.clamp(torch.einsum("bhwc,bhwc->bhw", weights, leaf.detach()), min=0)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_maps_are_those_of_the_definition(classifier: ScalableViT, level: int) -> None:
    (maps,) = level_maps(
        explainable(classifier), IMAGES, lambda logits: [torch.stack([logits[0, 2], logits[1, 0]])], levels=[level]
    )
    expected = by_definition(copy.deepcopy(classifier), IMAGES, level, [2, 0])
    assert expected.amax(dim=(1, 2)).min() > 0
    torch.testing.assert_close(maps[0], expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def ours_as_grad_cam() -> list[Tensor]:
    """Our maps of the network, images and classes that grad-cam was given."""

    def scores(logits: Tensor) -> list[Tensor]:
        return [torch.stack([logits[i, k] for i, k in enumerate(grad_cam_maps.CLASSES)])]

    (maps,) = level_maps(explainable(grad_cam_maps.network()), grad_cam_maps.images(), scores)
    return maps


def test_maps_are_those_of_grad_cam() -> None:
    golden = np.load(grad_cam_maps.FILE)
    for i, ours in enumerate(ours_as_grad_cam()):
        expected = torch.from_numpy(golden[f"stage_{i + 1}"])
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@pytest.mark.skipif(not grad_cam_maps.IS_INSTALLED, reason="grad-cam is not installed; its golden maps are compared")
def test_maps_are_those_of_grad_cam_as_installed() -> None:
    for ours, expected in zip(ours_as_grad_cam(), grad_cam_maps.maps_by_grad_cam(grad_cam_maps.network()), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_a_token_lies_over_the_middle_of_its_patch(classifier: ScalableViT) -> None:
    found = explainable(classifier)
    maps = merged_maps(found, IMAGES, lambda logits: [logits[:, 0]], levels=[1])[0]  # (B, 70, 45)
    (levels,) = level_maps(found, IMAGES, lambda logits: [logits[:, 0]], levels=[1])
    for merged, native in zip(maps, levels[0], strict=True):
        shown = torch.nn.functional.interpolate(native[None, None], scale_factor=8, mode="bilinear")[0, 0, :70, :45]
        torch.testing.assert_close(merged, shown / shown.max())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 64), (224, 224)])
def test_any_height_and_width(classifier: ScalableViT, size: tuple[int, int]) -> None:
    maps = layer_cam(classifier, torch.randn(1, 3, *size))
    assert maps.shape == (1, *size)
    assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6


def test_images_of_a_batch_do_not_see_each_other(classifier: ScalableViT) -> None:
    together = layer_cam(classifier, IMAGES, target=[1, 3])
    for i, k in enumerate((1, 3)):
        torch.testing.assert_close(
            together[i], layer_cam(classifier, IMAGES[i : i + 1], target=k)[0], atol=1e-4, rtol=0
        )


def test_classes_differ_and_the_likeliest_is_the_default(classifier: ScalableViT) -> None:
    likeliest = classifier(IMAGES).argmax(dim=1).tolist()
    torch.testing.assert_close(layer_cam(classifier, IMAGES), layer_cam(classifier, IMAGES, target=likeliest))
    assert (layer_cam(classifier, IMAGES, target=0) - layer_cam(classifier, IMAGES, target=1)).abs().max() > 0.1


def test_a_fresh_head_changes_the_map(classifier: ScalableViT) -> None:
    """Adebayo et al., arXiv:1810.03292: a map that does not depend on the weights explains nothing."""
    other = copy.deepcopy(classifier)
    other.reset_classifier(4)
    assert likeness(layer_cam(classifier, IMAGES, target=1), layer_cam(other, IMAGES, target=1)) < 0.9


@pytest.mark.parametrize("stage", [3, 2, 1, 0])
def test_fresh_stages_change_the_map(classifier: ScalableViT, stage: int) -> None:
    """The cascade of Adebayo et al.: from the output to the input."""
    other = copy.deepcopy(classifier)
    torch.manual_seed(1)
    fresh = scalablevit.scalablevit_atto(num_classes=4)
    for i in range(stage, 4):
        other.stages[i] = fresh.stages[i]
    assert likeness(layer_cam(classifier, IMAGES, target=1), layer_cam(other.eval(), IMAGES, target=1)) < 0.9


def test_a_fresh_decoder_changes_the_map(segmenter: SegmentationModel) -> None:
    torch.manual_seed(1)
    other = copy.deepcopy(segmenter)
    other.decoder = SemanticFPNDecoder(other.backbone.channels, 3, fpn_channels=8, hidden_channels=8, dropout=0.1)

    def score(logits: Tensor) -> Tensor:
        return logits[:, 1].mean(dim=(1, 2))

    maps = [layer_cam(model.eval(), IMAGES, target=score) for model in (segmenter, other)]
    assert likeness(*maps) < 0.9


def likeness(a: Tensor, b: Tensor) -> float:
    """The largest correlation of two images' maps (B, H, W)."""
    return max(float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) for x, y in zip(a, b, strict=True))


def test_only_gradients_of_the_maps_are_computed(classifier: ScalableViT) -> None:
    images, seen = IMAGES.clone().requires_grad_(), []

    def score(logits: Tensor) -> Tensor:
        seen.extend(parameter.requires_grad for parameter in classifier.parameters())
        # what lies before the first map, the costliest part, is not in the graph
        assert torch.autograd.grad(logits.sum(), images, retain_graph=True, allow_unused=True) == (None,)
        return logits[:, 1]

    assert layer_cam(classifier, images, target=score).max() == 1
    assert seen
    assert not any(seen)
    assert images.grad is None


def test_the_network_is_left_as_it_was(classifier: ScalableViT) -> None:
    network = copy.deepcopy(classifier).train()
    network.stages[1].eval()
    network.norm.weight.requires_grad_(False)
    network.head.fc.weight.grad = torch.ones_like(network.head.fc.weight)
    modes = [module.training for module in network.modules()]
    layer_cam(network, IMAGES)
    with pytest.raises(RuntimeError, match="of the caller"):
        layer_cam(network, IMAGES, target=_fails)
    with pytest.raises(ValueError, match="images must be"):
        layer_cam(network, IMAGES[:, :2])
    assert forward_hooks(network) == 0
    assert [module.training for module in network.modules()] == modes
    assert [name for name, x in network.named_parameters() if not x.requires_grad] == ["norm.weight"]
    assert [name for name, x in network.named_parameters() if x.grad is not None] == ["head.fc.weight"]
    assert torch.equal(network.head.fc.weight.grad, torch.ones_like(network.head.fc.weight))


def _fails(logits: Tensor) -> Tensor:
    raise RuntimeError("of the caller")


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "parallel": nn.DataParallel,
    "averaged, then compiled": lambda network: torch.compile(AveragedModel(network)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_wrapped_networks(classifier: ScalableViT, wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped = wrap(copy.deepcopy(classifier))
    torch.testing.assert_close(layer_cam(wrapped, IMAGES), layer_cam(classifier, IMAGES))
    assert forward_hooks(wrapped) == 0


def test_averaged_weights_are_those_explained(classifier: ScalableViT) -> None:
    averaged = AveragedModel(copy.deepcopy(classifier))
    with torch.no_grad():
        averaged.module.head.fc.weight.neg_()
    assert (layer_cam(averaged, IMAGES, target=1) - layer_cam(classifier, IMAGES, target=1)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_compute_in_float32(classifier: ScalableViT, dtype: torch.dtype) -> None:
    half = copy.deepcopy(classifier).to(dtype)
    maps = layer_cam(half, IMAGES, target=1)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, layer_cam(copy.deepcopy(half).float(), IMAGES, target=1))
    assert next(half.parameters()).dtype == dtype
    assert torch.equal(layer_cam(half, IMAGES.to(dtype), target=1), layer_cam(half, IMAGES.to(dtype).float(), target=1))


def test_modes_of_the_caller_have_no_effect(classifier: ScalableViT) -> None:
    expected = layer_cam(classifier, IMAGES)
    with torch.no_grad():
        assert torch.equal(layer_cam(classifier, IMAGES), expected)
    with torch.inference_mode():
        torch.testing.assert_close(layer_cam(classifier, IMAGES + 0), expected)
    with torch.autocast("cpu"):
        assert torch.equal(layer_cam(classifier, IMAGES), expected)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_of_other_channels(in_chans: int) -> None:
    network = scalablevit.scalablevit_atto(num_classes=3, in_chans=in_chans).eval()
    assert layer_cam(network, torch.randn(1, in_chans, 40, 50)).shape == (1, 40, 50)


def test_segmenter(segmenter: SegmentationModel) -> None:
    maps = layer_cam(segmenter, IMAGES)
    assert maps.shape == (2, 70, 45)
    torch.testing.assert_close(maps.amax(dim=(1, 2)), torch.ones(2))
    labels = segmenter(IMAGES).argmax(dim=1)
    missing = next(k for k in range(3) if k not in labels[0].unique()) if len(labels[0].unique()) < 3 else None
    if missing is not None:
        assert layer_cam(segmenter, IMAGES[:1], target=missing).max() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 4}, r"target must be a class in 0\.\.3, got 4"),
        ({"target": [0]}, "one for each of 2 images, got 1"),
        ({"levels": ()}, r"levels must be some of 0\.\.3"),
        ({"levels": (4,)}, r"levels must be some of 0\.\.3"),
    ],
    ids=str,
)
def test_bad_arguments(classifier: ScalableViT, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layer_cam(classifier, IMAGES, **options)  # type: ignore[arg-type]


def test_other_networks_are_refused(classifier: ScalableViT) -> None:
    with pytest.raises(ValueError, match="has no ScalableViT"):
        layer_cam(nn.Sequential(nn.Conv2d(3, 4, 3)), IMAGES)
    with pytest.raises(ValueError, match=r"prepared for inference by optimize\(\)"):
        layer_cam(scalablevit.optimize(copy.deepcopy(classifier), backend="eager"), IMAGES)


def test_large_images_give_the_same_map_in_less_memory(
    classifier: ScalableViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = layer_cam(classifier, IMAGES, target=1)
    monkeypatch.setattr(cam, "_MOST_PIXELS_KEPT", 0)
    torch.testing.assert_close(layer_cam(classifier, IMAGES, target=1), kept)
    assert not any("forward" in vars(module) for module in classifier.modules())
    with pytest.raises(RuntimeError, match="of the caller"):
        layer_cam(classifier, IMAGES, target=_fails)
    assert not any("forward" in vars(module) for module in classifier.modules())
