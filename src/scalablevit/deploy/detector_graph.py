"""Detectors as one graph: from one image to its objects, without a decision in Python on what is in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # registers torchvision::nms and torchvision::roi_align
from torch import Tensor, nn

from scalablevit.ops.recording import is_exporting

_PADDING_SCORE = -1.0  # of candidates that fill a level up; below that of any box


class DetectorGraph(nn.Module):
    """Base of a detector whose outputs are those of torchvision's detectors in evaluation, for one image as it is.

    Args:
        detector: a RetinaNet or Mask R-CNN of `scalablevit.detection.models`, in evaluation; the weights are shared.
        anchors: makes the anchors; has `cell_anchors` and `strides`.
        score_threshold: lowest score of a detection; a buffer, so that it can be changed in a recorded graph.

    Attributes:
        output_names: names of the outputs, in order.
    """

    output_names: tuple[str, ...]
    score_threshold: Tensor

    def __init__(self, detector: Any, anchors: Any, score_threshold: float) -> None:
        super().__init__()
        backbone = detector.backbone
        self.body, self.fpn, self.first_stage = backbone.body, backbone.fpn, int(backbone.first_stage)
        self.size_divisible = int(detector.transform.size_divisible)
        self.strides = tuple(int(stride) for stride in anchors.strides)
        self.nms_threshold, self.detections_per_image = 0.0, 0
        self.register_buffer("score_threshold", torch.tensor(float(score_threshold)))
        for i, cell in enumerate(anchors.cell_anchors):
            self.register_buffer(f"cell_anchors_{i}", cell.float().cpu(), persistent=True)

    def features(self, images: Tensor) -> list[Tensor]:
        """(1, C, H, W) -> the levels of the feature pyramid of the image, zero-padded at the right and bottom."""
        height, width, step = images.shape[2], images.shape[3], self.size_divisible
        padding = ((width + step - 1) // step * step - width, (height + step - 1) // step * step - height)
        maps = list(self.body(F.pad(images, (0, padding[0], 0, padding[1])))[self.first_stage :])
        maps[-1] = _of_any_size(maps[-1])
        fpn = self.fpn
        merged = fpn.inner_blocks[-1](maps[-1])
        levels = [fpn.layer_blocks[-1](merged)]
        for i in reversed(range(len(maps) - 1)):
            lateral = fpn.inner_blocks[i](maps[i])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, fpn.layer_blocks[i](merged))
        return levels + self.coarse_levels(maps[-1], levels[-1])

    def coarse_levels(self, last_map: Tensor, last_level: Tensor) -> list[Tensor]:
        """The levels above the last map of the backbone."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """For the metadata of the exported file."""
        facts = {
            "boxes": "xyxy, in pixels of the graph's input",
            "first_label": 0,
            "score_threshold": round(float(self.score_threshold), 7),
            "nms_iou": self.nms_threshold,
            "detections_per_image": self.detections_per_image,
        }
        return {**facts, "mask_size": [28, 28]} if "masks" in self.output_names else facts

    def anchors(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """For each level its anchors, (H_i * W_i * A, 4) corners xyxy in pixels."""
        found = []
        for i, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            cell: Tensor = getattr(self, f"cell_anchors_{i}")  # (A, 4)
            # by cumsum, as runtimes differ in how they take the float end of a range
            ones = torch.ones_like(level[0, 0])  # (H_i, W_i)
            x, y = (ones.cumsum(1) - 1) * stride, (ones.cumsum(0) - 1) * stride
            shifts = torch.stack([x, y, x, y], dim=2)  # (H_i, W_i, 4)
            found.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return found


class RetinaNetGraph(DetectorGraph):
    """RetinaNet for one image.

    Args:
        detector: a RetinaNet, in evaluation.
    """

    output_names = ("scores", "labels", "boxes")

    def __init__(self, detector: Any) -> None:
        super().__init__(detector, detector.anchor_generator, detector.score_thresh)
        self.head = detector.head
        self.box_coder = detector.box_coder
        self.num_classes = int(detector.head.classification_head.num_classes)
        self.topk_candidates = int(detector.topk_candidates)
        self.nms_threshold = float(detector.nms_thresh)
        self.detections_per_image = int(detector.detections_per_img)

    def coarse_levels(self, last_map: Tensor, last_level: Tensor) -> list[Tensor]:
        """Levels of strides 64 and 128, by convolutions."""
        extra = self.fpn.extra_blocks
        p6 = _of_any_size(extra.p6(last_level if extra.use_P5 else last_map))
        return [p6, _of_any_size(extra.p7(p6.relu()))]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, C, H, W), normalised -> scores (R,), labels (R,) and boxes (R, 4), the highest score first."""
        levels = self.features(images)
        parts = []
        for level, anchors in zip(levels, self.anchors(levels), strict=True):
            outputs = self.head([level])
            scores = outputs["cls_logits"][0].sigmoid().flatten()  # (A_i * K,)
            scores, index = _highest(scores, self.topk_candidates)
            row = torch.div(index, self.num_classes, rounding_mode="floor").clamp(max=anchors.shape[0] - 1)
            boxes = self.box_coder.decode_single(outputs["bbox_regression"][0][row], anchors[row])
            parts.append((scores, index % self.num_classes, boxes))
        scores, labels, boxes = (torch.cat(part) for part in zip(*parts, strict=True))
        boxes = _clip(boxes, images)
        seen = torch.nonzero(scores > self.score_threshold).flatten()
        scores, labels, boxes = scores[seen], labels[seen], boxes[seen]
        keep = _nms_by_group(boxes, scores, labels, self.num_classes, self.nms_threshold, images)
        keep = _first(keep, self.detections_per_image)
        scores, labels, boxes = scores[keep], labels[keep], boxes[keep]
        seen = torch.nonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).flatten()
        return scores[seen], labels[seen], boxes[seen]


class MaskRCNNGraph(DetectorGraph):
    """Mask R-CNN for one image; its labels are class indices, as the background has none.

    Args:
        detector: a Mask R-CNN, in evaluation.
    """

    output_names = ("scores", "labels", "boxes", "masks")

    def __init__(self, detector: Any) -> None:
        heads, rpn = detector.roi_heads, detector.rpn
        super().__init__(detector, rpn.anchor_generator, heads.score_thresh)
        self.rpn_head, self.rpn_coder = rpn.head, rpn.box_coder
        self.pre_nms_top_n, self.post_nms_top_n = int(rpn.pre_nms_top_n()), int(rpn.post_nms_top_n())
        self.rpn_nms_threshold = float(rpn.nms_thresh)
        self.rpn_min_size, self.rpn_score_threshold = float(rpn.min_size), float(rpn.score_thresh)
        self.box_head, self.box_predictor, self.box_coder = heads.box_head, heads.box_predictor, heads.box_coder
        self.mask_head, self.mask_predictor = heads.mask_head, heads.mask_predictor
        self.box_pool, self.mask_pool = _Pool(heads.box_roi_pool), _Pool(heads.mask_roi_pool)
        self.nms_threshold = float(heads.nms_thresh)
        self.detections_per_image = int(heads.detections_per_img)

    def coarse_levels(self, last_map: Tensor, last_level: Tensor) -> list[Tensor]:
        """The level of stride 64: every second pixel."""
        return [_of_any_size(last_level, step=2)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, C, H, W), normalised -> scores (R,), labels (R,), boxes (R, 4), masks (R, 28, 28); best score first."""
        levels = self.features(images)
        proposals = self.proposals(levels, images)
        features = self.box_head(self.box_pool(levels, proposals))
        logits, offsets = self.box_predictor(features)  # (P, K + 1), (P, 4 * (K + 1))
        num_classes = logits.shape[1] - 1
        scores = logits.softmax(dim=1)[:, 1:].reshape(-1)  # without the background
        boxes = self.box_coder.decode_single(offsets, proposals)[:, 4:].reshape(-1, 4)
        boxes = _clip(boxes, images)
        labels = (torch.ones_like(logits[:, 1:]).cumsum(1) - 1).reshape(-1).to(torch.int64)
        seen = (scores > self.score_threshold) & _at_least(boxes, 1e-2)
        index = torch.nonzero(seen).flatten()
        scores, labels, boxes = scores[index], labels[index], boxes[index]
        keep = _nms_by_group(boxes, scores, labels, num_classes, self.nms_threshold, images)
        keep = _first(keep, self.detections_per_image)
        scores, labels, boxes = scores[keep], labels[keep], boxes[keep]
        return scores, labels, boxes, self.masks(levels, boxes, labels, images)

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Probabilities (R, 28, 28) of the pixels of boxes (R, 4), each for its label (R,)."""
        # With the whole image as one box more: ONNX Runtime cannot normalise the maps of no box at all.
        some = torch.cat([_whole(images)[None], boxes])
        masks = self.mask_predictor(self.mask_head(self.mask_pool(levels, some)))[1:]  # (R, K + 1, 28, 28)
        chosen = (labels + 1)[:, None, None, None].expand(-1, 1, masks.shape[2], masks.shape[3])
        return masks.gather(1, chosen)[:, 0].sigmoid()

    def proposals(self, levels: Sequence[Tensor], images: Tensor) -> Tensor:
        """Where objects may be: (P, 4) corners xyxy in pixels, P at least 1."""
        objectness, offsets = self.rpn_head(list(levels))
        parts = []
        for i, anchors in enumerate(self.anchors(levels)):
            logits = objectness[i][0].permute(1, 2, 0).flatten()  # (A, H, W) -> (H * W * A,)
            deltas = offsets[i][0].permute(1, 2, 0).reshape(-1, 4)
            # The padding's logit is lower than any: it is told by its index.
            _, index = _highest(logits, self.pre_nms_top_n, padding=torch.finfo(torch.float32).min)
            is_anchor = index < anchors.shape[0]
            row = index.clamp(max=anchors.shape[0] - 1)
            boxes = self.rpn_coder.decode_single(deltas[row], anchors[row])
            boxes, scores = _clip(boxes, images), logits[row].sigmoid()
            valid = is_anchor & _at_least(boxes, self.rpn_min_size) & (scores >= self.rpn_score_threshold)
            index = torch.nonzero(valid).flatten()
            boxes, scores = boxes[index], scores[index]
            # Level by level, where the boxes lie: among thousands of them an offset's rounding would decide some.
            keep = torch.ops.torchvision.nms(boxes, scores, self.rpn_nms_threshold)
            parts.append((boxes[keep], scores[keep], valid.any()[None]))
        boxes, scores, any_valid = (torch.cat(part) for part in zip(*parts, strict=True))
        # An image without a proposal is proposed as a whole.
        whole = _whole(images)
        is_there = torch.cat([scores > _PADDING_SCORE, ~any_valid.any()[None]])
        boxes, scores = torch.cat([boxes, whole[None]]), torch.cat([scores, torch.zeros_like(whole[:1])])
        index = torch.nonzero(is_there).flatten()
        boxes, scores = boxes[index], scores[index]
        highest, index = _highest(scores, self.post_nms_top_n)
        return boxes[index[torch.nonzero(highest > _PADDING_SCORE).flatten()]]


class _Pool(nn.Module):
    """RoIAlign over levels, by the settings of `AlignedRoIAlign`, for boxes of one image."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.size = tuple(int(side) for side in pool.output_size)
        self.sampling_ratio = int(pool.sampling_ratio)
        self.shift = float(pool.eval_shift)
        self.num_levels = len(pool.featmap_names)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Levels of strides 4, 8, ... and (R, 4) corners xyxy in pixels -> (R, C, size, size)."""
        corners = boxes + self.shift
        rois = torch.cat([torch.zeros_like(corners[:, :1]), corners], dim=1)  # (R, 5)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        chosen_level = torch.floor(2 + torch.log2(areas.sqrt() / 224 + 1e-6)).clamp(0, self.num_levels - 1)
        pooled = rois.new_zeros(rois.shape[0], levels[0].shape[1], *self.size)
        for i, level in enumerate(levels[: self.num_levels]):
            rows = torch.nonzero(chosen_level == i).flatten()
            read = torch.ops.torchvision.roi_align(
                level, rois[rows], 1 / (4 << i), self.size[0], self.size[1], self.sampling_ratio, True
            )
            pooled = pooled.index_put((rows,), read)
        return pooled


def is_detector(network: nn.Module) -> bool:
    """Tell whether it is one of torchvision's detectors, which take a list of images of several sizes."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

    return isinstance(network, RetinaNet | GeneralizedRCNN)


def detector_graph(detector: nn.Module) -> DetectorGraph:
    """Build the graph of a detector, on the same weights.

    Raises:
        ValueError: a detector of another kind.
    """
    from torchvision.models.detection import MaskRCNN, RetinaNet

    if isinstance(detector, RetinaNet):
        return RetinaNetGraph(detector).eval()
    if isinstance(detector, MaskRCNN):
        return MaskRCNNGraph(detector).eval()
    raise ValueError(f"{type(detector).__name__} is no detector that can be exported; RetinaNet and Mask R-CNN are")


def layer_weights(graph: DetectorGraph) -> dict[str, Tensor]:
    """Weights of a graph by name, without the anchors."""
    return {name: value for name, value in graph.state_dict().items() if not name.startswith("cell_anchors_")}


def _of_any_size(level: Tensor, step: int = 1) -> Tensor:
    """Every `step`-th row and column of a map, with a height and width that torch.export knows nothing of.

    Of sizes that it does know it notes whether they are above 1, in each convolution, and would refuse small images.
    OpenVINO 2026.4 takes every second row of a map of free height, if it is a slice, to be as many rows as there were.
    """
    if not is_exporting():
        return level[:, :, ::step, ::step]
    rows, columns = _every(level[0, 0, :, 0], step), _every(level[0, 0, 0, :], step)
    for side in (rows.shape[0], columns.shape[0]):
        torch._check(side >= 1)  # torch 2.11 asks before a convolution
    return level[:, :, rows][:, :, :, columns]


def _every(line: Tensor, step: int) -> Tensor:
    """Indices 0, step, 2 * step ... of a line (n,)."""
    steps = (torch.ones_like(line).cumsum(0) - 1) / step  # OpenVINO 2026.0 has no remainder
    return torch.nonzero(steps == steps.floor()).flatten()


def _highest(values: Tensor, count: int, padding: float = _PADDING_SCORE) -> tuple[Tensor, Tensor]:
    """The `count` highest values (n,), with their places; where there are fewer, padding fills them up behind n."""
    return F.pad(values, (0, count), value=padding).topk(count)


def _first(rows: Tensor, count: int) -> Tensor:
    return rows[:count]


def _whole(images: Tensor) -> Tensor:
    """The image as a box: (4,) of 0, 0, W, H; read from the image, as shapes are no numbers in a graph."""
    height = torch.ones_like(images[0, 0, :, 0]).sum()
    width = torch.ones_like(images[0, 0, 0, :]).sum()
    zero = torch.zeros_like(width)
    return torch.stack([zero, zero, width, height])


def _clip(boxes: Tensor, images: Tensor) -> Tensor:
    _, _, width, height = _whole(images).unbind()
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))


def _at_least(boxes: Tensor, side: float) -> Tensor:
    """Which boxes have both sides of at least so many pixels."""
    return (boxes[:, 2] - boxes[:, 0] >= side) & (boxes[:, 3] - boxes[:, 1] >= side)


def _nms_by_group(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float, images: Tensor
) -> Tensor:
    """Non-maximum suppression within each group: the rows that stay, the highest score first.

    Groups are laid out in a square around the origin, each in a cell of its own: with all of them in a row, the
    corners of the last of 80 classes would be off by up to 1/128 pixel.
    """
    columns = math.ceil(math.sqrt(num_groups))
    side = _whole(images).max() + 1
    column = groups % columns
    row = torch.div(groups, columns, rounding_mode="floor")
    place = torch.stack([column, row, column, row], dim=1).to(boxes.dtype) - columns // 2
    return torch.ops.torchvision.nms(boxes + place * side, scores, threshold)
