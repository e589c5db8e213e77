"""Images into a padded batch, and detections back into the pixels of each image."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from scalablevit.data.resizing import resized_size


class ImageTransform(nn.Module):
    """Pad images to a batch, and move detections back into the pixels of each image.

    In training, images keep their size (the data pipeline draws it); in evaluation their shorter side becomes
    `min_size`, or less where the longer one would exceed `max_size`.

    Args:
        min_size, max_size: see above, in pixels.
        mean, std: of each channel, for values in 0..1.
        size_divisible: the batch is zero-padded to a multiple of this height and width.
    """

    def __init__(
        self, min_size: int, max_size: int, mean: Sequence[float], std: Sequence[float], *, size_divisible: int = 32
    ) -> None:
        super().__init__()
        self.min_size, self.max_size = min_size, max_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.size_divisible = size_divisible

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """[(C, H_i, W_i)] float in 0..1 -> the batch, normalised, with each image's size in it; and the targets.

        Raises:
            ValueError: no image, or one of another shape or type; fewer or more targets than images; targets in
                evaluation, whose boxes the resizing would make false.
        """
        self._check(images, targets)
        mean = images[0].new_tensor(self.mean)[:, None, None]
        std = images[0].new_tensor(self.std)[:, None, None]
        ready = []
        for x in images:
            if not self.training:
                height, width = self.resized(x.shape[1], x.shape[2])
                x = nn.functional.interpolate(
                    x[None], (height, width), mode="bilinear", align_corners=False, antialias=True
                )[0]
            ready.append((x - mean) / std)
        sizes = [(x.shape[1], x.shape[2]) for x in ready]
        padded = [-(-max(side) // self.size_divisible) * self.size_divisible for side in zip(*sizes, strict=True)]
        batch = ready[0].new_zeros(len(ready), ready[0].shape[0], *padded)
        for i, x in enumerate(ready):
            batch[i, :, : x.shape[1], : x.shape[2]] = x
        return ImageList(batch, sizes), None if targets is None else [dict(target) for target in targets]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in evaluation of an image of `height` by `width` pixels, each at least 1."""
        return resized_size(height, width, short_side=self.min_size, long_side=self.max_size)

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Move detections from pixels of the batch into those of each image, and drop those without area there.

        Masks become `mask_probs` (R, 28, 28), probabilities within the box; see `paste_mask`.
        """
        if self.training:
            return result
        return [
            self._to_image(detections, shape, size)
            for detections, shape, size in zip(result, image_shapes, original_image_sizes, strict=True)
        ]

    def _to_image(
        self, detections: Mapping[str, Tensor], shape: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        boxes = detections["boxes"]
        (height, width), (ratio_y, ratio_x) = size, (size[0] / shape[0], size[1] / shape[1])
        boxes = boxes * boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
        boxes = torch.minimum(boxes, boxes.new_tensor([width, height, width, height]))
        seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        found = {key: value[seen] for key, value in {**detections, "boxes": boxes}.items()}
        if "masks" in found:
            found["mask_probs"] = found.pop("masks")[:, 0]  # (R, 1, 28, 28) -> (R, 28, 28)
        return found

    def _check(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None) -> None:
        if not images:
            raise ValueError("images is empty: a detector needs at least one image")
        for i, x in enumerate(images):
            if x.ndim != 3 or x.shape[0] != len(self.mean) or min(x.shape[1:]) < 1:
                raise ValueError(f"images[{i}] must be ({len(self.mean)}, H, W) of at least 1 px, got {tuple(x.shape)}")
            if not x.is_floating_point():
                raise ValueError(f"images[{i}] must hold floating-point values in 0..1, got {x.dtype}: divide by 255")
        if targets is None:
            return
        if not self.training:
            raise ValueError("targets are for training: call the model in evaluation with images alone")
        if len(targets) != len(images):
            raise ValueError(f"one target per image is needed, got {len(targets)} targets for {len(images)} images")
