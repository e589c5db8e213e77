"""Operators of PyTorch that cost eager mode little.

What compiles, traces, transforms or watches must see an operator of torch.library. Its dispatcher calls several layers
of Python on the way to a kernel, which take longer than many of the kernels themselves at small batches. Where nothing
of the kind is active, a call here goes to the kernel, or to an autograd function around it, without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

_PLAIN = frozenset((Tensor, nn.Parameter, type(None), bool, int, float))
"""What stands for itself: no subclass of a tensor, no symbol for a number."""
_BATCHED_GRADIENTS: Any = torch._C._parse_dispatch_key("VmapMode")
"""What autograd's is_grads_batched sets, which is none of functorch's transforms."""


class Operator:
    """An operator of torch.library with a short way for eager mode.

    Attributes:
        overload: what torch.library has registered.

    Raises:
        NotImplementedError: a call gets tensors with forward-mode derivatives.
    """

    def __init__(self, definition: torch.library.CustomOpDef, run: Callable[..., Any]) -> None:
        self._definition = definition
        self._run = run
        self._function: type[Function] | None = None
        self.overload: Callable[..., Any] = definition._opoverload

    def __call__(self, *arguments: Any) -> Any:
        """Compute; the arguments are those of the schema, in order."""
        if _is_watched(arguments):
            if forward_ad._current_level >= 0:
                self._refuse_tangents(arguments)
            return self.overload(*arguments)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments):
            return (self._function or _without_gradients(self._run, str(self.overload))).apply(*arguments)
        return self._run(*arguments)

    def _refuse_tangents(self, arguments: tuple[Any, ...]) -> None:
        """Raise where torch.library would drop the forward-mode derivative of an argument without a word."""
        tensors = (x for x in arguments if isinstance(x, Tensor))
        if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
            raise NotImplementedError(
                f"{self.overload} has no forward-mode derivative; compute it with implementation='torch'"
            )

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Register what gives the shapes and dtypes of the results; a decorator."""
        return self._definition.register_fake(fake)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """Register the gradients, as `torch.library.register_autograd` does.

        Args:
            backward: (ctx, *gradients of the results) -> gradients of the arguments.
            setup_context: (ctx, inputs, output): keeps what `backward` needs.
        """
        self._definition.register_autograd(backward, setup_context=setup_context)
        run, gradients = self._run, backward

        class Direct(Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = run(*inputs)
                setup_context(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return gradients(ctx, *grads)

        self._function = Direct


def custom_op(name: str, *, mutates_args: tuple[()], schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make a function an operator; a decorator.

    Args:
        name: "namespace::name".
        mutates_args: none.
        schema: arguments and results, in torch.library's words.
    """

    def decorate(run: Callable[..., Any]) -> Operator:
        return Operator(torch.library.custom_op(name, run, mutates_args=mutates_args, schema=schema), run)

    return decorate


def _without_gradients(run: Callable[..., Any], name: str) -> type[Function]:
    """An autograd function that says what it lacks when somebody asks for it."""

    class Direct(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            return run(*inputs)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(
                f"{name} has no gradients, so second derivatives do not exist; "
                "implementation='reference' (scalablevit.set_attention) has them"
            )

    return Direct


def _is_watched(arguments: tuple[Any, ...]) -> bool:
    """Tell whether anything but autograd wants to know of a call: then it is one of PyTorch's operator."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or torch._C._autograd._profiler_enabled()
        or forward_ad._current_level >= 0
        or not _PLAIN.issuperset(map(type, arguments))
        or any(x.is_meta for x in arguments[:1])
        or torch._C._dispatch_tls_is_dispatch_key_included(_BATCHED_GRADIENTS)
    )
