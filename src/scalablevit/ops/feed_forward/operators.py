"""The kernels as PyTorch operators, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`. The backward computes the hidden
channels once more instead of keeping them; products that give the gradients of weights are PyTorch's own operators.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.feed_forward import gradient, reference
from scalablevit.ops.feed_forward.gradient import Gradients
from scalablevit.ops.feed_forward.weights import Weights
from scalablevit.ops.operator import custom_op


@custom_op(
    "scalablevit::feed_forward",
    mutates_args=(),
    schema="(Tensor x, Tensor? branch, Tensor? proj_weight, Tensor? proj_bias, Tensor? branch_scale, "
    "Tensor norm_weight, Tensor norm_bias, Tensor weight_1, Tensor bias_1, Tensor weight_2, Tensor bias_2, "
    "Tensor? scale, float eps) -> Tensor",
)
def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
) -> Tensor:
    """The output, as large as x; arguments as in `kernel.forward`."""
    if x.numel() == 0:
        return x.new_empty(x.shape)
    weights = Weights(norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2, proj_weight, proj_bias)

    def launch() -> Tensor:
        from scalablevit.ops.feed_forward import kernel

        return kernel.forward(x, branch, weights, eps=eps, branch_scale=branch_scale, scale=scale)

    def plain() -> Tensor:
        return reference.feed_forward(x, branch, weights, eps=eps, branch_scale=branch_scale, scale=scale).contiguous()

    return kernel_or_plain(
        launch,
        plain,
        name="feed-forward kernel",
        device=x.device,
        dtype=weight_1.dtype,
        sizes={"channels": x.shape[-1], "hidden": weight_1.shape[0]},
    )


@feed_forward.register_fake
def _(
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
) -> Tensor:
    return x.new_empty(x.shape)


@custom_op(
    "scalablevit::feed_forward_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor? branch, Tensor? proj_weight, Tensor? proj_bias, Tensor? branch_scale, "
    "Tensor norm_weight, Tensor norm_bias, Tensor weight_1, Tensor bias_1, Tensor weight_2, Tensor bias_2, "
    "Tensor? scale, float eps, bool with_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def feed_forward_backward(
    grad: Tensor,
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Gradients`; nothing, (0,), stands for None. Arguments as in `backward_kernel.backward`."""
    weights = Weights(norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2, proj_weight, proj_bias)
    if grad.numel() == 0:
        empty = gradient.empty(x, branch, weights, branch_scale=branch_scale, with_weights=with_weights)
        for found in empty:
            found.zero_()
        return empty
    options: dict[str, Any] = {
        "eps": eps,
        "branch_scale": branch_scale,
        "scale": scale,
        "with_weights": with_weights,
    }

    def launch() -> Gradients:
        from scalablevit.ops.feed_forward import backward_kernel

        return backward_kernel.backward(grad, x, branch, weights, **options)

    def plain() -> Gradients:
        return gradient.backward(grad, x, branch, weights, **options)

    return kernel_or_plain(
        launch,
        plain,
        name="backward of the feed-forward kernel",
        device=x.device,
        dtype=weight_1.dtype,
        sizes={"channels": x.shape[-1], "hidden": weight_1.shape[0]},
    )


@feed_forward_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    weights = Weights(norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2, proj_weight, proj_bias)
    return gradient.empty(x, branch, weights, branch_scale=branch_scale, with_weights=with_weights)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


_WEIGHTS = (2, 3, 5, 6, 7, 8, 9, 10)  # where weights stand among the operator's arguments


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, branch, proj_weight, proj_bias, branch_scale, *weights, scale = ctx.saved_tensors
    norm_weight, norm_bias, weight_1, bias_1, _, bias_2 = weights
    needs, C, dtype = ctx.needs_input_grad, x.shape[-1], weight_1.dtype
    with_weights = any(needs[i] for i in _WEIGHTS)
    dx, d_projected, d_attended, normalised, hidden, d_inner, sums = feed_forward_backward(
        grad, x, branch, proj_weight, proj_bias, branch_scale, *weights, scale, ctx.eps, with_weights
    )
    d_branch = d_proj_weight = d_proj_bias = d_weight_1 = d_weight_2 = None
    if branch is not None:
        has_own = branch_scale is not None or branch.dtype != x.dtype
        d_branch = d_projected if has_own else dx
        if proj_weight is not None:
            if needs[2]:
                d_proj_weight = d_branch.reshape(-1, C).t() @ branch.reshape(-1, branch.shape[-1])
            d_branch = d_attended
    if needs[7]:
        d_weight_1 = d_inner.t() @ normalised
    if needs[9]:
        d_weight_2 = grad.to(dtype).reshape(-1, C).t() @ hidden
    if not with_weights:
        return dx, d_branch, *[None] * 11
    d_bias_1, d_norm_weight, d_norm_bias, d_bias_2, d_proj_bias = sums.split([weight_1.shape[0], C, C, C, C])
    return (
        dx,
        d_branch,
        d_proj_weight,
        None if proj_bias is None else d_proj_bias.to(proj_bias.dtype),
        None,
        d_norm_weight.to(norm_weight.dtype),
        d_norm_bias.to(norm_bias.dtype),
        d_weight_1,
        d_bias_1.to(bias_1.dtype),
        d_weight_2,
        d_bias_2.to(bias_2.dtype),
        None,
        None,
    )


feed_forward.register_autograd(_backward, setup_context=_save)
