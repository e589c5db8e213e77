"""Triton's interpreter, corrected to compute as a GPU does and to run with current NumPy; marks of its tests."""

import os
from typing import Any

import numpy as np
import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRETED = [
    pytest.mark.skipif(not IS_INTERPRETED, reason="needs TRITON_INTERPRET=1"),
    # A warning would be that of a kernel that gave up.
    pytest.mark.filterwarnings("error::UserWarning:scalablevit"),
    pytest.mark.usefixtures("nan_in_new_memory"),
]
"""Marks of the tests of a kernel: `pytestmark = INTERPRETED`."""


def correct_interpreter() -> None:
    """Correct three faults of Triton's interpreter.

    It keeps bfloat16 numbers as 16-bit integers (3.6 to 3.9): `tl.dot` multiplies these integers, and rounding from
    fp32 truncates where a GPU takes the nearest. It turns arrays of one element into Python integers (until 3.7), which
    NumPy refuses since 2.4.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    dot, cast, patch_tensor = builder.create_dot, builder.cast_impl, interpreter._patch_lang_tensor

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

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    interpreter._patch_lang_tensor = patch_lang_tensor


if IS_INTERPRETED:
    correct_interpreter()
