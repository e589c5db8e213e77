"""Classifiers of several labels an image: loss, metrics, predictions and explanations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn

from label_tables import CLASSES, labels_of, write_labelled
from scalablevit.classification import ClassificationTask, Classifier, ImageTableData, MultiLabelTask, Preprocessing
from scalablevit.classification.data import ClassificationBatch
from scalablevit.classification.explained import subject_of
from scalablevit.classification.losses import binary_cross_entropy
from scalablevit.classification.multi_label_draw import draw_average_precision, draw_predictions
from scalablevit.classification.multi_label_evaluate import MultiLabelEvaluation, evaluate
from scalablevit.classification.multi_label_task import positive_weights_of
from scalablevit.classification.task import MixupSettings
from scalablevit.training.distillation import softened_binary_kl
from scalablevit.training.teacher import TeacherSettings

PREPROCESSING = Preprocessing((16, 16), 1.0, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Fixed(nn.Module):
    """Gives the logits that it was made with, whatever the images are."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.num_classes, self.in_chans = logits, logits.shape[1], 3

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


def task(**options: Any) -> MultiLabelTask:
    return MultiLabelTask(
        "scalablevit_atto",
        class_names=list(CLASSES),
        preprocessing=PREPROCESSING.to_dict(),
        window_size=2,
        **options,
    )


def test_the_loss_is_binary_cross_entropy_of_smoothed_labels() -> None:
    module = task(label_smoothing=0.2)
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3))
    aims = targets * 0.8 + 0.1
    expected = F.binary_cross_entropy_with_logits(logits, aims)
    assert torch.equal(module._label_loss(logits, targets, None), expected)
    assert torch.allclose(binary_cross_entropy(logits, aims), expected)


def test_positive_weights_are_those_of_torch() -> None:
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    weights = positive_weights_of({"cat": 4.0}, list(CLASSES), [1, 1, 1], 5)
    assert weights.tolist() == [1.0, 4.0, 1.0]
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    assert torch.allclose(binary_cross_entropy(logits, targets, positive_weights=weights), expected)
    assert positive_weights_of("balanced", list(CLASSES), [0, 5, 50], 100).tolist() == [100.0, 19.0, 1.0]
    for wrong in ({"fox": 2.0}, [1.0], [0.0, 1.0, 1.0], "even"):
        with pytest.raises(ValueError, match=r"model\.positive_weights"):
            positive_weights_of(wrong, list(CLASSES), [1, 1, 1], 3)  # type: ignore[arg-type]


def test_focal_loss_counts_easy_answers_less_and_has_a_gradient() -> None:
    logits = torch.tensor([[8.0, 0.1, -200.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0, 0.0]])
    loss = binary_cross_entropy(logits, targets, focal_gamma=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    easy = binary_cross_entropy(logits[:, :1], targets[:, :1], focal_gamma=2.0)
    assert easy < 1e-6 * F.binary_cross_entropy_with_logits(logits[:, :1], targets[:, :1])


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}, {}])
def test_mixing_keeps_the_share_of_each_label(alphas: dict[str, float]) -> None:
    module = task(mixup=MixupSettings(**alphas))
    torch.manual_seed(0)
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 16, 16)  # each its own number
    targets = torch.eye(3, dtype=torch.int64)
    mixed, spread = module._mixed(images, targets)
    assert not torch.equal(mixed, images)
    shares = mixed.mean(dim=(1, 2, 3))
    assert torch.allclose(spread @ torch.arange(3.0), shares, atol=1e-5)
    assert torch.allclose(spread.sum(1), torch.ones(3))


def test_metrics_agree_with_scikit_learn(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator).round(decimals=1)  # with ties
    targets = torch.randint(0, 2, (40, 3), generator=generator)
    targets[:, 2] = 0
    result = MultiLabelEvaluation(logits.sigmoid(), targets, torch.arange(40), [])
    found = result.summary(CLASSES)
    expected = [average_precision_score(targets[:, k], logits[:, k]) for k in (0, 1)]
    assert [row["average_precision"] for row in found["per_class"]] == [*map(pytest.approx, expected), None]
    assert found["mAP"] == pytest.approx(np.mean(expected))
    said = (logits > 0).int()
    assert found["macro_f1"] == pytest.approx(f1_score(targets[:, :2], said[:, :2], average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(targets, said, average="micro"))
    assert found["exact_match"] == pytest.approx((said == targets).all(1).double().mean().item())
    draw_average_precision(found["per_class"], tmp_path / "ap.png")
    assert Image.open(tmp_path / "ap.png").width > 300


def test_validation_logs_the_metrics_of_the_whole_set_and_leaves_out_unreadable_images() -> None:
    module = task()
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(9, 3, generator=generator), torch.randint(0, 2, (9, 3), generator=generator)
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    images = torch.zeros(10, 3, 16, 16)
    lost = torch.full((1, 3), -1)
    for part in (slice(0, 4), slice(4, 9)):
        module.network = Fixed(logits[part])
        batch = ClassificationBatch(images[: len(logits[part]) + 1], torch.cat([targets[part], lost]), [])
        module.validation_step(batch, 0)
    module.validation_step(ClassificationBatch(images[:1], lost, []), 0)
    module.on_validation_epoch_end()
    expected = MultiLabelEvaluation(logits.sigmoid(), targets, torch.arange(9), []).summary(CLASSES)
    assert logged["val/mAP"] == pytest.approx(expected["mAP"])
    assert logged["val/macro_f1"] == pytest.approx(expected["macro_f1"])
    assert logged["val/micro_f1"] == pytest.approx(expected["micro_f1"])
    assert logged["val/loss"] == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, targets.float())))


def test_a_network_without_numbers_is_wrong_in_every_label(caplog: pytest.LogCaptureFixture) -> None:
    targets = torch.tensor([[1, 1, 0]] * 3 + [[0, 0, 1]] * 5)  # positives first, where a NaN would rank
    module = task()
    module.network = Fixed(torch.full((8, 3), torch.nan))
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    module.validation_step(ClassificationBatch(torch.zeros(8, 3, 16, 16), targets, []), 0)
    module.on_validation_epoch_end()
    assert logged["val/micro_f1"] == 0
    assert logged["val/mAP"] == pytest.approx((3 + 3 + 5) / 8 / 3)  # the shares of images that show each class
    assert not np.isfinite(logged["val/loss"])
    assert "8 of 8 images are not numbers" in caplog.text


def test_an_image_without_numbers_leaves_the_others_as_they_are() -> None:
    logits, targets = torch.tensor([[4.0, -4.0, -0.5]] * 3), torch.tensor([[1, 0, 0]] * 3)
    logits[1, 2] = torch.nan
    module = task()
    module.network = Fixed(logits)
    module.validation_step(ClassificationBatch(torch.zeros(3, 3, 16, 16), targets, []), 0)
    hits, false, *_ = module.val_counts.compute().T.tolist()
    assert (hits, false) == ([2, 0, 0], [0, 1, 1])


def test_a_process_without_a_readable_image_still_has_something_to_gather() -> None:
    module = task()
    module.validation_step(ClassificationBatch(torch.zeros(1, 3, 16, 16), torch.full((1, 3), -1), []), 0)
    assert [tuple(part.shape) for part in module.val_precision.preds] == [(0, 3)]
    assert [(tuple(part.shape), part.dtype) for part in module.val_precision.target] == [((0, 3), torch.int64)]


def test_what_is_not_measured_is_null_in_the_results() -> None:
    nothing = MultiLabelEvaluation(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.int64), torch.arange(2), [])
    assert nothing.summary(CLASSES)["mAP"] is None


def test_data_of_a_table(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    (root / "images" / "5.png").write_bytes(b"no image")
    data = ImageTableData(root, image_size=16, num_workers=0, batch_size=4, augmentation=None)
    assert data.class_names == list(CLASSES)
    assert "without labels" in data.summary()
    for dataset in (data.train_dataset, data.val_dataset):
        for i in range(len(dataset)):
            number = int(dataset.path(i).stem)
            sample = dataset[i]
            own = [CLASSES[k] for k in np.flatnonzero(sample.target)]
            if number != 5:
                assert own == labels_of(number)
            assert len(sample.unreadable) == (number == 5)
    unreadable = data.val_dataset.__class__(
        root, ["images/5.png"], np.ones((1, 3), np.int8), transform=PREPROCESSING.eval_transform(),
        image_shape=(3, 16, 16), max_substitutes=0,
    )  # fmt: skip
    assert unreadable[0].target.tolist() == [-1, -1, -1]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="none of the 1 images"):
        evaluate(Fixed(torch.zeros(1, 3)), unreadable, batch_size=1)


def test_the_sheet_of_predictions(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    data = ImageTableData(root, image_size=16, num_workers=0, val_fraction=0.5, augmentation=None)
    count = len(data.val_dataset)
    result = evaluate(Fixed(torch.randn(count, 3)), data.val_dataset, batch_size=count)
    draw_predictions(result, data.val_dataset, CLASSES, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").height > 200


def predictor(logits: list[list[float]], **metadata: Any) -> Classifier:
    known = {"task": "classification", "class_names": list(CLASSES), "preprocessing": PREPROCESSING.to_dict()}
    return Classifier.from_metadata(Fixed(torch.tensor(logits)), {**known, **metadata}, source="here", device="cpu")


def test_all_labels_above_the_threshold_are_predicted() -> None:
    image = Image.new("RGB", (20, 16))
    classifier = predictor([[2.0, 0.0, 1.0]], multi_label=True)
    (found,) = classifier.predict(image, keep_images=True)
    assert found.classes == ["bird", "dog"]  # the other is at 0.5, not above
    assert found.probabilities == pytest.approx([0.8808, 0.7311], abs=1e-4)
    assert found.to_dict()["threshold"] == 0.5
    assert next(classifier.predict(image, threshold=0.4)).classes == ["bird", "dog", "cat"]
    assert next(classifier.predict(image, threshold=0.4, top=1)).classes == ["bird"]
    (nothing,) = classifier.predict(image, threshold=0.99, keep_images=True)
    assert (nothing.classes, nothing.table_rows(), nothing.to_dict()["predictions"]) == ([], [], [])
    assert nothing.output_images()[""].height > 16
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], got 2"):
        next(classifier.predict(image, threshold=2.0))


def test_values_that_are_no_numbers_are_shown() -> None:
    (found,) = predictor([[float("nan"), 3.0, -3.0]], multi_label=True).predict(Image.new("RGB", (16, 16)))
    assert len(found.classes) == 2


def test_a_threshold_is_for_networks_of_several_labels() -> None:
    with pytest.raises(ValueError, match="one class an image: choose the number of classes by top"):
        next(predictor([[2.0, 0.0, 1.0]]).predict(Image.new("RGB", (16, 16)), threshold=0.3))
    (found,) = predictor([[2.0, 0.0, 1.0]]).predict(Image.new("RGB", (16, 16)))
    assert (sum(found.probabilities), found.threshold) == (pytest.approx(1.0), None)


def test_every_label_above_the_threshold_is_explained() -> None:
    classifier = predictor([[2.0, 0.0, 1.0]], multi_label=True)
    image = Image.new("RGB", (16, 16))

    def targets(threshold: float, name: str | None = None) -> list[tuple[str, str]]:
        subject = subject_of(classifier, Path("a.png"), image, threshold)
        return [(target.name, target.words) for target in subject.find_targets(name)]

    assert targets(0.5) == [("bird", "88.1%"), ("dog", "73.1%")]
    assert targets(0.9) == [("bird", "88.1%")]
    assert targets(0.5, "cat") == [("cat", "50.0%")]


def test_the_binary_divergence_is_zero_at_the_teacher_and_pulls_each_class_by_itself() -> None:
    taught = torch.tensor([[3.0, -2.0, 0.5]])
    assert softened_binary_kl(taught, taught, 2.0) == 0
    logits = torch.tensor([[3.0, -2.0, 2.5]], requires_grad=True)
    loss = softened_binary_kl(logits, taught, 2.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, :2].abs().max() < 1e-7
    assert gradient[0, 2] > 0
    p, q = torch.distributions.Bernoulli(logits=taught / 2), torch.distributions.Bernoulli(logits=logits.detach() / 2)
    assert torch.allclose(loss, torch.distributions.kl_divergence(p, q).mean() * 4)


def saved(folder: Path, module: ClassificationTask) -> Path:
    folder.mkdir()
    module.save_weights(folder, module._shared_metadata())
    return folder


def test_a_teacher_must_be_of_the_same_kind_to_teach_logits(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"class_names": list(CLASSES), "preprocessing": PREPROCESSING.to_dict(), "window_size": 2}
    single = saved(tmp_path / "single", ClassificationTask("scalablevit_atto", **shared))
    several = saved(tmp_path / "several", task())
    with pytest.raises(ValueError, match="was trained for one class an image, and this network is for any number"):
        task(teacher=TeacherSettings(name=str(single)))
    with pytest.raises(ValueError, match="was trained for any number of labels an image"):
        ClassificationTask("scalablevit_atto", teacher=TeacherSettings(name=str(several)), **shared)
    learner = task(teacher=TeacherSettings(name=str(several)))
    loss, parts = learner._loss(torch.randn(2, 3, 16, 16), torch.tensor([[1, 0, 1], [0, 0, 0]]))
    assert torch.isfinite(loss)
    assert list(parts) == ["teacher_logits"]
    assert Classifier.load(several, device="cpu").multi_label
    assert not Classifier.load(single, device="cpu").multi_label


def test_balanced_class_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set model\.positive_weights to balanced, or give weights by class"):
        task(class_weights="balanced")
