"""Turns, warm-up, statistics, what a cell says of those that fail, and JSON that is whole after every cell."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scalablevit.bench import memory, passes, throughput
from scalablevit.bench.cells import Cell, cells
from scalablevit.bench.contenders import CannotMeasure, Contender, find_contender
from scalablevit.bench.result import table
from scalablevit.bench.throughput import Watch, measure, measure_cell
from scalablevit.bench.turns import Timing, compare, interleave

CPU = torch.device("cpu")
TINY = Cell((32, 40), "fp32", "eager", "inference", 1)


class Stage:
    """Stands for networks, a device and a clock: every pass takes its time, and all is written down."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.now, self.events = seconds, 0.0, list[str]()

    def run(self, name: str) -> Callable[[], None]:
        def one_pass() -> None:
            self.events.append(name)
            self.now += self.seconds[name]

        return one_pass

    def synchronise(self) -> None:
        self.events.append("wait")

    def clock(self) -> float:
        self.events.append("clock")
        return self.now


def test_turns_are_interleaved_and_the_device_is_waited_for() -> None:
    stage = Stage(a=1.0, b=2.5)
    times, failed = interleave(
        {name: stage.run(name) for name in "ab"},
        timing=Timing(rounds=3, passes=2),
        synchronise=stage.synchronise,
        clock=stage.clock,
    )
    assert times == {"a": [1.0] * 3, "b": [2.5] * 3}, "seconds a pass, not a turn"
    assert failed == {}
    turn = ["wait", "clock", "{}", "{}", "wait", "clock"]
    assert stage.events == [event.format(name) for _ in range(3) for name in "ab" for event in turn]


def test_what_runs_out_of_memory_leaves_the_turns() -> None:
    stage = Stage(a=1.0, c=3.0)
    count = 0

    def fails_late() -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    runs = {"a": stage.run("a"), "b": fails_late, "c": stage.run("c")}
    times, failed = interleave(runs, timing=Timing(rounds=4), synchronise=lambda: None, clock=stage.clock)
    assert failed == {"b": "out of memory"}
    assert times == {"a": [1.0] * 4, "c": [3.0] * 4}
    assert count == 2


def test_rounds_end_early_for_all() -> None:
    stage = Stage(a=1.0, b=2.0)
    runs = {name: stage.run(name) for name in "ab"}
    asked: list[float] = []

    def is_over() -> bool:
        asked.append(stage.now)
        return stage.now >= 9

    times, failed = interleave(
        runs, timing=Timing(rounds=9), synchronise=lambda: None, clock=lambda: stage.now, is_over=is_over
    )
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert asked == [6.0, 9.0], "not before there are two of each"
    assert failed == {}


def test_statistics() -> None:
    found = compare({"ours": [1.0, 2.0, 3.0], "other": [4.0, 2.0, 9.0]}, first="ours", batch=8)
    assert found["ours"]["spread"] == {"median": 2.0, "quartile_1": 1.5, "quartile_3": 2.5}
    assert found["ours"]["images_per_second"] == 4.0
    assert found["ours"]["time_ratio"] == found["ours"]["median_of_ratios"] == 1.0
    assert found["other"]["time_ratio"] == 2.0, "of medians: 4 over 2"
    assert found["other"]["median_of_ratios"] == 3.0, "of 4/1, 2/2 and 9/3"
    without = compare({"other": [1.0, 2.0]}, first="ours", batch=1)
    assert without["other"]["time_ratio"] is None
    assert without["other"]["median_of_ratios"] is None


def test_combinations() -> None:
    found = cells(
        sizes=[(32, 32), (64, 48)],
        precisions=["fp32"],
        modes=["eager", "compile"],
        tasks=["inference"],
        batches=[1, 8, 1],
    )
    assert len(found) == 8, "the same twice counts once"
    assert [cell.batch for cell in found[:2]] == [1, 8]
    assert f"{found[-1]}" == "inference, fp32, compile, batch 8, 64 x 48 px"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 1}, "--rounds must be at least 2, as quartiles need two times; got 1"),
        ({"warm_up": 0}, "--warm-up must be at least 1"),
        ({"passes": 0}, "--passes must be at least 1"),
    ],
)
def test_wrong_timing(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Timing(**wrong)


def test_passes_suit_the_device() -> None:
    assert Timing().on(CPU).passes == 1
    assert Timing().on(torch.device("cuda")).passes == 5
    assert Timing(passes=3).on(CPU).passes == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "tf32"}, "--precision tf32 is for CUDA devices, not cpu; use fp32"),
        ({"mode": "graphs"}, "--mode graphs is for CUDA devices"),
        ({"mode": "optimized", "task": "training"}, "--mode optimized prepares for inference"),
    ],
)
def test_what_cannot_be_measured_here(changes: dict[str, Any], message: str) -> None:
    cell = Cell(**{**vars(TINY), **changes})
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(["scalablevit_atto"], [cell], timing=Timing(), device="cpu")


def use_stage(monkeypatch: pytest.MonkeyPatch, passes: dict[str, Callable[[], object]]) -> None:
    """Let `prepare` give these instead of networks."""

    def prepare(contender: Contender, cell: Cell, device: torch.device, **options: Any) -> Callable[[], object]:
        run = passes[contender.label]
        if isinstance(run, Exception):
            raise run
        return run

    monkeypatch.setattr(throughput, "prepare", prepare)


def test_warm_up_is_discarded_and_failures_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"scalablevit_atto": 0}

    def ours() -> None:
        counts["scalablevit_atto"] += 1

    def broken() -> None:
        raise RuntimeError("size mismatch\nwith a long tail")

    names = {
        "scalablevit_atto": ours,
        "plain:scalablevit_atto": broken,
        "resnet18": CannotMeasure("takes other images"),
        "resnet34": torch.OutOfMemoryError("CUDA out of memory."),
    }
    use_stage(monkeypatch, names)  # type: ignore[arg-type]
    found = measure_cell([find_contender(name) for name in names], TINY, CPU, timing=Timing(rounds=3, warm_up=2))
    assert counts == {"scalablevit_atto": 5}
    row = found["contenders"]["scalablevit_atto"]
    assert len(row["seconds"]) == 3
    assert row["warm_up_seconds"] >= 0
    assert found["contenders"]["plain:scalablevit_atto"] == {"note": "RuntimeError: size mismatch"}
    assert found["contenders"]["resnet18"] == {"note": "takes other images"}
    assert found["contenders"]["resnet34"] == {"note": "out of memory"}
    assert (found["size"], found["batch"], found["mode"]) == ((32, 40), 1, "eager")


@pytest.mark.slow
def test_one_that_is_not_ready_in_time_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class NotReady(BaseException):
        """As a timer raises it."""

    def slow() -> None:
        raise NotReady

    later = iter([None, NotReady])

    def slow_when_warm() -> None:
        error = next(later)
        if error is not None:
            raise error

    names = {"scalablevit_atto": lambda: None, "plain:scalablevit_atto": slow, "resnet18": lambda: None}
    names["resnet34"] = slow_when_warm
    use_stage(monkeypatch, names)
    seen: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def around(contender: Contender) -> Iterator[None]:
        try:
            yield
        except NotReady as error:
            raise CannotMeasure("no time left") from error

    watch = Watch(around, seen.append, is_over=lambda: True)
    timing = Timing(rounds=5, warm_up=1)
    found = measure_cell([find_contender(name) for name in names], TINY, CPU, timing=timing, watch=watch)
    assert found["in_turns"]
    assert found["contenders"]["plain:scalablevit_atto"] == {"note": "no time left"}
    assert found["contenders"]["resnet34"] == {"note": "no time left"}
    assert [len(found["contenders"][name]["seconds"]) for name in ("scalablevit_atto", "resnet18")] == [2, 2]
    assert [list(cell["contenders"]) for cell in seen] == [list(names)[:count] for count in (1, 2, 3, 4)]
    assert not any(cell["in_turns"] for cell in seen)
    assert seen[0]["contenders"]["scalablevit_atto"]["images_per_second"] > 0, "before the turns"


def test_memory_that_is_not_measured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use_stage(monkeypatch, {"resnet18": lambda: None})
    monkeypatch.setattr(throughput, "synchroniser", lambda device: lambda: None)
    options: dict[str, Any] = {"timing": Timing(warm_up=1), "memory": True, "channels_last": False}
    _, found = throughput._warm(find_contender("resnet18"), TINY, torch.device("mps"), **options)
    assert found["memory"] == {"note": "memory is not measured on mps"}
    _, found = throughput._warm(find_contender("resnet18"), TINY, CPU, **options)
    assert "memory" not in found


def test_json_is_whole_after_every_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    todo = cells(sizes=[(32, 32)], precisions=["fp32"], modes=["eager"], tasks=["inference"], batches=[1, 2, 3])
    output = tmp_path / "new folder" / "bench.json"
    told = []

    def stop_at_the_third(contenders: Any, cell: Cell, device: torch.device, **options: Any) -> dict[str, Any]:
        if cell.batch == 3:
            raise KeyboardInterrupt
        return {"batch": cell.batch, "contenders": {}}

    monkeypatch.setattr(throughput, "measure_cell", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        measure(
            ["scalablevit_atto"],
            todo,
            timing=Timing(),
            device="cpu",
            output=output,
            on_cell=lambda number, count, cell, seconds: told.append((number, count, seconds is None)),
            finish=lambda result: {"cells_so_far": len(result["cells"])},
        )
    result = json.loads(output.read_text())
    assert [cell["batch"] for cell in result["cells"]] == [1, 2]
    assert result["cells_so_far"] == 2
    assert result["finished"] is False
    assert {"date", "commit", "device", "torch", "python", "timm", "threads", "rounds", "warm_up"} <= set(result)
    assert told == [(1, 3, True), (1, 3, False), (2, 3, True), (2, 3, False), (3, 3, True)]
    assert list(output.parent.iterdir()) == [output], "no temporary file is left"


@pytest.mark.slow
def test_real_networks_side_by_side() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    result = measure(
        ["scalablevit_atto", "plain:scalablevit_atto", "scalablevit_atto@graphs"],
        [TINY, Cell((32, 40), "bf16", "eager", "training", 1)],
        timing=Timing(rounds=2, warm_up=1),
        device="cpu",
        threads=1,
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers go on as they were"
    assert result["finished"]
    assert result["threads"] == 1
    assert result["passes"] == 1
    for cell in result["cells"]:
        ours, plain, graphs = cell["contenders"].values()
        assert len(ours["seconds"]) == len(plain["seconds"]) == 2
        assert min(ours["seconds"] + plain["seconds"]) > 0
        assert "CUDA" in graphs["note"]
    text = table(json.loads(json.dumps(result)))
    assert "inference, fp32, eager, batch 1, 32 x 40 px" in text
    assert "training, bf16, eager, batch 1, 32 x 40 px" in text
    rate = f"{result['cells'][0]['contenders']['plain:scalablevit_atto']['images_per_second']:.1f}"
    (row,) = (line for line in text.splitlines() if rate in line and line.startswith("plain"))
    assert len(row.split()) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_training_step_trains(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    before = model[1].weight.clone()
    seen = []
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    step = passes.training_step(model, torch.randn(2, 3, 2, 2), dtype)
    step()
    step()
    assert seen == [dtype] * 2
    assert not torch.equal(model[1].weight, before)
    assert model[1].weight.dtype == torch.float32
    assert torch.isfinite(model[1].weight).all()


def test_a_training_step_has_the_classes_of_its_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model.num_classes = 3
    passes.training_step(model, torch.randn(8, 3, 2, 2), torch.float32)()


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, compiled = [], []
    monkeypatch.setattr(passes.scalablevit, "optimize", lambda m: prepared.append(m) or m, raising=False)
    monkeypatch.setattr(torch, "compile", lambda m, mode=None: compiled.append(mode) or m)
    cell = Cell((32, 32), "fp32", "optimized", "inference", 1)
    for label in ("scalablevit_atto", "plain:scalablevit_atto", "scalablevit_atto@compile", "scalablevit_atto@eager"):
        passes.prepare(find_contender(label), cell, CPU)()
    assert len(prepared) == 1
    assert compiled == [None, None]


def test_inference_casts_weights_and_lays_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.conv.weight
            last = [y.is_contiguous(memory_format=torch.channels_last) for y in (x, weight)]
            seen.append((x.dtype, weight.dtype, *last, torch.is_inference_mode_enabled(), self.training))
            return x

    monkeypatch.setattr(passes, "build_contender", lambda contender, size: Looks())
    cell = Cell((8, 8), "bf16", "eager", "inference", 2)
    passes.prepare(find_contender("resnet18"), cell, CPU, channels_last=True)()
    passes.prepare(find_contender("resnet18"), cell, CPU)()
    half = torch.bfloat16
    assert seen == [(half, half, True, True, True, False), (half, half, False, False, True, False)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "name at least one network"),
        (["scalablevit_atto", "scalablevit_atto"], "is named twice"),
        (["scalablevit_atto@fast"], "the mode must be one of eager, compile, graphs, optimized"),
        (["scalablevit_atoo"], "did you mean scalablevit_atto"),
    ],
)
def test_wrong_names(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(labels, [TINY], timing=Timing(), device="cpu")


def test_wrong_threads_sizes_and_batches() -> None:
    with pytest.raises(ValueError, match="--threads must be at least 1, got 0"):
        measure(["scalablevit_atto"], [TINY], timing=Timing(), device="cpu", threads=0)
    given: dict[str, Any] = dict(precisions=["fp32"], modes=["eager"], tasks=["inference"])
    with pytest.raises(ValueError, match="--size must be at least 1 pixel, got 0x5"):
        cells(sizes=[(0, 5)], batches=[1], **given)
    with pytest.raises(ValueError, match="--batch must be at least 1, got 0"):
        cells(sizes=[(5, 5)], batches=[0], **given)


@pytest.mark.slow
def test_memory_of_a_process_of_its_own() -> None:
    found = memory.memory_of_a_process("scalablevit_atto", TINY, threads=1, channels_last=False)
    assert 2**26 < found["held_bytes"] < found["peak_bytes"] < 2**32


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (BrokenProcessPool("terminated abruptly"), "its process was killed, probably out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out of memory"),
    ],
    ids=["killed", "refused"],
)
def test_a_process_without_enough_memory_says_so(monkeypatch: pytest.MonkeyPatch, error: Exception, note: str) -> None:
    class Processes(contextlib.nullcontext[Any]):
        def __init__(self, count: int, context: Any) -> None:
            super().__init__(self)

        def submit(self, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Processes)
    found = memory.memory_of_a_process("scalablevit_atto", TINY, threads=1, channels_last=False)
    assert found == {"note": note}


@pytest.mark.slow
def test_memory_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: dict[str, Any] = {"scalablevit_atto": {"peak_bytes": 3 * 2**29, "held_bytes": 2**29}}
    use_stage(monkeypatch, {"scalablevit_atto": lambda: None, "resnet18": lambda: None})
    monkeypatch.setattr(
        throughput, "memory_of_a_process", lambda label, cell, **options: memory.get(label, {"note": "it stopped"})
    )
    result = measure(["scalablevit_atto", "resnet18"], [TINY], timing=Timing(rounds=2), device="cpu", memory=True)
    lines = table(result).splitlines()
    assert lines[3].split()[-2:] == ["peak", "GiB"]
    assert lines[4].split()[-1] == "1.50"
    assert lines[5].endswith("it stopped")
