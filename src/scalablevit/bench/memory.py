"""Measure the peak memory of one network."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
import torch.nn.functional as F

from scalablevit.bench.cells import Cell
from scalablevit.bench.conditions import forget_peak, held_bytes, peak_bytes
from scalablevit.bench.contenders import find_contender
from scalablevit.bench.passes import precision_settings, prepare, thread_count
from scalablevit.bench.turns import reason


def cuda_memory(run: Callable[[], object], before: int, device: torch.device) -> dict[str, int]:
    """Measure what one contender adds to the allocated CUDA memory: between passes, and at its peak."""
    torch.cuda.synchronize(device)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return {"peak_bytes": torch.cuda.max_memory_allocated(device) - before, "held_bytes": held - before}


def memory_of_a_process(label: str, cell: Cell, *, threads: int | None, channels_last: bool) -> dict[str, Any]:
    """Measure the peak memory of a process that runs one contender on a CPU: with PyTorch, without compilation.

    Returns:
        `peak_bytes`, and `held_bytes` before the first pass; or a `note` that says why there are none.
    """
    # A fresh process each: the peak of a process never falls.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_run_alone, label, cell, threads, channels_last).result()
        except BrokenProcessPool:
            return {"note": "its process was killed, probably out of memory"}
        except (MemoryError, RuntimeError) as error:
            return {"note": reason(error)}


def _run_alone(label: str, cell: Cell, threads: int | None, channels_last: bool) -> dict[str, int]:
    """Measure inside the process of `memory_of_a_process`."""
    with thread_count(threads), precision_settings(cell.precision):
        run = prepare(find_contender(label), cell, torch.device("cpu"), channels_last=channels_last)
        touch_libraries(torch.device("cpu"), torch.float32)
        gc.collect()
        held = held_bytes()
        run()  # creates the optimizer's state, and compiles
        forget_peak()  # the peak of building and compiling does not count
        run()
    return {"peak_bytes": peak_bytes(), "held_bytes": held}


def touch_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Make the libraries behind torch allocate what they keep for good, so that no network is charged for it."""
    # On a GPU: one workspace for the thread of the forward, one for the thread of the backward.
    x = torch.zeros(1, 8, 16, 16, device=device, dtype=dtype, requires_grad=device.type == "cuda")
    weight = torch.zeros(16, 16, device=device, dtype=dtype)
    y = F.conv2d(x, torch.zeros(8, 8, 3, 3, device=device, dtype=dtype)).sum()
    y = y + F.scaled_dot_product_attention(x, x, x).sum()
    y = y + F.gelu(F.layer_norm(F.linear(x @ weight, weight, weight[0]), (16,))).sum()
    if y.requires_grad:
        y.backward()
