"""What happens to a kernel that cannot be built."""

import subprocess
import warnings

import pytest
import torch

from scalablevit.ops import fallback
from scalablevit.ops.fallback import failed_to_build, kernel_or_plain


def test_a_kernel_that_cannot_be_built_is_told_from_one_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    assert failed_to_build(errors.OutOfResources(300000, 232448, "shared memory"))
    assert failed_to_build(subprocess.CalledProcessError(1, ["gcc"]))
    assert failed_to_build(PermissionError("~/.triton/cache"))
    assert failed_to_build(RuntimeError("Failed to find C compiler. Please specify via CC"))
    assert failed_to_build(RuntimeError("PassManager::run failed"))
    assert not failed_to_build(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not failed_to_build(torch.OutOfMemoryError("CUDA out of memory"))
    assert not failed_to_build(ValueError("C compiler"))
    monkeypatch.setattr(fallback, "IS_INTERPRETED", True)
    assert not failed_to_build(errors.OutOfResources(1, 0, "registers"))


def test_each_case_warns_once_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    tried = []

    def run(name: str, width: int) -> bool:
        def kernel() -> bool:
            tried.append((name, width))
            raise OSError("disk full")

        settings = {"device": torch.device("cpu"), "dtype": torch.float32, "sizes": {"width": width}}
        with torch.autocast("cpu", torch.bfloat16):
            return kernel_or_plain(kernel, lambda: not torch.is_autocast_enabled("cpu"), name=name, **settings)

    for name, width in (("a", 1), ("a", 2), ("b", 1)):
        said = f"the {name} cannot be built for cpu, torch.float32, width {width}; PyTorch computes instead"
        with pytest.warns(UserWarning, match=said):
            assert run(name, width)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(name, width)
    assert tried == [("a", 1), ("a", 2), ("b", 1)]
