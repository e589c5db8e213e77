"""Measure time and memory of several networks side by side: A B C A B C ... in one process.

They take turns, so that load and temperature of the machine affect all of them alike. Warm-up is discarded, the device
is synchronised before each reading of the clock, and every raw time is kept.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scalablevit.bench.cells import MODES, Cell, obstacle
from scalablevit.bench.conditions import conditions
from scalablevit.bench.contenders import Contender, find_contender
from scalablevit.bench.memory import cuda_memory, memory_of_a_process, touch_libraries
from scalablevit.bench.passes import DTYPES, precision_settings, prepare, synchroniser, thread_count
from scalablevit.bench.turns import LEAST_ROUNDS, Timing, compare, interleave, reason
from scalablevit.device import choose_device
from scalablevit.moved import forward_moved_names
from scalablevit.safe_write import write_json


@dataclass(frozen=True)
class Watch:
    """How a caller with a deadline follows and ends the measurement of a cell.

    Attributes:
        around: returns the context in which a contender is built and warmed up; an exception raised by it leaves that
            contender out.
        on_ready: called with the cell after each contender; warm contenders are timed alone in it, in case the process
            is stopped before the turns.
        is_over: called after each round from the second on; True ends the rounds.
    """

    around: Callable[[Contender], contextlib.AbstractContextManager[object]]
    on_ready: Callable[[dict[str, Any]], None]
    is_over: Callable[[], bool]


def measure_cell(
    contenders: Sequence[Contender],
    cell: Cell,
    device: torch.device,
    *,
    timing: Timing,
    threads: int | None = None,
    memory: bool = False,
    channels_last: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Measure all contenders in one cell.

    Args:
        contenders: from `find_contender`; times are compared with those of the first.
        cell: what is measured.
        device: where to compute.
        timing: number of rounds, warm-up turns and passes.
        threads: of torch's intra-op pool; None keeps them.
        memory: measure peak memory too; on a CPU each contender then runs in a process of its own as well.
        channels_last: as in `prepare`.
        watch: for a caller with a deadline.

    Returns:
        the cell as a dict, with `contenders`: label -> statistics of `compare`, `warm_up_seconds` (with compilation,
        without building) and `memory` (`peak_bytes` while it runs, `held_bytes` between passes); or only a `note` that
        says why there are no figures. `in_turns` is False only in what `watch.on_ready` gets.
    """
    with thread_count(threads), precision_settings(cell.precision):
        found = _warm_and_time(
            contenders, cell, device, timing=timing, memory=memory, channels_last=channels_last, watch=watch
        )
    times, extra, notes = found
    _free(device)
    if memory and device.type == "cpu":
        for label in times:
            extra[label]["memory"] = memory_of_a_process(label, cell, threads=threads, channels_last=channels_last)
    return _as_dict(contenders, cell, times, extra, notes, in_turns=True)


def _as_dict(
    contenders: Sequence[Contender],
    cell: Cell,
    times: Mapping[str, list[float]],
    extra: Mapping[str, dict[str, Any]],
    notes: Mapping[str, str],
    *,
    in_turns: bool,
) -> dict[str, Any]:
    """Combine a cell with those of its contenders that have times or a note."""
    figures = compare(times, first=contenders[0].label, batch=cell.batch)
    labels = [contender.label for contender in contenders]
    return {
        **asdict(cell),
        "in_turns": in_turns,
        "contenders": {
            label: {"note": notes[label]} if label in notes else figures[label] | extra[label]
            for label in labels
            if label in notes or label in figures
        },
    }


def _warm_and_time(
    contenders: Sequence[Contender],
    cell: Cell,
    device: torch.device,
    *,
    timing: Timing,
    memory: bool,
    channels_last: bool,
    watch: Watch | None,
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]], dict[str, str]]:
    """Return, by label: times of the contenders that run, their other figures, and notes on those that fail."""
    synchronise = synchroniser(device)
    runs: dict[str, Callable[[], object]] = {}
    extra: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    alone: dict[str, list[float]] = {}
    # Graphs of earlier cells count towards torch's limit of recompilations.
    torch.compiler.reset()
    if memory and device.type == "cuda":
        touch_libraries(device, DTYPES.get(cell.precision, torch.float32))
    for contender in contenders:
        label = contender.label
        try:
            with contextlib.nullcontext() if watch is None else watch.around(contender):
                runs[label], extra[label] = _warm(
                    contender, cell, device, timing=timing, memory=memory, channels_last=channels_last
                )
                if watch is not None:
                    short = replace(timing, rounds=LEAST_ROUNDS)
                    times, failed = interleave({label: runs[label]}, timing=short, synchronise=synchronise)
                    alone, notes = alone | times, notes | failed
        # A network may raise anything at a size or precision that it was not made for; the others are still measured.
        except Exception as error:
            notes[label] = reason(error)
        if label in notes:
            runs.pop(label, None)
            alone.pop(label, None)
        if watch is not None:
            watch.on_ready(_as_dict(contenders, cell, alone, extra, notes, in_turns=False))
    is_over = None if watch is None else watch.is_over
    times, failed = interleave(runs, timing=timing, synchronise=synchronise, is_over=is_over)
    return times, extra, notes | failed


def _warm(
    contender: Contender,
    cell: Cell,
    device: torch.device,
    *,
    timing: Timing,
    memory: bool,
    channels_last: bool,
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build a contender and warm it up; return a function that runs one pass, and its figures beside the times."""
    before = 0
    if memory and device.type == "cuda":
        gc.collect()  # drop networks that failed before
        before = torch.cuda.memory_allocated(device)
    run = prepare(contender, cell, device, channels_last=channels_last)
    start = time.perf_counter()
    for _ in range(timing.warm_up):
        run()
    synchroniser(device)()
    found: dict[str, Any] = {"warm_up_seconds": time.perf_counter() - start}
    if memory and device.type != "cpu":
        if device.type != "cuda":
            found["memory"] = {"note": f"memory is not measured on {device.type}"}
        # Allocations inside a CUDA graph are not counted: the figure would be wrong.
        elif (contender.mode or cell.mode) in ("eager", "compile"):
            found["memory"] = cuda_memory(run, before, device)
        else:
            found["memory"] = {"note": "memory is measured in the modes eager and compile"}
    return run, found


def _free(device: torch.device) -> None:
    """Free what the last cell held."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(
    labels: Sequence[str],
    todo: Sequence[Cell],
    *,
    timing: Timing,
    device: str | None = None,
    threads: int | None = None,
    memory: bool = False,
    channels_last: bool = False,
    output: str | Path | None = None,
    benchmark: str = "throughput",
    on_cell: Callable[[int, int, Cell, float | None], None] | None = None,
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure contenders in cells, and write the result after each cell.

    Args:
        labels: names as in `scalablevit.bench.contenders`; the others are compared with the first.
        todo: from `scalablevit.bench.cells.cells`.
        timing: number of rounds, warm-up turns and passes.
        device: such as "cpu" or "cuda:0"; None: a GPU if there is one.
        threads, memory, channels_last: as in `measure_cell`.
        output: JSON file, rewritten after every cell, so that an interrupted run loses at most one.
        benchmark: name of the benchmark in the result.
        on_cell: called before and after each cell with its number from 1, the number of cells, the cell, and None
            (before) or seconds (after).
        finish: called with the result after every cell; what it returns is added to the result.

    Returns:
        the result; times are in seconds, memory in bytes.

    Raises:
        ValueError: a name or device is unknown, a name stands there twice, or no cell can be measured on the device.
    """
    contenders = _find_all(labels)
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    where = choose_device(device)
    timing = timing.on(where)
    obstacles = [obstacle(cell, where) for cell in todo]
    if todo and all(obstacles):
        raise ValueError(obstacles[0])
    with thread_count(threads):
        threads_used = torch.get_num_threads()
    result: dict[str, Any] = {
        "benchmark": benchmark,
        **conditions(where),
        "device_type": where.type,
        "threads": threads_used,
        **asdict(timing),
        "channels_last": channels_last,
        "memory": memory,
        "finished": False,
        "cells": [],
    }
    for i, cell in enumerate(todo, 1):
        if on_cell is not None:
            on_cell(i, len(todo), cell, None)
        start = time.perf_counter()
        found = measure_cell(
            contenders, cell, where, timing=timing, threads=threads, memory=memory, channels_last=channels_last
        )
        result["cells"].append(found)
        result["finished"] = i == len(todo)
        if finish is not None:
            result |= finish(result)
        if output is not None:
            write_json(output, result)
        if on_cell is not None:
            on_cell(i, len(todo), cell, time.perf_counter() - start)
    return result


def _find_all(labels: Sequence[str]) -> list[Contender]:
    """Find the contenders of all labels.

    Raises:
        ValueError: there are none, one is unknown or stands there twice, or its mode is unknown.
    """
    if not labels:
        raise ValueError("MODEL: name at least one network")
    twice = [label for label in dict.fromkeys(labels) if list(labels).count(label) > 1]
    if twice:
        raise ValueError(
            f"MODEL {twice[0]!r} is named twice; leave one out, or give one another mode: {twice[0]}@compile"
        )
    contenders = [find_contender(label) for label in labels]
    for contender in contenders:
        if contender.mode is not None and contender.mode not in MODES:
            raise ValueError(f"MODEL {contender.label!r}: the mode must be one of {', '.join(MODES)}")
    return contenders


forward_moved_names(__name__)
