"""Threads of a training process on a CPU."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from scalablevit.training.devices import threads_per_process
from scalablevit.training.run import Run


@pytest.mark.parametrize(("devices", "workers", "threads"), [(1, 0, 8), (1, 3, 5), (2, 1, 3), (4, 9, 1)])
def test_workers_keep_their_cores_whatever_was_set_before(
    devices: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    before = torch.get_num_threads()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    run = SimpleNamespace(
        threads=None,
        trainer=SimpleNamespace(strategy=strategy, num_devices=devices),
        data=SimpleNamespace(num_workers=workers),
    )
    try:
        for _ in range(2):
            Run.share_cores(cast(Any, run))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("said", "threads"), [("4,2", 3), (" 4 ", 3), ("", 7), ("0", 7), ("many", 7)])
def test_what_openmp_takes_for_its_threads_is_taken(said: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalablevit.training.devices.available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_per_process(1, 1) == threads


def test_the_threads_of_the_recipe_are_taken() -> None:
    before = torch.get_num_threads()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    run = SimpleNamespace(
        threads=3, trainer=SimpleNamespace(strategy=strategy, num_devices=1), data=SimpleNamespace(num_workers=5)
    )
    try:
        Run.share_cores(cast(Any, run))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
