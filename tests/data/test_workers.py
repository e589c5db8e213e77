"""A data worker that ends or hangs ends the run with one message, and with none of its own."""

import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from scalablevit.data.loaders import eval_loader, train_loader
from scalablevit.data.workers import (
    DataWorkerError,
    explained_workers,
    kill_workers,
    seconds_waited,
    why_a_worker_failed,
)


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    """A loader that is still there has torch report its dead worker at the next child's end, in another test."""
    gc.freeze()  # all that is older is left out of the collection
    yield
    gc.collect()
    gc.unfreeze()


class Failing(Dataset[Any]):
    """Samples of which the third does something to its worker."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            self.act()
        return torch.ones(400_000)


def without_shared_memory() -> None:
    """Files of shared memory cannot grow beyond 100 kB, as on a full /dev/shm."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


ENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "out of memory": (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed .*memory ran out.*num_workers"),
    "segmentation fault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"check-data.*--data\.num_workers 0"),
    "no shared memory": (without_shared_memory, r"ran out of shared memory.*--shm-size.*data\.num_workers"),
    "exit": (lambda: os._exit(3), r"exit code 3.*--data\.num_workers 0"),
    "hang": (lambda: time.sleep(60), r"no data worker handed over a batch for 1 s.*SCALABLEVIT_DATA_TIMEOUT"),
}


@pytest.mark.parametrize(("act", "words"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("make", [train_loader, eval_loader])
@pytest.mark.parametrize("collate", [torch.stack, None], ids=["ours", "torch's"])
def test_a_worker_that_ends_or_hangs_is_one_message(
    make: Any, collate: Any, act: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (make is train_loader or collate is None) and act is not without_shared_memory:
        pytest.skip("the same code")
    # What hangs is waited for; what ends is told at once, on a busy machine a little later.
    monkeypatch.setenv("SCALABLEVIT_DATA_TIMEOUT", "1" if "for 1 s" in words else "30")
    options = {"seed": 0} if make is train_loader else {}
    loader = make(Failing(act), batch_size=1, num_workers=1, collate_fn=collate, **options)
    before = time.monotonic()
    with pytest.raises(DataWorkerError, match=words):
        list(loader)
    assert time.monotonic() - before < 30
    kill_workers()
    assert seconds_waited() == 0


def test_an_ended_worker_is_told_at_once_after_a_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning ends a training by putting back the signal handlers of before it; torch sets its own once a process."""
    monkeypatch.setenv("SCALABLEVIT_DATA_TIMEOUT", "30")
    list(eval_loader(torch.ones(2, 1), batch_size=1, num_workers=1))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    loader = eval_loader(Failing(without_shared_memory), batch_size=1, num_workers=1, collate_fn=torch.stack)
    before = time.monotonic()
    with pytest.raises(DataWorkerError, match="ran out of shared memory"):
        list(loader)
    assert time.monotonic() - before < 20
    kill_workers()


def test_an_error_of_another_kind_stays_what_it_is() -> None:
    assert why_a_worker_failed("Caught ValueError in DataLoader worker process 0.\nTraceback ...") is None
    assert why_a_worker_failed("mat1 and mat2 shapes cannot be multiplied") is None
    bus = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out"
    assert "--shm-size" in str(why_a_worker_failed(bus))


def test_a_system_without_posix_signals_names_the_error_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIGKILL", "SIGBUS"):
        monkeypatch.delattr(signal, name)
    with pytest.raises(RuntimeError, match="something else"), explained_workers():
        raise RuntimeError("something else")
