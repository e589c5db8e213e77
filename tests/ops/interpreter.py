"""Triton's interpreter, made to compute in bfloat16 as a GPU does."""

from typing import Any

import numpy as np
import torch


def make_bfloat16_right() -> None:
    """Mend two faults of the interpreter (Triton 3.6 to 3.9), which keeps bfloat16 numbers as 16-bit integers.

    Its `tl.dot` multiplies those integers, and its rounding from fp32 truncates where a GPU takes the nearest.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def in_fp32(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = np.ascontiguousarray(x.data).view(np.int16)
        return interpreter.TensorHandle(torch.from_numpy(bits).view(torch.bfloat16).float().numpy(), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, in_fp32(a), in_fp32(b), *others)  # products of two bfloat16 are exact in fp32

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16)
            return interpreter.TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)
        return cast(self, src, dst_type)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
