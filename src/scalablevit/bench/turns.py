"""Time several networks interleaved, and compare their times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from scalablevit.bench.conditions import spread
from scalablevit.bench.contenders import CannotMeasure

LEAST_ROUNDS = 2  # for quartiles


@dataclass(frozen=True)
class Timing:
    """How often each contender is timed.

    Attributes:
        rounds: timed turns per contender, at least 2.
        warm_up: untimed turns per contender before the first round, at least 1.
        passes: forward passes or training steps per turn; the time of a turn is divided by it. None: 1 on a CPU and 5
            elsewhere, where the next pass is queued before the last one is done.
    """

    rounds: int = 20
    warm_up: int = 3
    passes: int | None = None

    def __post_init__(self) -> None:
        for name, least, why in (
            ("rounds", 2, "quartiles need two times"),
            ("warm_up", 1, "the first pass compiles and allocates"),
            ("passes", 1, "something must run"),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, as {why}; got {value}")

    def on(self, device: torch.device) -> Timing:
        """Return this timing with the number of passes for the device filled in."""
        return self if self.passes else replace(self, passes=1 if device.type == "cpu" else 5)


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    timing: Timing,
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    is_over: Callable[[], bool] | None = None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time callables interleaved: each of them once per round, in the given order.

    Args:
        runs: name -> function that runs one pass.
        timing: rounds, and passes per turn; warm-up is the caller's.
        synchronise: waits until the device is done.
        clock: returns seconds.
        is_over: called after each round from the second on; True ends the rounds early, for all.

    Returns:
        times: name -> seconds per pass, one for each round.
        failed: name -> why it ended early; it has no times.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    passes = timing.passes or 1
    for done in range(timing.rounds):
        if is_over is not None and done >= LEAST_ROUNDS and is_over():
            break
        for name, run in runs.items():
            if name in failed:
                continue
            try:
                synchronise()
                start = clock()
                for _ in range(passes):
                    run()
                synchronise()
                times[name].append((clock() - start) / passes)
            except torch.OutOfMemoryError as error:
                failed[name] = reason(error)
                del times[name]
    return times, failed


def reason(error: BaseException) -> str:
    """Shorten an error to a note for a cell."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return "out of memory"
    first = (str(error).strip() or "no message").splitlines()[0]
    text = first if isinstance(error, CannotMeasure) else f"{type(error).__name__}: {first}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def compare(times: Mapping[str, list[float]], *, first: str, batch: int) -> dict[str, dict[str, Any]]:
    """Compute statistics of each contender's times.

    Args:
        times: name -> seconds per pass, round by round.
        first: name to compare with; if it has no times, there are no ratios.
        batch: images per pass.

    Returns:
        name -> `seconds`; `spread` (median and quartiles); `images_per_second` at the median; `time_ratio`, the median
        divided by the first's; `median_of_ratios`, the median of the same ratio taken round by round.
    """
    base = times.get(first)
    found: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        middle = spread(values)
        found[name] = {
            "seconds": values,
            "spread": middle,
            "images_per_second": batch / middle["median"],
            "time_ratio": None if base is None else middle["median"] / statistics.median(base),
            "median_of_ratios": None
            if base is None
            else statistics.median(value / other for value, other in zip(values, base, strict=True)),
        }
    return found
