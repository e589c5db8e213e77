"""MESA: when the averaged weights begin to teach, and what they teach."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from scalablevit.classification import ClassificationTask, Preprocessing
from scalablevit.training.distillation import softened_kl
from scalablevit.training.mesa import Mesa, MesaSettings
from scalablevit.training.weight_averaging import WarmedUpAveraging

PREPROCESSING = Preprocessing((16, 16), 1.0, "bicubic", (0.5,), (0.5,)).to_dict()


def trainer(steps: float = 40, averaged: nn.Module | None = None) -> Any:
    callback = WarmedUpAveraging(0.9)
    callback._average_model = SimpleNamespace(module=SimpleNamespace(network=averaged))
    return SimpleNamespace(estimated_stepping_batches=steps, callbacks=[callback])


def test_it_begins_after_its_share_of_the_steps() -> None:
    mesa = Mesa(MesaSettings(start=0.26, weight=2.0, temperature=4.0), trainer(averaged=nn.Linear(3, 3)))
    logits, images = torch.randn(2, 3), torch.randn(2, 3)
    assert mesa.loss(logits, images, step=10) is None
    taught = mesa._averaging.averaged.network(images).detach()
    loss = mesa.loss(logits, images, step=11)
    assert loss is not None
    assert loss.item() == pytest.approx(2 * softened_kl(logits, taught, 4.0).item())
    assert mesa.loss(logits.requires_grad_(), images, step=39).requires_grad
    at_once = Mesa(MesaSettings(start=0), trainer(averaged=nn.Linear(3, 3)))
    assert at_once.loss(logits, images, step=0) is not None


def test_the_average_gets_no_gradient() -> None:
    averaged = nn.Linear(3, 3)
    mesa = Mesa(MesaSettings(start=0), trainer(averaged=averaged))
    mesa.loss(torch.randn(2, 3, requires_grad=True), torch.randn(2, 3), step=0).backward()
    assert averaged.weight.grad is None


def test_a_run_without_an_end_has_no_share() -> None:
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        Mesa(MesaSettings(), trainer(float("inf")))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": 1.0}, "model.mesa.start is a share of the run"),
        ({"start": -0.1}, "model.mesa.start is a share of the run"),
        ({"weight": 0}, "model.mesa.weight must be above 0"),
        ({"temperature": float("inf")}, "model.mesa.temperature must be above 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MesaSettings(**settings)


def test_it_needs_averaged_weights() -> None:
    with pytest.raises(ValueError, match=r"model\.ema_decay is null: set it"):
        ClassificationTask("scalablevit_atto", class_names=["a", "b"], preprocessing=PREPROCESSING, mesa=MesaSettings())
