"""Build the network that the metadata of its weights describes, and fill it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from scalablevit.abridged import abridged
from scalablevit.networks import build_classifier, is_ours
from scalablevit.weights.classes import check_class_names
from scalablevit.weights.metadata import TrainedWeights
from scalablevit.weights.reading import Checkpoint, read
from scalablevit.weights.source import WeightsError, first_line, shortened
from scalablevit.weights.values import check_values

Build = Callable[[dict[str, Any]], nn.Module]


def load_model(source: str | os.PathLike[str] | TrainedWeights) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a file of `save_model` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it, or weights that are open already.

    Returns:
        network, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or weights and metadata disagree.
        FileNotFoundError: no such file.
    """
    checkpoint = read(source)
    network = _build(checkpoint, _classifier, "network", "build it yourself and fill it with load_weights(model, file)")
    return network, checkpoint.metadata


def load_network(source: str | os.PathLike[str] | TrainedWeights, build: Build) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model that a file of `save_network` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it, or weights that are open already.
        build: from the metadata to the model; an error that it raises blames the metadata.

    Returns:
        model, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or weights and metadata disagree.
        FileNotFoundError: no such file.
    """
    checkpoint = read(source)
    remedy = "take a run folder of `scalablevit fit`, or the model.safetensors in it"
    return _build(checkpoint, build, "model", remedy), checkpoint.metadata


def _classifier(metadata: dict[str, Any]) -> nn.Module:
    name, arguments = metadata["architecture"], metadata["model_args"]
    if is_ours(name):
        with torch.device("meta"):  # no time lost on an initialisation that is overwritten at once
            return build_classifier(name, **arguments)
    with torch.random.fork_rng(devices=[]):  # timm's have buffers that no state dict holds
        return build_classifier(name, **arguments)


def _build(checkpoint: Checkpoint, build: Build, what: str, remedy: str) -> nn.Module:
    """Build a model and fill all of it; every parameter and buffer must be in the checkpoint, and nothing else."""
    try:
        with _no_more_parameters_than(checkpoint.tensors):
            model = build(checkpoint.metadata)
    except _TooLargeError as error:
        raise _disagreement(checkpoint, [str(error)]) from None
    # whatever a damaged setting makes of the constructors: TypeError, RuntimeError, ZeroDivisionError, ...
    except Exception as error:
        reason = f"{shortened(error)!r} is missing" if isinstance(error, KeyError) else first_line(error)
        raise WeightsError(f"{checkpoint.source} does not say how to build its {what} ({reason}); {remedy}") from error
    targets = model.state_dict()
    if problems := _differences(checkpoint.tensors, targets):
        raise _disagreement(checkpoint, problems)
    check_class_names(checkpoint.tensors, checkpoint.metadata.get("class_names"), checkpoint.source)
    check_values(checkpoint.tensors, checkpoint.source)
    if any(target.is_meta for target in targets.values()):
        model = model.to_empty(device="cpu")  # all of it is filled in the next line
    model.load_state_dict(checkpoint.tensors)
    return model.eval()


def _differences(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> list[str]:
    missing = sorted(targets.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - targets.keys())
    problems = [
        f"{key} is {tuple(tensors[key].shape)}, the metadata says {tuple(target.shape)}"
        for key, target in targets.items()
        if key in tensors and tensors[key].shape != target.shape
    ]
    problems += [f"the weights lack {abridged(missing, 3)}"] if missing else []
    problems += [f"the metadata has no place for {shortened(abridged(surplus, 3))}"] if surplus else []
    return problems


def _disagreement(checkpoint: Checkpoint, problems: list[str]) -> WeightsError:
    more = f"; and {len(problems) - 2} more" if len(problems) > 2 else ""
    return WeightsError(
        f"{checkpoint.source} does not fit what it describes: {'; '.join(problems[:2])}{more}. Its weights and its "
        "metadata are of different networks: take the model.safetensors that one run wrote"
    )


class _TooLargeError(Exception):
    """Raised while a model is built that has more parameters than the file."""


@contextmanager
def _no_more_parameters_than(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the building of a model, in this thread, as soon as it has twice as many parameters as a file.

    A few characters of metadata can describe a network that no machine holds.
    """
    most = (2 * len(tensors) + 64, 2 * sum(tensor.numel() for tensor in tensors.values()) + 2**22)
    seen, thread = [0, 0], threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        seen[0] += 1
        seen[1] += parameter.numel()
        if seen[0] > most[0] or seen[1] > most[1]:
            raise _TooLargeError(f"the metadata describes more parameters than the {most[1] // 2:,} of the weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
