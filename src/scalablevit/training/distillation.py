"""Losses by which a network learns from another: of softened logits, and of features through a learned projection."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.training.teacher import Outputs, Teacher, checked_outputs, outputs_of

_BETA = 2.0  # of smooth L1: quadratic for all but outliers of normalised features


def softened_kl(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(softmax(taught / temperature) || softmax(logits / temperature)), mean over the samples.

    By the factor gradients keep their size whatever the temperature is.

    Args:
        logits: (B, K), of the network that learns.
        taught: (B, K), of the one that it learns from.
        temperature: above 0.

    Source: Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)
    log_q = F.log_softmax(taught.float() / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def softened_binary_kl(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL of each class's yes or no, mean over samples and classes, as binary cross-entropy is.

    Args:
        logits: (B, K), of the network that learns.
        taught: (B, K), of the one that it learns from.
        temperature: above 0.
    """
    own, aim = logits.float() / temperature, taught.float() / temperature
    yes = aim.sigmoid() * (F.logsigmoid(aim) - F.logsigmoid(own))
    no = (-aim).sigmoid() * (F.logsigmoid(-aim) - F.logsigmoid(-own))
    return (yes + no).mean() * temperature**2


def feature_loss(projected: Tensor, taught: Tensor) -> Tensor:
    """Smooth L1 of projected features and the teacher's, each of which is normalised over its channels.

    Args:
        projected: (..., C).
        taught: (..., C).

    Source: targets normalised without learned scales, arXiv:2205.14141.
    """
    target = F.layer_norm(taught.float(), taught.shape[-1:])
    return F.smooth_l1_loss(projected.float(), target, beta=_BETA)


class Distillation(nn.Module):
    """A teacher, and the projections from the features of the network that learns to the teacher's.

    Args:
        teacher: whom to learn from; it stays outside of parameters and state.
        network: that learns; it is run once on one image to learn the widths of its features.
        image_shape: (C, H, W) of that image.
    """

    def __init__(self, teacher: Teacher, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.teacher = teacher
        settings = teacher.settings
        self.weights = {"pooled": settings.pooled_weight, "dense": settings.dense_weight}
        self.projections = nn.ModuleDict()
        if not self.needs_features:
            return
        image = torch.zeros(1, *image_shape)
        wanted = {kind: weight > 0 for kind, weight in self.weights.items()}
        own, taught = checked_outputs(network, image, type(network).__name__, **wanted), teacher(image)
        for kind, weight in self.weights.items():
            if weight > 0:
                self.projections[kind] = nn.Linear(_features(own, kind).shape[-1], _features(taught, kind).shape[-1])

    @property
    def needs_features(self) -> bool:
        """Whether anything but logits is learned."""
        return any(weight > 0 for weight in self.weights.values())

    def outputs(self, network: nn.Module, images: Tensor) -> Outputs:
        """Run the network that learns once, for all that it is compared by."""
        return outputs_of(network, images, pooled=self.weights["pooled"] > 0, dense=self.weights["dense"] > 0)

    def forward(self, outputs: Outputs, images: Tensor) -> dict[str, Tensor]:
        """The losses times their weights, by name.

        Args:
            outputs: of the network that learns, for `images`.
            images: as it was given them, (B, C, H, W): augmented, mixed and normalised.
        """
        settings, taught = self.teacher.settings, self.teacher(images)
        losses = {}
        if settings.weight > 0:
            compare = softened_binary_kl if self.teacher.multi_label else softened_kl
            losses["teacher_logits"] = settings.weight * compare(outputs.logits, taught.logits, settings.temperature)
        for kind, weight in self.weights.items():
            if weight > 0:
                target = taught.dense if kind == "dense" else None
                own, aim = _features(outputs, kind), _features(taught, kind)
                if target is not None and outputs.dense is not None and target.shape[-2:] != outputs.dense.shape[-2:]:
                    # the grids of two networks differ: the teacher's is brought to the learner's
                    resized = F.interpolate(
                        target.float(), outputs.dense.shape[-2:], mode="bilinear", antialias=True, align_corners=False
                    )
                    aim = resized.movedim(1, -1)
                losses[f"teacher_{kind}"] = weight * feature_loss(self.projections[kind](own), aim)
        return losses


def without_distillation(state: Mapping[str, Any], prefix: str = "distillation.") -> dict[str, Any]:
    """A state dict without the projections, for whoever only evaluates."""
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


def _features(outputs: Outputs, kind: str) -> Tensor:
    """(B, C) pooled features, or (B, H, W, C) dense ones."""
    if kind == "pooled":
        assert outputs.pooled is not None
        return outputs.pooled
    assert outputs.dense is not None
    return outputs.dense.movedim(1, -1)
