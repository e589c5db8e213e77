"""Write weights with their metadata, so that an interrupted write loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from scalablevit.backbone import ScalableViT
from scalablevit.safe_write import write_atomically
from scalablevit.weights.metadata import FORMAT_VERSION, METADATA_KEY
from scalablevit.weights.source import WEIGHTS_FILE


def save_weights(model: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file, under a temporary name first, so that an interrupted write loses nothing.

    Args:
        model: its state dict is written, under its own names but for the mark of torch.compile.
        path: file to write.
        metadata: anything JSON can hold; `read_metadata` gives it back.

    Raises:
        WriteError: (an OSError) the disk is full or the folder cannot be written; an earlier file is intact.
    """
    named = {key.replace("_orig_mod.", ""): tensor for key, tensor in model.state_dict().items()}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
    content = safetensors.torch.save(state, {"format": "pt", METADATA_KEY: json.dumps(dict(metadata or {}))})
    header, tensors = _ordered_header(content), memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
    write_atomically(path, lambda file: file.writelines((header, tensors)))


def _ordered_header(content: bytes) -> bytes:
    """The length and the header of a safetensors file, with the metadata in the order of their names.

    safetensors writes them in an order that differs from process to process: equal weights would be unequal files.
    """
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def save_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> Path:
    """Write a folder from which `load_model`, timm (`local-dir:`) and transformers build the network.

    Args:
        model: classifier to write.
        folder: gets `model.safetensors`, with all of the metadata, and timm's `config.json`.
        architecture: name of the variant.
        model_args: arguments with which timm's `create_model` makes this network, beside the name.
        metadata: class names under `class_names`, preprocessing under `preprocessing`, and what else is worth keeping.

    Returns:
        the safetensors file.
    """
    folder = Path(folder)
    path = folder / WEIGHTS_FILE
    model_args = dict(model_args)
    if isinstance(model_args.get("window_size"), tuple) and isinstance(model, ScalableViT):
        # JSON has no tuples, and a list means one size per stage.
        model_args["window_size"] = [list(model_args["window_size"])] * len(model.stages)
    everything = {"format_version": FORMAT_VERSION, **metadata, "architecture": architecture, "model_args": model_args}
    save_weights(model, path, metadata=everything)
    # timm and transformers take the number of classes from the top level, and fail where it stands twice
    timm_args = {name: value for name, value in model_args.items() if name != "num_classes"}
    config = {
        "architecture": architecture,
        **_timm_description(model),
        **_names(metadata),
        "model_args": timm_args,
        "pretrained_cfg": {
            **_adapted_layers(model),
            **_timm_preprocessing(metadata.get("preprocessing"), model_args.get("in_chans", 3)),
            **_names(metadata),
        },
    }
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / "config.json", text.encode())
    return path


def save_network(model: nn.Module, folder: str | os.PathLike[str], *, metadata: Mapping[str, Any]) -> Path:
    """Write a folder that `load_network` builds a detector or a segmentation model from.

    Args:
        model: to write.
        folder: gets `model.safetensors`, with all of the metadata.
        metadata: `task`, `variant` and `model_args`, from which it can be built; `class_names`, `preprocessing`, and
            what else is worth keeping. JSON must be able to hold it.

    Returns:
        the safetensors file.
    """
    path = Path(folder) / WEIGHTS_FILE
    save_weights(model, path, metadata={"format_version": FORMAT_VERSION, **metadata})
    return path


def _timm_description(model: nn.Module) -> dict[str, Any]:
    """What timm's configuration says of a network beside its arguments, where the network tells."""
    told = {name: getattr(model, name, None) for name in ("num_classes", "num_features", "global_pool")}
    # some of timm's networks call the layer that pools so
    return {name: value for name, value in told.items() if isinstance(value, int | str)}


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Names of the layers that timm adapts to other channels and classes."""
    if isinstance(model, ScalableViT):
        return {"first_conv": "stages.0.patch_embed.proj", "classifier": "head.fc"}
    settings: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    return {name: settings[name] for name in ("first_conv", "classifier") if settings.get(name)}


def _timm_preprocessing(preprocessing: Mapping[str, Any] | None, in_chans: int) -> dict[str, Any]:
    if preprocessing is None:
        return {}
    return {
        "input_size": [in_chans, *preprocessing["image_size"]],
        "crop_pct": preprocessing["crop_ratio"],
        "interpolation": preprocessing["interpolation"],
        "mean": list(preprocessing["mean"]),
        "std": list(preprocessing["std"]),
    }


def _names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"label_names": list(metadata["class_names"])} if metadata.get("class_names") else {}
