"""Feature distillation on images without labels: a network learns the features of a teacher."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.pretraining.task import PretrainingSettings, PretrainingTask
from scalablevit.pretraining.unlabelled_images import UnlabelledBatch
from scalablevit.training.distillation import Distillation
from scalablevit.training.teacher import Teacher, TeacherSettings, check_identity


@dataclass(frozen=True)
class FeatureTeacherSettings(TeacherSettings):
    """Whose features are learned.

    Args:
        name: run folder, its model.safetensors, authors' checkpoint of a ScalableViT, `local-dir:` or `hf-hub:` name,
            or a name of timm's registry.
        weights: checkpoint to fill a network of timm's registry with; null: timm's own, which are downloaded.
        size: pixels that its images are resized to, a side or [height, width]; null: what it was trained for.
        temperature: of logits, which are not learned here; 1.
        weight: of the logits' loss; 0, as there are no classes.
        pooled_weight: of the loss of pooled features; at least 0.
        dense_weight: of the loss of the last feature map; at least 0.
        label_weight: of the labels' loss; 0, as there are none.

    Raises:
        ValueError: a value is out of its range, or weighs what there is not.
    """

    weight: float = 0.0
    pooled_weight: float = 1.0
    dense_weight: float = 1.0
    label_weight: float = 0.0

    def __post_init__(self) -> None:
        for key, what in (("weight", "logits of classes"), ("label_weight", "labels")):
            if getattr(self, key) > 0:
                raise ValueError(
                    f"model.teacher.{key} {getattr(self, key):g} weighs {what}, and pretraining has none: set it to 0; "
                    "features are weighed by pooled_weight and dense_weight"
                )
        super().__post_init__()


_TEACHER = FeatureTeacherSettings()


@dataclass(frozen=True)
class DistilledSettings(PretrainingSettings):
    """How features are distilled.

    Args:
        teacher: a trained network to learn from; it needs a name.

    Raises:
        ValueError: no teacher is named, or a value is out of its range.
    """

    teacher: FeatureTeacherSettings = _TEACHER

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher.name:
            raise ValueError(
                "model.teacher.name is missing: name whose features are learned, a run folder, a checkpoint or a "
                "network of timm, such as --model.teacher.name RUN; to learn from images alone, use pretrain_masked"
            )


class DistilledPretraining(PretrainingTask):
    """A network that learns a teacher's pooled and dense features, each through a linear projection.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the
            command line takes it from the data.
        settings: arguments of `DistilledSettings`.

    Raises:
        ValueError: no such variant or teacher, weights that do not fit, or an argument out of range.
    """

    settings: DistilledSettings

    def __init__(self, variant: str, *, preprocessing: dict[str, Any], **settings: Any) -> None:
        own = DistilledSettings(**settings)
        super().__init__(variant, preprocessing=preprocessing, settings=own)
        self.settings = own
        shown = self.preprocessing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own.seed)
            teacher = Teacher(own.teacher, class_names=[], mean=shown.mean, std=shown.std)
            self.distillation = Distillation(teacher, self.network, (shown.in_chans, *shown.image_size))
        self._leave_out_unused()

    def trained_beside_network(self) -> list[nn.Module]:
        """The projections to the teacher's features."""
        return [self.distillation]

    def losses(self, network: nn.Module, batch: UnlabelledBatch) -> dict[str, Tensor]:
        """Losses of pooled and dense features, times their weights."""
        self.distillation.teacher.to(batch.images.device)  # before training, validation and what follows them
        return self.distillation(self.distillation.outputs(network, batch.images), batch.images)

    def announcement(self, data: Any) -> list[str]:
        """Lines about whom the network learns from."""
        return [*super().announcement(data), *self.distillation.teacher.announcement()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store who the teacher is, not the teacher."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["taught_by"] = self.distillation.teacher.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another teacher than the run had.

        Raises:
            ValueError: names both and the remedy.
        """
        super().on_load_checkpoint(checkpoint)
        check_identity(checkpoint.get("taught_by"), self.distillation.teacher)
