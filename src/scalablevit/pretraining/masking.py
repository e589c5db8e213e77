"""Masks of square patches, drawn for each image under a seed of its own, and what is behind them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_masking(
    image_size: tuple[int, int], *, mask_patch_size: int, mask_ratio: float, first_stride: int, last_stride: int
) -> None:
    """Refuse masks that do not fit images or network.

    Args:
        image_size: height and width in pixels.
        mask_patch_size: side of a masked patch in pixels.
        mask_ratio: share of the patches that is masked.
        first_stride, last_stride: pixels per token of the network's first and last map.

    Raises:
        ValueError: names the key and what fits.
    """
    height, width = image_size
    if height % last_stride or width % last_stride:
        near = " x ".join(str(max(1, round(side / last_stride)) * last_stride) for side in image_size)
        raise ValueError(
            f"data.image_size {height} x {width}: sides must be multiples of {last_stride}, the pixels per token of "
            f"the network's last map, from which images are reconstructed; {near} fits"
        )
    fitting = [n for n in range(first_stride, min(height, width) + 1, first_stride) if not (height % n or width % n)]
    if mask_patch_size not in fitting:
        raise ValueError(
            f"model.mask_patch_size {mask_patch_size} does not fit: it must be a multiple of {first_stride}, the "
            f"pixels per token of the network's first map, and divide the image's sides, {height} and {width} pixels; "
            f"{', '.join(map(str, fitting))} fit"
        )
    patches = height * width // mask_patch_size**2
    if not 0 < mask_ratio < 1:
        raise ValueError(f"model.mask_ratio must lie in (0, 1), got {mask_ratio}; 0.6 is usual")
    masked = round(mask_ratio * patches)
    if masked in (0, patches):
        raise ValueError(
            f"model.mask_ratio {mask_ratio} masks {masked} of {patches} patches, and there must be some of both kinds: "
            "change it, or make more patches by a smaller model.mask_patch_size or a larger data.image_size"
        )


def random_masks(seeds: Sequence[int], grid: tuple[int, int], *, ratio: float) -> Tensor:
    """Draw which patches are masked: of every image the same number, uniformly.

    Args:
        seeds: one an image; the mask depends on it alone.
        grid: rows and columns of patches.
        ratio: share of the patches that is masked, in (0, 1).

    Returns:
        (B, rows, columns), True where masked.
    """
    count = grid[0] * grid[1]
    masks = torch.zeros(len(seeds), count, dtype=torch.bool)
    for mask, seed in zip(masks, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        mask[torch.randperm(count, generator=generator)[: round(ratio * count)]] = True
    return masks.view(-1, *grid)


def masked_l1(reconstruction: Tensor, images: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute difference over the masked pixels alone, in float32.

    Args:
        reconstruction: (B, C, H, W).
        images: the same, normalised.
        pixels: (B, 1, H, W), True where masked.

    Source: SimMIM, arXiv:2111.09886.
    """
    differences = (reconstruction.float() - images.float()).abs() * pixels
    return differences.sum() / (pixels.sum() * images.shape[1])


class MaskedImages(nn.Module):
    """Masked patches and their reconstruction by one linear layer from the last map of a network.

    Patches are replaced in the image, before the network sees it: windows of an overlapping patch embedding reach from
    visible tokens into masked patches, and replacing tokens behind it, as in SimMIM, would let those pixels through.

    Args:
        channels: of the network's last map.
        in_chans: of the images.
        stride: pixels per token of the last map.
        patch_size: side of a masked patch in pixels.
        ratio: share of the patches that is masked.

    Source: SimMIM, arXiv:2111.09886.
    """

    def __init__(self, channels: int, *, in_chans: int, stride: int, patch_size: int, ratio: float) -> None:
        super().__init__()
        self.stride, self.patch_size, self.ratio = stride, patch_size, ratio
        # what is learned to stand in the place of a masked patch
        self.patch = nn.Parameter(torch.empty(in_chans, patch_size, patch_size))
        nn.init.trunc_normal_(self.patch, std=0.02)
        self.decoder = nn.Conv2d(channels, in_chans * stride**2, 1)
        for parameter in self.decoder.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)  # begins with the mean colour, not with noise

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed."""
        return {"patch"}

    def pixels(self, seeds: Sequence[int], images: Tensor) -> Tensor:
        """Draw the mask of each image, (B, 1, H, W), True where masked.

        Args:
            seeds: one an image.
            images: (B, C, H, W), with sides that the patch divides.
        """
        size = self.patch_size
        grid = images.shape[-2] // size, images.shape[-1] // size
        masks = random_masks(seeds, grid, ratio=self.ratio).to(images.device)
        return masks[:, None].repeat_interleave(size, 2).repeat_interleave(size, 3)

    def cover(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Replace masked pixels by the learned patch.

        Args:
            images: (B, C, H, W).
            pixels: (B, 1, H, W), True where masked.
        """
        size = self.patch_size
        tiles = self.patch.repeat(1, images.shape[-2] // size, images.shape[-1] // size)  # (C, H, W)
        return torch.where(pixels, tiles.to(images.dtype), images)

    def forward(self, network: nn.Module, images: Tensor, pixels: Tensor) -> Tensor:
        """Reconstruct images, (B, C, H, W), from their visible pixels.

        Args:
            network: with timm's `forward_intermediates`.
            images: (B, C, H, W), normalised.
            pixels: (B, 1, H, W), True where masked.
        """
        last = last_map(network, self.cover(images, pixels))
        return F.pixel_shuffle(self.decoder(last), self.stride)


def last_map(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature map of a network, (B, C, H', W'), normalised where the network can.

    Args:
        network: with timm's `forward_intermediates`.
        images: (B, in_chans, H, W).
    """
    timms: Any = network
    maps = timms.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    found: Tensor = maps[-1]
    return found
