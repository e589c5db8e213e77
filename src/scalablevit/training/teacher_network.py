"""Open a teacher by its name: a network of timm, a run of ours, a checkpoint, or a name on the hub."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import (
    WEIGHTS_FILE,
    WeightsError,
    describe_variant,
    load_model,
    load_weights,
    read_checkpoint,
    read_metadata,
    to_native_names,
)
from scalablevit.weights.source import first_line, weights_file

_KEY = "model.teacher.name"
_PUBLISHED_SIZE = (224, 224)


@dataclass(frozen=True)
class TeacherNetwork:
    """A network that can teach, and what its input must be.

    Attributes:
        network: from images (B, len(mean), H, W) to logits (B, K); with timm's `forward_features`, `forward_head` and
            `forward_intermediates`.
        mean, std: a channel each, of pixels in 0..1.
        image_size: (height, width) in pixels that it was trained for.
        class_names: by class index; None: unknown.
        multi_label: an image has any number of its classes.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    class_names: list[str] | None = None
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """Width of its logits; 0 for a network without a head."""
        return int(self.network.num_classes)  # type: ignore[arg-type]


def open_teacher(name: str, *, weights: str | None = None, image_size: tuple[int, int] | None = None) -> TeacherNetwork:
    """Build the network that `name` stands for, with its weights.

    Args:
        name: run folder, its model.safetensors, authors' checkpoint of a ScalableViT, `local-dir:` or `hf-hub:` name,
            or a name of timm's registry.
        weights: checkpoint to fill a network of timm's registry with; None: timm's own, which are downloaded.
        image_size: (height, width) in pixels that it will be given, for networks that are built for one size.

    Raises:
        ValueError: there is no such network, or its weights cannot be had or do not fit.
        FileNotFoundError: no such file.
    """
    if not name:
        raise ValueError(f"{_KEY} is missing: name a run folder, a checkpoint, or a network of timm")
    path = Path(name.removeprefix("local-dir:")).expanduser()
    is_file = name.startswith("local-dir:") or path.exists() or _looks_like_a_path(name)
    if weights is not None and (is_file or name.startswith("hf-hub:")):
        raise ValueError(
            f"model.teacher.weights {weights} is for networks of timm's registry, and {name} brings its own: leave "
            "one of them out"
        )
    if name.startswith("hf-hub:"):
        return _of_timm(name, None, image_size)
    if is_file:
        return _of_files(name, path, image_size)
    return _of_timm(name, weights, image_size)


def _looks_like_a_path(name: str) -> bool:
    return "/" in name or name.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin"))


def _of_files(name: str, path: Path, image_size: tuple[int, int] | None) -> TeacherNetwork:
    """A run of ours, a folder of timm's, or the authors' checkpoint."""
    if path.is_dir() and (path / "config.json").is_file() and not _is_of_a_run(path):
        return _of_timm(f"local-dir:{path}", None, image_size)
    file = weights_file(path)
    if _is_of_a_run(file):
        metadata = read_metadata(file)
        if metadata.get("task") != "classification":
            raise WeightsError(
                f"{_KEY} {name} holds weights for {metadata.get('task')!r}; a teacher is a classifier, or its backbone"
            )
        network, metadata = load_model(file)
        return _of_metadata(network, metadata, name)
    run = file.parent.parent
    if file.parent.name == "checkpoints" and (run / "recipe.yaml").is_file():
        remedy = f"give {run}" if (run / WEIGHTS_FILE).is_file() else f"end that run, then give {run}"
        raise WeightsError(f"{_KEY} {name} is a checkpoint to resume from; a teacher is the run itself: {remedy}")
    return _of_authors(name, file)


def _is_of_a_run(path: Path) -> bool:
    file = path / WEIGHTS_FILE if path.is_dir() else path
    return file.suffix == ".safetensors" and file.is_file() and "task" in read_metadata(file)


def _of_metadata(network: nn.Module, metadata: Mapping[str, Any], name: str) -> TeacherNetwork:
    try:
        given = metadata["preprocessing"]
        height, width = given["image_size"]
        mean, std = tuple(map(float, given["mean"])), tuple(map(float, given["std"]))
        names, multi_label = list(metadata["class_names"]), metadata.get("multi_label") is True
        return TeacherNetwork(network, mean, std, (int(height), int(width)), names, multi_label)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name} lacks class names or preprocessing ({error}); train it with fit") from error


def _of_authors(name: str, file: Path) -> TeacherNetwork:
    """A ScalableViT whose variant is told from its tensors; its input is the published one."""
    tensors = to_native_names(read_checkpoint(file))
    variant = describe_variant(tensors)
    if variant not in VARIANTS:
        raise WeightsError(
            f"{_KEY} {name} holds {variant}, and only the variants ({', '.join(VARIANTS)}) are known by their tensors: "
            f"for another network set {_KEY} to its name in timm and model.teacher.weights to this file"
        )
    head, stem = _last_rows(tensors, "head."), tensors["stages.0.patch_embed.proj.weight"]
    # a plain head has one layer, the published one another before it
    kind: Any = "published" if any(key.startswith("head.hidden") for key in tensors) else "plain"
    numbers: dict[str, Any] = {**VARIANTS[variant], "in_chans": stem.shape[1], "num_classes": head, "head": kind}
    network = ScalableViT(**numbers)
    load_weights(network, file)
    mean, std = _for_channels(IMAGENET_DEFAULT_MEAN, stem.shape[1]), _for_channels(IMAGENET_DEFAULT_STD, stem.shape[1])
    return TeacherNetwork(network.eval(), mean, std, _PUBLISHED_SIZE)


def _last_rows(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Rows of the last weight matrix below a prefix: the number of classes; 0 where there is none."""
    matrices = [tensor for key, tensor in tensors.items() if key.startswith(prefix) and tensor.ndim == 2]
    return matrices[-1].shape[0] if matrices else 0


def _for_channels(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    return values if in_chans == len(values) else (sum(values) / len(values),) * in_chans


def _of_timm(name: str, weights: str | None, image_size: tuple[int, int] | None) -> TeacherNetwork:
    """A network of timm's registry, of a folder of timm's, or of the hub."""
    is_registered = ":" not in name
    if is_registered and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{_KEY}: {name} is neither a file or folder, nor a network of timm{meant}")
    tensors = None if weights is None else read_checkpoint(weights)
    options: dict[str, Any] = {"pretrained": tensors is None}
    try:
        plain = timm.get_pretrained_cfg(name) if is_registered else None
        if plain is not None and image_size is not None and plain.fixed_input_size:
            options["img_size"] = image_size
        if tensors is not None:
            options |= _sizes_of(tensors, plain)
        network = timm.create_model(name, **options)
    except (RuntimeError, TypeError, ValueError, OSError, SafetensorError) as error:
        remedy = "give their file by model.teacher.weights" if is_registered else "check the name and the network"
        raise ValueError(f"{_KEY}: {name} could not be had with its weights ({first_line(error)}); {remedy}") from error
    if tensors is not None:
        _fill(network, tensors, name, str(weights))
    return _by_config(network)


def _sizes_of(tensors: Mapping[str, Tensor], config: Any) -> dict[str, int]:
    """Numbers of classes and channels that a state dict of a timm network has."""
    found = {}
    for option, layer, dim in (("num_classes", config.classifier, 0), ("in_chans", config.first_conv, 1)):
        weight = tensors.get(f"{layer}.weight") if isinstance(layer, str) else None
        if weight is not None and weight.ndim > dim:
            found[option] = weight.shape[dim]
    return found


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], name: str, weights: str) -> None:
    if isinstance(network, ScalableViT):
        load_weights(network, weights)
        return
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reasons = re.sub(r"\s+", " ", str(error).partition(":")[2]).strip()
        raise WeightsError(f"model.teacher.weights {weights} does not fit {name}: {reasons[:300]}") from error


def _by_config(network: nn.Module) -> TeacherNetwork:
    """What timm's config says of the input, and of the classes where it names them."""
    config: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    in_chans = int(getattr(network, "in_chans", config.get("input_size", (3, 224, 224))[0]))
    names = config.get("label_names")
    return TeacherNetwork(
        network.eval(),
        _for_channels(tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)), in_chans),
        _for_channels(tuple(config.get("std", IMAGENET_DEFAULT_STD)), in_chans),
        tuple(config.get("input_size", (3, *_PUBLISHED_SIZE))[1:]),
        list(names) if names and len(names) == getattr(network, "num_classes", None) else None,
    )
