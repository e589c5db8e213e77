"""A teacher: how it is opened, what it is shown, what is learned of it, and what of it is kept."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.training.distillation import Distillation, feature_loss, softened_kl
from scalablevit.training.teacher import Teacher, TeacherSettings, check_identity
from scalablevit.training.teacher_network import open_teacher
from scalablevit.weights import save_model

NAMES = ["ant", "bee", "fly"]
GRAY = {"image_size": [16, 16], "crop_ratio": 1.0, "interpolation": "bicubic"}
TIMM = "test_efficientnet.r160_in1k"


def network(seed: int = 0, **options: Any) -> ScalableViT:
    torch.manual_seed(seed)
    numbers = {**VARIANTS["scalablevit_atto"], "in_chans": 1, "num_classes": 3, "window_size": 2, **options}
    return ScalableViT(**numbers).eval()


def write_run(folder: Path, *, names: list[str] = NAMES, task: str = "classification", **options: Any) -> ScalableViT:
    """The weights of a run, as `fit` leaves them."""
    made = network(num_classes=len(names), **options)
    folder.mkdir()
    preprocessing = {**GRAY, "mean": [0.5] * made.in_chans, "std": [0.25] * made.in_chans}
    save_model(
        made,
        folder,
        architecture="scalablevit_atto",
        model_args={"num_classes": len(names), "in_chans": made.in_chans, "window_size": 2},
        metadata={"task": task, "class_names": names, "preprocessing": preprocessing},
    )
    return made


def teacher(run: Path, *, names: list[str] = NAMES, mean: Any = (0.5,), std: Any = (0.25,), **settings: Any) -> Teacher:
    return Teacher(TeacherSettings(name=str(run), **settings), class_names=names, mean=mean, std=std)


def images(channels: int = 1, side: int = 16) -> Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network of timm, with three classes of its own."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "weights.pth"
    torch.save(timm.create_model(TIMM, num_classes=3).state_dict(), file)
    return file


def test_the_same_input_gives_what_the_network_gives(run: Path) -> None:
    made = teacher(run)
    assert torch.allclose(made(images()).logits, network()(images()), atol=1e-6)


def test_the_view_is_the_same_image_at_the_teachers_own_normalisation_and_size(run: Path) -> None:
    made = teacher(run, mean=(0.2,), std=(0.5,), size=32)
    pixels = images() * 0.5 + 0.2
    expected = (F.interpolate(pixels, (32, 32), mode="bicubic", antialias=True) - 0.5) / 0.25
    assert torch.allclose(made.view(images()), expected, atol=1e-6)
    assert made.view(images(side=40)).shape == (4, 1, 32, 32)


def test_gray_and_colour_meet(run: Path, tmp_path: Path) -> None:
    colour = torch.rand(4, 3, 16, 16)
    gray = teacher(run, mean=(0.0,) * 3, std=(1.0,) * 3).view(colour) * 0.25 + 0.5
    luma = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    assert torch.allclose(gray[:, 0], luma, atol=1e-6)
    write_run(tmp_path / "colour", in_chans=3)
    shown = teacher(tmp_path / "colour").view(images())
    assert shown.shape[1] == 3
    assert torch.allclose(shown[:, 2], images()[:, 0], atol=1e-6)
    five = teacher(run, mean=(0.0,) * 5, std=(1.0,) * 5)
    with pytest.raises(ValueError, match=r"takes 1 channel\(s\), the images have 5"):
        five.view(images(5))


def test_classes_in_another_order_are_sorted(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", names=["fly", "ant", "bee"])
    logits = teacher(tmp_path / "run")(images()).logits
    assert torch.allclose(logits, made(images())[:, [1, 2, 0]], atol=1e-6)


@pytest.mark.parametrize("names", [["ant", "bee"], ["ant", "bee", "wasp"]])
def test_other_classes_are_refused_for_logits_and_not_for_features(run: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"has 3 classes \(ant.*the data have .*pooled_weight 1") as refused:
        teacher(run, names=names)
    assert names[-1] in str(refused.value)
    assert teacher(run, names=names, weight=0, pooled_weight=1)(images()).pooled.shape == (4, 128)


def test_it_is_frozen_and_draws_nothing(run: Path) -> None:
    made = teacher(run)
    before = torch.get_rng_state()
    logits = made(images().requires_grad_()).logits
    assert torch.equal(torch.get_rng_state(), before)
    assert not logits.requires_grad
    assert not made.network.training
    assert not any(p.requires_grad for p in made.network.parameters())


def test_it_is_in_no_state_and_copies_share_it(run: Path) -> None:
    learner = network(1)
    logits_only = Distillation(teacher(run), learner, (1, 16, 16))
    assert logits_only.state_dict() == {}
    assert list(logits_only.parameters()) == []
    features = Distillation(teacher(run, pooled_weight=1, dense_weight=1), learner, (1, 16, 16))
    assert set(features.state_dict()) == {
        f"projections.{k}.{p}" for k in ("pooled", "dense") for p in ("weight", "bias")
    }
    assert copy.deepcopy(features).teacher is features.teacher


def test_the_loss_of_logits_is_hintons() -> None:
    own, taught = torch.randn(5, 3), torch.randn(5, 3)
    p, q = (own / 2).softmax(1), (taught / 2).softmax(1)
    expected = 4 * (q * (q.log() - p.log())).sum(1).mean()
    assert torch.allclose(softened_kl(own, taught, 2.0), expected, atol=1e-6)
    assert softened_kl(own, own, 2.0).abs() < 1e-6


def test_gradients_of_logits_do_not_grow_with_the_temperature() -> None:
    own, taught = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    sizes = [torch.autograd.grad(softened_kl(own, taught, t), own)[0].norm().item() for t in (50.0, 100.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_features_are_compared_normalised() -> None:
    taught = torch.randn(2, 4, 4, 8) * 7 + 3
    assert feature_loss(F.layer_norm(taught, (8,)), taught) == 0
    assert feature_loss(torch.zeros(2, 4, 4, 8), taught) > 0.1


@pytest.mark.parametrize("other", ["ours", "timms"])
def test_features_are_learned_of_any_network(run: Path, timm_file: Path, other: str) -> None:
    """Grids differ too: 2 x 2 of ours at 48 pixels, 5 x 5 of timm's at 160."""
    options: dict[str, Any] = {"weight": 0.0, "pooled_weight": 2.0, "dense_weight": 3.0}
    if other == "ours":
        made = teacher(run, **options)
    else:
        settings = TeacherSettings(name=TIMM, weights=str(timm_file), **options)
        made = Teacher(settings, class_names=["a", "b"], mean=(0.5,), std=(0.25,))
    learner = network(1)
    distillation = Distillation(made, learner, (1, 48, 48))
    losses = distillation(distillation.outputs(learner, images(side=48)), images(side=48))
    assert set(losses) == {"teacher_pooled", "teacher_dense"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in distillation.parameters())
    assert learner.stages[0].blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    doubled = Distillation(made, learner, (1, 48, 48))
    doubled.load_state_dict(distillation.state_dict())
    doubled.weights = {"pooled": 4.0, "dense": 3.0}
    again = doubled(doubled.outputs(learner, images(side=48)), images(side=48))
    assert again["teacher_pooled"].item() == pytest.approx(2 * losses["teacher_pooled"].item())


def test_features_can_be_learned_until_they_agree(run: Path) -> None:
    learner = network(1)
    distillation = Distillation(teacher(run, weight=0, pooled_weight=1), learner, (1, 16, 16))
    optimizer = torch.optim.AdamW([*learner.parameters(), *distillation.parameters()], lr=3e-3)
    found = []
    for _ in range(15):
        (loss,) = distillation(distillation.outputs(learner, images()), images()).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0] / 2


def test_a_network_of_timm_by_its_name_and_a_file(timm_file: Path) -> None:
    opened = open_teacher(TIMM, weights=str(timm_file))
    assert (opened.num_classes, opened.image_size, opened.class_names) == (3, (160, 160), None)
    said = Teacher(
        TeacherSettings(name=TIMM, weights=str(timm_file), size=64), class_names=NAMES, mean=(0.5,), std=(0.5,)
    ).announcement()
    assert "64 x 64" in said[0]
    assert "0.1 M parameters" in said[0]
    assert "does not name its 3 classes" in said[2]


def test_the_authors_checkpoint_is_known_by_its_tensors(tmp_path: Path) -> None:
    made = network(in_chans=3, window_size=7, head="published")
    torch.save({"model": made.state_dict()}, tmp_path / "published.pth")
    opened = open_teacher(str(tmp_path / "published.pth"))
    colour = torch.randn(2, 3, 32, 32)
    assert torch.equal(opened.network(colour), made(colour))
    assert opened.image_size == (224, 224)
    assert len(opened.mean) == 3


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("", None, "name is missing"),
        ("resnet_50", None, "neither a file or folder, nor a network of timm; did you mean resnet50"),
        ("scalablevit_small", None, "could not be had with its weights .*give their file by model.teacher.weights"),
        ("nowhere/run", None, "no such file or folder"),
        ("{run}", "other.pth", "leave one of them out"),
        ("{detector}", None, "holds weights for 'detection'"),
        ("{ckpt}", None, "is a checkpoint to resume from; a teacher is the run itself: end that run"),
        ("resnet18", "{timm}", "does not fit resnet18"),
        ("{timm}", None, "holds not a ScalableViT"),
    ],
)
def test_what_cannot_teach(
    name: str, weights: str | None, words: str, run: Path, timm_file: Path, tmp_path: Path
) -> None:
    places = {"run": run, "timm": timm_file, "detector": tmp_path / "detector"}
    places["ckpt"] = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    if "detector" in name:
        write_run(tmp_path / "detector", task="detection")
    if "ckpt" in name:
        places["ckpt"].parent.mkdir(parents=True)
        places["ckpt"].touch()
        (tmp_path / "cut" / "recipe.yaml").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_teacher(name.format(**places), weights=weights and weights.format(**places))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"weight": -1}, "model.teacher.weight must be at least 0"),
        ({"weight": 0}, "teaches nothing"),
        ({"size": [1, 2, 3]}, "must be a side"),
        ({"size": 0}, "must be a side"),
        ({"label_weight": float("nan")}, "label_weight must be at least 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TeacherSettings(name="x", **settings)


def test_a_resumed_run_knows_its_teacher(run: Path, tmp_path: Path) -> None:
    made = teacher(run)
    check_identity(made.identity(), teacher(run))
    check_identity(None, None)
    moved = tmp_path / "moved"
    write_run(moved)
    check_identity(made.identity(), teacher(moved))
    other = tmp_path / "other"
    write_run(other, seed=5)
    with pytest.raises(
        ValueError, match=r"other is not the teacher that the run was trained with .*its weights differ"
    ):
        check_identity(made.identity(), teacher(other))
    with pytest.raises(ValueError, match="its size differ"):
        check_identity(made.identity(), teacher(run, size=24))
    with pytest.raises(ValueError, match=r"was trained with the teacher .* would go on with no teacher"):
        check_identity(made.identity(), None)
    with pytest.raises(ValueError, match="was trained with no teacher"):
        check_identity(None, made)


def test_a_learner_in_half_precision_is_taught_by_one_in_full(run: Path) -> None:
    half = teacher(run)(images().bfloat16()).logits
    assert torch.allclose(half.float(), network()(images()), atol=0.05)
    assert next(nn.Module.parameters(teacher(run).network)).dtype == torch.float32


class Headless(nn.Module):
    """Gives logits alone."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).expand(-1, 3)


@pytest.mark.parametrize("kind", ["pooled", "dense"])
def test_features_that_a_network_has_not_are_told_before_training(run: Path, kind: str) -> None:
    made = teacher(run, weight=0.0, **{f"{kind}_weight": 1.0})
    words = (
        r"model.teacher: Headless cannot be run on images of 16 x 16 pixels .*: leave out model.teacher.dense_weight"
    )
    with pytest.raises(ValueError, match=words):
        Distillation(made, Headless(), (1, 16, 16))


def test_a_size_that_the_teacher_cannot_take_is_told_before_training(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ScalableViT, images: Tensor) -> Tensor:
        raise AssertionError("Input height (9) doesn't match model (16).")

    monkeypatch.setattr(ScalableViT, "forward", fail)
    words = r"cannot be run on images of 9 x 9 pixels \(Input height .*: change model.teacher.size"
    with pytest.raises(ValueError, match=words):
        teacher(run, size=9)
