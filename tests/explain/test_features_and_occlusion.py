"""Features as colours, occlusion, and numbers of heatmaps."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import scalablevit
from scalablevit.explain.energy import energy_inside, points_at, points_inside
from scalablevit.explain.features import explain as explain_features
from scalablevit.explain.features import feature_colours
from scalablevit.explain.occlusion import explain as explain_occlusion
from scalablevit.explain.occlusion import num_passes, occlusion_maps
from scalablevit.explain.subject import Frame, Subject, Target, class_index, spread_tokens

needs_captum = pytest.mark.skipif(find_spec("captum") is None, reason="Captum is not installed")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return scalablevit.scalablevit_atto(num_classes=3).eval()


def subject_of(network: nn.Module, size: tuple[int, int] = (40, 60), score: float = 1.0) -> Subject:
    """An image that is shown as it is; its only target is the mean of the red channel in the upper left 10 x 10."""
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) + 1
    frame = Frame(size, size, (0.0, 0.0, float(size[1]), float(size[0])))
    target = Target(
        "red", score, "100%", lambda images: images[:, 0, :10, :10].mean(dim=(1, 2)), box_xyxy=(0, 0, 10, 10)
    )
    return Subject(
        Path("a.png"), Image.new("RGB", size[::-1]), network, pixels, frame, pixels, frame,
        lambda name: [target], ["red"], lambda network, images: images, [0.0] * 3,
    )  # fmt: skip


def test_components_are_those_of_the_singular_value_decomposition(network: nn.Module) -> None:
    images = torch.randn(2, 3, 96, 64)
    maps = network.forward_intermediates(images, output_fmt="NHWC", norm=True, intermediates_only=True)
    found = feature_colours(network, images)
    assert [tuple(colours.shape) for colours, _ in found] == [(2, 24, 16, 3), (2, 12, 8, 3), (2, 6, 4, 3), (2, 3, 2, 3)]
    for (colours, shares), x in zip(found, maps, strict=True):
        assert 0 <= colours.min() <= colours.max() <= 1
        tokens = x[1].detach().flatten(0, 1).double()
        u, s, _ = torch.linalg.svd(tokens - tokens.mean(dim=0), full_matrices=False)
        torch.testing.assert_close(shares[1].double(), (s**2 / (s**2).sum())[:3], rtol=1e-4, atol=1e-6)
        ours = colours[1, :, :, 0].flatten().double()
        inside = (ours > 0) & (ours < 1)  # the ends are clipped
        assert torch.corrcoef(torch.stack([ours[inside], u[inside, 0]]))[0, 1].abs() > 0.9999


def test_features_of_one_token_are_gray(network: nn.Module) -> None:
    colours, shares = feature_colours(network, torch.randn(1, 3, 20, 20))[3]
    assert torch.equal(colours, torch.full((1, 1, 1, 3), 0.5))
    assert torch.equal(shares, torch.zeros(1, 3))


def test_features_do_not_depend_on_the_signs_of_eigenvectors(network: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 64)
    for (one, _), (two, _) in zip(feature_colours(network, images), feature_colours(network, images), strict=True):
        assert torch.equal(one, two)


def test_features_are_drawn(network: nn.Module) -> None:
    (found,) = explain_features(subject_of(network))
    assert [row["stride"] for row in found.numbers["stages"]] == [4, 8, 16, 32]
    assert found.draw().mode == "RGB"


@needs_captum
def test_occlusion_finds_the_pixels_that_the_score_reads(network: nn.Module) -> None:
    subject = subject_of(network)
    (heat,) = occlusion_maps(subject, subject.find_targets(None))
    assert heat.shape == (40, 60)
    assert heat.max() == 1
    assert heat[:10, :10].min() > 0
    assert heat[15:].max() == heat[:, 15:].max() == 0
    (found,) = explain_occlusion(subject)
    (numbers,) = found.numbers["targets"]
    assert numbers["points_inside"] is True
    assert numbers["energy_inside"] > 10 * numbers["chance"]


@needs_captum
def test_occlusion_of_several_targets_needs_no_further_pass(network: nn.Module) -> None:
    subject, passes = subject_of(network), []
    counting = Subject(**{**vars(subject), "compute": lambda network, images: (passes.append(1), images)[1]})
    (target,) = subject.find_targets(None)
    other = Target("blue", 1.0, "", lambda images: images[:, 2, 30:, 50:].mean(dim=(1, 2)))
    (one,) = occlusion_maps(counting, [target])
    alone = len(passes)
    assert alone == num_passes(40, 60, 8)
    first, second = occlusion_maps(counting, [target, other])
    assert len(passes) == 2 * alone
    torch.testing.assert_close(first, one)
    assert second[30:, 50:].min() > 0
    assert second[:20].max() == 0


@needs_captum
@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3)])
def test_occlusion_of_any_size(network: nn.Module, size: tuple[int, int]) -> None:
    subject = subject_of(network, size)
    (heat,) = occlusion_maps(subject, subject.find_targets(None))
    assert heat.shape == size


def test_numbers_of_a_map() -> None:
    region = np.zeros((4, 5), dtype=bool)
    region[1:3, 1:3] = True
    region[1, 1] = False  # the box around the region still holds it
    heat = np.zeros((4, 5))
    assert energy_inside(heat, region) == (0.0, 3 / 20)
    assert not points_inside(heat, region)
    heat[1, 1], heat[2, 2] = 3, 1
    assert energy_inside(heat, region) == (0.25, 3 / 20)
    assert points_inside(heat, region)
    assert not points_at(heat, region)
    heat[2, 2] = 4
    assert points_at(heat, region)
    heat[0, 0] = 5
    assert not points_inside(heat, region)
    assert not points_at(heat, region)
    assert not points_at(np.zeros_like(heat), ~np.zeros_like(region))
    assert not points_inside(heat, np.zeros_like(region))


def test_a_frame_lays_maps_over_the_part_that_was_seen() -> None:
    frame = Frame((20, 40), (10, 10), (10.0, 0.0, 30.0, 20.0))  # the middle square, at half its size
    assert frame.to_input(10, 0) == (0, 0)
    assert frame.to_input(30, 20) == (10, 10)
    maps = torch.arange(144.0).reshape(1, 12, 12) + 1  # two rows and columns of padding
    shown = frame.to_image(maps)[0]
    assert shown[:, :10].max() == shown[:, 30:].max() == 0
    doubled = nn.functional.interpolate(maps[None, :, :10, :10], scale_factor=2, mode="bilinear")[0, 0]
    torch.testing.assert_close(shown[:, 10:30], doubled)
    tokens = spread_tokens(frame, torch.tensor([[1, 2], [3, 4]]), stride=5)
    assert tokens[0, 9:31].tolist() == [0, *[1] * 10, *[2] * 10, 0]
    assert tokens[-1, 9:31].tolist() == [0, *[3] * 10, *[4] * 10, 0]


def test_a_class_that_does_not_exist_names_others() -> None:
    assert class_index("dog", ["cat", "dog"]) == 1
    with pytest.raises(ValueError, match=r"no class 'dgo'; did you mean dog\?"):
        class_index("dgo", ["cat", "dog"])
    with pytest.raises(ValueError, match="no class 'x'; classes are cat, dog"):
        class_index("x", ["cat", "dog"])
