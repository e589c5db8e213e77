"""A script: `scalablevit`, whose second node is killed with its launcher at a training batch: `KILL_AT` says which."""

import os
import signal
from typing import Any

from scalablevit.cli import run

if os.environ["RANK"] == "1":
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
