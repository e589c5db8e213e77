"""Anchors of fixed strides, and proposals of every image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class FixedStrideAnchors(AnchorGenerator):
    """Anchors of known strides, always in float32.

    torchvision's own derive a level's stride from the sizes of image and map, so that the anchors of coarse levels
    move with the image's size, and have the maps' precision: in bfloat16 a corner at 1000 px is off by up to 4 px.

    Args:
        sizes: for each level the sides of its anchors, in pixels.
        strides: pixels per cell of the levels.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], strides: Sequence[int]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (ASPECT_RATIOS,) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image the same (anchors, 4) corners xyxy in pixels of the padded batch, level by level."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        grids = [x.shape[-2:] for x in feature_maps]
        anchors = torch.cat(self.grid_anchors(grids, [(stride, stride) for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, where every image has a proposal.

    In a batch of very different sizes all of an image's best anchors can lie on its padding. The losses of a batch
    without any proposal would be NaN; such an image is proposed as a whole.
    """

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's: for each image (R, 4) corners xyxy and (R,) scores, with R at least 1."""
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        for i, (height, width) in enumerate(image_shapes):
            if len(boxes[i]) == 0:
                boxes[i] = boxes[i].new_tensor([[0, 0, width, height]])
                scores[i] = scores[i].new_zeros(1)
        return boxes, scores
