"""Check the values of weights before they go into a network."""

from collections.abc import Mapping

import torch
from torch import Tensor

from scalablevit.abridged import abridged
from scalablevit.weights.source import WeightsError


def check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are quantized, or that are not finite: every output would be NaN.

    Raises:
        WeightsError: names the tensors.
    """
    # BatchNorm counts its batches in integers
    integers = [
        name
        for name, tensor in tensors.items()
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    if integers:
        kind = str(tensors[integers[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"{source} holds weights of type {kind}, as of a quantized network, in {abridged(integers, 3)}; give the "
            "weights in floating point"
        )
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if broken:
        raise WeightsError(
            f"{source} holds NaN or infinity in {abridged(broken, 3)}: its training diverged, or the file is damaged; "
            "take an earlier checkpoint"
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.dtype.itemsize == 1:  # float8 has few operations
        tensor = tensor.to(torch.float32)
    return bool(tensor.isfinite().all())
