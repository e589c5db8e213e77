"""What all pretraining shares: the network without a head, its loss on held-out images, its weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from scalablevit.data.image_transforms import Preprocessing
from scalablevit.data.images import why_unreadable
from scalablevit.data.loaders import eval_loader
from scalablevit.data.unreadable import UnreadableFiles
from scalablevit.networks import build_classifier, is_ours, own_settings, recompute_blocks, size_options
from scalablevit.pretraining.labelled import NeighboursAccuracy, NeighboursTest
from scalablevit.pretraining.neighbours import NUM_NEIGHBOURS
from scalablevit.pretraining.unlabelled_images import UnlabelledBatch, collate
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.module import Evaluation, TrainingModule, check_variant
from scalablevit.training.settings import TrainingSettings
from scalablevit.weights import load_model, load_weights, save_model


@dataclass(frozen=True)
class PretrainingSettings(TrainingSettings):
    """How a backbone is built and pretrained.

    Args:
        weights: where to start from: anything `load_weights` reads; null: from scratch.
        drop_path_rate: drop-path probability of the last block, in [0, 1).
        window_size: side of IWSA's windows in tokens, or a list of one (or [rows, columns]) per stage.
        scale_value: scaled-value form of SSA.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        network_options: further arguments of the network: of `ScalableViT`, such as {lim: false}, or of timm's.

    Raises:
        ValueError: a value is out of its range.
    """

    weights: str | None = None
    drop_path_rate: float = 0.0
    window_size: int | list[int] | list[list[int]] = 7
    scale_value: bool = False
    grad_checkpointing: bool = False
    network_options: dict[str, Any] | None = None


class PretrainingTask(TrainingModule):
    """A network without a head that learns from images alone.

    A subclass defines `losses`, and `draw` where there is something to see.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it.
        settings: of the subclass.

    Raises:
        ValueError: no such variant, weights that do not fit, or an argument out of range.
    """

    task = "pretraining"
    monitor = ("val/loss", "min")
    network: nn.Module
    settings: PretrainingSettings

    def __init__(self, variant: str, *, preprocessing: dict[str, Any], settings: PretrainingSettings) -> None:
        super().__init__(**settings.training())
        check_variant(variant)
        self.settings = settings
        self.variant = variant
        self.class_names = []
        self.preprocessing = Preprocessing.from_dict(preprocessing)
        self.network = self._build_network()
        if settings.grad_checkpointing:
            recompute_blocks(self.network, variant)
        self.load_report = None if settings.weights is None else load_weights(self.network, settings.weights)
        self.unreadable.explain = why_unreadable
        self.val_loss = MeanMetric(nan_strategy=math.inf)  # a NaN is to be seen in the mean
        self._unreadable_labelled = UnreadableFiles(0, explain=why_unreadable)  # they are none of the held-out images
        self._near: NeighboursAccuracy | None = None

    def _build_network(self) -> nn.Module:
        settings, size = self.settings, self.preprocessing.image_size
        options = settings.network_options or {}
        self.model_args: dict[str, Any] = {
            "num_classes": 0,
            "in_chans": self.preprocessing.in_chans,
            **own_settings(self.variant, window_size=settings.window_size, scale_value=settings.scale_value),
            **size_options(self.variant, options, size),
            **options,
        }
        # Initialisation is part of the run's seed, wherever the task is built.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return build_classifier(self.variant, drop_path_rate=settings.drop_path_rate, **self.model_args)

    def _leave_out_unused(self) -> None:
        """Take parameters that no loss reaches out of training: several processes would wait for their gradients.

        Such are norms behind the pooling of some networks of timm, which only a classifier needs.
        """
        if is_ours(self.variant):
            return
        image = torch.zeros(1, self.preprocessing.in_chans, *self.preprocessing.image_size)
        batch = UnlabelledBatch(image, [0], torch.ones(1, dtype=torch.bool), False, [])
        self.network.eval()
        torch.stack(list(self.losses(self.network, batch).values())).sum().backward()
        self.network.train()
        for parameter in self.network.parameters():
            if parameter.grad is None:
                parameter.requires_grad_(False)
        self.zero_grad()

    def losses(self, network: nn.Module, batch: UnlabelledBatch) -> dict[str, Tensor]:
        """What the loss is the sum of, by name: scalars, means over the batch."""
        raise NotImplementedError

    def training_step(self, batch: UnlabelledBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        self.unreadable.collect(batch.unreadable, nothing_left=batch.is_nothing_left)
        parts = self.losses(self.network, batch)
        loss = torch.stack(list(parts.values())).sum()
        self.log_train_loss(loss, len(batch.images), parts if len(parts) > 1 else None)
        return loss

    def validation_step(self, batch: UnlabelledBatch, batch_idx: int) -> None:
        """Add up the loss of held-out images; those that could not be read do not count."""
        self.unreadable.collect(batch.unreadable)
        found = self._validation_loss(self.network, batch)
        if found is not None:
            self.val_loss.update(found[0], weight=found[1])

    def _validation_loss(self, network: nn.Module, batch: UnlabelledBatch) -> tuple[Tensor, int] | None:
        """Mean loss of the readable images of a batch, and their number; None: there are none."""
        kept = batch.readable.nonzero()[:, 0].tolist()
        if not kept:
            return None
        if len(kept) < len(batch.images):
            batch = batch._replace(images=batch.images[kept], seeds=[batch.seeds[i] for i in kept])
        return torch.stack(list(self.losses(network, batch).values())).sum().float(), len(kept)

    def on_validation_epoch_start(self) -> None:
        """Measure how well nearest neighbours tell classes.

        At the end of the epoch it would be too late: a moving average of the weights has left the network by then.
        """
        self._near = None if self.trainer.sanity_checking else self._neighbours(self.network)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set, and how well nearest neighbours told classes."""
        # compute() before log(): it talks to the other ranks, which may differ in batches.
        self.log("val/loss", self.val_loss.compute(), prog_bar=True, sync_dist=False)
        self.val_loss.reset()
        if self._near is not None:
            self.log("val/knn_top1", self._near.top1, prog_bar=True, sync_dist=False)  # the same on every rank

    def _neighbours(self, network: nn.Module) -> NeighboursAccuracy | None:
        """What the nearest neighbours of labelled images find out; None: there are none."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        labelled: NeighboursTest | None = getattr(data, "labelled", None)
        if labelled is None:
            return None
        device = next(network.parameters()).device
        found = labelled.accuracy(network, device=device, batch_size=data.batch_size, num_workers=data.num_workers)
        self._unreadable_labelled.max_files = self.unreadable.max_files
        self._unreadable_labelled.collect(found.unreadable)
        return found

    def _measured_by(self) -> str | None:
        """Which labelled images features are measured by; None: there are none."""
        data: Any = getattr(self.trainer, "datamodule", None)
        labelled: NeighboursTest | None = getattr(data, "labelled", None)
        return None if labelled is None else labelled.scan.identity()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which labelled images features are measured by, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["measured_by"] = self._measured_by()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other labelled images: one curve would be of two things.

        Raises:
            ValueError: names the remedy.
        """
        super().on_load_checkpoint(checkpoint)
        theirs, ours = checkpoint.get("measured_by"), self._measured_by()
        if self.trainer.state.fn == "fit" and None not in (theirs, ours) and theirs != ours:
            raise ValueError(
                "data.labelled_root holds other images or classes than those the run measured neighbours by: give the "
                "same folder, or set it to null"
            )

    def _shared_metadata(self) -> dict[str, Any]:
        found = super()._shared_metadata()
        del found["class_names"]  # a backbone distinguishes none
        return found

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write `model.safetensors` and timm's `config.json`: the network without what it was pretrained with."""
        save_model(self.network, folder, architecture=self.variant, model_args=self.model_args, metadata=metadata)
        return folder / "model.safetensors"

    def write_results(self, folder: Path, best: Path | None) -> list[str]:
        """Write the weights to ship, and what they do on the held-out images."""
        if best is not None:  # what belongs to the network of that checkpoint
            state = RunCheckpointIO().load_checkpoint(best)["state_dict"]
            for name, part in self.named_children():
                if any(part is other for other in self.trained_beside_network()):
                    own = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
                    part.load_state_dict(own)
        return super().write_results(folder, best)

    @torch.inference_mode()
    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Loss of the weights in `folder` on the held-out images."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        device = self.trainer.strategy.root_device  # self.device is the CPU again by now
        network = load_model(folder)[0].to(device)
        self.eval().to(device=device, dtype=torch.float32)  # as the weights were written
        # sums, not a metric: that would wait for the other ranks, which do not come here
        total, unreadable = 0.0, 0
        options = {"batch_size": data.batch_size, "num_workers": data.num_workers, "collate_fn": collate}
        for batch in eval_loader(data.val_dataset, **options):
            found = self._validation_loss(network, batch._replace(images=batch.images.to(device)))
            unreadable += int((~batch.readable).sum())
            if found is not None:
                total += found[0].item() * found[1]
        count = len(data.val_dataset) - unreadable
        if not count:
            raise ValueError(f"none of the {unreadable} held-out images can be read")
        loss = total / count
        results: dict[str, Any] = {"loss": loss, "count": count, "unreadable": unreadable}
        figures = f"loss {loss:.4f}"
        if (near := self._neighbours(network)) is not None:
            results |= {"knn_top1": near.top1, "knn_k": NUM_NEIGHBOURS}
            results |= {"knn_bank": near.num_bank, "knn_queries": near.num_queries}
            figures += f", {NUM_NEIGHBOURS}-NN top-1 {near.top1:.2%}"
        return Evaluation(results, figures, count, lambda: self.draw(network, folder))

    def draw(self, network: nn.Module, folder: Path) -> None:
        """Write images of what was learned into the run folder."""
