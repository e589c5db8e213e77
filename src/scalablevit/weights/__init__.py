"""Checkpoints: read every format, fill networks, report what was loaded, and write the one format of ours."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalablevit.weights.building import load_model, load_network
    from scalablevit.weights.matching import adapt_in_chans, load_weights
    from scalablevit.weights.metadata import (
        METADATA_KEY,
        TrainedWeights,
        metadata_for,
        open_trained,
        read_metadata,
        trained_task,
    )
    from scalablevit.weights.published_names import to_native_names
    from scalablevit.weights.reading import read_checkpoint
    from scalablevit.weights.report import LoadReport
    from scalablevit.weights.source import WEIGHTS_FILE, WeightsError
    from scalablevit.weights.variants import describe_variant, holds_scaled_values
    from scalablevit.weights.writing import save_model, save_network, save_weights

# Lazy, as the network itself imports `published_names` from here, and most of the others import the network.
_HOMES = {
    "METADATA_KEY": "metadata",
    "WEIGHTS_FILE": "source",
    "LoadReport": "report",
    "TrainedWeights": "metadata",
    "WeightsError": "source",
    "adapt_in_chans": "matching",
    "describe_variant": "variants",
    "holds_scaled_values": "variants",
    "load_model": "building",
    "load_network": "building",
    "load_weights": "matching",
    "metadata_for": "metadata",
    "open_trained": "metadata",
    "read_checkpoint": "reading",
    "read_metadata": "metadata",
    "save_model": "writing",
    "save_network": "writing",
    "save_weights": "writing",
    "to_native_names": "published_names",
    "trained_task": "metadata",
}

__all__ = [
    "METADATA_KEY",
    "WEIGHTS_FILE",
    "LoadReport",
    "TrainedWeights",
    "WeightsError",
    "adapt_in_chans",
    "describe_variant",
    "holds_scaled_values",
    "load_model",
    "load_network",
    "load_weights",
    "metadata_for",
    "open_trained",
    "read_checkpoint",
    "read_metadata",
    "save_model",
    "save_network",
    "save_weights",
    "to_native_names",
    "trained_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scalablevit.weights' has no attribute {name!r}")
    return getattr(import_module(f"scalablevit.weights.{_HOMES[name]}"), name)
