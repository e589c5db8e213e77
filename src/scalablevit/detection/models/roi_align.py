"""RoIAlign that reads maps at pixel centres."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align


class AlignedRoIAlign(MultiScaleRoIAlign):
    """RoIAlign on the maps of strides 4 to 32, with pixel centres at half coordinates.

    torchvision's own reads all maps half a cell aside, and guesses their scales from the first batch, for good: wrong
    ones if its images are small and their padding outweighs them.

    Args:
        output_size: height and width of what is read.
        eval_shift: added to the boxes' corners in evaluation, in pixels of the batch.

    Source: Mask R-CNN, arXiv:1703.06870; levels as in Feature Pyramid Networks, arXiv:1612.03144, equation 1.
    """

    def __init__(self, output_size: int, *, eval_shift: float = 0.0) -> None:
        super().__init__(["0", "1", "2", "3"], output_size=output_size, sampling_ratio=2)
        self.eval_shift = eval_shift

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps by name and for each image (R_i, 4) corners xyxy in pixels -> (sum of R_i, C, output, output)."""
        corners = torch.cat(boxes) + (0.0 if self.training else self.eval_shift)
        images = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois = torch.cat([images, corners], dim=1)  # (R, 5)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        levels = torch.floor(2 + torch.log2(areas.sqrt() / 224 + 1e-6)).clamp(0, 3)
        maps = [x[name] for name in self.featmap_names]
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, feature_map in enumerate(maps):  # a map without a box is read, too: its gradient is 0, not missing
            chosen = torch.where(levels == level)[0]
            read = roi_align(
                feature_map, rois[chosen], self.output_size, 1 / (4 << level), self.sampling_ratio, aligned=True
            )
            pooled[chosen] = read.to(pooled.dtype)
        return pooled
