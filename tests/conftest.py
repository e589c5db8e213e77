"""What all tests share: paths of the golden numbers, the command line and the benchmarks, and a seed."""

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "golden"), str(TESTS.parent / "benchmarks"), str(TESTS.parent / "tools")]

# Where CI is set, torch 2.11 turns a note to its developers into an error: torch.compile after torch.onnx.export fails
# with "make_fallback(aten.convolution_backward): a decomposition exists".
os.environ.pop("CI", None)


_SLOW_TIMEOUT = 1800
"""Seconds that a test marked slow may take: what compiles takes ten times as long where other programs compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than the others, unless they say how much they need."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@cache
def _reference_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    sets = json.loads((TESTS / "golden" / "reference_parameters.json").read_text())
    return {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in sets.items()}


@cache
def _reference_state(name: str) -> dict[str, Tensor]:
    from synthetic import synthetic_state_dict

    return {key: torch.from_numpy(x) for key, x in synthetic_state_dict(_reference_shapes()[name]).items()}


@pytest.fixture
def reference_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Name of a published checkpoint -> names and shapes of its parameters."""
    return _reference_shapes()


@pytest.fixture
def reference_state() -> Callable[[str], dict[str, Tensor]]:
    """From the name of a published checkpoint to stand-in weights under the published names."""
    return _reference_state
