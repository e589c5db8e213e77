"""The LightningModule that the three tasks share: optimizer, schedule, global batch, averaging, seeding."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from scalablevit.abridged import abridged
from scalablevit.backbone import VARIANTS
from scalablevit.data.loaders import ResumableLoader
from scalablevit.data.randomness import seed_all
from scalablevit.data.unreadable import UnreadableFiles
from scalablevit.training import schedules
from scalablevit.training.nonfinite_guard import NonFiniteGuard
from scalablevit.training.param_groups import parameter_groups
from scalablevit.training.weight_averaging import WarmedUpAveraging
from scalablevit.weights import LoadReport, holds_scaled_values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW.

    Args:
        lr: peak learning rate for `lr_batch` samples a step; it scales linearly with the global batch.
        lr_batch: see `lr`; null: `lr` is used as it is.
        weight_decay: of all but norms, biases and what the network excludes.
        betas: of AdamW.
        eps: of AdamW.
        layer_decay: each layer towards the input learns by this factor more slowly; null: all alike.
    """

    lr: float = 1e-3
    lr_batch: int | None = 1024
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be above 0, got {self.lr}")
        if self.lr_batch is not None and self.lr_batch < 1:
            raise ValueError(f"optimizer.lr_batch must be at least 1 or null, got {self.lr_batch}")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay must be at least 0, got {self.weight_decay}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay must lie in (0, 1] or be null, got {self.layer_decay}")


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

    name: Literal["cosine", "multistep", "poly", "constant"] = "cosine"
    warmup_epochs: float = 5.0
    warmup_steps: int | None = None
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    milestones: list[float] | None = None
    gamma: float = 0.1
    power: float = 0.9

    def __post_init__(self) -> None:
        names = ("cosine", "multistep", "poly", "constant")
        if self.name not in names:
            raise ValueError(f"schedule.name must be one of {', '.join(names)}, got {self.name!r}")
        for setting in ("warmup_epochs", "warmup_steps", "warmup_lr", "min_lr"):
            value = getattr(self, setting)
            if value is not None and value < 0:
                raise ValueError(f"schedule.{setting} must be at least 0, got {value}")
        if self.name == "multistep" and not self.milestones:
            raise ValueError("schedule.name multistep needs schedule.milestones, for example [8, 11]")
        if self.name != "multistep" and self.milestones:
            raise ValueError(
                f"schedule.milestones {self.milestones} has no effect with schedule.name {self.name}: "
                "remove it, or choose multistep"
            )


DEFAULT_OPTIMIZER = OptimizerSettings()
DEFAULT_SCHEDULE = ScheduleSettings()


class TrainingModule(LightningModule):
    """What the three tasks share.

    A subclass sets `self.network` (its parameters are trained), `self.variant`, `self.class_names` and, where it
    starts from weights, `self.load_report`; it defines `training_step`, which calls `self.unreadable.collect` and
    `log_train_loss`, and `validation_step`. Hooks it overrides call `super()`.

    Attributes:
        task: one word for what is trained; checkpoints and weights carry it.
        monitor: metric by which the best checkpoint is chosen, and "max" or "min".
        unreadable: the account of files that could not be read.
        train_loss: mean of the epoch; unlike what `self.log` averages, it goes into checkpoints.
        settled: arguments that the weights decided; the run's recipe keeps them, as a resumed run reads no weights.

    Args:
        optimizer: see `OptimizerSettings`.
        schedule: see `ScheduleSettings`.
        global_batch: samples an optimizer step over all devices; gradient accumulation follows from it, and where
            trainer.check_val_every_n_epoch is null, trainer.val_check_interval then counts optimizer steps.
            None: batch_size * devices * trainer.accumulate_grad_batches.
        ema_decay: decay of the moving average of the weights, in [0, 1); None: no averaging.
        max_nonfinite_steps: how many optimizer steps in a row may be dropped for non-finite gradients.
        seed: of the run; every step draws its random numbers from (seed, rank, epoch, batch).
    """

    task: ClassVar[str]
    monitor: ClassVar[tuple[str, str]]
    network: nn.Module
    variant: str
    class_names: list[str]
    load_report: LoadReport | None = None

    def __init__(
        self,
        *,
        optimizer: OptimizerSettings = DEFAULT_OPTIMIZER,
        schedule: ScheduleSettings = DEFAULT_SCHEDULE,
        global_batch: int | None = None,
        ema_decay: float | None = None,
        max_nonfinite_steps: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if global_batch is not None and global_batch < 1:
            raise ValueError(f"global_batch must be at least 1 or null, got {global_batch}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1) or be null, got {ema_decay}")
        if max_nonfinite_steps < 1:
            raise ValueError(f"max_nonfinite_steps must be at least 1, got {max_nonfinite_steps}")
        self.optimizer_settings = optimizer
        self.schedule_settings = schedule
        self.global_batch = global_batch
        self.ema_decay = ema_decay
        self.max_nonfinite_steps = max_nonfinite_steps
        self.seed = seed
        self._loader_state: dict[str, int] | None = None
        self.unreadable = UnreadableFiles(0)  # setup() asks the data how many
        self.train_loss = MeanMetric()
        self.settled: dict[str, Any] = {}

    def settle_scale_value(self, scale_value: bool | None, weights: str | None) -> bool | None:
        """The form of SSA that a dense task builds: where it is not said, that of the weights it starts from.

        Args:
            scale_value: as the recipe says it; None: not said.
            weights: what `load_weights` reads; None: there are none, and the model decides.
        """
        if scale_value is None and weights is not None:
            scale_value = holds_scaled_values(weights)
            self.settled = {"scale_value": scale_value}
        return scale_value

    def configure_callbacks(self) -> list[Callback]:
        """The guard against non-finite steps and, with `ema_decay`, the averaging of the weights."""
        callbacks: list[Callback] = [NonFiniteGuard(max_steps=self.max_nonfinite_steps)]
        if self.ema_decay is not None:
            callbacks.append(WarmedUpAveraging(self.ema_decay))
        return callbacks

    def setup(self, stage: str) -> None:
        """Take the cap on unreadable files from the data. Before a fit: derive gradient accumulation from
        `global_batch`, or `global_batch` from it.

        Raises:
            ValueError: batch size and devices do not divide `global_batch`, or accumulation is set twice.
        """
        self.unreadable.max_files = getattr(getattr(self.trainer, "datamodule", None), "max_unreadable", 0)
        if stage != "fit":
            return
        per_pass = self._batch_size() * self.trainer.world_size
        accumulate = self.trainer.accumulate_grad_batches
        if self.global_batch is None:
            self.samples_per_step = per_pass * accumulate
            return
        if self.global_batch % per_pass:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of batch_size {self._batch_size()} x "
                f"{self.trainer.world_size} device(s) = {per_pass}: change batch_size or set global_batch to "
                f"{max(1, round(self.global_batch / per_pass)) * per_pass}"
            )
        derived = self.global_batch // per_pass
        if accumulate not in (1, derived):
            raise ValueError(
                f"trainer.accumulate_grad_batches {accumulate} contradicts global_batch {self.global_batch}, "
                f"from which {derived} follows: remove one of the two"
            )
        self.samples_per_step = self.global_batch
        if accumulate == derived:
            return
        self.trainer.accumulate_grad_batches = derived
        if self.trainer.check_val_every_n_epoch is None and isinstance(self.trainer.val_check_interval, int):
            # Lightning counts batches there, and a recipe cannot know how many of them make a step
            self.trainer.val_check_interval *= derived

    def _batch_size(self) -> int:
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if batch_size is None:
            raise ValueError(
                f"{type(self).__name__} needs to know the batch size: train from a LightningDataModule "
                "with the attribute batch_size"
            )
        return int(batch_size)

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run, of the fastest group; known once `setup("fit")` has run."""
        settings = self.optimizer_settings
        if settings.lr_batch is None:
            return settings.lr
        return settings.lr * self.samples_per_step / settings.lr_batch

    def configure_optimizers(self) -> Any:
        """AdamW over the network's parameter groups, with the schedule stepped once an optimizer step."""
        settings = self.optimizer_settings
        groups = parameter_groups(
            self.network,
            lr=self.peak_lr,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
        )
        device = self.trainer.strategy.root_device.type
        # under fp16 a fused AdamW unscales the gradients itself, after the guard and the clipping should have
        # seen them
        fused = device in ("cuda", "cpu") and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, lr=self.peak_lr, betas=settings.betas, eps=settings.eps, fused=fused)
        scheduler = LambdaLR(optimizer, self._lr_factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self) -> partial[float]:
        """The schedule as a function of the optimizer step."""
        settings, peak = self.schedule_settings, self.peak_lr
        self.trainer.fit_loop.setup_data()  # with max_steps alone, num_training_batches is not known before
        total = self.trainer.estimated_stepping_batches
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup_steps = settings.warmup_steps
        if warmup_steps is None:
            warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
        warm: dict[str, Any] = {"warmup_steps": warmup_steps, "warmup_factor": settings.warmup_lr / peak}
        bounds = [("warmup_lr", settings.warmup_lr)] if warmup_steps else []
        if settings.name in ("cosine", "poly"):
            bounds.append(("min_lr", settings.min_lr))
        for name, value in bounds:
            if value > peak:
                raise ValueError(
                    f"schedule.{name} {value:g} is above the peak learning rate {peak:g} (optimizer.lr "
                    f"{self.optimizer_settings.lr:g}, {self.samples_per_step} samples a step for lr_batch "
                    f"{self.optimizer_settings.lr_batch}): lower it, or raise optimizer.lr"
                )
        if warmup_steps >= total:
            log.warning(
                "the run ends within its warm-up (%d of %d steps) and never reaches its learning rate: "
                "lower schedule.warmup_epochs or schedule.warmup_steps, or train longer",
                total,
                warmup_steps,
            )
        if settings.name == "constant":
            return partial(schedules.constant, **warm)
        if settings.name == "multistep":
            milestones = [round(epoch * steps_per_epoch) for epoch in settings.milestones or []]
            return partial(schedules.multistep, **warm, milestones=milestones, gamma=settings.gamma)
        if total == math.inf:
            raise ValueError(
                f"schedule.name {settings.name} needs to know the run's length: "
                "set trainer.max_epochs or trainer.max_steps"
            )
        falling = {**warm, "total_steps": int(total), "min_factor": settings.min_lr / peak}
        if settings.name == "poly":
            return partial(schedules.poly, **falling, power=settings.power)
        return partial(schedules.cosine, **falling)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer is told to, under bf16 with a fused AdamW too."""
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # Lightning refuses to clip for any fused optimizer under autocast, lest its gradients are still
            # scaled; under bf16 nothing scales them
            parameters = list(plugin.main_params(optimizer))
            if gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(parameters, gradient_clip_val)
            else:
                nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_fit_start(self) -> None:
        """Warn of a setting that only makes sense with weights."""
        layer_decay = self.optimizer_settings.layer_decay
        if layer_decay is not None and self.load_report is None and self.trainer.ckpt_path is None:
            log.warning(
                "model.optimizer.layer_decay %g slows the first layers, which start from nothing without "
                "model.weights: give weights, or set it to null",
                layer_decay,
            )

    def log_train_loss(self, loss: Tensor, batch_size: int, parts: Mapping[str, Tensor] | None = None) -> None:
        """Log a training step's loss, and count it in the epoch's mean.

        Args:
            loss: scalar, the mean over the samples.
            batch_size: samples in the batch.
            parts: name -> scalar of which the loss is made, logged as `train/NAME`.
        """
        self.train_loss.update(loss.detach(), weight=batch_size)
        self.log("train/loss_step", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=batch_size)
        for name, value in (parts or {}).items():
            self.log(f"train/{name}", value.detach(), on_step=True, on_epoch=False, batch_size=batch_size)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch and its mean loss; an epoch that is resumed in its middle does not come by here."""
        # under max_steps Lightning would count this epoch's batches on from those of the epoch before the checkpoint
        self.trainer.fit_loop.epoch_loop.restarting = False
        self.train_loss.reset()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Have the last of `max_steps` validated too, wherever it falls, and the last epoch."""
        if max_steps_reached(self.trainer):
            self.trainer.should_stop = True  # before it stops, Lightning validates
        if self.trainer.check_val_every_n_epoch is not None and self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1  # else what was learned since the last validation would be lost

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss, over all ranks and over an interruption, and where the schedule is."""
        self.log("lr_epoch", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        if self.train_loss.update_called:  # not where a resumed epoch had no step left
            self.log("train/loss_epoch", self.train_loss.compute())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how far the training loader came, the epoch's loss so far, and what the weights are for."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            checkpoint["train_loader"] = loader.state_dict()
        with self.train_loss.sync_context():  # over all ranks
            checkpoint["train_loss"] = (float(self.train_loss.mean_value), float(self.train_loss.weight))
        checkpoint["trained"] = {"task": self.task, "variant": self.variant, "class_names": self.class_names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up loader and loss; refuse the checkpoint of another network or of other classes, which may fit by
        chance.

        Raises:
            ValueError: names both and the remedy.
        """
        if self.trainer.max_steps != -1:
            _settle_epoch(checkpoint.get("loops", {}).get("fit_loop"))
        self._loader_state = checkpoint.get("train_loader")  # on_train_start tells the loader
        total, weight = checkpoint.get("train_loss", (0.0, 0.0))
        if weight > 0:  # the sum over all ranks counts once
            self.train_loss.update(total / weight, weight=weight if self.global_rank == 0 else 0.0)
        theirs = checkpoint.get("trained") or {}
        if theirs.get("task") != self.task:
            raise ValueError(f"the checkpoint is not one of {self.task}: take one of this run's checkpoints")
        if theirs["variant"] != self.variant:
            raise ValueError(
                f"the checkpoint holds {theirs['variant']}, the recipe says {self.variant}: "
                f"set model.variant to {theirs['variant']}"
            )
        if theirs["class_names"] != self.class_names:
            raise ValueError(
                f"the checkpoint's {len(theirs['class_names'])} classes ({abridged(theirs['class_names'])}) are "
                f"not the {len(self.class_names)} of the data ({abridged(self.class_names)}): give the data it "
                "was trained on, or data with the same classes; for other classes fine-tune with "
                "fit --model.weights"
            )

    def on_train_start(self) -> None:
        """Let the training loader go on where the checkpoint's stood."""
        # Lightning restores a loader's state only if the loader is made after the checkpoint was read, which
        # Trainer.estimated_stepping_batches (in configure_optimizers) prevents
        loader = self.trainer.train_dataloader
        if self._loader_state is not None and isinstance(loader, ResumableLoader):
            loader.load_state_dict(self._loader_state)
        self._loader_state = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step and log the learning rate of the fastest group."""
        seed_all(self.seed, self.global_rank, self.current_epoch, batch_idx)
        groups = self.trainer.optimizers[0].param_groups
        self.log("lr", max(group["lr"] for group in groups), on_step=True, on_epoch=False)


def check_variant(variant: str) -> None:
    """Refuse a variant that there is not.

    Raises:
        ValueError: names those that there are.
    """
    if variant not in VARIANTS:
        raise ValueError(f"model.variant: there is no variant {variant!r}; choose from {', '.join(VARIANTS)}")


def max_steps_reached(trainer: Trainer) -> bool:
    """Whether a run that is bounded by optimizer steps has done them all."""
    return 0 <= trainer.max_steps <= trainer.global_step


def _settle_epoch(loop: dict[str, Any] | None) -> None:
    """In the state of a fit loop that was saved at an epoch's end, count the epoch as done, or as not yet ended.

    Under max_steps Lightning goes on in such an epoch, though its batches are over: it trains one batch of the next
    and drops the rest of that. An epoch that an earlier max_steps cut short it takes for whole, on the other hand.
    """
    if loop is None:
        return
    is_whole = loop["epoch_loop.batch_progress"]["is_last_batch"]
    for counts in (loop["epoch_progress"]["total"], loop["epoch_progress"]["current"]):
        if counts["ready"] == counts["started"] == counts["processed"] == counts["completed"] + 1:
            counts.update({"completed": counts["processed"]} if is_whole else {"processed": counts["completed"]})
