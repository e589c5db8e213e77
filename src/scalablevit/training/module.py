"""The LightningModule that all tasks share: optimizer, schedule, global batch, averaging, seeding."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from scalablevit import __version__
from scalablevit.abridged import abridged
from scalablevit.data.loaders import ResumableLoader
from scalablevit.data.randomness import seed_all
from scalablevit.data.unreadable import UnreadableFiles
from scalablevit.moved import forward_moved_names
from scalablevit.networks import check_network_name, is_ours
from scalablevit.safe_write import write_json
from scalablevit.training import schedules
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.early_stopping import Patience
from scalablevit.training.freezing import Freezing
from scalablevit.training.nonfinite_guard import NonFiniteGuard
from scalablevit.training.optimizer import build_optimizer
from scalablevit.training.optimizer_state import check_optimizer_state
from scalablevit.training.resume_rules import check_step
from scalablevit.training.settings import TrainingSettings
from scalablevit.training.weight_averaging import WarmedUpAveraging
from scalablevit.weights import LoadReport, holds_scaled_values, load_weights
from scalablevit.weights.metadata import problem_of_metadata

log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What the weights that a run ships do on the validation data.

    Fields:
        results: content of `results.json`.
        figures: the same in a few words, such as "top-1 98.1%".
        count: how many images were measured.
        draw: write the images and further files of the task into the run folder.
    """

    results: dict[str, Any]
    figures: str
    count: int  # type: ignore[assignment]  # a tuple has a method of that name, of no use here
    draw: Callable[[], None]


class TrainingModule(LightningModule):
    """What the three tasks share.

    A subclass sets `self.network` (its parameters are trained), `self.variant`, `self.class_names`,
    `self.preprocessing` and, where it starts from weights, `self.load_report`; it defines `training_step`, which calls
    `self.unreadable.collect` and `log_train_loss`, `validation_step`, `save_weights` and `evaluate_weights`. Hooks it
    overrides call `super()`.

    Attributes:
        task: one word for what is trained; checkpoints and weights carry it.
        monitor: metric by which the best checkpoint is chosen, and "max" or "min".
        unreadable: the account of files that could not be read.
        train_loss: mean of the epoch; unlike what `self.log` averages, it goes into checkpoints.
        arguments_from_weights: arguments that the weights decided; the run's recipe keeps them, as a resumed run reads
            no weights.

    Args:
        settings: arguments of `TrainingSettings`.

    Raises:
        ValueError: a setting is out of its range.
    """

    task: ClassVar[str]
    monitor: ClassVar[tuple[str, str]]
    network: nn.Module
    variant: str
    class_names: list[str]
    preprocessing: Any
    load_report: LoadReport | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = TrainingSettings(**settings)
        self.unreadable = UnreadableFiles(0)  # setup() asks the data how many
        self.train_loss = MeanMetric()
        self.arguments_from_weights: dict[str, Any] = {}
        self._loader_state: dict[str, int] | None = None
        self._last_lr: float | None = None
        self._freezing: Freezing | None = None

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write the network's weights into the run folder.

        Args:
            folder: gets `model.safetensors`.
            metadata: what every task writes beside its own.

        Returns:
            the file.
        """
        raise NotImplementedError

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Read the weights in the run folder back, and evaluate them on the validation data."""
        raise NotImplementedError

    def write_results(self, folder: Path, best: Path | None) -> list[str]:
        """Write the weights to ship, and what they do on the validation data.

        Args:
            folder: gets `model.safetensors`, `results.json` and the files of the task.
            best: checkpoint to take the weights from; None: those of now.

        Returns:
            lines for the user.
        """
        if best is not None:
            load_weights(self.network, best)
        file = self.save_weights(folder, self._shared_metadata())
        found = self.evaluate_weights(folder)
        write_json(folder / "results.json", {**found.results, "checkpoint": None if best is None else best.name})
        found.draw()
        return [f"validation of {file}: {found.figures} on {found.count:,} images"]

    def check_metadata(self) -> None:
        """Refuse names and settings with which the weights could not be read back, before a step is trained.

        Raises:
            ValueError: names what it is.
        """
        metadata = {**self._shared_metadata(), "model_args": getattr(self, "model_args", None)}
        if problem := problem_of_metadata(metadata):
            raise ValueError(f"weights with these names or settings could not be read back: {problem}; change it")

    def _shared_metadata(self) -> dict[str, Any]:
        """What every task writes with its weights."""
        return {
            "task": self.task,
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.to_dict(),
            "scalablevit_version": __version__,
            **({} if is_ours(self.variant) else {"timm_version": timm.__version__}),
        }

    def resolve_scale_value(self, scale_value: bool | None, weights: str | None) -> bool | None:
        """Choose the form of SSA that a dense task builds: the recipe's, else that of the weights it starts from.

        Args:
            scale_value: of the recipe; None: not given.
            weights: what `load_weights` reads; None: there are none, and the model decides.
        """
        if scale_value is None and weights is not None and is_ours(self.variant):
            scale_value = holds_scaled_values(weights)
            self.arguments_from_weights = {"scale_value": scale_value}
        return scale_value

    def configure_callbacks(self) -> list[Callback]:
        """The guard against non-finite steps; with `ema_decay` averaged weights, with `patience` early stopping."""
        callbacks: list[Callback] = [NonFiniteGuard(max_steps=self.settings.max_nonfinite_steps)]
        if self.settings.ema_decay is not None:
            callbacks.append(WarmedUpAveraging(self.settings.ema_decay))
        if self.settings.patience is not None:
            callbacks.append(Patience(*self.monitor, self.settings.patience))
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
        self._find_frozen()
        per_pass = self._batch_size() * self.trainer.world_size
        accumulate = self.trainer.accumulate_grad_batches
        if self.settings.global_batch is None:
            self.samples_per_step = per_pass * accumulate
            return
        if self.settings.global_batch % per_pass:
            raise ValueError(
                f"global_batch {self.settings.global_batch} is not a multiple of batch_size {self._batch_size()} x "
                f"{self.trainer.world_size} device(s) = {per_pass}: change batch_size or set global_batch to "
                f"{max(1, round(self.settings.global_batch / per_pass)) * per_pass}"
            )
        derived = self.settings.global_batch // per_pass
        if accumulate not in (1, derived):
            raise ValueError(
                f"trainer.accumulate_grad_batches {accumulate} contradicts global_batch {self.settings.global_batch}, "
                f"from which {derived} follows: remove one of the two"
            )
        self.samples_per_step = self.settings.global_batch
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
        settings = self.settings.optimizer
        if settings.lr_batch is None:
            return settings.lr
        return settings.lr * self.samples_per_step / settings.lr_batch

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer over the network's parameter groups, its schedule stepped once an optimizer step."""
        device = self.trainer.strategy.root_device.type
        # under fp16 a fused AdamW unscales the gradients itself, after the guard and the clipping should have
        # seen them
        fused = device in ("cuda", "cpu") and self.trainer.precision != "16-mixed"
        optimizer = build_optimizer(
            self.network, self.trained_beside_network(), self.settings.optimizer, lr=self.peak_lr, fused=fused
        )
        scheduler = LambdaLR(optimizer, self._lr_factor())
        not_of_the_recipe = ("params", "lr")
        self._hyperparameters = [
            {name: value for name, value in group.items() if name not in not_of_the_recipe}
            for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained_beside_network(self) -> list[nn.Module]:
        """Parts with parameters that are trained with the network and not shipped with it."""
        return []

    def _lr_factor(self) -> partial[float]:
        """The schedule as a function of the optimizer step."""
        settings, peak = self.settings.schedule, self.peak_lr
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
                    f"{self.settings.optimizer.lr:g}, {self.samples_per_step} samples a step for lr_batch "
                    f"{self.settings.optimizer.lr_batch}): lower it, or raise optimizer.lr"
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
        """Warn of settings that only make sense with weights."""
        if self._freezing is not None and self.load_report is None and self.trainer.ckpt_path is None:
            log.warning("model.freeze keeps layers as they were initialised: give weights, or set it to null")
        layer_decay = self.settings.optimizer.layer_decay
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
        self._freeze()

    def announcement(self, data: Any) -> list[str]:
        """Lines about the training that is about to begin."""
        freezing = self._find_frozen()
        return [] if freezing is None else [freezing.announcement()]

    def _find_frozen(self) -> Freezing | None:
        if self._freezing is None and self.settings.freeze is not None:
            self._freezing = Freezing(self.settings.freeze, self.network)
        return self._freezing

    def _freeze(self) -> None:
        if self._freezing is not None:
            self._freezing.apply(self.current_epoch, world_size=self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave what is frozen as it is."""
        if self._freezing is not None:
            self._freezing.drop_gradients(self.current_epoch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Have the last of `max_steps` validated too, wherever it falls, and the last epoch."""
        if max_steps_reached(self.trainer):
            self.trainer.should_stop = True  # before it stops, Lightning validates
        if self.trainer.check_val_every_n_epoch is not None and self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1  # else what was learned since the last validation would be lost

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss, over all ranks and an interruption, and the learning rate of its last step."""
        if self._last_lr is not None:  # of the last step that was made; the optimizer has the next one's by now
            self.log("lr_epoch", self._last_lr)
        if self.train_loss.update_called:  # not where a resumed epoch had no step left
            self.log("train/loss_epoch", self.train_loss.compute())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how far the training loader came, the epoch's loss so far, and what the weights are for."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            checkpoint["train_loader"] = loader.state_dict()
        with self.train_loss.sync_context():  # over all ranks
            checkpoint["train_loss"] = (float(self.train_loss.mean_value), float(self.train_loss.weight))
        checkpoint["last_lr"] = self._last_lr  # a resumed epoch may have no step left
        checkpoint["trained"] = {"task": self.task, "variant": self.variant, "class_names": self.class_names}
        checkpoint["trained"] |= self._step()

    def _step(self) -> dict[str, int | str | None]:
        """How many samples the run takes at a time, and has, and what gives their order."""
        data = getattr(self.trainer, "datamodule", None)
        dataset = getattr(data, "train_dataset", None)
        return {
            "samples_per_step": self.samples_per_step,
            "samples_per_pass": self._batch_size() * self.trainer.world_size,
            "num_samples": None if dataset is None else len(dataset),
            "shards": getattr(data, "order_of_shards", lambda: None)(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up loader and loss; refuse the checkpoint of another network or of other classes, which may fit by
        chance.

        Raises:
            ValueError: names both and the remedy.
        """
        if self.trainer.max_steps != -1:
            _correct_epoch_progress(checkpoint.get("loops", {}).get("fit_loop"))
        self._loader_state = checkpoint.get("train_loader")  # on_train_start tells the loader
        self._last_lr = checkpoint.get("last_lr")
        total, weight = checkpoint.get("train_loss", (0.0, 0.0))
        if weight > 0:  # the sum over all ranks counts once
            self.train_loss.update(total / weight, weight=weight if self.global_rank == 0 else 0.0)
        theirs = checkpoint.get("trained") or {}
        if self.trainer.state.fn == "fit":
            progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
            check_step(theirs, self._step(), is_within_epoch=not progress.get("is_last_batch", True))
        if theirs.get("task") != self.task:
            raise ValueError(f"this is not a checkpoint of {self.task}: take one of this run's checkpoints")
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
        """Let the training loader resume at the checkpoint's position, under the optimizer settings of the recipe."""
        if self.trainer.ckpt_path is not None:
            self._apply_hyperparameters()
            try:
                check_optimizer_state(self.trainer.optimizers[0])
            except ValueError as error:
                raise ValueError(
                    f"{self.trainer.ckpt_path} is damaged: {error}; take another checkpoint of its folder"
                    f"{RunCheckpointIO().way_on(str(self.trainer.ckpt_path))}"
                ) from error
        # Lightning restores a loader's state only if the loader is made after the checkpoint was read, which
        # Trainer.estimated_stepping_batches (in configure_optimizers) prevents
        loader = self.trainer.train_dataloader
        if self._loader_state is not None and isinstance(loader, ResumableLoader):
            loader.load_state_dict(self._loader_state)
        self._loader_state = None
        self._freeze()  # an epoch that is resumed in its middle has no start

    def _apply_hyperparameters(self) -> None:
        """Put the recipe's learning rate, decay and so on in the place of those that the checkpoint restored."""
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.base_lrs = [fresh["initial_lr"] for fresh in self._hyperparameters]
        groups = self.trainer.optimizers[0].param_groups
        for group, fresh, factor in zip(groups, self._hyperparameters, scheduler.lr_lambdas, strict=True):
            group.update(fresh, lr=fresh["initial_lr"] * factor(scheduler.last_epoch))
        scheduler._last_lr = [group["lr"] for group in groups]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step and log the learning rate of the fastest group."""
        seed_all(self.settings.seed, self.global_rank, self.current_epoch, batch_idx)
        self._last_lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        self.log("lr", self._last_lr, on_step=True, on_epoch=False)


def check_variant(variant: str) -> None:
    """Refuse a variant that there is not.

    Raises:
        ValueError: names those that there are.
    """
    check_network_name(variant, key="model.variant")


def max_steps_reached(trainer: Trainer) -> bool:
    """Whether a run that is bounded by optimizer steps has done them all."""
    return 0 <= trainer.max_steps <= trainer.global_step


def _correct_epoch_progress(loop: dict[str, Any] | None) -> None:
    """In the state of a fit loop that was saved at an epoch's end, count the epoch as done, or as not yet ended.

    Under max_steps Lightning continues such an epoch, though its batches are over: it trains one batch of the next
    and drops the rest of that. An epoch that an earlier max_steps cut short it takes for whole, on the other hand.
    """
    if loop is None:
        return
    is_whole = loop["epoch_loop.batch_progress"]["is_last_batch"]
    for counts in (loop["epoch_progress"]["total"], loop["epoch_progress"]["current"]):
        if counts["ready"] == counts["started"] == counts["processed"] == counts["completed"] + 1:
            counts.update({"completed": counts["processed"]} if is_whole else {"processed": counts["completed"]})


forward_moved_names(__name__)
