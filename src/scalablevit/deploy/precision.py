"""Choose the precision that a device computes in natively."""

from __future__ import annotations

import logging
from typing import Literal

import torch

log = logging.getLogger(__name__)

Precision = torch.dtype | Literal["auto"] | None


def native_bfloat16(device: torch.device) -> str:
    """Name what multiplies bfloat16 matrices natively on a device; empty: nothing that torch tells of.

    Elsewhere a CPU converts to float32 at every step, which is slower than float32 itself.
    """
    if device.type == "cuda":
        is_native = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
        return "tensor cores" if is_native else ""
    if device.type != "cpu":
        return ""
    for function, name in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
        if getattr(torch.cpu, function, lambda: False)():
            return name
    return ""


def resolve_dtype(asked: Precision, weight: torch.dtype, device: torch.device) -> torch.dtype:
    """Resolve the dtype of weights and activations, and tell where "auto" lowers the precision.

    Args:
        asked: a dtype; "auto": bfloat16 in the place of float32, where the device multiplies it natively; None:
            `weight`.
        weight: dtype of the model's weights.
        device: that computes.

    Raises:
        ValueError: neither "auto" nor a floating dtype.
    """
    if asked is None:
        return weight
    if isinstance(asked, torch.dtype):
        if not asked.is_floating_point:
            raise ValueError(f"dtype must be a floating one such as torch.bfloat16, got {asked}")
        return asked
    if asked != "auto":
        raise ValueError(f"dtype must be a torch.dtype, 'auto' or None (the model's own), got {asked!r}")
    name = native_bfloat16(device) if weight == torch.float32 else ""
    if not name:
        return weight
    log.warning(
        "optimize: weights and activations become bfloat16, which %s of this %s multiply natively; where outputs must "
        "match those of the model, pass dtype=torch.float32",
        name,
        "processor" if device.type == "cpu" else "GPU",
    )
    return torch.bfloat16
