"""The kernels as PyTorch operators, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build (registers or shared memory of a card nobody foresaw) costs speed, not the run:
see `fallback.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.operator import custom_op
from scalablevit.ops.reduced_attention import fused
from scalablevit.ops.reduced_attention.limits import is_one_block


def _widths(q: Tensor, v: Tensor, num_heads: int) -> dict[str, int]:
    return {"key_width": q.shape[-1] // num_heads, "value_width": v.shape[-1] // num_heads}


def _case(q: Tensor, v: Tensor, num_heads: int) -> dict[str, Any]:
    """What is built as one: a backward whose forward PyTorch computed has no sums, and must be PyTorch's too."""
    widths = _widths(q, v, num_heads)
    name = f"{'one-block ' if is_one_block(v.shape[1], **widths) else ''}kernel of attention over reduced keys"
    return {"name": name, "device": q.device, "dtype": q.dtype, "sizes": widths}


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """By the definition, some queries at a time: inside an operator there is no autograd to ask."""
    dtype = q.dtype
    q, k, v, grad = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2).float() for x in (q, k, v, grad))
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.shape[2], 1024):
        rows = slice(start, start + 1024)
        weights = (q[:, :, rows] @ k.mT * scale).softmax(-1)  # (B, h, rows, M)
        d_weights = grad[:, :, rows] @ v.mT
        d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True)) * scale
        dq[:, :, rows] = d_scores @ k
        dk += d_scores.mT @ q[:, :, rows]
        dv += weights.mT @ grad[:, :, rows]
    dq, dk, dv = (x.transpose(1, 2).flatten(2).to(dtype).contiguous() for x in (dq, dk, dv))
    return dq, dk, dv


def _empty_log_sums(q: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """(B, h, N) in fp32, or nothing where the backward does without."""
    if is_one_block(v.shape[1], **_widths(q, v, num_heads)):
        return q.new_empty(0, dtype=torch.float32)
    return q.new_empty((q.shape[0], num_heads, q.shape[1]), dtype=torch.float32)


@custom_op(
    "scalablevit::reduced_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, SymInt num_heads, float scale) -> (Tensor, Tensor)",
)
def reduced_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """The output, (B, N, Cv), and for the backward the base-2 logarithms of each row's sum of exponentials."""
    out, log_sums = q.new_empty((*q.shape[:2], v.shape[-1])), _empty_log_sums(q, v, num_heads)
    if out.numel() == 0 or k.numel() == 0:
        return out.zero_(), log_sums.zero_()

    def launch() -> tuple[Tensor, Tensor]:
        from scalablevit.ops.reduced_attention import kernel

        kernel.forward(q, k, v, out, log_sums, num_heads=num_heads, scale=scale)
        return out, log_sums

    def plain() -> tuple[Tensor, Tensor]:
        # Who comes back with these sums finds the kernel unbuildable, and does not read them.
        return fused.reduced_attention(q, k, v, num_heads=num_heads, scale=scale).contiguous(), log_sums.zero_()

    return kernel_or_plain(launch, plain, **_case(q, v, num_heads))


@reduced_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:2], v.shape[-1])), _empty_log_sums(q, v, num_heads)


@custom_op(
    "scalablevit::reduced_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? out, Tensor log_sums, SymInt num_heads, float scale) "
    "-> (Tensor, Tensor, Tensor)",
)
def reduced_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    log_sums: Tensor,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv; `out` only where `log_sums` are not empty."""
    if grad.numel() == 0 or k.numel() == 0:
        return q.new_zeros(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)

    def launch() -> tuple[Tensor, Tensor, Tensor]:
        from scalablevit.ops.reduced_attention import kernel

        return kernel.backward(grad, q, k, v, out, log_sums, num_heads=num_heads, scale=scale)

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        return _plain_backward(grad, q, k, v, num_heads, scale)

    return kernel_or_plain(launch, plain, **_case(q, v, num_heads))


@reduced_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    log_sums: Tensor,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.num_heads, ctx.scale = inputs
    out, log_sums = output
    one_block = is_one_block(v.shape[1], **_widths(q, v, ctx.num_heads))
    ctx.save_for_backward(q, k, v, None if one_block else out, log_sums)
    ctx.mark_non_differentiable(log_sums)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, log_sums = ctx.saved_tensors
    return *reduced_attention_backward(grad, q, k, v, out, log_sums, ctx.num_heads, ctx.scale), None, None


reduced_attention.register_autograd(_backward, setup_context=_save)
