"""Keeping a backbone, or its first stages, as they are: for the whole run, or for its first epochs."""

from collections.abc import Iterable
from typing import Any

from timm.models._manipulate import group_parameters
from torch import nn

from scalablevit.training.settings import FreezeSettings

_BACKBONES = ("backbone.body.", "backbone.")  # in detectors, in segmentation models


class Freezing:
    """The part of a network that does not learn, and when.

    A part that never learns is no part of the optimizer. One that learns later is: until then its gradients are
    dropped before the optimizer's step, which leaves parameters without gradients as they are. In a single process
    they are not even computed; several processes have agreed on what they exchange before training begins.

    Args:
        settings: what, and how long.
        network: of a task.

    Raises:
        ValueError: the network has no such stages.
    """

    def __init__(self, settings: FreezeSettings, network: nn.Module) -> None:
        self.settings = settings
        names = set(frozen_names(network, settings.stages))
        named = dict(network.named_parameters())
        kept = {id(parameter) for name, parameter in named.items() if name in names}
        # what does not learn anyway, as no loss reaches it, is not to learn later either
        self.parameters = [parameter for name, parameter in named.items() if name in names and parameter.requires_grad]
        self.modules = [
            module
            for module in network.modules()
            if (own := [id(parameter) for parameter in module.parameters()]) and kept.issuperset(own)
        ]
        self.count = sum(parameter.numel() for parameter in self.parameters)
        if settings.epochs is None:
            self._learn(False)

    def __deepcopy__(self, memo: Any) -> "Freezing":
        """The same one: a copy of the network, such as an average, does not learn anyway."""
        return self

    def is_on(self, epoch: int) -> bool:
        """Whether the part is frozen in an epoch, counted from 0."""
        return self.settings.epochs is None or epoch < self.settings.epochs

    def apply(self, epoch: int, *, world_size: int) -> None:
        """Freeze or release the part for an epoch; what is frozen is in evaluation mode: nothing in it is dropped."""
        is_on = self.is_on(epoch)
        if world_size == 1 or self.settings.epochs is None:
            self._learn(not is_on)
        if is_on:
            for module in self.modules:
                module.eval()
        elif epoch == self.settings.epochs:
            for module in self.modules:
                module.train()

    def drop_gradients(self, epoch: int) -> None:
        """Leave the optimizer nothing to do for the part while it is frozen."""
        if self.is_on(epoch):
            for parameter in self.parameters:
                parameter.grad = None

    def announcement(self) -> str:
        """A line that tells what is frozen, and how long."""
        what = "the backbone" if self.settings.stages is None else f"the first {self.settings.stages} stage(s)"
        epochs = self.settings.epochs
        how_long = "in the whole run" if epochs is None else f"for {epochs} epoch(s)"
        return f"frozen      {what}, {self.count / 1e6:.1f} M parameters, {how_long}"

    def _learn(self, does: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(does)


def frozen_names(network: nn.Module, stages: int | None) -> list[str]:
    """Names of the parameters of a network's backbone, or of its stem and first stages.

    Args:
        network: a classifier, or a model with a `backbone`; stages are found by timm's `group_matcher`.
        stages: how many; None: all, and the norms behind them.

    Raises:
        ValueError: the network tells no stages, or has fewer.
    """
    names = [name for name, _ in network.named_parameters()]
    prefix = next((prefix for prefix in _BACKBONES if any(name.startswith(prefix) for name in names)), "")
    if stages is None:
        heads = () if prefix else tuple(f"{head}." for head in _heads(network))
        return [name for name in names if name.startswith(prefix) and not name.startswith(heads)]
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"model.freeze.stages: {type(network).__name__} does not tell its stages; leave stages out")
    layers: dict[str, int] = group_parameters(network, matcher(coarse=True), reverse=True)
    most = max(layers.values()) - 1  # the stem is layer 0, and norms and heads are the last
    if stages > most:
        raise ValueError(f"model.freeze.stages must be at most {most}, which this network has, got {stages}")
    return [name for name in names if name.startswith(prefix) and layers[name] <= stages]


def _heads(network: nn.Module) -> Iterable[str]:
    """Names of the parts of a classifier that hold its last layer, or layers."""
    found: Any = network.get_classifier()  # type: ignore[operator]
    last = found if isinstance(found, tuple | list) else [found]
    return {name.split(".")[0] for name, module in network.named_modules() if any(module is layer for layer in last)}
