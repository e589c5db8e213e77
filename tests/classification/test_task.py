"""The classifier's losses, metrics and checkpoints."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scalablevit.classification import ClassificationTask, MixupSettings, Preprocessing
from scalablevit.classification.data import ClassificationBatch
from scalablevit.training.settings import OptimizerSettings

PREPROCESSING = Preprocessing((16, 16), 1.0, "bicubic", (0.5,), (0.5,)).to_dict()


def task(num_classes: int = 3, **options: Any) -> ClassificationTask:
    names = [f"class {i}" for i in range(num_classes)]
    made = ClassificationTask("scalablevit_atto", class_names=names, preprocessing=PREPROCESSING, **options)
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made.eval()


def batch(*targets: int) -> ClassificationBatch:
    images = torch.randn(len(targets), 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return ClassificationBatch(images, torch.tensor(targets), [])


def test_training_loss_is_smoothed_cross_entropy() -> None:
    made, data = task(label_smoothing=0.2), batch(0, 2, 1)
    log_p = made.network(data.images).log_softmax(1).detach()
    target = F.one_hot(data.targets, 3) * 0.8 + 0.2 / 3
    assert made.training_step(data, 0).item() == pytest.approx(float(-(target * log_p).sum(1).mean()), rel=1e-5)


def test_mixup_mixes_targets_as_it_mixes_images() -> None:
    """With mixup alone and lam known, the loss is that of the mixed batch."""
    made, data = task(label_smoothing=0.0, mixup=MixupSettings(cutmix_alpha=0.0)), batch(0, 2, 1, 1)
    assert made.mixup is not None
    made.mixup._params_per_batch = lambda: (0.7, False)
    mixed = data.images * 0.7 + data.images.flip(0) * 0.3
    target = F.one_hot(data.targets, 3) * 0.7 + F.one_hot(data.targets.flip(0), 3) * 0.3
    expected = -(target * made.network(mixed).log_softmax(1).detach()).sum(1).mean()
    given = ClassificationBatch(data.images.clone(), data.targets, [])
    assert made.training_step(given, 0).item() == pytest.approx(float(expected), rel=1e-5)
    assert made.training_step(batch(0, 1, 2), 0).isfinite()


def test_validation_leaves_out_what_could_not_be_read() -> None:
    made, data = task(), batch(0, -1, 2, 1)
    with torch.no_grad():
        made.validation_step(data, 0)
        made.validation_step(batch(-1, -1), 1)
    readable = [0, 2, 3]
    logits = made.network(data.images[readable])
    targets = data.targets[readable]
    assert made.val_loss.compute() == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    assert made.val_top1.compute() == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert made.val_top5 is None
    assert task(6).val_top5 is not None


def test_the_seed_makes_the_weights_whatever_ran_before() -> None:
    first = task(seed=3).network.state_dict()
    torch.rand(5)
    again, other = task(seed=3).network.state_dict(), task(seed=4).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"optimizer": OptimizerSettings(), "weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        task(**options)


@pytest.mark.parametrize(
    "settings",
    [{"mixup_alpha": -1}, {"prob": 2}, {"switch_prob": -0.1}, {"mixup_alpha": 0, "cutmix_alpha": 0}],
)
def test_wrong_mixup_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mixup"):
        MixupSettings(**settings)


def test_options_reach_the_network() -> None:
    made = task(scale_value=True, window_size=[4, 4, 2, 1], head="published", drop_path_rate=0.3)
    names = made.network.state_dict()
    assert any(name.endswith("attn.kv.weight") and name.startswith("stages.0") for name in names)
    assert any(name.startswith("head.hidden") for name in names)
    assert made.model_args["in_chans"] == 1
    assert made.network.num_classes == 3


def test_outputs_that_are_not_numbers_are_no_hits_for_the_first_class(caplog: pytest.LogCaptureFixture) -> None:
    made, data = task(num_classes=6), batch(0, 0, 0, 5)
    logits = torch.eye(6)[[0, 0, 1, 5]]
    logits[1, 3] = torch.nan
    made.network.forward = lambda images: logits.clone()  # type: ignore[method-assign]
    made.validation_step(data, 0)
    assert made.val_top1.compute() == 0.5
    assert made.val_top5 is not None
    assert made.val_top5.compute() == 0.75
    assert not made.val_loss.compute().isfinite()
    assert "for 1 of 4 images are not numbers, and count as wrong" in caplog.text
