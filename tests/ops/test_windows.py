"""Cutting, padding, cropping: what one does, the other undoes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalablevit.ops.windows import (
    crop_to,
    pad_to_least,
    pad_to_multiple,
    window_partition,
    window_unpartition,
)

sides = st.integers(1, 9)
lengths = st.integers(1, 20)


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 3), height=lengths, width=lengths, rows=sides, columns=sides)
def test_unpartition_inverts_partition_and_crop_inverts_pad(
    batch: int, height: int, width: int, rows: int, columns: int
) -> None:
    x = torch.arange(1.0, batch * height * width * 2 + 1).view(batch, height, width, 2)
    padded = pad_to_multiple(x, (rows, columns))
    _, Hp, Wp, _ = padded.shape
    assert Hp % rows == 0
    assert 0 <= Hp - height < rows
    assert Wp % columns == 0
    assert 0 <= Wp - width < columns
    assert padded.sum() == x.sum()  # nothing but zeros was added
    windows = window_partition(padded, (rows, columns))
    assert windows.shape == (batch * (Hp // rows) * (Wp // columns), rows * columns, 2)
    assert torch.equal(window_unpartition(windows, (rows, columns), Hp, Wp), padded)
    assert torch.equal(crop_to(padded, height, width), x)


@settings(max_examples=30, deadline=None)
@given(height=lengths, width=lengths, least=sides)
def test_pad_to_least_adds_zeros_only_where_the_map_is_small(height: int, width: int, least: int) -> None:
    x = torch.ones(1, height, width, 3)
    padded = pad_to_least(x, least)
    assert padded.shape == (1, max(height, least), max(width, least), 3)
    assert torch.equal(padded[:, :height, :width], x)
    assert padded.sum() == x.sum()


def test_a_window_holds_neighbours_row_by_row() -> None:
    x = torch.arange(24.0).view(1, 4, 6, 1)
    windows = window_partition(x, (2, 3))
    assert windows[..., 0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]


def test_partition_reads_non_contiguous_maps() -> None:
    x = torch.randn(2, 3, 14, 7).permute(0, 2, 3, 1)
    assert torch.equal(window_partition(x, (7, 7)), window_partition(x.contiguous(), (7, 7)))


def test_whole_windows_are_not_copied() -> None:
    x = torch.randn(1, 14, 14, 2)
    assert pad_to_multiple(x, (7, 7)) is x
    assert crop_to(x, 14, 14) is x
    assert pad_to_least(x, 8) is x


def test_partition_refuses_bad_sizes() -> None:
    x = torch.zeros(1, 6, 6, 1)
    with pytest.raises(ValueError, match=r"6x6 tokens is not a whole number of \(4, 4\) windows; pad_to_multiple"):
        window_partition(x, (4, 4))
    with pytest.raises(ValueError, match=r"window_size must be at least 1 token .* got \(0, 3\)"):
        window_partition(x, (0, 3))
