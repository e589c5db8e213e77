"""The power of the pixels is found, and the table has every size."""

import json
from pathlib import Path
from typing import Any

import pytest

from linear_cost import RESULTS, exponent, exponents, series, table


def costs(power: float = 1.25) -> dict[str, Any]:
    """A result whose time is linear, and whose memory grows with `power`."""
    cells = []
    for side in (224, 448, 1024):
        pixels = side * side
        row = {
            "spread": {"median": 1e-6 * pixels, "quartile_1": 0.9e-6 * pixels, "quartile_3": 1.1e-6 * pixels},
            "memory": {"peak_bytes": 2**28 + int(pixels**power), "held_bytes": 2**28},
        }
        other = {"note": "out of memory"} if side == 1024 else row
        contenders = {"scalablevit_small": row, "plain:scalablevit_small": other}
        cells.append({"size": [side, side], "precision": "fp32", "contenders": contenders})
    result = {"device": "a CPU", "device_type": "cpu", "torch": "2", "timm": "1", "threads": 2, "cells": cells}
    result |= {"date": "2026-01-01T00:00:00+00:00", "commit": "abc"}
    return result | exponents(result)


def test_exponent() -> None:
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert exponent([1, 1], [3, 12]) is None
    assert exponent([1, 2], [0, 12]) is None


def test_exponents_and_table() -> None:
    result = costs()
    ours, plain = result["exponents"].values()
    assert ours["time"] == pytest.approx(1)
    assert ours["memory"] == pytest.approx(1.25, abs=1e-3)
    assert plain["time"] == pytest.approx(1), "of the two sizes that it did"
    assert series(result, "plain:scalablevit_small")["pixels"] == [224**2, 448**2]
    lines = table(result).splitlines()
    assert lines[3].split()[:2] == ["224", "50.2"]
    assert lines[5].split()[-2:] == ["-", "-"]
    assert lines[6].split() == ["power", "1.00", "1.25", "1.00", "1.25"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("linear_cost-*.json")), ids=lambda p: p.stem)
def test_written_results_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["finished"]
    assert {tuple(cell["size"]) for cell in result["cells"]} >= {(224, 224), (1024, 1024)}
    assert exponents(result)["exponents"] == result["exponents"]
