"""A feature pyramid from a network of timm, for dense tasks."""

from __future__ import annotations

from torch import Tensor, nn


class TimmPyramid(nn.Module):
    """Placeholder."""

    trunk: nn.Module

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images to maps."""
        raise NotImplementedError
