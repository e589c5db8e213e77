"""Trying Triton on a device before anything is computed by it."""

import os
import sys
from types import SimpleNamespace

import pytest

from scalablevit.ops import probe


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AssertionError("libcuda.so cannot found!\nPossible files are ..."),
            "AssertionError: libcuda.so cannot found!",
        ),
        (RuntimeError("0 active drivers ([]). There should only be one."), "RuntimeError: 0 active drivers"),
        (PermissionError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
        (RuntimeError(), "RuntimeError: "),
    ],
    ids=str,
)
def test_whatever_fails_is_said_in_a_line_and_not_tried_again(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def launch(index: int) -> None:
        tried.append(index)
        raise error

    monkeypatch.setattr(probe, "_failures", {})
    monkeypatch.setattr(probe, "kernel", SimpleNamespace(launch=launch), raising=False)
    monkeypatch.setitem(sys.modules, "scalablevit.ops.probe.kernel", probe.kernel)
    found = [probe.failure_on(1) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].startswith(f"Triton does not work on cuda:1 ({said}")
    assert "\n" not in found[0]
    assert tried == [1]


def test_a_device_that_launches_has_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(probe, "_failures", {})
    monkeypatch.setattr(probe, "kernel", SimpleNamespace(launch=launched.append), raising=False)
    monkeypatch.setitem(sys.modules, "scalablevit.ops.probe.kernel", probe.kernel)
    assert probe.failure_on(2) is None
    assert probe.failure_on(2) is None
    assert launched == [2]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the compiler's own")
@pytest.mark.parametrize("capability", [80, 90])
def test_its_kernel_is_one(capability: int) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scalablevit.ops.probe import kernel

    source = ASTSource(fn=kernel._nothing, signature={"n": "i32"}, constexprs={})
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
