"""The effective receptive field: which pixels of the input the middle of a map depends on.

Source: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks,
arXiv:1701.04128; the areas are those that RepLKNet reports, arXiv:2203.06717, appendix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.explain.explainable import explainable, frozen

_NEARLY_ZERO = 1e-4

SHARES = (0.2, 0.5, 0.99)
"""Shares of the gradient whose areas are reported."""


@dataclass(frozen=True)
class SquareHolding:
    """The smallest square around the centre that holds a share of the gradient.

    Attributes:
        side: of the square, in pixels; odd.
        area_share: pixels of the square that lie in the input, over the pixels of the input, in 0..1.
    """

    side: int
    area_share: float

    @property
    def side_share(self) -> float:
        """Root of `area_share`: for a square input, the side of the square over the side of the input, in 0..1."""
        return math.sqrt(self.area_share)


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of a map's middle token.

    Attributes:
        contribution: (H, W) float64 of at least 0: gradient of each pixel, mean over the images.
        centre: row and column of the pixel over which the token lies.
        num_images: that were averaged.
        stride: pixels per token of the map.
    """

    contribution: Tensor
    centre: tuple[int, int]
    num_images: int
    stride: int

    def ring_sums(self) -> Tensor:
        """(R,) contribution of the pixels on the border of the square of each radius around the centre, from 0."""
        height, width = self.contribution.shape
        rows, columns = self._offsets()
        rings = torch.maximum(rows[:, None], columns).flatten()
        return torch.bincount(rings, self.contribution.flatten(), minlength=max(height, width) // 2 + 1)

    def square(self, share: float) -> SquareHolding:
        """Find the smallest square around the centre that holds `share` of the contribution, in (0, 1]."""
        radius = radius_holding(self.ring_sums().numpy(), share)
        rows, columns = self._offsets()
        inside = int((rows <= radius).sum() * (columns <= radius).sum())
        return SquareHolding(2 * radius + 1, inside / self.contribution.numel())

    def _offsets(self) -> tuple[Tensor, Tensor]:
        """Distance of each row and column from the centre."""
        height, width = self.contribution.shape
        return (torch.arange(height) - self.centre[0]).abs(), (torch.arange(width) - self.centre[1]).abs()

    def numbers(self, shares: Sequence[float] = SHARES) -> dict[str, Any]:
        """Give the numbers as JSON takes them."""
        squares = {f"{share:.0%}": self.square(share) for share in shares}
        return {
            "images": self.num_images,
            "size": list(self.contribution.shape),
            "centre": list(self.centre),
            "stride": self.stride,
            "squares": {
                name: {"side": s.side, "side_share": round(s.side_share, 6), "area_share": round(s.area_share, 6)}
                for name, s in squares.items()
            },
        }


def radius_holding(rings: NDArray[Any], share: float) -> int:
    """Find the smallest radius whose rings hold a share of the contribution.

    Args:
        rings: (R,) contribution of the ring of each radius, from 0.
        share: in (0, 1].
    """
    held = rings.cumsum()
    # A hair below the share: the sum of all rings may differ from itself in the last bit.
    return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12)))


def effective_receptive_field(
    model: nn.Module, images: Tensor | Iterable[Tensor], *, stage: int = -1
) -> ReceptiveField:
    """Measure the effective receptive field of a network.

    The score of an image is the sum of the positive features of the token in the middle of the map, at row h // 2 and
    column w // 2. The contribution of a pixel is the positive part of the score's gradient, summed over the pixel's
    channels and averaged over the images, as in RepLKNet.

    Args:
        model: network of ours (its stages' outputs are the maps), one of timm with `features_only=True`, or any module
            that returns a map (B, C, h, w) or a list of them. It is left as it was.
        images: (B, C, H, W), or several such of one size, normalised; computed one by one.
        stage: of the maps, from 0; negative numbers count from the last.

    Returns:
        the field.

    Raises:
        ValueError: there is no such stage, no image, images of several sizes, or the gradient is zero everywhere.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    singles = [image[None] for batch in batches for image in batch]
    if not singles:
        raise ValueError("images is empty: the receptive field needs at least one image")
    if len(sizes := {tuple(image.shape[2:]) for image in singles}) > 1:
        raise ValueError(f"images must have one size, got {sorted(sizes)}: resize them")
    found = _find_maps(model)
    total, count = torch.zeros(*singles[0].shape[2:], dtype=torch.float64), 0
    for image in singles:
        with frozen(found.network):
            pixels = image.detach().clone().float().requires_grad_()
            maps = found.compute(pixels)
            if not -len(maps) <= stage < len(maps):
                raise ValueError(f"stage must lie in 0..{len(maps) - 1}, got {stage}")
            chosen = maps[stage]
            h, w = chosen.shape[2:]
            score = chosen[:, :, h // 2, w // 2].relu().sum()
            (gradient,) = torch.autograd.grad(score, pixels)
        total += gradient.relu().sum(dim=(0, 1)).double().cpu()
        count += 1
    stride = found.strides[stage] if found.strides else max(1, round(total.shape[0] / h))
    if not float(total.sum()) > 0:
        raise ValueError("the gradient is zero everywhere: the map's middle does not depend on these images")
    height, width = total.shape
    # Token i of a padded convolution lies at pixel stride * i; of a network that tells no stride, in the middle.
    shift = stride // 2 if found.cuts_patches else 0
    centre = (stride * (h // 2) + shift, stride * (w // 2) + shift) if found.strides else (height // 2, width // 2)
    return ReceptiveField(total / count, (min(centre[0], height - 1), min(centre[1], width - 1)), count, stride)


@dataclass(frozen=True)
class _Maps:
    """A network, how to get its maps (B, C, h, w), and their strides where they are known.

    Attributes:
        cuts_patches: tokens lie in the middle of patches that do not overlap, as in ViT, Swin and ConvNeXt.
    """

    network: nn.Module
    compute: Callable[[Tensor], list[Tensor]]
    strides: list[int]
    cuts_patches: bool = False


def _find_maps(model: nn.Module) -> _Maps:
    if any(isinstance(part, ScalableViT | PyramidBackbone) for part in model.modules()):
        ready = explainable(model)
        core = ready.core
        if isinstance(core, PyramidBackbone):
            return _Maps(ready.network, core, core.strides)
        return _Maps(ready.network, lambda x: core.forward_intermediates(x, intermediates_only=True), ready.strides)
    info: Any = getattr(model, "feature_info", None)
    is_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")

    def compute(images: Tensor) -> list[Tensor]:
        output: Any = model(images)
        maps = [output] if isinstance(output, Tensor) else list(output)
        if not maps or any(x.ndim != 4 for x in maps):
            shapes = ", ".join(str(tuple(x.shape)) for x in maps)
            raise ValueError(
                f"{type(model).__name__} must return maps (B, C, h, w), got {shapes or 'none'}: of timm, create it "
                "with features_only=True"
            )
        return [x.permute(0, 3, 1, 2) for x in maps] if is_last else maps

    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    cuts_patches = first is not None and first.kernel_size == first.stride != (1, 1) and first.padding in (0, (0, 0))
    return _Maps(model, compute, list(info.reduction()) if hasattr(info, "reduction") else [], cuts_patches)


def timm_network(name: str, *, in_chans: int = 3, size: int, pretrained: bool = False) -> nn.Module:
    """Create a network of timm that returns its maps.

    Args:
        name: of the network in timm's registry, such as "resnet50".
        in_chans: channels of the images.
        size: height and width of the images in pixels; networks of a fixed size are built for it.
        pretrained: take timm's pretrained weights, which it downloads; otherwise the weights are random, and scales of
            residual branches that start at zero are one.

    Raises:
        ValueError: there is no such network, or it has no maps.
    """
    import timm

    if not timm.is_model(name):
        from difflib import get_close_matches

        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "python -c 'import timm; print(timm.list_models())'"
        raise ValueError(f"timm has no network {name!r}; {hint}")
    config = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if config is not None and getattr(config, "fixed_input_size", False) else {}
    try:
        network = timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_chans, **fixed)
    except (RuntimeError, TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"timm's {name} cannot give its maps for images of {size} pixels: {error}") from error
    if not pretrained:
        _open_branches(network)
    return network.eval()


def _open_branches(network: nn.Module) -> None:
    """Set scales that training starts near zero to one: they hide what lies in the branches of a random network."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_scale = parameter.ndim == 1 and not name.endswith("bias")
            if is_scale and 0 <= float(parameter.min()) == float(parameter.max()) <= _NEARLY_ZERO:
                parameter.fill_(1)
