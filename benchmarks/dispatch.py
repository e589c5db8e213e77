"""Time what a call of an operator costs beside its kernel, on the CPU.

    python benchmarks/dispatch.py

An operator that does nothing, with the arguments of our LayerNorm and linear layer, is called as a `triton_op` and as a
`custom_op` of torch.library, and as ours (`scalablevit.ops.operator`). What is left is dispatch: at small batches a GPU
waits for it, unless CUDA graphs or torch.compile take it away. The least of many repeats counts.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scalablevit.bench.conditions import conditions
from scalablevit.ops.operator import custom_op

SCHEMA = "(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor weight, Tensor? bias, float eps) -> Tensor"
_OUT = torch.empty(1, 7, 7, 192)


def nothing(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    """What is called; its result is no result of another call."""
    return _OUT.view(_OUT.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad[..., :64], *[None] * 5


def operators() -> dict[str, Callable[..., Any]]:
    """The same operator, made in each way."""
    found: dict[str, Any] = {
        "torch.library.triton_op": torch.library.triton_op("dispatch::triton", nothing, mutates_args=()),
        "torch.library.custom_op": torch.library.custom_op("dispatch::custom", nothing, mutates_args=(), schema=SCHEMA),
        "scalablevit.ops.operator": custom_op("dispatch::ours", mutates_args=(), schema=SCHEMA)(nothing),
    }
    for operator in found.values():
        operator.register_autograd(_backward, setup_context=_save)
    return {"the function alone": nothing, **found}


def microseconds(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Time of one call."""
    calls = 200
    return min(timeit.repeat(lambda: function(*arguments), number=calls, repeat=repeats)) / calls * 1e6


def main(words: list[str] | None = None) -> int:
    """Read the flags, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args(words)
    small, weight = torch.ones(64), torch.zeros(192, 64)
    frozen = (torch.zeros(1, 7, 7, 64), small, small, weight, None, 1e-6)
    learning = (frozen[0].clone().requires_grad_(), *frozen[1:])
    told = conditions("cpu")
    print(f"{told['device']}, torch {told['torch']}")
    print(f"{'microseconds a call':28}{'no_grad':>10}{'inference_mode':>16}{'gradients':>11}")
    for name, operator in operators().items():
        with torch.no_grad():
            plain = microseconds(operator, frozen, args.repeats)
        with torch.inference_mode():
            inference = microseconds(operator, frozen, args.repeats)
        print(f"{name:28}{plain:10.1f}{inference:16.1f}{microseconds(operator, learning, args.repeats):11.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
