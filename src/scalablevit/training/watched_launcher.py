"""The launcher of a run of several processes: they meet before they train, and watch each other while they do."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from itertools import count
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from scalablevit.training.rank_watch import RankWatch
from scalablevit.training.stopping import TrainingStopped

_meeting = count()  # the same on every process, which all run the same program


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, with a `RankWatch` in the place of its observer.

    That one looks at the processes of its own machine, and kills its own without a word where one of them ended.

    Args:
        strategy: whose processes are launched.
        timeout: that processes wait for each other.
    """

    def __init__(self, strategy: Any, timeout: timedelta) -> None:
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self.watch: RankWatch | None = None
        self._strategy, self._timeout = strategy, timeout
        self._facts: Mapping[str, str] = {}
        self._hint: Callable[[], str] = str

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes of this node where no launcher did, meet all, then call `function`."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        self._strategy.set_world_ranks()
        local_rank, is_first_node = environment.local_rank(), environment.node_rank() == 0
        self.watch = RankWatch(
            rank=environment.global_rank(),
            world_size=environment.world_size(),
            is_first_of_node=local_rank == (1 if is_first_node else 0),
            address=(environment.main_address, environment.main_port),
            timeout=self._timeout.total_seconds(),
            facts=self._facts,
            meeting=next(_meeting),
            children=self.procs,
            hint=self._hint,
        )
        self.watch.meet()
        return function(*args, **kwargs)

    @contextlib.contextmanager
    def watching(self, facts: Mapping[str, str], hint: Callable[[], str]) -> Iterator[None]:
        """Around a training or an evaluation: have the processes end together.

        Args:
            facts: what all must agree on, see `agreement.facts`.
            hint: how to resume; for the message of a process that ended.

        Raises:
            SystemExit: what happened is printed, by this process or another.
        """
        self.watch, self._facts, self._hint = None, facts, hint
        try:
            yield
        except BaseException as error:
            watch: RankWatch | None = self.watch
            if watch is None:
                raise
            if isinstance(error, TrainingStopped):
                watch.stop(together=error.checkpoint is not None, what=str(error))
                raise
            if watch.is_explained(error):
                raise SystemExit(1) from error
            is_for_user = isinstance(error, ValueError | OSError)
            if watch.fail(str(error) if is_for_user else _in_one_line(error)) and is_for_user:
                raise SystemExit(1) from error
            raise
        if isinstance(self.watch, RankWatch):
            self.watch.leave()


def _in_one_line(error: BaseException) -> str:
    """What a fault of ours or a library's is; the process that has it prints its stack trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]  # a data worker's has its whole trace
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def watch_ranks(trainer: Trainer, timeout: timedelta) -> None:
    """Give a Trainer of several processes the timeout of their exchanges, and a `WatchedLauncher`.

    Args:
        trainer: that has not trained yet.
        timeout: that processes wait for each other.
    """
    strategy: Any = trainer.strategy
    # of FSDP2, Lightning has no launcher where torchrun or SLURM started the processes
    has_none = strategy.launcher is None and hasattr(strategy, "set_world_ranks")
    if has_none or type(strategy.launcher) is _SubprocessScriptLauncher:
        strategy._timeout = timeout
        strategy._launcher = WatchedLauncher(strategy, timeout)
