"""A feature pyramid network on the four maps of a backbone."""

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from scalablevit.timm_pyramid import Pyramid


class PyramidWithFPN(nn.Module):
    """A pyramid under a feature pyramid network, in the place of torchvision's `BackboneWithFPN`.

    Args:
        body: the network whose maps are merged.
        out_channels: channels of the merged maps.
        first_stage: the first map that is merged, 0 (stride 4) to 3.
        extra_blocks: makes the levels above the last map.
        norm_layer: norm after each convolution, from its channels; None: a bias instead, as published.

    Source: Feature Pyramid Networks, arXiv:1612.03144.
    """

    def __init__(
        self,
        body: Pyramid,
        out_channels: int,
        *,
        first_stage: int,
        extra_blocks: ExtraFPNBlock,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.first_stage = first_stage
        self.out_channels = out_channels
        self.fpn = FeaturePyramidNetwork(
            body.channels[first_stage:], out_channels, extra_blocks=extra_blocks, norm_layer=norm_layer
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(B, in_chans, H, W) -> level name -> (B, out_channels, H_i, W_i), the finest first."""
        maps = self.body(images)[self.first_stage :]
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps, self.first_stage)))


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels, so that a map of 1 x 1 still has something to be normalised by."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)
