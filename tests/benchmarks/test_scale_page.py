"""docs/scale.md says what the arithmetic gives."""

import pytest

from scale_arithmetic import PAGE, TABLES, Network, filled, networks


def test_page_is_what_the_arithmetic_gives() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run benchmarks/scale_arithmetic.py"
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in page] == []


def test_figures_by_hand() -> None:
    network = Network(parameters=10**6, flops=10**9)
    assert network.images_per_second == pytest.approx(80e12 / 3e9)
    assert network.exchanged_bytes(2) == 4e6  # half of the gradients, twice
    assert network.checkpoint_bytes(averaged=False) == 12e6
    assert networks()["S"].parameters == pytest.approx(32e6, rel=0.02)
