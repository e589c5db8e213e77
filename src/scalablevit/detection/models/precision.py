"""Outputs of heads in float32, whatever autocast computes in."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def outputs_in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Forward hook: convert the outputs to float32, as boxes and losses need more digits than autocast gives."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Mapping):
        return {key: outputs_in_float32(module, inputs, value) for key, value in outputs.items()}
    return type(outputs)(outputs_in_float32(module, inputs, value) for value in outputs)
