"""Build the network that the metadata of its weights describes, and fill it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights.metadata import TrainedWeights
from scalablevit.weights.reading import Checkpoint, read
from scalablevit.weights.source import WeightsError, first_line


def load_model(source: str | os.PathLike[str] | TrainedWeights) -> tuple[ScalableViT, dict[str, Any]]:
    """Build the network that a file of `save_model` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it, or weights that are open already.

    Returns:
        network, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or does not fit what it describes.
        FileNotFoundError: no such file.
    """
    checkpoint = read(source)
    metadata = checkpoint.metadata
    try:
        # Never through timm's create_model: its arguments can name further files and hubs to load from.
        numbers = VARIANTS[metadata["architecture"]]
        with torch.device("meta"):  # no time lost on an initialisation that is overwritten at once
            model = ScalableViT(**{**numbers, **metadata["model_args"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{checkpoint.source} does not say how to build its network ({first_line(error)}); "
            "build it yourself and fill it with load_weights(model, file)"
        ) from error
    model = model.to_empty(device="cpu")
    _fill(model, checkpoint)
    return model.eval(), metadata


def load_network(
    source: str | os.PathLike[str] | TrainedWeights, build: Callable[[dict[str, Any]], nn.Module]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model that a file of `save_network` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it, or weights that are open already.
        build: from the metadata to the model; a KeyError, TypeError or ValueError of it blames the metadata.

    Returns:
        model, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or does not fit what it describes.
        FileNotFoundError: no such file.
    """
    checkpoint = read(source)
    metadata = checkpoint.metadata
    try:
        model = build(metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{checkpoint.source} does not say how to build its model ({first_line(error)}); take a run folder of "
            "`scalablevit fit`, or the model.safetensors in it"
        ) from error
    _fill(model, checkpoint)
    return model.eval(), metadata


def _fill(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy every tensor of a checkpoint; every parameter and buffer of the model must be in it, and nothing else."""
    try:
        model.load_state_dict(checkpoint.tensors)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise WeightsError(f"{checkpoint.source} does not fit what it describes: {'; '.join(reasons[:2])}") from error
