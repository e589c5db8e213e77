"""Rare classes count more where the recipe says so, and mixing leaves nothing out without a word."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalablevit.classification import ClassificationTask, MixupSettings, Preprocessing
from scalablevit.classification.class_names import read_class_names
from scalablevit.classification.data import ClassificationBatch
from scalablevit.classification.losses import soft_cross_entropy, soft_targets
from scalablevit.data.class_report import class_report, confusion_as_json, macro_mean
from scalablevit.data.loaders import ShardedSampler
from scalablevit.training.class_weights import weights_of_classes

PREPROCESSING = Preprocessing((16, 16), 1.0, "bicubic", (0.5,), (0.5,)).to_dict()
NAMES = ["ant", "bee", "fly"]


def task(**options: Any) -> ClassificationTask:
    made = ClassificationTask("scalablevit_atto", class_names=NAMES, preprocessing=PREPROCESSING, **options)
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made.eval()


def batch(*targets: int) -> ClassificationBatch:
    images = torch.randn(len(targets), 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return ClassificationBatch(images, torch.tensor(targets), [])


def test_of_an_odd_batch_all_but_one_are_mixed() -> None:
    made, data = task(label_smoothing=0.1, mixup=MixupSettings(cutmix_alpha=0.0)), batch(0, 2, 1)
    assert made.mixup is not None
    made.mixup._params_per_batch = lambda: (0.7, False)
    images, targets = made._mixed(data.images.clone(), data.targets)
    assert torch.allclose(images[:2], data.images[:2] * 0.7 + data.images[:2].flip(0) * 0.3)
    assert torch.equal(images[2], data.images[2])
    assert torch.allclose(targets[2], soft_targets(torch.tensor([1]), 3, 0.1)[0])
    assert torch.allclose(targets.sum(1), torch.ones(3))
    plain = task(label_smoothing=0.1)
    assert made.training_step(batch(0, 2, 1), 0) != plain.training_step(batch(0, 2, 1), 0)
    assert made.training_step(batch(1), 0).item() == pytest.approx(plain.training_step(batch(1), 0).item(), rel=1e-5)


def test_mixing_that_never_happens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mixup\.prob 0 mixes nothing"):
        MixupSettings(prob=0)


def test_the_loss_is_pytorchs_where_they_overlap() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 0, 1])
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert torch.allclose(soft_cross_entropy(logits, soft_targets(targets, 3, smoothing)), expected)
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = F.cross_entropy(logits, targets, weight=weights, reduction="sum") / 6
    assert torch.allclose(soft_cross_entropy(logits, soft_targets(targets, 3, 0.0), class_weights=weights), expected)
    p = logits.softmax(1)[torch.arange(6), targets]
    focal = soft_cross_entropy(logits, soft_targets(targets, 3, 0.0), focal_gamma=2.0)
    assert torch.allclose(focal, (-((1 - p) ** 2) * p.log()).mean())


def test_gradients_are_finite_where_a_class_is_certain() -> None:
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    soft_cross_entropy(logits, torch.tensor([[1.0, 0.0]]), focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("balanced", [8 / 3 / 5, 8 / 3 / 2, 8 / 3]),
        ([1, 1, 1], [1, 1, 1]),
        ({"fly": 5.0}, [8 / 12, 8 / 12, 40 / 12]),
    ],
)
def test_weights_have_mean_1_over_the_training_images(given, expected) -> None:
    counts = [5, 2, 1]
    weights = weights_of_classes(given, NAMES, counts)
    assert weights.tolist() == pytest.approx(expected)
    assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(8)


def test_a_class_that_was_not_counted_weighs_as_the_rarest() -> None:
    weights = weights_of_classes("balanced", NAMES, [1_000_000, 10_000, 0]).tolist()
    assert weights[2] == weights[1] > weights[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], "needs 3 weights, one per class, got 2"),
        ({"wasp": 1}, "names 'wasp', which are no classes; they are 'ant', 'bee', 'fly'"),
        ([1, -1, 1], "must be at least 0"),
        ([1, float("nan"), 1], "must be at least 0"),
        ([0, 0, 0], "one above 0"),
        ("equal", "must be 'balanced'"),
    ],
)
def test_faulty_weights(given, words) -> None:
    with pytest.raises(ValueError, match=words):
        weights_of_classes(given, NAMES, [5, 2, 1])


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="focal_gamma must be above 0 or null, got 0"):
        task(focal_gamma=0)


def test_weights_change_the_loss_by_their_class() -> None:
    made, data = task(label_smoothing=0.0), batch(2, 2)
    plain = made.training_step(data, 0)
    made._class_weights = torch.tensor([1.0, 1.0, 3.0])
    assert made.training_step(data, 0).item() == pytest.approx(3 * plain.item(), rel=1e-5)


def sampler(**options: Any) -> ShardedSampler:
    classes = [0] * 90 + [1] * 9 + [2]
    settings = {
        "batch_size": 4,
        "seed": 3,
        "shuffle": True,
        "rank": 0,
        "world_size": 1,
        "drop_last": False,
        "pad": True,
    }
    return ShardedSampler(100, **{**settings, "classes": classes, **options})


def test_balanced_epochs_have_equally_many_of_each_class() -> None:
    made = sampler()
    keys = list(made)
    drawn = np.array([0] * 90 + [1] * 9 + [2])[[key.index for key in keys]]
    assert len(keys) == 100
    assert sorted(np.bincount(drawn).tolist()) == [33, 33, 34]
    assert len(set(keys)) == 100, "what comes again is augmented in another way"
    often = [sum(key.index == i for key in keys) for i in range(90, 99)]
    assert max(often) - min(often) <= 1
    made.set_epoch(1)
    assert list(made) != keys


def test_balanced_epochs_are_shared_and_resumed_as_others() -> None:
    whole = list(sampler())
    parts = [list(sampler(rank=rank, world_size=2)) for rank in (0, 1)]
    assert [key for pair in zip(*parts, strict=True) for key in pair] == whole
    resumed = sampler()
    resumed.skip_batches = 3
    assert list(resumed) == whole[12:]


def test_a_report_of_each_class() -> None:
    confusion = np.array([[3, 1, 0], [0, 0, 2], [0, 0, 0]])
    report = class_report(NAMES, confusion)
    assert report[0] == {"class": "ant", "precision": 1.0, "recall": 0.75, "f1": 6 / 7, "support": 4, "predicted": 3}
    assert report[1]["precision"] == report[1]["recall"] == 0.0
    assert (report[2]["recall"], report[2]["support"], report[2]["precision"]) == (None, 0, 0.0)
    assert macro_mean(report, "recall") == pytest.approx(0.375)
    assert confusion_as_json(confusion) == {"confusion": confusion.tolist()}
    large = np.zeros((101, 101), int)
    large[3, 4] = 7
    assert confusion_as_json(large) == {"confusion_entries": [[3, 4, 7]]}


def test_the_report_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    report = class_report(list("abcd"), metrics.confusion_matrix(true, predicted))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(true, predicted)
    for k, row in enumerate(report):
        expected = (precision[k], recall[k], f1[k], support[k])
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == pytest.approx(expected)


@pytest.mark.slow
def test_many_classes_are_balanced_at_once() -> None:
    """ImageNet-21k's: a search for the members of each class would take minutes an epoch."""
    classes = np.random.default_rng(0).integers(0, 20_000, 1_000_000).tolist()
    options: dict[str, Any] = {"batch_size": 4, "seed": 0, "shuffle": True, "drop_last": True, "pad": True}
    made = ShardedSampler(len(classes), classes=classes, rank=0, world_size=1, **options)
    start = time.process_time()
    next(iter(made))
    assert time.process_time() - start < 10


def test_many_classes_are_named_at_once(tmp_path: Path) -> None:
    folders = [f"n{i:08}" for i in range(21_000)]
    file = tmp_path / "names.txt"
    file.write_text("".join(f"{folder} name {i // 2 if i < 2 else i}\n" for i, folder in enumerate(folders)))
    start = time.process_time()
    names = read_class_names(file, folders)
    assert time.process_time() - start < 1
    assert names[:3] == ["name 0 (n00000000)", "name 0 (n00000001)", "name 2"]


def test_class_weights_name_classes_with_accents_in_either_form() -> None:
    weights = weights_of_classes({"cafe\u0301": 3.0}, ["caf\u00e9", "tea"], [1, 1])
    assert weights.tolist() == [1.5, 0.5]
