"""RetinaNet and Mask R-CNN on a ScalableViT pyramid, built from torchvision's detection parts."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from scalablevit.backbone import SCALED_VALUE_VARIANTS, PyramidBackbone, WindowSize, create_backbone, groups_below
from scalablevit.data.resizing import resized_size

DETECTORS = ("retinanet", "mask_rcnn")
DEFAULT_ANCHOR_SIZES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
_RETINANET_STRIDES = (8, 16, 32, 64, 128)
_MASK_RCNN_STRIDES = (4, 8, 16, 32, 64)
_PREFIX = "backbone.body."
# `retinanet` and `mask_rcnn` have arguments of their own for these.
_NOT_NETWORK_OPTIONS = ("name", "in_chans", "scale_value", "window_size", "drop_path_rate", "grad_checkpointing")


class PyramidWithFPN(nn.Module):
    """A ScalableViT pyramid under a feature pyramid network, in the place of torchvision's `BackboneWithFPN`.

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
        body: PyramidBackbone,
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


class ImageTransform(nn.Module):
    """Images into a padded batch, and detections back into each image's own pixels.

    In training images keep their size (the data pipeline draws it); in evaluation their shorter side becomes
    `min_size`, or less where the longer one would exceed `max_size`.

    Args:
        min_size, max_size: see above, in pixels.
        mean, std: of each channel, for values in 0..1.
        size_divisible: the batch is zero-padded to a multiple of this height and width.

    Attributes:
        paste_masks: give masks as (R, H, W) bool of the image's own size; else as `mask_probs` (R, 28, 28), for
            pictures so large that R masks of their size are too many (see `paste_mask`).
    """

    def __init__(
        self, min_size: int, max_size: int, mean: Sequence[float], std: Sequence[float], *, size_divisible: int = 32
    ) -> None:
        super().__init__()
        self.min_size, self.max_size = min_size, max_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.size_divisible = size_divisible
        self.paste_masks = True

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
        """Detections in pixels of the batch into each image's own, without those that have no area there."""
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
            probs = found.pop("masks")[:, 0]  # (R, 1, 28, 28) -> (R, 28, 28)
            if self.paste_masks:
                found["masks"] = paste_masks(probs, found["boxes"], size)
            else:
                found["mask_probs"] = probs
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


def paste_mask(prob: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """One predicted mask, in the pixels of its image.

    Args:
        prob: probabilities of the pixels of the box, (M, M).
        box: its corners (x1, y1, x2, y2), (4,) in pixels of the image.
        size: height and width of the image.

    Returns:
        (H, W) bool: the pixels with a probability of at least 0.5, none outside the box.
    """
    height, width = size
    x1, y1, x2, y2 = (float(v) for v in box)
    rows, row_weights = _interpolation(y1, y2, height, prob)  # (h, M)
    columns, column_weights = _interpolation(x1, x2, width, prob)  # (w, M)
    mask = torch.zeros(height, width, dtype=torch.bool, device=prob.device)
    with torch.autocast(prob.device.type, enabled=False):  # bilinear sampling is separable: two small products
        mask[rows, columns] = row_weights @ prob.float() @ column_weights.T >= 0.5
    return mask


def _interpolation(low: float, high: float, length: int, prob: Tensor) -> tuple[slice, Tensor]:
    """The pixels of a side of `length` with their centre in low..high, and their weights (pixels, M) of the M cells.

    Beyond the centres of the outer cells their value holds: a mask that fills its box reaches the box's edge.
    """
    start, stop = max(0, math.ceil(low - 0.5)), min(length, math.floor(high - 0.5) + 1)
    stop = max(start, stop)
    M = prob.shape[-1]
    centres = torch.arange(start, stop, dtype=torch.float32, device=prob.device) + 0.5
    cells = torch.arange(M, dtype=torch.float32, device=prob.device)
    position = ((centres - low) * (M / max(high - low, 1e-6)) - 0.5).clamp(0, M - 1)
    return slice(start, stop), (1 - (position[:, None] - cells).abs()).clamp(min=0)


def paste_masks(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (R, M, M) of boxes (R, 4) in the pixels of their image, one at a time: (R, H, W) bool."""
    masks = torch.zeros(len(probs), *size, dtype=torch.bool, device=probs.device)
    for i, (prob, box) in enumerate(zip(probs, boxes.tolist(), strict=True)):
        masks[i] = paste_mask(prob, torch.tensor(box), size)
    return masks


class _LayerGroups:
    """timm's hooks for the optimizer, of a detector whose `backbone.body` is a `PyramidBackbone`."""

    backbone: Any

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return {_PREFIX + name for name in self.backbone.body.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort the backbone's parameters into layers; all others are the last layer."""
        return groups_below(_PREFIX, self.backbone.body.group_matcher(coarse))


class ScalableRetinaNet(_LayerGroups, RetinaNet):
    """torchvision's RetinaNet as `retinanet` builds it.

    Attributes:
        first_label: the label of class 0.
        class_layers: prefixes of the names of parameters that hang on the classes.
    """

    first_label = 0
    class_layers = ("head.classification_head.cls_logits.",)


class ScalableMaskRCNN(_LayerGroups, MaskRCNN):
    """torchvision's Mask R-CNN as `mask_rcnn` builds it.

    Attributes:
        first_label: the label of class 0; label 0 is the background.
        class_layers: prefixes of the names of parameters that hang on the classes.
    """

    first_label = 1
    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")


def retinanet(
    name: str,
    num_classes: int = 80,
    *,
    in_chans: int = 3,
    scale_value: bool | None = None,
    drop_path_rate: float = 0.0,
    window_size: WindowSize | Sequence[WindowSize] = 7,
    network_options: Mapping[str, Any] | None = None,
    grad_checkpointing: bool = False,
    min_size: int = 800,
    max_size: int = 1333,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    anchor_sizes: Sequence[int] | None = None,
    fpn_channels: int = 256,
    num_convs: int = 4,
    head_norm: bool = False,
    fg_iou_thresh: float = 0.5,
    bg_iou_thresh: float = 0.4,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    topk_candidates: int = 1000,
    detections_per_image: int = 100,
) -> ScalableRetinaNet:
    """RetinaNet on ScalableViT; the defaults are the published model.

    Takes a list of images (C, H_i, W_i), float in 0..1, of any sizes. In training, with a list of targets
    (`boxes` (R, 4) corners xyxy in pixels of the given image and `labels` (R,) int64 in 0..num_classes-1; R may be
    0), it returns a dict of losses, and images keep their size. In evaluation it returns for each image a dict of
    `boxes` (R, 4), `labels` (R,) and `scores` (R,), best first, in the image's own pixels.

    Args:
        name: a variant, such as "scalablevit_small".
        num_classes: K, without a background.
        in_chans: channels of the images; `mean` and `std` must have as many.
        scale_value: which form of SSA; None: the published one, which is True for scalablevit_small only.
        drop_path_rate, window_size, grad_checkpointing: as for `create_backbone`.
        network_options: further arguments of `create_backbone`.
        min_size, max_size: the shorter side in evaluation, and the bound of the longer one, in pixels.
        mean, std: of each channel, for values in 0..1.
        anchor_sizes: the side of the smallest anchors of each of the five levels (strides 8 to 128), which have
            three scales (1, 2^(1/3), 2^(2/3)) and three ratios; None: 32, 64, ..., 512. Smaller for small objects.
        fpn_channels: of the feature pyramid and the head; at least 8.
        num_convs: convolutions before each of the head's two outputs.
        head_norm: GroupNorm in feature pyramid and head, for training from scratch; not as published.
        fg_iou_thresh, bg_iou_thresh: an anchor with an IoU of at least the first learns its object, below the second
            the background.
        score_thresh, nms_thresh, topk_candidates, detections_per_image: lowest score, highest IoU within a class,
            boxes of a level before and of an image after suppression.

    Raises:
        ValueError: no such variant or option, or an argument out of range.

    Source: Focal Loss for Dense Object Detection, arXiv:1708.02002.
    """
    _check_common(num_classes, in_chans, mean, std, min_size, max_size, fpn_channels)
    _check_counts(topk_candidates=topk_candidates, detections_per_image=detections_per_image)
    _check_thresholds(fg_iou_thresh=fg_iou_thresh, score_thresh=score_thresh, nms_thresh=nms_thresh)
    _check_background(bg_iou_thresh, fg_iou_thresh, "")
    if num_convs < 0:
        raise ValueError(f"num_convs must be at least 0, got {num_convs}")
    sizes = [
        (size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3)))
        for size in _anchor_sizes(anchor_sizes, _RETINANET_STRIDES)
    ]
    body = _body(
        name,
        in_chans=in_chans,
        scale_value=scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        network_options=network_options,
        grad_checkpointing=grad_checkpointing,
    )
    norm_layer = group_norm if head_norm else None
    backbone = PyramidWithFPN(
        body,
        fpn_channels,
        first_stage=1,
        extra_blocks=LastLevelP6P7(body.channels[-1], fpn_channels),
        norm_layer=norm_layer,
    )
    head = RetinaNetHead(fpn_channels, len(sizes[0]) * len(ASPECT_RATIOS), num_classes)
    # torchvision fixes the number of convolutions and fits a norm with a BatchNorm in mind
    head.classification_head.conv = _tower(fpn_channels, num_convs, norm_layer)
    head.regression_head.conv = _tower(fpn_channels, num_convs, norm_layer)
    head.register_forward_hook(_in_float32)
    model = ScalableRetinaNet(
        backbone,
        num_classes,
        anchor_generator=FixedStrideAnchors(sizes, _RETINANET_STRIDES),
        head=head,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_image,
        fg_iou_thresh=fg_iou_thresh,
        bg_iou_thresh=bg_iou_thresh,
        topk_candidates=topk_candidates,
    )
    model.transform = ImageTransform(min_size, max_size, mean, std)
    return model


def mask_rcnn(
    name: str,
    num_classes: int = 80,
    *,
    in_chans: int = 3,
    scale_value: bool | None = None,
    drop_path_rate: float = 0.0,
    window_size: WindowSize | Sequence[WindowSize] = 7,
    network_options: Mapping[str, Any] | None = None,
    grad_checkpointing: bool = False,
    min_size: int = 800,
    max_size: int = 1333,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    anchor_sizes: Sequence[int] | None = None,
    fpn_channels: int = 256,
    head_norm: bool = False,
    rpn_convs: int = 1,
    rpn_pre_nms_top_n_train: int = 2000,
    rpn_pre_nms_top_n_test: int = 1000,
    rpn_post_nms_top_n_train: int = 2000,
    rpn_post_nms_top_n_test: int = 1000,
    rpn_nms_thresh: float = 0.7,
    rpn_fg_iou_thresh: float = 0.7,
    rpn_bg_iou_thresh: float = 0.3,
    rpn_batch_size_per_image: int = 256,
    box_head_channels: int = 1024,
    box_batch_size_per_image: int = 512,
    box_positive_fraction: float = 0.25,
    box_fg_iou_thresh: float = 0.5,
    mask_convs: int = 4,
    mask_channels: int = 256,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    detections_per_image: int = 100,
) -> ScalableMaskRCNN:
    """Mask R-CNN on ScalableViT; the defaults are the published model.

    Takes what `retinanet`'s model takes; targets also have `masks` (R, H, W) uint8, and their labels are
    1..num_classes, for 0 is the background (`first_label`). In evaluation each image's dict also has `masks`
    (R, H, W) bool in its own pixels: the probabilities of at least 0.5, pasted one at a time. With
    `model.transform.paste_masks = False` it has `mask_probs` (R, 28, 28) instead, which `paste_mask` pastes: R masks of
    a huge picture need not be in memory together.

    Args:
        name: a variant, such as "scalablevit_small".
        num_classes: K, without the background.
        in_chans, scale_value, drop_path_rate, window_size, network_options, grad_checkpointing, min_size, max_size,
            mean, std, fpn_channels: as for `retinanet`.
        anchor_sizes: the side of the anchors of each of the five levels (strides 4 to 64), which have three ratios;
            None: 32, 64, ..., 512. Smaller for small objects.
        head_norm: GroupNorm in feature pyramid and mask head, LayerNorm in the box head, for training from scratch;
            not as published.
        rpn_convs: convolutions before the proposals' outputs; at least 1.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: proposals of a level before suppression.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: proposals of an image after suppression.
        rpn_nms_thresh: highest IoU of two proposals of a level.
        rpn_fg_iou_thresh, rpn_bg_iou_thresh: as `fg_iou_thresh` and `bg_iou_thresh` of `retinanet`.
        rpn_batch_size_per_image: anchors of an image that the proposals learn from at a step.
        box_head_channels: of the two linear layers before the boxes' outputs.
        box_batch_size_per_image: proposals of an image that boxes and masks learn from at a step.
        box_positive_fraction: share of objects among them, at most.
        box_fg_iou_thresh: a proposal with an IoU of at least this learns its object, else the background.
        mask_convs, mask_channels: convolutions before a mask, at least 1, and their channels, at least 8.
        score_thresh, nms_thresh, detections_per_image: as for `retinanet`.

    Raises:
        ValueError: no such variant or option, or an argument out of range.

    Source: Mask R-CNN, arXiv:1703.06870.
    """
    _check_common(num_classes, in_chans, mean, std, min_size, max_size, fpn_channels)
    _check_counts(
        rpn_convs=rpn_convs,
        rpn_pre_nms_top_n_train=rpn_pre_nms_top_n_train,
        rpn_pre_nms_top_n_test=rpn_pre_nms_top_n_test,
        rpn_post_nms_top_n_train=rpn_post_nms_top_n_train,
        rpn_post_nms_top_n_test=rpn_post_nms_top_n_test,
        rpn_batch_size_per_image=rpn_batch_size_per_image,
        box_head_channels=box_head_channels,
        box_batch_size_per_image=box_batch_size_per_image,
        mask_convs=mask_convs,
        detections_per_image=detections_per_image,
    )
    _check_channels(mask_channels=mask_channels)
    _check_thresholds(
        rpn_nms_thresh=rpn_nms_thresh,
        rpn_fg_iou_thresh=rpn_fg_iou_thresh,
        box_positive_fraction=box_positive_fraction,
        box_fg_iou_thresh=box_fg_iou_thresh,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
    )
    _check_background(rpn_bg_iou_thresh, rpn_fg_iou_thresh, "rpn_")
    sizes = [(size,) for size in _anchor_sizes(anchor_sizes, _MASK_RCNN_STRIDES)]
    body = _body(
        name,
        in_chans=in_chans,
        scale_value=scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        network_options=network_options,
        grad_checkpointing=grad_checkpointing,
    )
    norm_layer = group_norm if head_norm else None
    backbone = PyramidWithFPN(body, fpn_channels, first_stage=0, extra_blocks=LastLevelMaxPool(), norm_layer=norm_layer)
    anchors = FixedStrideAnchors(sizes, _MASK_RCNN_STRIDES)
    rpn_head = RPNHead(fpn_channels, len(ASPECT_RATIOS), conv_depth=rpn_convs)
    # The masks to learn are read by torchvision with pixel i at coordinate i, not i + 0.5: what is learnt for a box is
    # the mask half a pixel further on, so that in evaluation the box half a pixel back is asked for.
    box_pool, mask_pool = AlignedRoIAlign(7), AlignedRoIAlign(14, eval_shift=-0.5)
    box_head: nn.Module = TwoMLPHead(fpn_channels * 7 * 7, box_head_channels)
    if head_norm:
        box_head = _normalised_box_head(fpn_channels * 7 * 7, box_head_channels)
    num_labels = num_classes + 1  # the background is label 0
    box_predictor = FastRCNNPredictor(box_head_channels, num_labels)
    mask_head = MaskRCNNHeads(fpn_channels, (mask_channels,) * mask_convs, 1, norm_layer=norm_layer)
    mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, num_labels)
    # Small first outputs, as in Detectron: torchvision's give a network trained from scratch a loss to unlearn first.
    for layer, spread in (
        (box_predictor.cls_score, 0.01),
        (box_predictor.bbox_pred, 0.001),
        (mask_predictor.mask_fcn_logits, 0.001),
    ):
        nn.init.normal_(layer.weight, std=spread)
        nn.init.zeros_(layer.bias)
    for outputs in (rpn_head, box_predictor, mask_predictor):
        outputs.register_forward_hook(_in_float32)
    model = ScalableMaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=rpn_head,
        box_roi_pool=box_pool,
        box_head=box_head,
        box_predictor=box_predictor,
        box_score_thresh=score_thresh,
        box_nms_thresh=nms_thresh,
        box_detections_per_img=detections_per_image,
        box_fg_iou_thresh=box_fg_iou_thresh,
        box_bg_iou_thresh=box_fg_iou_thresh,
        box_batch_size_per_image=box_batch_size_per_image,
        box_positive_fraction=box_positive_fraction,
        mask_roi_pool=mask_pool,
        mask_head=mask_head,
        mask_predictor=mask_predictor,
    )
    model.rpn = ProposalNetwork(
        anchors,
        rpn_head,
        rpn_fg_iou_thresh,
        rpn_bg_iou_thresh,
        rpn_batch_size_per_image,
        0.5,  # share of anchors on objects among those learnt from, at most
        dict(training=rpn_pre_nms_top_n_train, testing=rpn_pre_nms_top_n_test),
        dict(training=rpn_post_nms_top_n_train, testing=rpn_post_nms_top_n_test),
        rpn_nms_thresh,
    )
    model.transform = ImageTransform(min_size, max_size, mean, std)
    return model


def build_detector(
    kind: Literal["retinanet", "mask_rcnn"], variant: str, num_classes: int, **model_args: Any
) -> ScalableRetinaNet | ScalableMaskRCNN:
    """`retinanet` or `mask_rcnn` by its name, with their keyword arguments.

    Raises:
        ValueError: no such kind, variant or argument, or one out of range.
    """
    if kind not in DETECTORS:
        raise ValueError(f"there is no detector {kind!r}; choose from {', '.join(DETECTORS)}")
    build: Callable[..., Any] = retinanet if kind == "retinanet" else mask_rcnn
    known = [n for n, p in inspect.signature(build).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(model_args) - set(known)):
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return build(variant, num_classes, **model_args)


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels, so that a map of 1 x 1 still has something to be normalised by."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def _body(
    name: str,
    *,
    in_chans: int,
    scale_value: bool | None,
    drop_path_rate: float,
    window_size: WindowSize | Sequence[WindowSize],
    network_options: Mapping[str, Any] | None,
    grad_checkpointing: bool,
) -> PyramidBackbone:
    options = dict(network_options or {})
    known = [n for n in inspect.signature(create_backbone).parameters if n not in _NOT_NETWORK_OPTIONS]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"network_options has no {', '.join(unknown)}; it takes {', '.join(known)}")
    return create_backbone(
        name,
        in_chans=in_chans,
        scale_value=name in SCALED_VALUE_VARIANTS if scale_value is None else scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        grad_checkpointing=grad_checkpointing,
        **options,
    )


def _tower(channels: int, depth: int, norm_layer: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """Convolutions of RetinaNet's head, initialised as torchvision's: normal of std 0.01, bias 0."""
    tower = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm_layer) for _ in range(depth)))
    for layer in tower.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return tower


def _normalised_box_head(in_features: int, channels: int) -> nn.Sequential:
    """torchvision's TwoMLPHead with norms."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(in_features, channels),
            norm6=nn.LayerNorm(channels),
            relu6=nn.ReLU(inplace=True),
            fc7=nn.Linear(channels, channels),
            norm7=nn.LayerNorm(channels),
            relu7=nn.ReLU(inplace=True),
        )
    )


def _in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Forward hook: boxes and losses need more digits than autocast's outputs have."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Mapping):
        return {key: _in_float32(module, inputs, value) for key, value in outputs.items()}
    return type(outputs)(_in_float32(module, inputs, value) for value in outputs)


def _anchor_sizes(sizes: Sequence[int] | None, strides: Sequence[int]) -> Sequence[int]:
    if sizes is None:
        return DEFAULT_ANCHOR_SIZES
    if len(sizes) != len(strides) or min(sizes) < 1:
        raise ValueError(
            f"anchor_sizes must be {len(strides)} sides of at least 1 px, for the levels of strides "
            f"{', '.join(map(str, strides))}; got {list(sizes)}"
        )
    return sizes


def _check_common(
    num_classes: int,
    in_chans: int,
    mean: Sequence[float],
    std: Sequence[float],
    min_size: int,
    max_size: int,
    fpn_channels: int,
) -> None:
    _check_counts(num_classes=num_classes, in_chans=in_chans, min_size=min_size)
    _check_channels(fpn_channels=fpn_channels)
    if max_size < min_size:
        raise ValueError(f"max_size must be at least min_size ({min_size}), got {max_size}")
    for word, values in (("mean", mean), ("std", std)):
        if len(values) != in_chans:
            raise ValueError(f"{word} must have one value for each of the {in_chans} channels, got {list(values)}")
    if min(std) <= 0:
        raise ValueError(f"std must be above 0, got {list(std)}")


def _check_counts(**counts: int) -> None:
    for word, value in counts.items():
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}")


def _check_channels(**channels: int) -> None:
    for word, value in channels.items():
        if value < 8:
            raise ValueError(f"{word} must be at least 8, got {value}")


def _check_thresholds(**thresholds: float) -> None:
    for word, value in thresholds.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{word} must lie in [0, 1], got {value}")


def _check_background(background: float, foreground: float, prefix: str) -> None:
    if not 0 <= background <= foreground:
        raise ValueError(
            f"{prefix}bg_iou_thresh must lie between 0 and {prefix}fg_iou_thresh ({foreground}), got {background}"
        )
