"""`dtype="auto"` takes bfloat16 where the device multiplies it natively, and tells."""

import logging

import pytest
import torch

import scalablevit
from scalablevit.deploy.precision import native_bfloat16, resolve_dtype

CPU = torch.device("cpu")


def have(monkeypatch: pytest.MonkeyPatch, *, amx: bool = False, avx512: bool = False) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)


def test_torch_still_tells_what_the_processor_has() -> None:
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)


@pytest.mark.parametrize(
    ("units", "name"), [({"amx": True, "avx512": True}, "AMX"), ({"avx512": True}, "AVX512-BF16"), ({}, "")]
)
def test_native_units_are_named(units: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, **units)
    assert native_bfloat16(CPU) == name
    assert native_bfloat16(torch.device("meta")) == ""


def test_auto_takes_bfloat16_where_it_is_native_and_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    have(monkeypatch, avx512=True)
    torch.manual_seed(0)
    model = scalablevit.scalablevit_atto(num_classes=5)
    fast = scalablevit.optimize(model, backend="eager", dtype="auto")
    assert next(fast.parameters()).dtype == torch.bfloat16
    (line,) = caplog.messages
    assert "bfloat16, which AVX512-BF16 of this processor multiply natively" in line
    assert "pass dtype=torch.float32" in line
    assert fast(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_auto_keeps_float32_elsewhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    have(monkeypatch)
    assert resolve_dtype("auto", torch.float32, CPU) == torch.float32
    have(monkeypatch, amx=True)
    assert resolve_dtype("auto", torch.float64, CPU) == torch.float64
    assert resolve_dtype("auto", torch.float16, CPU) == torch.float16
    assert resolve_dtype(None, torch.float32, CPU) == torch.float32
    assert resolve_dtype(torch.float32, torch.float32, CPU) == torch.float32
    assert not caplog.messages


def test_other_words_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"dtype must be a torch.dtype, 'auto' or None \(the model's own\), got 'bf16'"
    ):
        resolve_dtype("bf16", torch.float32, CPU)  # type: ignore[arg-type]
