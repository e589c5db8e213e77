"""Settings that all tasks share: optimizer, schedule, step size, averaging and seed, with their checks."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

OptimizerName = Literal["adamw", "muon"]
ScheduleName = Literal["cosine", "multistep", "poly", "constant"]


def _require(is_right: bool, name: str, what: str, value: Any) -> None:
    """Raise the ValueError that says what the setting must do, unless it does."""
    if not is_right:
        raise ValueError(f"{name} must {what}, got {value}")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, or Muon.

    Muon makes the update of each hidden matrix of the backbone orthogonal, and scales it to the size of AdamW's, so
    that the learning rate and the decay of AdamW serve. All other parameters are AdamW's.

    Source: Jordan et al., Muon, 2024; Liu et al., Muon is scalable for LLM training, arXiv:2502.16982.

    Args:
        name: which of both.
        lr: peak learning rate for `lr_batch` samples a step; it scales linearly with the global batch.
        lr_batch: see `lr`; null: `lr` is used as it is.
        weight_decay: of all but norms, biases and what the network excludes.
        betas: of AdamW.
        eps: of AdamW; of the norm that Muon divides by too.
        momentum: of Muon's matrices, in [0, 1).
        layer_decay: each layer towards the input learns by this factor more slowly; null: all alike.
    """

    name: OptimizerName = "adamw"
    lr: float = 1e-3
    lr_batch: int | None = 1024
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.95
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        names = get_args(OptimizerName)
        _require(self.name in names, "optimizer.name", f"be one of {', '.join(names)}", repr(self.name))
        _require(0 <= self.momentum < 1, "optimizer.momentum", "lie in [0, 1)", self.momentum)
        _require(math.isfinite(self.lr) and self.lr > 0, "optimizer.lr", "be above 0", self.lr)
        _require(
            self.lr_batch is None or self.lr_batch >= 1, "optimizer.lr_batch", "be at least 1 or null", self.lr_batch
        )
        at_least_0 = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        _require(at_least_0, "optimizer.weight_decay", "be at least 0", self.weight_decay)
        within = all(0 <= beta < 1 for beta in self.betas)
        _require(within, "optimizer.betas", "be two numbers in [0, 1)", list(self.betas))
        _require(math.isfinite(self.eps) and self.eps >= 0, "optimizer.eps", "be at least 0", self.eps)
        decay = self.layer_decay
        _require(decay is None or 0 < decay <= 1, "optimizer.layer_decay", "lie in (0, 1] or be null", decay)


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over the run, set anew at every optimizer step.

    Args:
        name: shape after the warm-up.
        warmup_epochs: length of the linear warm-up.
        warmup_steps: the same in optimizer steps; where given, `warmup_epochs` is not used.
        warmup_lr: where the warm-up starts: the absolute learning rate of the fastest group; the others in
            proportion.
        min_lr: where cosine and poly end; absolute as `warmup_lr` is.
        milestones: multistep: epochs, fractions allowed, after which the learning rate is multiplied by
            `gamma`.
        gamma: multistep: see `milestones`.
        power: poly: its exponent.
    """

    name: ScheduleName = "cosine"
    warmup_epochs: float = 5.0
    warmup_steps: int | None = None
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    milestones: list[float] | None = None
    gamma: float = 0.1
    power: float = 0.9

    def __post_init__(self) -> None:
        names = get_args(ScheduleName)
        _require(self.name in names, "schedule.name", f"be one of {', '.join(names)}", repr(self.name))
        for setting in ("warmup_epochs", "warmup_steps", "warmup_lr", "min_lr", "gamma", "power"):
            value = getattr(self, setting)
            at_least_0 = value is None or (math.isfinite(value) and value >= 0)
            _require(at_least_0, f"schedule.{setting}", "be at least 0", value)
        if self.name == "multistep" and not self.milestones:
            raise ValueError("schedule.name multistep needs schedule.milestones, for example [8, 11]")
        if self.name != "multistep" and self.milestones:
            raise ValueError(
                f"schedule.milestones {self.milestones} has no effect with schedule.name {self.name}: "
                "remove it, or choose multistep"
            )


@dataclass(frozen=True)
class FreezeSettings:
    """What of a backbone does not learn, and how long.

    Args:
        epochs: the first so many epochs, at least 1; null: the whole run.
        stages: the stem and the first so many stages, at least 1; null: all of the backbone.
    """

    epochs: int | None = None
    stages: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "stages"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"model.freeze.{name}", "be at least 1 or null", value)


DENSE_OTHER_KEYS = dict.fromkeys(
    ("teacher", "mesa"),
    "classification alone learns from a teacher or from averaged weights: train a classifier so, and start from it by "
    "model.weights",
)
"""What detection and segmentation have in the place of keys of classification."""

DEFAULT_OPTIMIZER = OptimizerSettings()
DEFAULT_SCHEDULE = ScheduleSettings()


@dataclass(frozen=True)
class TrainingSettings:
    """How a task is trained; every task takes these arguments beside its own.

    Args:
        optimizer: see `OptimizerSettings`.
        schedule: see `ScheduleSettings`.
        global_batch: samples an optimizer step over all devices; gradient accumulation follows from it, and where
            trainer.check_val_every_n_epoch is null, trainer.val_check_interval then counts optimizer steps.
            null: batch_size * devices * trainer.accumulate_grad_batches.
        ema_decay: decay of the moving average of the weights, in [0, 1); null: no averaging.
        max_nonfinite_steps: how many optimizer steps in a row may be dropped for non-finite gradients.
        patience: end the run early, after this many validations in a row without a better value of the metric that
            chooses the best checkpoint; null: train all epochs.
        freeze: what of the backbone does not learn, see `FreezeSettings`; null: all of it learns.
        seed: of the run; every step draws its random numbers from (seed, rank, epoch, batch).

    Raises:
        ValueError: a value is out of its range.
    """

    optimizer: OptimizerSettings = DEFAULT_OPTIMIZER
    schedule: ScheduleSettings = DEFAULT_SCHEDULE
    global_batch: int | None = None
    ema_decay: float | None = None
    max_nonfinite_steps: int = 10
    patience: int | None = None
    freeze: FreezeSettings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        batch, decay, steps = self.global_batch, self.ema_decay, self.max_nonfinite_steps
        _require(batch is None or batch >= 1, "global_batch", "be at least 1 or null", batch)
        _require(decay is None or 0 <= decay < 1, "ema_decay", "lie in [0, 1) or be null", decay)
        _require(steps >= 1, "max_nonfinite_steps", "be at least 1", steps)
        _require(self.patience is None or self.patience >= 1, "patience", "be at least 1 or null", self.patience)

    def training(self) -> dict[str, Any]:
        """These arguments by name, without those that a task adds to them."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingSettings)}
