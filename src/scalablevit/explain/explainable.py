"""A network ready to be explained: without wrappers, in float32, in evaluation, with its stages' maps at hand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scalablevit.backbone import PyramidBackbone, ScalableViT, typed
from scalablevit.weights.source import WeightsError
from scalablevit.weights.unwrapping import unwrap


@dataclass(frozen=True)
class Explainable:
    """A network and the part of it whose stages' maps explain it.

    Attributes:
        network: without the wrappers of torch.compile, DataParallel and averaged weights; in float32.
        core: the classifier itself, or the pyramid in a dense model.
    """

    network: nn.Module
    core: ScalableViT | PyramidBackbone

    @property
    def strides(self) -> list[int]:
        """Pixels per token of each stage's map."""
        if isinstance(self.core, PyramidBackbone):
            return self.core.strides
        return [int(info["reduction"]) for info in self.core.feature_info]

    @property
    def map_modules(self) -> list[nn.Module]:
        """For each stage, the module whose output (B, H, W, C) the rest of the network reads, normalised if it is."""
        if isinstance(self.core, PyramidBackbone):
            return list(self.core.norms)
        return [*typed(self.core.stages)[:-1], self.core.norm]


def explainable(model: nn.Module) -> Explainable:
    """Find the network inside a model.

    A network with weights below float32 is copied into float32; any other is used as it is.

    Raises:
        ValueError: there is no ScalableViT in it that could be explained; the message names the remedy.
    """
    try:
        found = unwrap(model)
    except WeightsError as error:
        if "optimize()" not in str(error):
            raise
        raise ValueError(
            "the model was prepared for inference by optimize(): explain the model that it was made from"
        ) from error
    cores = [core for core in found.cores.values() if isinstance(core, ScalableViT | PyramidBackbone)]
    if not cores:
        raise ValueError(
            f"{type(found.network).__name__} has no ScalableViT whose maps could be read: explain a network of this "
            "package, not an exported file; occlusion explains any network"
        )
    network = in_float32(found.network)
    return Explainable(network, cores[0]) if network is found.network else explainable(network)


def in_float32(network: nn.Module) -> nn.Module:
    """The network itself, or, where some of its weights are in another floating-point type, a copy in float32."""
    if all(x.dtype == torch.float32 for x in network.state_dict().values() if x.is_floating_point()):
        return network
    return copy.deepcopy(network).float()


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluate a network with gradients of its maps alone, in float32; afterwards it is as it was.

    Inside, parameters ask for no gradient, every module is in evaluation mode, nothing compiled runs, and neither
    `torch.no_grad`, `torch.inference_mode` nor autocast of the caller has an effect.
    """
    training = {module: module.training for module in network.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    device = next((parameter.device.type for parameter in wanted), "cpu")
    try:
        for module in training:
            module.training = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, mode in wanted.items():
            parameter.requires_grad_(mode)


@contextlib.contextmanager
def recomputed(core: ScalableViT | PyramidBackbone) -> Iterator[None]:
    """In a `with` block, have blocks recompute their insides in the backward pass instead of keeping them.

    `set_grad_checkpointing` does so in training alone, where networks drop paths.
    """
    blocks = [block for stage in typed(core.stages) for block in stage.blocks]
    earlier = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, forward in zip(blocks, earlier, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


@contextlib.contextmanager
def recorded(
    modules: dict[int, nn.Module], *, change: Callable[[int, Tensor], Tensor] = lambda _, output: output
) -> Iterator[dict[int, Tensor]]:
    """Record the outputs of modules in a `with` block; no hook is left behind.

    Args:
        modules: key -> module that is called once in the block.
        change: from key and output to what goes on in its place, and is recorded; by default the output.

    Yields:
        key -> recorded output.
    """
    outputs: dict[int, Tensor] = {}

    def hook_of(key: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            outputs[key] = change(key, output)
            return outputs[key]

        return hook

    handles = [module.register_forward_hook(hook_of(key)) for key, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
