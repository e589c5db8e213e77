"""Masks of the right size, from seeds alone; masked pixels reach neither network nor loss of the visible ones."""

import pytest
import torch
from torch import Tensor

from scalablevit.networks import build_classifier
from scalablevit.pretraining.masking import MaskedImages, check_masking, last_map, masked_l1, random_masks


@pytest.mark.parametrize(("grid", "ratio", "count"), [((7, 7), 0.6, 29), ((8, 8), 0.6, 38), ((2, 3), 0.5, 3)])
def test_every_mask_covers_the_ratio(grid: tuple[int, int], ratio: float, count: int) -> None:
    masks = random_masks(range(50), grid, ratio=ratio)
    assert masks.shape == (50, *grid)
    assert masks.flatten(1).sum(1).tolist() == [count] * 50
    share = masks.float().mean(0)  # no patch is masked much more often than others
    assert share.min() > 0.2
    assert share.max() < 0.9


def test_a_mask_depends_on_its_own_seed_alone() -> None:
    torch.manual_seed(1)
    together = random_masks([5, 6, 7], (8, 8), ratio=0.6)
    torch.manual_seed(2)
    alone = torch.cat([random_masks([seed], (8, 8), ratio=0.6) for seed in (5, 6, 7)])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


def small(variant: str = "scalablevit_atto") -> tuple[torch.nn.Module, MaskedImages]:
    options = {"window_size": 2} if variant.startswith("scalablevit") else {}
    network = build_classifier(variant, num_classes=0, in_chans=3, **options).eval()
    channels = last_map(network, torch.zeros(1, 3, 64, 64)).shape[1]
    return network, MaskedImages(channels, in_chans=3, stride=32, patch_size=8, ratio=0.6)


@pytest.mark.parametrize("variant", ["scalablevit_atto", "resnet10t", "convnext_atto"])
def test_masked_pixels_do_not_reach_the_reconstruction(variant: str) -> None:
    network, masked = small(variant)
    images = torch.randn(2, 3, 64, 64)
    pixels = masked.pixels([1, 2], images)
    with torch.no_grad():
        before = masked(network, images, pixels)
        after = masked(network, torch.where(pixels, 100 * torch.randn(images.shape), images), pixels)
        visible = masked(network, torch.where(pixels, images, images + 1), pixels)
    assert before.shape == images.shape
    assert torch.equal(before, after)
    assert not torch.allclose(before, visible)


def test_tokens_masked_behind_the_patch_embedding_would_let_pixels_through() -> None:
    """Why pixels are replaced, not tokens: the embedding's windows of 7 pixels overlap at stride 4."""
    network, masked = small()
    images = torch.randn(1, 3, 64, 64)
    pixels = masked.pixels([1], images)
    tokens = pixels[:, 0, ::4, ::4]  # (1, 16, 16)
    embed = network.stages[0].patch_embed  # type: ignore[index,union-attr]

    def visible_tokens(shown: Tensor) -> Tensor:
        with torch.no_grad():
            return embed(shown)[~tokens]

    other = torch.where(pixels, torch.randn(images.shape), images)
    assert not torch.allclose(visible_tokens(images), visible_tokens(other))
    assert torch.equal(visible_tokens(masked.cover(images, pixels)), visible_tokens(masked.cover(other, pixels)))


def test_the_loss_is_of_masked_pixels_alone() -> None:
    images, pixels = torch.randn(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    pixels[0, :, :4] = True
    wrong_where_visible = torch.where(pixels, images, images + 5)
    assert masked_l1(wrong_where_visible, images, pixels) == 0
    assert masked_l1(images + 2, images, pixels) == pytest.approx(2)
    reconstruction = (images + 1).requires_grad_()
    masked_l1(reconstruction, images, pixels).backward()
    assert reconstruction.grad is not None
    assert torch.equal(reconstruction.grad != 0, pixels.expand_as(images))


FITS = {"image_size": (64, 96), "mask_patch_size": 8, "mask_ratio": 0.6, "first_stride": 4, "last_stride": 32}


def test_masks_that_fit() -> None:
    check_masking(**FITS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image_size": (60, 96)}, r"data.image_size 60 x 96: sides must be multiples of 32.*64 x 96 fits"),
        ({"mask_patch_size": 6}, r"model.mask_patch_size 6 does not fit.*multiple of 4.*4, 8, 16, 32 fit"),
        ({"mask_patch_size": 12}, r"model.mask_patch_size 12 does not fit.*divide the image's sides, 64 and 96"),
        ({"mask_patch_size": 64}, r"model.mask_patch_size 64 does not fit"),
        ({"mask_ratio": 1.0}, r"model.mask_ratio must lie in .0, 1., got 1.0"),
        ({"mask_ratio": 0.001}, r"model.mask_ratio 0.001 masks 0 of 96 patches"),
        ({"mask_ratio": float("nan")}, r"model.mask_ratio must lie in .0, 1., got nan"),
    ],
)
def test_masks_that_do_not_fit_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_masking(**{**FITS, **changed})  # type: ignore[arg-type]
