"""RetinaNet and Mask R-CNN: published costs, any images in training and evaluation, exact boxes and masks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from scalablevit.complexity import describe
from scalablevit.detection.cost import detector_parts, parts
from scalablevit.detection.models import DETECTORS, build_detector, mask_rcnn, paste_mask, paste_masks, retinanet
from scalablevit.detection.models.anchors import FixedStrideAnchors
from scalablevit.detection.models.image_transform import ImageTransform
from scalablevit.detection.models.pyramid import group_norm
from scalablevit.detection.models.roi_align import AlignedRoIAlign
from scalablevit.training.param_groups import parameter_groups

# Millions of parameters, and billions of multiply-adds at 800 x 1280.
PUBLISHED = {
    ("retinanet", "small"): (36.4, 238),
    ("retinanet", "base"): (85.6, 330),
    ("retinanet", "large"): (112.6, 457),
    ("mask_rcnn", "small"): (46.3, 256),
    ("mask_rcnn", "base"): (94.9, 349),
    ("mask_rcnn", "large"): (121.4, 477),
}
CHEAP = {
    "retinanet": dict(fpn_channels=16, num_convs=1),
    "mask_rcnn": dict(
        fpn_channels=16, box_head_channels=16, mask_channels=8, mask_convs=1, box_batch_size_per_image=16
    ),
}


def tiny(kind: str, num_classes: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    options = {**CHEAP[kind], "min_size": 64, "max_size": 96, **options}
    return build_detector(kind, "scalablevit_atto", num_classes, **options)  # type: ignore[arg-type]


def make_targets(model: Any, sizes: list[tuple[int, int]], *, with_boxes: int) -> list[dict[str, Tensor]]:
    """Targets of two boxes for the first `with_boxes` images, and of none for the others."""
    targets = []
    for i, (height, width) in enumerate(sizes):
        shares = torch.tensor([[0, 0, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]])[: 2 if i < with_boxes else 0]
        boxes = shares * torch.tensor([width, height, width, height])
        labels = torch.arange(len(boxes)) + model.first_label
        masks = torch.ones(len(boxes), height, width, dtype=torch.uint8)
        targets.append(dict(boxes=boxes, labels=labels, masks=masks))
    return targets


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), PUBLISHED, ids=str)
def test_published_costs(kind: str, size: str) -> None:
    parameters, multiply_adds = PUBLISHED[kind, size]
    found = describe(parts(kind, f"scalablevit_{size}"), 800, 1280)
    assert round(found["parameters"] / 1e6, 1) == parameters
    assert found["multiply_adds"] / 1e9 == pytest.approx(multiply_adds, rel=0.005)
    assert ("box_rois" in found) == (kind == "mask_rcnn")


@pytest.mark.slow
def test_released_form_of_small_is_another_network() -> None:
    released = parts("retinanet", "scalablevit_small", scale_value=False).cost()
    assert released.parameters != parts("retinanet", "scalablevit_small").cost().parameters


def test_counting_leaves_the_detector_as_it_is_and_rois_cost() -> None:
    model = tiny("mask_rcnn").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    none = detector_parts(model, 64, 64, box_rois=0, mask_rois=0).cost()
    boxes = detector_parts(model, 64, 64, box_rois=2, mask_rois=0).cost()
    assert boxes.multiply_adds - none.multiply_adds == 2 * (16 * 49 * 16 + 16 * 16 + 16 * 4 * 5)
    assert boxes.parameters == sum(p.numel() for p in model.parameters())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="box_rois"):
        detector_parts(model, 64, 64, box_rois=-1).cost()
    with pytest.raises(ValueError, match="at least 1 pixel"):
        detector_parts(model, 0, 64).cost()


@pytest.mark.parametrize("head_norm", [False, True])
@pytest.mark.parametrize("with_boxes", [2, 1, 0])
@pytest.mark.parametrize("kind", DETECTORS)
def test_every_parameter_learns_whatever_the_batch(kind: str, with_boxes: int, head_norm: bool) -> None:
    model = tiny(kind, head_norm=head_norm).train()
    for sizes in ([(40, 60), (33, 20)], [(1, 1)], [(16, 130), (130, 16)]):
        targets = make_targets(model, sizes, with_boxes=with_boxes)
        model.zero_grad()
        losses = model([torch.rand(3, *size) for size in sizes], targets)
        assert all(loss.isfinite() for loss in losses.values()), (sizes, losses)
        sum(losses.values()).backward()
        bad = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not bad, sizes


@pytest.mark.parametrize("kind", DETECTORS)
def test_autocast_leaves_boxes_and_losses_in_float32(kind: str) -> None:
    model = tiny(kind, score_thresh=0.0, detections_per_image=5)
    sizes = [(40, 60), (33, 20)]
    images = [torch.rand(3, *size) for size in sizes]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(images, make_targets(model, sizes, with_boxes=1))
        found = model.eval()(images)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(x["boxes"].dtype == x["scores"].dtype == torch.float32 for x in found)
    assert all(len(x["boxes"]) for x in found)


@pytest.mark.parametrize("kind", DETECTORS)
def test_detections_lie_in_each_images_own_pixels(kind: str) -> None:
    model = tiny(kind, score_thresh=0.0, detections_per_image=7).eval()
    sizes = [(40, 60), (200, 10), (1, 1), (96, 64)]
    with torch.no_grad():
        for found, (height, width) in zip(model([torch.rand(3, *size) for size in sizes]), sizes, strict=True):
            R = len(found["boxes"])
            assert 0 < R <= 7
            assert found["scores"].shape == found["labels"].shape == (R,)
            assert (found["boxes"] >= 0).all()
            assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
            assert (found["boxes"][:, 2:] <= torch.tensor([width, height])).all()
            assert found["labels"].min() >= model.first_label
            assert found["labels"].max() < model.first_label + 3
            if kind == "mask_rcnn":
                assert found["masks"].shape == (R, height, width)
                assert found["masks"].dtype == torch.bool


@pytest.mark.parametrize("kind", DETECTORS)
def test_nothing_found_has_the_shapes_of_nothing(kind: str) -> None:
    model = tiny(kind, score_thresh=1.0).eval()
    with torch.no_grad():
        (found,) = model([torch.rand(3, 40, 60)])
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    expected: dict[str, tuple[int, ...]] = dict(boxes=(0, 4), scores=(0,), labels=(0,))
    if kind == "mask_rcnn":
        expected["masks"] = (0, 40, 60)
    assert shapes == expected


@pytest.mark.slow
def test_coco_sizes_of_both_orientations_in_one_batch() -> None:
    model = tiny("retinanet", min_size=800, max_size=1333, topk_candidates=10).eval()
    with torch.no_grad():
        maps = model.backbone(model.transform([torch.rand(3, 480, 800), torch.rand(3, 4, 4)])[0].tensors)
    assert [tuple(x.shape[-2:]) for x in maps.values()] == [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]


def test_masks_of_large_images_need_not_be_pasted() -> None:
    model = tiny("mask_rcnn", score_thresh=0.0, detections_per_image=4).eval()
    image = torch.rand(3, 40, 60)
    with torch.no_grad():
        (pasted,) = model([image])
        (small,) = model([image], paste_masks=False)
        (again,) = model([image])
    assert small.keys() == {"boxes", "labels", "scores", "mask_probs"}
    assert small["mask_probs"].shape == (4, 28, 28)
    one_by_one = [paste_mask(p, b, (40, 60)) for p, b in zip(small["mask_probs"], small["boxes"], strict=True)]
    assert torch.equal(torch.stack(one_by_one), pasted["masks"])
    assert torch.equal(again["masks"], pasted["masks"]), "the network keeps no memory of it"


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.size = max(self.size, out.numel() * out.element_size())
        return out


def test_pasting_takes_one_mask_of_floats_at_a_time() -> None:
    R, size = 16, (300, 400)
    boxes = torch.tensor([[0.0, 0.0, 400.0, 300.0]]).repeat(R, 1)
    with LargestTensor() as largest:
        masks = paste_masks(torch.ones(R, 28, 28), boxes, size)
    assert masks.all()
    assert largest.size == R * 300 * 400, "the masks themselves, a byte a pixel"


@pytest.mark.parametrize("side", [7, 16, 40])
def test_masks_come_back_as_they_were_learnt(side: int) -> None:
    """A network that predicts exactly what it is trained on gives the very mask that was drawn."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 11 : 11 + side, 9 : 9 + side] = 1
    mask[0, 11 : 11 + side // 2, 9 : 9 + side // 2] = 0
    box = torch.tensor([[9.0, 11.0, 9.0 + side, 11.0 + side]])
    pool = mask_rcnn("scalablevit_atto", 1, **CHEAP["mask_rcnn"]).roi_heads.mask_roi_pool  # type: ignore[arg-type]
    learnt = project_masks_on_boxes(mask, box + pool.eval_shift, torch.tensor([0]), 28)
    overlap, union = (
        paste_mask(learnt[0], box[0], (64, 64)) & mask[0],
        paste_mask(learnt[0], box[0], (64, 64)) | mask[0],
    )
    assert overlap.sum() / union.sum() > 0.98


def test_pasting_agrees_with_bilinear_sampling_inside_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(28, 28, generator=generator)
    x1, y1, x2, y2 = -4.3, 5.2, 38.1, 61.7  # beyond the left edge
    mask = paste_mask(prob, torch.tensor([x1, y1, x2, y2]), (64, 48))
    ys = (torch.arange(64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    xs = (torch.arange(48) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=-1)[None]
    sampled = nn.functional.grid_sample(prob[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    inside = (grid[0].abs() <= 1).all(dim=-1)
    assert torch.equal(mask, (sampled >= 0.5) & inside)
    assert mask.any()
    assert not paste_mask(prob, torch.tensor([3.6, 3.0, 4.4, 20.0]), (64, 48))[:, :3].any()


def test_roi_align_reads_the_coordinates_it_is_asked_for() -> None:
    """On maps that hold each cell's own centre, in pixels, the mean of what is read is the centre of the box."""
    maps = {}
    for level in range(4):
        stride = 4 << level
        centres = (torch.arange(512 // stride) + 0.5) * stride
        maps[str(level)] = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None]
    boxes = [torch.tensor([[100.0, 90, 140, 170], [60, 60, 400, 300], [65, 66, 448, 448]]), torch.zeros(0, 4)]
    pool = AlignedRoIAlign(7, eval_shift=-0.5).train()
    maps = {name: x.repeat(2, 1, 1, 1) for name, x in maps.items()}
    found = pool(maps, boxes, [(512, 512)] * 2).mean(dim=(2, 3))
    expected = torch.tensor([[130.0, 120.0], [180, 230], [257, 256.5]])
    assert torch.allclose(found, expected, atol=1e-3)
    assert torch.allclose(pool.eval()(maps, boxes, [(512, 512)] * 2).mean(dim=(2, 3)), expected - 0.5, atol=1e-3)
    # A small image first must not change what later ones are read with.
    pool.train()(maps, [torch.tensor([[0.0, 0, 5, 5]])], [(6, 6)])
    assert torch.allclose(pool(maps, boxes, [(512, 512)] * 2).mean(dim=(2, 3)), expected, atol=1e-3)


def test_roi_align_takes_larger_boxes_from_coarser_maps() -> None:
    maps = {str(i): torch.full((1, 1, 128 >> i, 128 >> i), float(i)) for i in range(4)}
    sides = [10.0, 111.0, 113.0, 224.0, 447.0, 449.0, 500.0]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    levels = AlignedRoIAlign(1)(maps, [boxes], [(512, 512)]).flatten()
    assert levels.tolist() == [0, 0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("size", [(800, 1344), (64, 96)])
def test_anchors_keep_their_strides_and_digits(size: tuple[int, int]) -> None:
    anchors = FixedStrideAnchors([(32,), (64,)], (64, 128))
    maps = [torch.zeros(1, 8, math.ceil(size[0] / s), math.ceil(size[1] / s), dtype=torch.bfloat16) for s in (64, 128)]
    first, second = anchors(ImageList(torch.zeros(2, 3, *size), [size, size]), maps)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    centres = (first[:, :2] + first[:, 2:]) / 2
    per_level = 3 * maps[0].shape[2] * maps[0].shape[3]
    assert set((centres[:per_level] % 64).flatten().tolist()) == {0.0}
    assert set((centres[per_level:] % 128).flatten().tolist()) == {0.0}
    assert centres[:per_level].max() == 64 * (max(maps[0].shape[2:]) - 1)


def test_an_image_whose_best_anchors_lie_on_its_padding_is_proposed_as_a_whole() -> None:
    model = tiny("mask_rcnn")
    outside = torch.tensor([[[100.0, 100, 120, 120]], [[0, 0, 5, 5]]])
    boxes, scores = model.rpn.filter_proposals(outside, torch.zeros(2, 1), [(10, 20), (10, 20)], [1])
    assert [b.tolist() for b in boxes] == [[[0, 0, 20, 10]], [[0, 0, 5, 5]]]
    assert [s.tolist() for s in scores] == [[0.0], [0.5]]


def test_transform_resizes_in_evaluation_only() -> None:
    transform = ImageTransform(800, 1333, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert transform.resized(480, 640) == (800, 1067)
    assert transform.resized(1000, 500) == (1333, 667)
    assert transform.resized(4000, 1) == (1333, 1)
    images = [torch.full((3, 20, 50), 0.75), torch.zeros(3, 33, 7)]
    batch, targets = transform.train()(images, [{"boxes": torch.ones(1, 4)}, {"boxes": torch.zeros(0, 4)}])
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert batch.image_sizes == [(20, 50), (33, 7)]
    assert (batch.tensors[0, :, :20, :50] == 1).all()
    assert (batch.tensors[1, :, :33, :7] == -2).all()
    assert batch.tensors.abs().sum() == 3 * (20 * 50 + 2 * 33 * 7), "padding is 0"
    assert targets[0]["boxes"].tolist() == [[1, 1, 1, 1]]
    batch, targets = transform.eval()([torch.full((3, 480, 640), 0.5)])
    assert batch.tensors.shape == (1, 3, 800, 1088)
    assert targets is None


def test_boxes_are_mapped_back_along_each_side_and_those_without_area_dropped() -> None:
    transform = ImageTransform(10, 20, (0.0,), (1.0,)).eval()
    boxes = torch.tensor([[2.0, 2, 10, 8], [19.9, 0, 30, 10], [5, 5, 5, 9]])
    found = [dict(boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]), labels=torch.tensor([1, 2, 3]))]
    (found_there,) = transform.postprocess(found, [(10, 20)], [(100, 40)])
    assert torch.allclose(found_there["boxes"], torch.tensor([[4.0, 20, 20, 80], [39.8, 0, 40, 100]]))
    assert found_there["labels"].tolist() == [1, 2]
    assert found_there["scores"].tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(
    ("images", "targets", "words"),
    [
        ([], None, "at least one image"),
        ([torch.rand(1, 8, 8)], None, r"images\[0\] must be \(3, H, W\)"),
        ([torch.rand(3, 8, 8), torch.rand(3, 0, 8)], None, r"images\[1\].*at least 1 px"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], None, "divide by 255"),
        ([torch.rand(3, 8, 8)], [{"boxes": torch.zeros(0, 4)}], "targets are for training"),
    ],
)
def test_bad_images_in_words(images: Any, targets: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageTransform(8, 8, (0, 0, 0), (1, 1, 1)).eval()(images, targets)


def test_as_many_targets_as_images() -> None:
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        ImageTransform(8, 8, (0,), (1,)).train()([torch.rand(1, 8, 8)], [{}, {}])


@pytest.mark.parametrize("kind", DETECTORS)
def test_hooks_of_the_optimizer_know_the_backbone(kind: str) -> None:
    model = tiny(kind)
    names = {name for name, _ in model.named_parameters()}
    undecayed = model.no_weight_decay()
    assert undecayed <= names
    assert len(undecayed) == 4, "one PEG kernel a stage"
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    rates = {name: rate[id(p)] for name, p in model.named_parameters()}
    heads = {r for name, r in rates.items() if not name.startswith("backbone.body")}
    stem = rates["backbone.body.stages.0.patch_embed.proj.weight"]
    blocks = [rates[f"backbone.body.stages.{i}.blocks.{j}.attn.proj.weight"] for i in range(4) for j in range(2)]
    assert heads == {1.0}
    assert [stem, *blocks] == sorted({stem, *blocks}), "each layer learns faster than the one before"
    coarse = model.group_matcher(coarse=True)
    assert coarse["stem"] == r"^backbone\.body\.stages\.0\.patch_embed"


def test_first_outputs_are_cautious() -> None:
    """RetinaNet starts at a probability of 0.01 for every class, as published."""
    model = tiny("retinanet").eval()
    with torch.no_grad():
        logits = model.head([torch.zeros(1, 16, 4, 4)])["cls_logits"]
    assert torch.allclose(logits.sigmoid(), torch.tensor(0.01), atol=1e-6)


def test_options_reach_the_network() -> None:
    model = tiny("retinanet", anchor_sizes=[4, 8, 16, 32, 64], network_options={"peg": False}, num_convs=2)
    assert model.anchor_generator.sizes[0] == (4, 5, 6)
    assert model.no_weight_decay() == set()
    assert len(model.head.regression_head.conv) == 2
    model = tiny("mask_rcnn", anchor_sizes=[4, 8, 16, 32, 64], rpn_convs=2, rpn_post_nms_top_n_train=9, head_norm=True)
    assert model.rpn.anchor_generator.sizes == ((4,), (8,), (16,), (32,), (64,))
    assert model.rpn.train().post_nms_top_n() == 9
    assert len(model.rpn.head.conv) == 2
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 8 + 1, "two for each of four levels, and one for the mask head's convolution"
    checkpointed = tiny("retinanet", grad_checkpointing=True)
    assert all(stage.grad_checkpointing for stage in checkpointed.backbone.body.stages)
    grey = tiny("retinanet", in_chans=1, mean=[0.5], std=[0.5]).eval()
    assert len(grey([torch.rand(1, 20, 30)])) == 1


@pytest.mark.parametrize("channels", [8, 12, 16, 64, 250, 256])
def test_group_norm_of_a_single_cell(channels: int) -> None:
    norm = group_norm(channels).train()
    assert norm(torch.rand(1, channels, 1, 1)).isfinite().all()
    assert norm.num_groups <= 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_convs=-1), "num_convs must be at least 0"),
        (dict(anchor_sizes=[8, 16]), "anchor_sizes must be 5 sides"),
        (dict(anchor_sizes=[0, 1, 2, 3, 4]), "anchor_sizes must be 5 sides"),
        (dict(min_size=900, max_size=800), "max_size must be at least min_size"),
        (dict(in_chans=1), "mean must have one value for each of the 1 channels"),
        (dict(std=[1, 0, 1]), "std must be above 0"),
        (dict(fpn_channels=4), "fpn_channels must be at least 8"),
        (dict(score_thresh=1.5), r"score_thresh must lie in \[0, 1\]"),
        (dict(bg_iou_thresh=0.6), "bg_iou_thresh must lie between 0 and fg_iou_thresh"),
        (dict(network_options={"scale_value": True}), "network_options has no scale_value; it takes"),
        (dict(network_options={"depth": 3}), "network_options has no depth; it takes"),
        (dict(box_head_channels=8), "retinanet has no option box_head_channels; it has in_chans"),
    ],
)
def test_bad_options_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_detector("retinanet", "scalablevit_atto", 3, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(mask_channels=0), "mask_channels must be at least 8"),
        (dict(rpn_convs=0), "rpn_convs must be at least 1"),
        (dict(rpn_bg_iou_thresh=0.9), "rpn_bg_iou_thresh must lie between 0 and rpn_fg_iou_thresh"),
        (dict(box_positive_fraction=2), "box_positive_fraction must lie in"),
    ],
)
def test_bad_options_of_mask_rcnn_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mask_rcnn("scalablevit_atto", 3, **options)


def test_unknown_names_in_words() -> None:
    with pytest.raises(ValueError, match="no detector 'yolo'; choose from retinanet, mask_rcnn"):
        build_detector("yolo", "scalablevit_atto", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no variant 'resnet999'"):
        retinanet("resnet999")
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        retinanet("scalablevit_atto", 0)


def test_objects_without_a_mask_teach_boxes_and_no_masks() -> None:
    model = tiny("mask_rcnn").train()
    sizes = [(40, 60), (33, 20)]
    images = [torch.rand(3, *size) for size in sizes]

    def losses(**changes: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(1)
        targets = [{**target, **changes} for target in make_targets(model, sizes, with_boxes=2)]
        return model(images, targets)

    plain, marked = losses(), losses(has_mask=torch.ones(2, dtype=torch.bool))
    without = losses(has_mask=torch.zeros(2, dtype=torch.bool))
    for name, value in plain.items():
        assert torch.equal(marked[name], value), name
        assert torch.equal(without[name], value) == (name != "loss_mask"), name
    assert without["loss_mask"] == 0
    some = losses(has_mask=torch.tensor([True, False]))
    assert some["loss_mask"] not in (0, plain["loss_mask"])
    model.zero_grad()
    sum(without.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            "retinanet",
            {"detections_per_image": 600, "topk_candidates": 50},
            "limited to about 250 by topk_candidates 50",
        ),
        ("mask_rcnn", {"detections_per_image": 2000}, "limited to about 1000 by rpn_post_nms_top_n_test 1000"),
        ("mask_rcnn", {"detections_per_image": 600}, ""),
        ("mask_rcnn", {"rpn_post_nms_top_n_test": 50}, ""),
    ],
)
def test_a_limit_that_is_raised_in_one_place_only_is_told(
    kind: str, options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny(kind, **options)
    assert words in caplog.text
    assert bool(words) == bool(caplog.records)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fpn_channels": "wide"}, "fpn_channels must be a whole number, got 'wide'"),
        ({"min_size": 3.5}, "min_size must be a whole number"),
        ({"score_thresh": "high"}, r"score_thresh must lie in \[0, 1\], got 'high'"),
        ({"nms_thresh": float("nan")}, "nms_thresh must lie in"),
        ({"anchor_sizes": [1, 2, "x", 4, 5]}, "anchor_sizes must be 5 sides"),
        ({"anchor_sizes": 5}, "anchor_sizes must be 5 sides"),
        ({"mean": ["a", "b", "c"]}, "mean must have one value"),
        ({"std": 3}, "std must have one value"),
        ({"network_options": [1]}, "network_options must be names with values"),
        ({"wings": 2}, "has no option wings; it has in_chans, "),
    ],
)
def test_settings_of_the_wrong_type_are_one_message(options: dict[str, Any], words: str) -> None:
    for build in (retinanet, mask_rcnn):
        with pytest.raises(ValueError, match=words):
            build("scalablevit_atto", 3, **options)
