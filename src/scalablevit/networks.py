"""What a name builds: a variant of ours, or any network of timm's registry, in which ours are too."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.backbone import VARIANTS, ScalableViT

_log = logging.getLogger(__name__)

# Arguments of timm's `create_model` that read further files or hubs, or that the task gives.
_NOT_OPTIONS = {
    "pretrained": "give weights by model.weights, such as hf-hub:timm/NAME.TAG",
    "checkpoint_path": "give weights by model.weights",
    "features_only": "dense tasks set it",
    "out_indices": "dense tasks set it",
    "feature_cls": "dense tasks set it",
    "num_classes": "the data give it",
    "in_chans": "the data give it",
}
_NOT_OPTIONS |= dict.fromkeys(
    ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "pretrained_model_args"),
    "give weights by model.weights",
)
_NOT_OPTIONS |= dict.fromkeys(
    ("cache_dir", "scriptable", "exportable", "no_jit", "device", "dtype", "feature_cfg", "model_cfg", "kwargs_filter"),
    "it is no argument of the network",
)
# Options by which timm's networks of one image size take images of others.
_FREES_THE_SIZE = {"strict_img_size": False, "dynamic_img_size": True}


def is_ours(name: str) -> bool:
    """Whether a name is that of a ScalableViT."""
    return name in VARIANTS


def check_network_name(name: str, *, key: str = "") -> None:
    """Refuse a name that builds nothing.

    Args:
        name: of ours, or of timm's registry, where a tag of weights may follow, as in "resnet10t.c3_in1k".
        key: of the recipe that gave the name, for the message; empty: none did.

    Raises:
        ValueError: suggests names that are like it.
    """
    if is_ours(name):
        return
    where = f"{key}: " if key else ""
    if re.search(r"[:/\\]|\.(?:pth?|ckpt|bin|safetensors|onnx)$", name):
        raise ValueError(
            f"{where}{name!r} is no name of a network but a place of weights; give the name of a network "
            f"({', '.join(VARIANTS)}, or any of timm.list_models()), and the weights by model.weights"
        )
    if not timm.is_model(name):
        close = similar_names(name)
        hint = f"did you mean {' or '.join(close)}?" if close else "or from timm.list_models()"
        raise ValueError(f"{where}there is no variant {name!r}; choose from {', '.join(VARIANTS)}; {hint}")
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:  # a tag that there is not
        tags = list(timm.list_pretrained(f"{name.split('.')[0]}.*"))
        raise ValueError(f"{where}{error}; timm knows {abridged(tags, 6) or 'no tag of this network'}") from error


def similar_names(name: str, *, others: Sequence[str] = ()) -> list[str]:
    """Names of both registries that are like one that there is not; at most three.

    Args:
        name: as given.
        others: further names that may be meant.
    """
    known = [*others, *VARIANTS, *(n for n in timm.list_models() if n not in VARIANTS)]
    asked = re.sub(r"[\s-]+", "_", name.strip().lower()).split(".")[0]
    close = [other for other in known if asked and other.startswith(asked)][:3]
    return close or difflib.get_close_matches(asked, known, 3, cutoff=0.5)


def own_settings(name: str, **settings: Any) -> dict[str, Any]:
    """Settings that ScalableViT alone has, as arguments of the network; none for another network.

    Args:
        name: of the network.
        settings: window_size, scale_value and, of a classifier, head, as the recipe has them.

    Returns:
        `settings` for a network of ours; otherwise nothing, and a warning of those that were set.

    Raises:
        ValueError: the scaled-value form is asked for of another network.
    """
    if is_ours(name):
        return settings
    if settings.get("scale_value"):
        raise ValueError(
            f"model.scale_value is a form of ScalableViT's attention, which {name} has not: leave it out, or set "
            "model.variant to one of ours"
        )
    usual = {"window_size": 7, "head": "auto"}
    idle = [f"model.{key} {settings[key]}" for key, value in usual.items() if settings.get(key, value) != value]
    if idle:
        _log.warning(
            "%s %s no effect: only ScalableViT has %s, and the network is %s, whose own arguments are "
            "model.network_options",
            *(" and ".join(idle), "have" if len(idle) > 1 else "has", "them" if len(idle) > 1 else "it", name),
        )
    return {}


def size_options(name: str, options: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The option `img_size` where timm builds a network for one size of images, and the options do not say which.

    Args:
        name: of the network.
        options: given for it.
        size: height and width of the images in pixels.
    """
    if "img_size" in options or not takes_one_size(name, options):
        return {}
    return {"img_size": list(size)}


def has_fixed_size(name: str) -> bool:
    """Whether timm builds a network for images of one size, unless its options say otherwise."""
    settings = None if is_ours(name) else timm.get_pretrained_cfg(name, allow_unregistered=True)
    return settings is not None and bool(settings.fixed_input_size)


def takes_one_size(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a network with these options takes images of one size only."""
    return has_fixed_size(name) and not _frees_the_size(options)


def size_freeing_options(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Options with which a network of one size may take images of any, in the order to try them.

    Args:
        options: given for it; where they free the size, or fix one, nothing is added.
    """
    if "img_size" in options or _frees_the_size(options):
        return [{}]
    return [*({key: value} for key, value in _FREES_THE_SIZE.items()), {}]


def _frees_the_size(options: Mapping[str, Any]) -> bool:
    return any(options.get(key) is value for key, value in _FREES_THE_SIZE.items())


def build_classifier(name: str, *, drop_path_rate: float = 0.0, **arguments: Any) -> nn.Module:
    """Build a classifier by name, initialised at random; never reads a file or a hub.

    Args:
        name: of ours, or of timm's registry.
        drop_path_rate: drop-path probability of the last block, in [0, 1); a network without drop path is warned of.
        arguments: num_classes, in_chans, and what else the network takes.

    Returns:
        network from images (B, in_chans, H, W) to logits (B, num_classes).

    Raises:
        ValueError: no such network or argument, or an argument out of range.
    """
    check_network_name(name)
    own = ("num_classes", "in_chans")
    options = {key: value for key, value in arguments.items() if key not in own}
    given = {key: arguments[key] for key in own if key in arguments}
    return from_registry(name, {**given, **checked_options(name, options)}, drop_path_rate=drop_path_rate)


def for_counting(name: str) -> AbstractContextManager[Any]:
    """In a `with` block, have a network built whose weights nobody reads: ours without memory for them."""
    # some of timm's compute numbers of their layers, which tensors without values do not have
    return torch.device("meta") if is_ours(name) else torch.random.fork_rng(devices=[])


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a network as timm takes them.

    Raises:
        ValueError: an option that reads files, or that the task or the data give.
    """
    for key in options:
        if key in _NOT_OPTIONS:
            raise ValueError(f"model.network_options.{key} of {name}: {_NOT_OPTIONS[key].replace('NAME', name)}")
    # recipes and JSON know no tuples, and timm's networks compare some arguments with tuples
    return dict(options) if is_ours(name) else {key: _as_tuple(value) for key, value in options.items()}


def from_registry(name: str, arguments: Mapping[str, Any], *, drop_path_rate: float = 0.0) -> nn.Module:
    """Build a network that timm's registry knows, from arguments that are checked."""
    try:
        # always given: some of timm's have a rate of their own, which the recipe does not show
        return _created(name, {"drop_path_rate": drop_path_rate, **arguments})
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise _unknown_option(name, error) from error
    if drop_path_rate:
        _log.warning("model.drop_path_rate %g has no effect: %s drops no paths", drop_path_rate, name)
    try:
        return _created(name, arguments)
    except TypeError as error:
        raise _unknown_option(name, error) from error


def _unknown_option(name: str, error: TypeError) -> ValueError:
    known = "ScalableViT" if is_ours(name) else f"timm's {name}"
    return ValueError(f"model.network_options: {_said(error)}; see {known} for its arguments")


def _created(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    build: Callable[..., nn.Module] = timm.create_model
    try:
        return build(name, pretrained=False, **arguments)
    except TypeError:
        raise
    except Exception as error:  # timm's networks assert, divide and index where arguments do not fit
        if is_ours(name) and isinstance(error, ValueError):
            raise
        given = ", ".join(f"{key} {value}" for key, value in arguments.items())
        raise ValueError(
            f"{name} cannot be built with {given} ({_said(error)}); change model.network_options"
            f"{', or the size of the images' if 'img_size' in arguments else ''}"
        ) from error


def recompute_blocks(network: nn.Module, name: str) -> None:
    """Have a network recompute its blocks in the backward pass instead of keeping their activations.

    Raises:
        ValueError: it cannot.
    """
    try:
        switch: Any = network.set_grad_checkpointing
        switch(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"model.grad_checkpointing: {name} cannot recompute its blocks; set it to false") from error


def is_timm_network(network: nn.Module) -> bool:
    """Whether a module is a classifier or encoder of timm, and no ScalableViT."""
    is_made_by_timm = isinstance(getattr(network, "pretrained_cfg", None), Mapping)
    return is_made_by_timm and not isinstance(network, ScalableViT) and not wraps_features(network)


def wraps_features(network: nn.Module) -> bool:
    """Whether a module is what timm's `features_only` puts around a network."""
    return type(network).__module__ == "timm.models._features"


def check_logits(network: nn.Module, name: str, *, in_chans: int, size: tuple[int, int], num_classes: int) -> None:
    """Run a classifier of timm once, so that images it cannot take are refused before a run begins.

    Args:
        network: on the CPU; its mode and weights stay.
        name: of it, for the message.
        in_chans, size, num_classes: of the images, and of the logits that are expected.

    Raises:
        ValueError: it fails, or gives something else than logits.
    """
    if isinstance(network, ScalableViT):
        return
    found = ran_once(network, name, (1, in_chans, *size))
    if not isinstance(found, Tensor) or found.shape != (1, num_classes):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name} gives {shape} for an image, not logits (1, {num_classes}): choose another network")


def ran_once(network: nn.Module, name: str, shape: tuple[int, ...], *, varies: bool = False) -> Any:
    """Outputs of a network, in evaluation, for images of zeros; it stays as it was.

    Args:
        network: on the CPU.
        name: of it, for the message.
        shape: of the images, (B, in_chans, H, W).
        varies: the images of the task have many sizes.

    Raises:
        ValueError: it fails on images of this size; the message says what to set.
    """
    training = network.training
    try:
        with torch.no_grad():
            return network.eval()(torch.zeros(shape))
    except Exception as error:  # timm's networks assert, reshape and convolve where a size does not fit
        height, width = shape[2:]
        size = getattr(network, "pretrained_cfg", {}).get("input_size", (0, 0, 0))[-2:]
        made = f", it was made for {size[0]} x {size[1]}" if min(size) > 0 else ""
        remedy = (
            "detectors and segmenters show it images of many sizes: set model.network_options to {strict_img_size: "
            "false} or {dynamic_img_size: true} where the network has it, or choose another network"
            if varies
            else "change the size of the images, or set model.network_options.img_size where the network has it"
        )
        raise ValueError(
            f"{name} cannot take images of {height} x {width} pixels ({_said(error)}){made}; {remedy}"
        ) from error
    finally:
        network.train(training)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(part) for part in value) if isinstance(value, list | tuple) else value


def _said(error: BaseException) -> str:
    """First line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
