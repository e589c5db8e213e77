"""Time and memory of several networks, side by side: A B C A B C ... in one process.

In turns, because what else a machine does, and how warm it is, then hits all alike. Warm-up is discarded, the device is
waited for before each look at the clock, and every raw time is kept.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scalablevit
from scalablevit.backbone import ScalableViT
from scalablevit.bench.conditions import conditions, forget_peak, held_bytes, peak_bytes, spread
from scalablevit.bench.contenders import CLASSES, CannotMeasure, Contender, build_contender, find_contender
from scalablevit.device import choose_device
from scalablevit.safe_write import write_atomically

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Mode = Literal["eager", "compile", "graphs", "optimized"]
Task = Literal["inference", "training"]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""fp32; fp32 with TF32 matrix products (CUDA); bf16 and fp16: inference on weights cast to it, training under autocast
on fp32 weights, fp16 with a scaled loss."""
MODES = ("eager", "compile", "graphs", "optimized")
"""As it is; `torch.compile`; `torch.compile(mode="max-autotune")`, that is with CUDA graphs; `scalablevit.optimize`
where the network is ours and `torch.compile` for others (inference)."""
TASKS = ("inference", "training")
"""A forward pass; or a step of training: forward, cross-entropy, backward, AdamW."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# devices with AdamW as one kernel
_FUSED = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Cell:
    """One setting in which all contenders are measured.

    Attributes:
        size: height and width of the images, in pixels.
        precision, mode, task: of `PRECISIONS`, `MODES` and `TASKS`.
        batch: images a pass.
    """

    size: tuple[int, int]
    precision: Precision
    mode: Mode
    task: Task
    batch: int

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.task}, {self.precision}, {self.mode}, batch {self.batch}, {height} x {width} px"


@dataclass(frozen=True)
class Timing:
    """How to time.

    Attributes:
        rounds: timed turns of each contender, at least 2.
        warm_up: turns of each before that, at least 1.
        passes: forward passes or training steps a turn; the time of a turn is divided by it. None: 1 on a CPU, and 5
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
        """With the number of passes that suits the device."""
        return self if self.passes else replace(self, passes=1 if device.type == "cpu" else 5)


@dataclass(frozen=True)
class Watch:
    """How a caller whose time is short takes part in the measuring of a cell.

    Attributes:
        around: gives what is entered around building and warming up a contender; what that raises leaves the contender
            out.
        on_ready: gets the cell as it is after each contender: those that are warm are timed alone in it, as a stop may
            come before the turns.
        is_over: asked after each round from the second on; True ends the rounds.
    """

    around: Callable[[Contender], contextlib.AbstractContextManager[object]]
    on_ready: Callable[[dict[str, Any]], None]
    is_over: Callable[[], bool]


_LEAST_ROUNDS = 2  # for quartiles


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    timing: Timing,
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    is_over: Callable[[], bool] | None = None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time callables by turns: every one once a round, in the order given.

    Args:
        runs: name -> one pass.
        timing: rounds, and passes a turn; warm-up is not done here.
        synchronise: waits until the device is done.
        clock: seconds.
        is_over: asked after each round from the second on; True ends the rounds early, for all.

    Returns:
        times: name -> seconds a pass, one for each round.
        failed: name -> why it ended early; such a one has no times.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    passes = timing.passes or 1
    for done in range(timing.rounds):
        if is_over is not None and done >= _LEAST_ROUNDS and is_over():
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
    """An error as a short note in a cell."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return "out of memory"
    first = (str(error).strip() or "no message").splitlines()[0]
    text = first if isinstance(error, CannotMeasure) else f"{type(error).__name__}: {first}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def compare(times: Mapping[str, list[float]], *, first: str, batch: int) -> dict[str, dict[str, Any]]:
    """Statistics of each contender's times.

    Args:
        times: name -> seconds a pass, round by round.
        first: name to compare with; it may have failed, then there are no ratios.
        batch: images a pass.

    Returns:
        name -> `seconds`; `spread` (median and quartiles); `images_per_second` at the median; `time_ratio`, the median
        over the first's, that is how many times as fast the first is; `median_of_ratios`, the same round by round.
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


def obstacle(cell: Cell, device: torch.device, mode: str | None = None) -> str | None:
    """Why a cell cannot be measured on a device, or None.

    Args:
        cell: the cell.
        device: where to compute.
        mode: a contender's own, instead of the cell's.
    """
    mode = mode or cell.mode
    if cell.precision == "tf32" and device.type != "cuda":
        return f"--precision tf32 is for CUDA devices, not {device.type}; say fp32"
    if mode == "graphs" and device.type != "cuda":
        return f"--mode graphs is for CUDA devices, not {device.type}; say compile"
    if mode == "optimized" and cell.task == "training":
        return "--mode optimized prepares for inference; say compile for training"
    return None


def cells(
    *,
    sizes: Sequence[tuple[int, int]],
    precisions: Sequence[Precision],
    modes: Sequence[Mode],
    tasks: Sequence[Task],
    batches: Sequence[int],
) -> list[Cell]:
    """Every combination, the batch changing fastest."""
    for size in sizes:
        if min(size) < 1:
            raise ValueError(f"--size must be at least 1 pixel, got {size[0]}x{size[1]}")
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
    found = [
        Cell(size, precision, mode, task, batch)
        for size, task, precision, mode, batch in itertools.product(sizes, tasks, precisions, modes, batches)
    ]
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def _settings(precision: Precision) -> Iterator[None]:
    """TF32 on or off wherever torch has a switch for it, and the fastest of cuDNN's algorithms for every network."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32, cudnn.benchmark = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads of torch's intra-op pool; None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits until the device is done; a CPU always is."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: torch.accelerator.synchronize(device)


def prepare(
    contender: Contender, cell: Cell, device: torch.device, *, channels_last: bool = False
) -> Callable[[], object]:
    """Build a contender for a cell.

    Args:
        contender: from `find_contender`.
        cell: what is measured.
        device: where to compute.
        channels_last: lay images and convolutions' weights out with the channels innermost.

    Returns:
        one pass.

    Raises:
        CannotMeasure: not this contender, or not here.
    """
    mode = contender.mode or cell.mode
    obstructed = obstacle(cell, device, mode)
    if obstructed is not None:
        raise CannotMeasure(obstructed)
    dtype = _DTYPES.get(cell.precision, torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build_contender(contender, cell.size).to(device, memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(cell.batch, 3, *cell.size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=layout)
    if cell.task == "training":
        return _training_step(_in_mode(model.train(), mode), images, dtype)
    images = images.to(dtype)
    model = _in_mode(model.eval().to(dtype), mode)

    def inference() -> None:
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            model(images)

    return inference


def _in_mode(model: nn.Module, mode: str) -> Callable[..., Tensor]:
    """The network as the mode wants it."""
    if mode == "eager":
        return model
    if mode == "optimized" and isinstance(model, ScalableViT):
        return scalablevit.optimize(model)
    return torch.compile(model, mode="max-autotune" if mode == "graphs" else None)


def _training_step(model: Callable[..., Tensor], images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """One step: forward, cross-entropy, backward, AdamW."""
    assert isinstance(model, nn.Module)
    kind = images.device.type
    labels = torch.randint(0, CLASSES, images.shape[:1], generator=torch.Generator().manual_seed(0)).to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=kind in _FUSED)
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


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
    """All contenders in one cell.

    Args:
        contenders: from `find_contender`; times are compared with those of the first.
        cell: what is measured.
        device: where to compute.
        timing: how often.
        threads: of torch's intra-op pool; None: as they are.
        memory: measure peak memory too; on a CPU each contender runs in a process of its own for that.
        channels_last: as in `prepare`.
        watch: for a caller whose time is short.

    Returns:
        the cell as a dict, with `contenders`: label -> as `compare` gives it, with `warm_up_seconds` (building not
        counted, compiling counted) and `memory` (`peak_bytes` while it runs, `held_bytes` between passes), or with
        a `note` alone that says why there are no figures. `in_turns` is False only in what `watch.on_ready` gets.
    """
    with _threads(threads), _settings(cell.precision):
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
    """A cell with those of its contenders of whom there are times or a note."""
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
    """Times of those that run, what else there is on them, and a note on each that does not run; by label."""
    synchronise = synchroniser(device)
    runs: dict[str, Callable[[], object]] = {}
    extra: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    alone: dict[str, list[float]] = {}
    # Graphs of earlier cells would count towards torch's limit of recompilations.
    torch.compiler.reset()
    if memory and device.type == "cuda":
        _touch_libraries(device, _DTYPES.get(cell.precision, torch.float32))
    for contender in contenders:
        label = contender.label
        try:
            with contextlib.nullcontext() if watch is None else watch.around(contender):
                runs[label], extra[label] = _warm(
                    contender, cell, device, timing=timing, memory=memory, channels_last=channels_last
                )
                if watch is not None:
                    short = replace(timing, rounds=_LEAST_ROUNDS)
                    times, failed = interleave({label: runs[label]}, timing=short, synchronise=synchronise)
                    alone, notes = alone | times, notes | failed
        # Whatever a network raises at a size or in a precision that it was not made for: the others go on.
        except Exception as error:
            notes[label] = reason(error)
        if label in notes:  # of it, nothing may stay
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
    """Build a contender and run its warm-up: one pass, and what there is to tell of it beside its times."""
    before = 0
    if memory and device.type == "cuda":
        gc.collect()  # a network that failed before is not this one's
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
        # Allocations inside of a CUDA graph are not counted, so there would be no true figure.
        elif (contender.mode or cell.mode) in ("eager", "compile"):
            found["memory"] = _cuda_memory(run, before, device)
        else:
            found["memory"] = {"note": "memory is measured in the modes eager and compile"}
    return run, found


def _cuda_memory(run: Callable[[], object], before: int, device: torch.device) -> dict[str, int]:
    """What one contender adds to the memory held by all: between passes, and at most."""
    torch.cuda.synchronize(device)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return {"peak_bytes": torch.cuda.max_memory_allocated(device) - before, "held_bytes": held - before}


def _free(device: torch.device) -> None:
    """Give back what the last cell held, so that the next one has all of the memory."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_of_a_process(label: str, cell: Cell, *, threads: int | None, channels_last: bool) -> dict[str, Any]:
    """Peak memory of a process that runs this contender alone on a CPU, PyTorch included, compiling not counted.

    Returns:
        `peak_bytes`, and `held_bytes` before the first pass; or a `note` that says why not.
    """
    # A fresh process each, as the most that one has held never falls again.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_run_alone, label, cell, threads, channels_last).result()
        except BrokenProcessPool:
            return {"note": "its process was stopped, perhaps for want of memory"}
        except (MemoryError, RuntimeError) as error:
            return {"note": reason(error)}


def _run_alone(label: str, cell: Cell, threads: int | None, channels_last: bool) -> dict[str, int]:
    """In the process of its own."""
    with _threads(threads), _settings(cell.precision):
        run = prepare(find_contender(label), cell, torch.device("cpu"), channels_last=channels_last)
        _touch_libraries(torch.device("cpu"), torch.float32)
        gc.collect()
        held = held_bytes()
        run()  # what makes the optimizer's state, and compiles
        forget_peak()  # of building and compiling
        run()
    return {"peak_bytes": peak_bytes(), "held_bytes": held}


def _touch_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Let the libraries behind torch take what they keep for good, so that it is not counted as the network's."""
    # On a GPU, that is a workspace for the thread of the forward, and one for that of the backward.
    x = torch.zeros(1, 8, 16, 16, device=device, dtype=dtype, requires_grad=device.type == "cuda")
    weight = torch.zeros(16, 16, device=device, dtype=dtype)
    y = F.conv2d(x, torch.zeros(8, 8, 3, 3, device=device, dtype=dtype)).sum()
    y = y + F.scaled_dot_product_attention(x, x, x).sum()
    y = y + F.gelu(F.layer_norm(F.linear(x @ weight, weight, weight[0]), (16,))).sum()
    if y.requires_grad:
        y.backward()


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
    """Measure contenders in cells, and write the result down after each.

    Args:
        labels: names as in `scalablevit.bench.contenders`; the first is what the others are compared with.
        todo: from `cells`.
        timing: how often.
        device: such as "cpu" or "cuda:0"; None: a GPU if there is one.
        threads, memory, channels_last: as in `measure_cell`.
        output: JSON file; it is whole after every cell, so that a stop loses one at most.
        benchmark: what the result calls itself.
        on_cell: gets (number of the cell from 1, how many there are, the cell, None before it and seconds after it).
        finish: from the result so far to what is added to it; called after every cell.

    Returns:
        the result as it is written; times are in seconds, memory in bytes.

    Raises:
        ValueError: an unknown name or device, twice the same name, or nothing that can be measured there.
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
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    where = choose_device(device)
    timing = timing.on(where)
    obstacles = [obstacle(cell, where) for cell in todo]
    if todo and all(obstacles):
        raise ValueError(obstacles[0])
    with _threads(threads):
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


def write_json(path: str | Path, result: Mapping[str, Any]) -> None:
    """Write a result, complete or not at all."""
    text = json.dumps(result, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    labels = [label for cell in result["cells"] for label in cell["contenders"]]
    width = max(map(len, labels), default=0) + 2
    memory = "   peak GiB" if result["memory"] else ""
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['threads']} threads, commit {result['commit']}, "
        f"{result['date']}"
    ]
    for cell in result["cells"]:
        size = f"{cell['size'][0]} x {cell['size'][1]}"
        lines.append(f"\n{cell['task']}, {cell['precision']}, {cell['mode']}, batch {cell['batch']}, {size} px")
        lines.append(f"{'':{width}}{'median ms':>11}{'quartiles ms':>20}{'images/s':>11}{'time / first':>14}{memory}")
        lines += [f"{label:{width}}{_row(found)}" for label, found in cell["contenders"].items()]
    lines.append(f"\nmedians of {result['rounds']} rounds in turns; time / first: how many times as fast the first is")
    return "\n".join(lines)


def _row(found: Mapping[str, Any]) -> str:
    """A contender's figures, or why there are none."""
    if "note" in found:
        return f"   {found['note']}"
    low, median, high = (1000 * found["spread"][key] for key in ("quartile_1", "median", "quartile_3"))
    ratio = "" if found["time_ratio"] is None else f"{found['time_ratio']:.2f}"
    row = f"{median:11.2f}{f'{low:.2f} - {high:.2f}':>20}{found['images_per_second']:11.1f}{ratio:>14}"
    memory = found.get("memory", {})
    if "note" in memory:
        return f"{row}   {memory['note']}"
    return row + (f"{memory['peak_bytes'] / 2**30:11.2f}" if memory else "")
