"""Find the network inside of what wraps it: torch.compile, DataParallel, averaged models, timm's features, tasks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.networks import is_timm_network, wraps_features
from scalablevit.timm_pyramid import TimmPyramid
from scalablevit.weights.source import WeightsError

_COMPILED = "_orig_mod"
# in names of PEFT's adapters, torch's parametrizations, its pruning and its dynamic quantization
_CHANGED = (".base_layer.", ".lora_", ".parametrizations.", "weight_orig", "weight_mask", "._packed_params")


@dataclass(frozen=True)
class Unwrapped:
    """A network without its wrappers.

    Attributes:
        network: a `ScalableViT`, a `PyramidBackbone`, a network of timm, or a model built around one.
        tensors: its parameters and buffers, by names without the wrappers'.
        names: the same names -> names in the state dict of the wrapped model.
        cores: every `ScalableViT`, `PyramidBackbone` or `TimmPyramid` in the network, or the network of timm itself,
            by its name without the wrappers'.
        is_partial: timm's features have left out stages that they do not need.
    """

    network: nn.Module
    tensors: dict[str, Tensor]
    names: dict[str, str]
    cores: dict[str, nn.Module]
    is_partial: bool


def unwrap(model: nn.Module) -> Unwrapped:
    """Find the network to fill.

    A wrapper is a module with one child that holds all of its parameters; a compiled or parallel part deeper inside
    keeps its place, but not its prefix.

    Raises:
        WeightsError: the network cannot be filled in this form; the message names the remedy.
    """
    _refuse(model)
    network, prefix, is_partial = model, "", False
    while not _is_core(network) and not hasattr(network, "class_layers"):
        step = _only_child(network)
        if step is None:
            break
        is_partial = is_partial or wraps_features(network)
        network, prefix = step[1], f"{prefix}{step[0]}."
    wrappers = [path for path, part in network.named_modules() if _wraps(part)]
    tensors, names = {}, {}
    for key, tensor in network.state_dict(keep_vars=True).items():
        clean = _without(wrappers, key)
        tensors[clean], names[clean] = tensor, prefix + key
    cores: dict[str, nn.Module] = {
        _without(wrappers, path): part
        for path, part in network.named_modules()
        if isinstance(part, ScalableViT | PyramidBackbone | TimmPyramid)
    }
    if not cores and is_timm_network(network):
        cores = {"": network}
    return Unwrapped(network, tensors, names, cores, is_partial)


def _is_core(network: nn.Module) -> bool:
    return isinstance(network, ScalableViT | PyramidBackbone | TimmPyramid) or is_timm_network(network)


def _without(wrappers: list[str], name: str) -> str:
    """Take the wrappers' own part out of a name; `wrappers` are their paths, the outer ones first."""
    for path in reversed(wrappers):  # the innermost first, so that the others' paths still stand
        for own in (_COMPILED, "module"):
            inside = f"{path}.{own}".lstrip(".")
            if name == inside or name.startswith(f"{inside}."):
                name = (path + name[len(inside) :]).lstrip(".")
                break
    return name


def _only_child(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The child that holds every parameter of a module, and its name; None where there is none."""
    own = {id(parameter) for parameter in module.parameters()}
    if not own:
        return None
    for name, child in module.named_children():
        if own == {id(parameter) for parameter in child.parameters()}:
            return name, child
    return None


def _wraps(module: nn.Module) -> bool:
    return isinstance(module, DataParallel | DistributedDataParallel) or _COMPILED in module._modules


def _refuse(model: nn.Module) -> None:
    for part in model.modules():
        kind = type(part).__name__
        if kind == "FullyShardedDataParallel":
            raise WeightsError("the model is sharded (FSDP): load the weights before it is wrapped")
        if type(part).__module__.startswith("scalablevit.deploy"):
            raise WeightsError(
                "the model was prepared for inference by optimize(), which folds its weights: load the weights into "
                "the model that it was made from, then call optimize() again"
            )
    changed = next((key for key in model.state_dict() if any(mark in f".{key}" for mark in _CHANGED)), None)
    if changed is not None:
        raise WeightsError(
            f"layers of the model were changed after it was built ({changed}: adapters, parametrizations, pruning or "
            "quantization): load the weights before that"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise WeightsError(f"{name} of the model is on the meta device: call model.to_empty(device=...) first")
        if type(parameter.data).__name__ == "DTensor":
            raise WeightsError(f"{name} of the model is sharded (DTensor): load the weights before it is sharded")
