"""MESA: after a while the moving average of the weights teaches the network."""

import math
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from scalablevit.training.distillation import softened_binary_kl, softened_kl
from scalablevit.training.weight_averaging import WarmedUpAveraging


@dataclass(frozen=True)
class MesaSettings:
    """Learning from the moving average of one's own weights.

    Args:
        start: share of the run after which it begins, in [0, 1).
        weight: of temperature^2 * KL(average, network); above 0.
        temperature: both networks' logits are divided by it before their softmax; above 0.

    Raises:
        ValueError: a value is out of its range.

    Source: Sharpness-Aware Training for Free, arXiv:2205.14083, section 3.3.
    """

    start: float = 0.25
    weight: float = 1.0
    temperature: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"model.mesa.start is a share of the run, in [0, 1), got {self.start}")
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"model.mesa.{name} must be above 0, got {value}; set model.mesa to null for none")


class Mesa:
    """Finds the averaged network of a run, and compares the trained one with it.

    It is no `nn.Module`: the averaged weights stay in the callback that keeps them.

    Args:
        settings: when, and how much.
        trainer: of the run, once it knows its length.
        multi_label: classes do not exclude each other: each is compared by itself.

    Raises:
        ValueError: the run has no end, of which a share could be.
    """

    def __init__(self, settings: MesaSettings, trainer: Trainer, *, multi_label: bool = False) -> None:
        self.settings = settings
        self._compare = softened_binary_kl if multi_label else softened_kl
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("model.mesa needs to know the run's length: set trainer.max_epochs or trainer.max_steps")
        self.first_step = math.ceil(settings.start * steps)
        self._averaging = next(
            callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, WarmedUpAveraging)
        )

    def __deepcopy__(self, memo: object) -> "Mesa":
        """The same one: it holds nothing that a copy of the network should have for itself."""
        return self

    def loss(self, logits: Tensor, images: Tensor, *, step: int) -> Tensor | None:
        """The loss times its weight; None before it begins.

        Args:
            logits: (B, K), of the trained network for `images`.
            images: (B, C, H, W), as the trained network was given them.
            step: optimizer steps that were made.
        """
        if step < self.first_step:
            return None
        network: nn.Module = self._averaging.averaged.network  # type: ignore[assignment]
        with torch.no_grad():
            taught = network(images)
        return self.settings.weight * self._compare(logits, taught, self.settings.temperature)
