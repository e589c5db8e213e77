"""A script: `scalablevit`, which notes the samples that it trains on, and whose second node may be killed.

`SEEN` names a folder for a file of each rank: a line "EPOCH INDEX" for each training sample that it loads. `KILL_AT`
says at which training batch the second node is killed, with its launcher; 0: at none.
"""

import os
import signal
from pathlib import Path
from typing import Any

from scalablevit.cli import run
from scalablevit.data.loaders import ResumableLoader, SampleKey, SeededDataset

plain_loader = ResumableLoader.__init__


class Noted(SeededDataset):
    """Training samples, of which a line is written each."""

    def __getitem__(self, key: SampleKey) -> Any:
        """Note and load a sample."""
        with (Path(os.environ["SEEN"]) / os.environ["RANK"]).open("a") as file:
            file.write(f"{key.epoch} {key.index}\n")
        return super().__getitem__(key)


def noting(self: ResumableLoader, dataset: SeededDataset, **options: Any) -> None:
    """Make a loader of training samples that are noted."""
    plain_loader(self, Noted(dataset.dataset, seed=dataset.seed), **options)


ResumableLoader.__init__ = noting  # type: ignore[method-assign, assignment]

if os.environ["RANK"] == "1" and os.environ["KILL_AT"] != "0":
    from scalablevit.training.module import TrainingModule

    original = TrainingModule.on_train_batch_start
    begun: list[bool] = []

    def and_die(self: TrainingModule, *args: Any) -> None:
        begun.append(True)
        if len(begun) == int(os.environ["KILL_AT"]):
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *args)

    TrainingModule.on_train_batch_start = and_die  # type: ignore[method-assign]

if __name__ == "__main__":
    run()
