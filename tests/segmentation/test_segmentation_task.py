"""The segmenter's loss, metrics and options."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.segmentation import InferenceSettings, Preprocessing, SegmentationTask, Segmenter
from scalablevit.segmentation.dataset import SegmentationBatch, SegmentationSample
from scalablevit.segmentation.evaluate import evaluate
from scalablevit.segmentation.inference import segment
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.losses import segmentation_loss
from scalablevit.training.settings import OptimizerSettings
from scalablevit.weights import load_weights

SMALL = {
    "semantic_fpn": {"channels": 16, "fpn_channels": 16},
    "upernet": {"channels": 16, "auxiliary_channels": 8},
}


def preprocessing(**settings: Any) -> dict[str, Any]:
    return Preprocessing(**{"mean": (0.5,) * 3, "std": (0.5,) * 3, "short_side": None, **settings}).to_dict()


def task(segmenter: str = "upernet", num_classes: int = 3, **options: Any) -> SegmentationTask:
    options = {"segmenter_options": SMALL[segmenter], "preprocessing": preprocessing(), **options}
    names = [f"class {i}" for i in range(num_classes)]
    made = SegmentationTask("scalablevit_atto", class_names=names, segmenter=segmenter, **options)  # type: ignore[arg-type]
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made.eval()  # without dropout, and BatchNorm as it is


def batch(masks: Tensor, *, readable: list[bool] | None = None, unreadable: tuple[str, ...] = ()) -> SegmentationBatch:
    images = torch.randn(len(masks), 3, *masks.shape[1:], generator=torch.Generator().manual_seed(1))
    B = len(masks)
    return SegmentationBatch(images, masks, readable or [True] * B, list(range(B)), list(unreadable))


def masks(B: int = 2, *, side: int = 32, K: int = 3) -> Tensor:
    """A quarter is ignored, of one image more than of the other."""
    generator = torch.Generator().manual_seed(2)
    made = torch.randint(0, K, (B, side, side), generator=generator)
    made[0, : side // 2] = 255
    return made


def cross_entropy_by_hand(logits: Tensor, mask: Tensor) -> Tensor:
    """(N,) of the pixels that have a class."""
    known = mask != 255
    return -logits.log_softmax(1).movedim(1, -1)[known].gather(1, mask[known][:, None])[:, 0]


@pytest.mark.parametrize("ignored_in_mean", [False, True])
def test_training_loss_is_that_of_both_heads(ignored_in_mean: bool) -> None:
    made, data = task(auxiliary_weight=0.3, ignored_in_mean=ignored_in_mean), batch(masks())
    with torch.no_grad():
        logits, auxiliary = made.network.forward_with_auxiliary(data.images)
        assert auxiliary is not None
        losses = [cross_entropy_by_hand(x, data.masks) for x in (logits, auxiliary)]
        count = data.masks.numel() if ignored_in_mean else len(losses[0])
        expected = (losses[0].sum() + 0.3 * losses[1].sum()) / count
        assert made.training_step(data, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_weight_for_a_head_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    task("semantic_fpn")
    task("upernet", auxiliary_weight=0.1)
    assert caplog.text == ""
    task("semantic_fpn", auxiliary_weight=0.1)
    assert "model.auxiliary_weight 0.1 has no effect" in caplog.text
    caplog.clear()
    task("upernet", auxiliary_weight=0.1, segmenter_options={"channels": 16, "auxiliary_channels": 0})
    assert "model.auxiliary_weight 0.1 has no effect" in caplog.text


def test_semantic_fpn_has_one_loss() -> None:
    made, data = task("semantic_fpn"), batch(masks())
    with torch.no_grad():
        expected = F.cross_entropy(made.network(data.images), data.masks, ignore_index=255)
        assert made.training_step(data, 0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("segmenter", SMALL)
@pytest.mark.parametrize("B", [1, 2])
def test_nothing_but_ignored_pixels_is_a_zero_for_every_parameter(segmenter: str, B: int) -> None:
    """DDP waits for a gradient of each parameter; NaN would spoil them all."""
    made = task(segmenter).train()
    loss = made.training_step(batch(torch.full((B, 32, 32), 255)), 0)
    assert loss.item() == 0.0
    loss.backward()
    for name, parameter in made.network.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    assert all(buffer.isfinite().all() for buffer in made.network.buffers())


@pytest.mark.parametrize("segmenter", SMALL)
def test_a_batch_of_one_reaches_every_parameter(segmenter: str) -> None:
    made = task(segmenter).train()
    made.training_step(batch(masks(1)), 0).backward()
    for name, parameter in made.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_loss_in_half_precision_is_summed_in_full() -> None:
    """A hundred thousand pixels, whose sum float16 cannot hold."""
    logits = torch.randn(1, 3, 330, 330)
    mask = torch.randint(0, 3, (1, 330, 330))
    half = segmentation_loss(logits.half(), mask)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(F.cross_entropy(logits, mask).item(), rel=1e-3)


def test_validation_counts_pixels_of_what_could_be_read() -> None:
    made, data = task(), batch(masks(3), readable=[True, False, True], unreadable=("b.png: broken; copy it",))
    made.unreadable.max_files = 1
    with torch.no_grad():
        made.validation_step(data, 0)
        made.validation_step(batch(torch.full((1, 8, 8), 255)), 1)
        probabilities = torch.stack([segment(made.network, image) for image in data.images[[0, 2]]])
    mask = data.masks[[0, 2]]
    known = mask != 255
    right = probabilities.argmax(1)[known] == mask[known]
    scores = made.val_confusion.scores()
    assert int(scores.confusion.sum()) == int(known.sum())
    assert scores.accuracy == pytest.approx(right.float().mean().item())
    expected = cross_entropy_by_hand(probabilities.log(), mask).mean()
    assert made.val_loss.compute().item() == pytest.approx(expected.item(), rel=1e-5)


def test_outputs_that_are_not_numbers_are_no_pixels_of_the_first_class(caplog: pytest.LogCaptureFixture) -> None:
    made = task()
    data = batch(torch.tensor([[[0, 0], [0, 255]], [[0, 1], [0, 0]]]).repeat_interleave(16, 1).repeat_interleave(16, 2))
    made.network.forward = lambda images: torch.full((len(images), 3, 32, 32), torch.nan)  # type: ignore[method-assign]
    made.validation_step(data, 0)
    assert made.val_confusion.scores().accuracy == 0
    assert not made.val_loss.compute().isfinite()
    made.on_validation_epoch_end()
    assert f"for {7 * 256} pixels are not numbers, and count as wrong" in caplog.text
    samples = [
        SegmentationSample(image, mask, True, i, ()) for i, (image, mask) in enumerate(zip(*data[:2], strict=True))
    ]
    found = evaluate(made.network, samples, num_classes=3, settings=InferenceSettings())  # type: ignore[arg-type]
    assert found.scores.accuracy == 0
    assert "for 2 of 2 images are not numbers" in caplog.text


def test_validation_is_by_the_settings_of_inference() -> None:
    settings = InferenceSettings(short_side=20, scales=(0.5, 1.0), flip=True)
    made, data = task(inference=settings), batch(masks(1))
    with torch.no_grad():
        made.validation_step(data, 0)
        labels = segment(made.network, data.images[0], settings).argmax(0)
        plain = segment(made.network, data.images[0]).argmax(0)
    known = data.masks[0] != 255
    assert not torch.equal(labels, plain)
    assert made.val_confusion.scores().accuracy == (labels == data.masks[0])[known].double().mean().item()


def test_images_are_measured_at_the_size_that_the_data_names() -> None:
    asked = preprocessing(short_side=64, long_side=200)
    assert task(preprocessing=asked).inference == InferenceSettings(short_side=64, long_side=200)
    own = InferenceSettings(short_side=96)
    assert task(preprocessing=asked, inference=own).inference == own


def test_broken_files_beyond_the_cap_end_the_run() -> None:
    made = task()
    made.unreadable.max_files = 1
    data = batch(masks(), unreadable=("a.png: broken; copy it", "b.png: broken; copy it"))
    with pytest.raises(ValueError, match="more than max_unreadable=1"):
        made.training_step(data._replace(readable=[False, True]), 0)


def test_a_folder_without_a_readable_image_ends_the_run() -> None:
    made = task()
    made.unreadable.max_files = 10
    data = batch(masks(), readable=[False, False], unreadable=("a.png: broken; copy it",))
    with pytest.raises(ValueError, match="none of the training images can be read"):
        made.training_step(data, 0)


def test_the_seed_makes_the_weights_whatever_ran_before() -> None:
    first = task(seed=3).network.state_dict()
    torch.rand(5)
    again, other = task(seed=3).network.state_dict(), task(seed=4).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.classifier.weight"], other["decoder.classifier.weight"])


def test_options_reach_the_network() -> None:
    made = task(
        preprocessing=preprocessing(mean=(0.5,), std=(0.5,)),
        scale_value=True,
        window_size=[4, 4, 2, 1],
        drop_path_rate=0.3,
        network_options={"lim": False},
        segmenter_options={"channels": 24, "auxiliary_channels": 0},
        grad_checkpointing=True,
    )
    names = made.network.state_dict()
    assert made.network.in_chans == 1
    assert made.network.auxiliary is None
    assert names["decoder.classifier.weight"].shape == (3, 24, 1, 1)
    assert any(name.endswith("attn.kv.weight") and ".stages.0." in name for name in names)
    assert not any(".lim." in name for name in names)
    assert all(stage.grad_checkpointing for stage in made.network.backbone.stages)


def test_a_classifier_gives_its_backbone() -> None:
    classifier = ScalableViT(num_classes=7, **VARIANTS["scalablevit_atto"])
    made = task()
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    report = load_weights(made.network, classifier.state_dict(), class_names=made.class_names)
    after = made.network.state_dict()
    stem = "backbone.stages.0.patch_embed.proj.weight"
    assert torch.equal(after[stem], classifier.state_dict()[stem.removeprefix("backbone.")])
    assert torch.equal(after["decoder.classifier.weight"], before["decoder.classifier.weight"])
    assert "decoder.classifier.weight" in report.fresh


@pytest.mark.parametrize("segmenter", SMALL)
def test_a_segmenter_of_other_classes_gives_all_but_the_class_layers(segmenter: str) -> None:
    theirs, made = task(segmenter, num_classes=5, seed=1), task(segmenter, seed=2)
    report = load_weights(made.network, theirs.network.state_dict(), class_names=made.class_names)
    ours, source = made.network.state_dict(), theirs.network.state_dict()
    differing = {name for name in ours if ours[name].shape != source[name].shape or not ours[name].equal(source[name])}
    assert differing <= set(report.adapted)
    assert all(".classifier." in name for name in report.adapted)
    assert "decoder.classifier.weight" in report.adapted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_weight": -1}, "auxiliary_weight must be at least 0"),
        ({"dice_weight": -1}, "dice_weight must be at least 0"),
        ({"focal_gamma": float("nan")}, "focal_gamma must be at least 0"),
        ({"cross_entropy_weight": 0}, "are both 0"),
        ({"cross_entropy_weight": 0, "dice_weight": 1, "focal_gamma": 2.0}, "focal_gamma 2.0 has no effect"),
        ({"segmenter_options": {"depth": 3}}, "upernet has no option depth"),
        ({"network_options": {"depth": 3}}, "network_options has no depth"),
        ({"optimizer": OptimizerSettings(), "weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        task(**options)


def test_the_label_map_travels_with_the_weights(tmp_path: Path) -> None:
    made = task("semantic_fpn")
    label_map = LabelMap(3, entries=((7, 0), (26, 1), (27, 1), (0, 255), (33, 2)))
    made.trainer = SimpleNamespace(datamodule=SimpleNamespace(label_map=label_map))  # type: ignore[assignment]
    common = {"task": "segmentation", "class_names": made.class_names, "preprocessing": preprocessing()}
    made.save_weights(tmp_path, common)
    assert Segmenter.load(tmp_path, device="cpu").label_map == label_map


def test_weights_from_before_label_maps_predict_class_indices(tmp_path: Path) -> None:
    made = task("semantic_fpn")
    made.trainer = SimpleNamespace(datamodule=None)  # type: ignore[assignment]
    common = {"task": "segmentation", "class_names": made.class_names, "preprocessing": preprocessing()}
    made.save_weights(tmp_path, common)
    assert Segmenter.load(tmp_path, device="cpu").label_map is None


def in_fit(made: SegmentationTask, pixels: list[int]) -> SegmentationTask:
    """The task as it is when training begins, on data with so many pixels of each class."""
    data = SimpleNamespace(class_pixels=lambda: pixels, batch_size=2, max_unreadable=0)
    made.trainer = SimpleNamespace(datamodule=data, world_size=1, accumulate_grad_batches=1)  # type: ignore[assignment]
    made.setup("fit")
    return made


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("balanced", [1 / 3, 2 / 3, 10 / 3]),
        ([1.0, 1.0, 4.0], [10 / 13, 10 / 13, 40 / 13]),
        ({"class 2": 4.0}, [10 / 13, 10 / 13, 40 / 13]),
    ],
)
def test_class_weights_reach_both_losses(given: Any, weights: list[float]) -> None:
    made = in_fit(task(class_weights=given, dice_weight=0.5, focal_gamma=1.0), [100, 50, 10])
    expected = torch.tensor(weights) * (160 / (torch.tensor(weights) * torch.tensor([100, 50, 10])).sum())
    data = batch(masks())
    with torch.no_grad():
        logits, auxiliary = made.network.forward_with_auxiliary(data.images)
        losses = [
            segmentation_loss(x, data.masks, class_weights=expected, focal_gamma=1.0, dice_weight=0.5)
            for x in (logits, auxiliary)
        ]
        torch.testing.assert_close(made.training_step(data, 0), losses[0] + 0.4 * losses[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "needs 3 weights"),
        ({"cat": 2.0}, "names 'cat', which are no classes"),
        ([0.0, 0.0, 0.0], "one above 0"),
        ([1.0, -1.0, 1.0], "at least 0"),
    ],
)
def test_class_weights_that_do_not_fit(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_fit(task(class_weights=given), [1, 1, 1])
