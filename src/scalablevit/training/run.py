"""A run that can begin: its task, data and trainer, and the folder that it fills."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from scalablevit import __version__
from scalablevit.data.workers import kill_workers
from scalablevit.printable import printable
from scalablevit.safe_write import write_atomically
from scalablevit.tasks import PretrainingEntry, entry_of
from scalablevit.training.agreement import facts
from scalablevit.training.checkpoint_io import explained_restoring, told_of_version
from scalablevit.training.devices import threads_per_process
from scalablevit.training.early_stopping import why_ended_early
from scalablevit.training.freed_memory import keep_freed_memory
from scalablevit.training.invocation import invocation
from scalablevit.training.rank_watch import PeerEndedError
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.resources import explained_resources
from scalablevit.training.resume_rules import edited, without_secrets
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.stopping import StopOnSignal
from scalablevit.training.terminal import rank
from scalablevit.training.trackers import TolerantLogger
from scalablevit.training.watched_launcher import WatchedLauncher
from scalablevit.visualization.curves import plot_curves

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run: what trains, on what, and where to.

    Args:
        folder: of the run.
        module: the task.
        data: its training and validation samples.
        trainer: see `build_trainer`.
        recipe_text: the resolved recipe, as YAML.
        seed: of the run.
        resume: the checkpoint to resume from; None: a new run.
        threads: CPU threads of each process; None: those that the data workers leave.
        changes: of the recipe, on resume: key -> (before, after).
    """

    folder: RunFolder
    module: Any
    data: Any
    trainer: Trainer
    recipe_text: str
    seed: int
    resume: Path | None = None
    threads: int | None = None
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    _has_begun: bool = field(default=False, init=False)
    _num_evaluated: int = field(default=0, init=False)

    def fit(self) -> None:
        """Train; then write weights to ship, results and curves."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        stop = next(callback for callback in callbacks if isinstance(callback, StopOnSignal))
        callbacks.insert(
            0,
            LambdaCallback(
                on_train_start=self._begin,
                on_save_checkpoint=self._note_recipe,
                on_load_checkpoint=self._check_recipe,
            ),
        )
        try:
            with stop.held():
                with self._watched(self.resume, self._way_on), explained(self.resume):
                    self.module.check_metadata()
                    self.announce(is_training=True)
                    self.share_cores()
                    self.trainer.fit(self.module, self.data, ckpt_path=self.resume)
                if self.trainer.is_global_zero:
                    with explained(self.resume):
                        self._finish()
        except BaseException as error:
            self._clean_up(error)
            raise
        finally:
            if rank() == 0:
                self.folder.release()

    def _watched(self, checkpoint: Path | None, hint: Callable[[], str]) -> contextlib.AbstractContextManager[None]:
        """Where there are several processes: have them train the same, and end together."""
        launcher = self.trainer.strategy.launcher
        if not isinstance(launcher, WatchedLauncher):
            return contextlib.nullcontext()
        recipe = yaml.safe_load(self.recipe_text)
        device_type = self.trainer.strategy.root_device.type
        found = facts(recipe=recipe, data=self.data, device_type=device_type, checkpoint=checkpoint)
        return launcher.watching(found, hint)

    def _way_on(self) -> str:
        """How to go on after another process ended."""
        last, best = self.folder.last, self.folder.best
        kept = self.folder.path if last.is_file() else best if best.is_file() else None
        if kept is None:
            return "Nothing was saved"
        launcher: Any = self.trainer.strategy.launcher
        external = isinstance(launcher, WatchedLauncher) and launcher.cluster_environment.creates_processes_externally
        by = ", by torchrun or srun on every node as before" if external else ""
        return f"To resume from {last if kept != best else best}{by}: {invocation('fit', '--resume', kept)}"

    def _finish(self) -> None:
        """Write the results of a run that has all its epochs."""
        reason = why_ended_early(self.trainer)
        if reason is not None:
            _print(f"the run {reason}")
        elif not self._has_begun:
            _print(
                f"the run had all its {self.trainer.current_epoch} epochs already; to train on: "
                f"{invocation('fit', '--resume', self.folder.path, '--epochs', 'N')}"
            )
        self.write_results()

    def validate(self, checkpoint: Path | None) -> Mapping[str, float]:
        """Evaluate a checkpoint on the validation data.

        Returns:
            metric's name -> value.

        Raises:
            TrainingStopped: by SIGINT or SIGTERM.
        """
        stop = StopOnSignal(self.folder.last)
        count = LambdaCallback(on_validation_end=self._count_evaluated)
        self.trainer.callbacks += [count, stop]  # type: ignore[attr-defined]
        with stop.held(), self._watched(checkpoint, _again), explained(checkpoint):
            self.announce(is_training=False, checkpoint=checkpoint)
            if self.threads is not None:
                self.share_cores()
            (metrics,) = self.trainer.validate(self.module, self.data, ckpt_path=checkpoint, verbose=False)
        if self._num_evaluated and self.trainer.is_global_zero:
            unreadable = len(self.module.unreadable.files)
            without = f", without {unreadable} that could not be read" if unreadable else ""
            _print(f"evaluated   {self._num_evaluated - unreadable:,} images{without}", stderr=True)
        return metrics

    def _count_evaluated(self, trainer: Trainer, module: LightningModule) -> None:
        """Count the images of the batches that were evaluated, over all ranks; limit_val_batches leaves some out."""
        if not hasattr(self.data, "val_dataset") or not hasattr(self.data, "val_batch_size"):
            return
        of_rank = len(range(trainer.global_rank, len(self.data.val_dataset), trainer.world_size))
        count = min(int(trainer.num_val_batches[0]) * self.data.val_batch_size, of_rank)
        counts = torch.tensor(count, device=trainer.strategy.root_device)
        self._num_evaluated = int(trainer.strategy.reduce(counts, reduce_op="sum"))

    @rank_zero_only
    def announce(self, *, is_training: bool, checkpoint: Path | None = None) -> None:
        """Print what is about to happen."""
        lines = [self.data.summary()] if hasattr(self.data, "summary") else []
        network = self.module.network
        count = sum(p.numel() for p in network.parameters())
        name = getattr(self.module, "variant", type(network).__name__)
        exported = getattr(network, "origin", None)
        lines.append(f"network     {exported or f'{name}, {count / 1e6:.1f} M parameters'}")
        if getattr(self.module, "load_report", None) is not None:
            lines.append(f"weights     {self.module.load_report}")
        if is_training:
            lines += self.module.announcement(self.data) if hasattr(self.module, "announcement") else []
            lines.append(f"run         {self.folder.path}")
            lines += [f"changed     {key}: {old} -> {new}" for key, (old, new) in self.changes.items()]
        if checkpoint is not None:
            lines.append(f"checkpoint  {checkpoint}")
        # standard output of validate is for the metrics
        _print("\n".join(lines), stderr=not is_training)

    def share_cores(self) -> None:
        """On a CPU, leave the data workers their cores, and keep the memory of each step for the next."""
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
            if self.threads is None:
                workers = int(getattr(self.data, "num_workers", 0))
                self.threads = threads_per_process(self.trainer.num_devices, workers)
            torch.set_num_threads(self.threads)

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the recipe as training starts, not before: a run that cannot begin leaves nothing behind."""
        self._has_begun = True
        if trainer.is_global_zero:
            self.write_recipe()
            for logger in trainer.loggers:
                if isinstance(logger, TolerantLogger):
                    parameters = without_secrets(yaml.safe_load(self._resolved_recipe()))
                    logger.begin({**parameters, "run_folder": os.path.abspath(self.folder.path)})
            if self.resume is not None and self.resume != self.folder.last and os.path.lexists(self.folder.last):
                aside = self.folder.set_last_aside()
                _print(f"resumed from {self.resume}; {self.folder.last.name} is kept as {aside}")

    def _note_recipe(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep with the weights what they are trained with."""
        checkpoint["scalablevit_version"] = __version__
        checkpoint["recipe"] = without_secrets(yaml.safe_load(self._resolved_recipe()))

    def _check_recipe(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse or tell what was edited in the run's recipe.yaml since the checkpoint, and that of another version."""
        version = checkpoint.get("scalablevit_version", __version__)
        if version != __version__:
            log.warning(
                "scalablevit %s wrote the checkpoint, and this is %s: the run continues, maybe with other last bits",
                version,
                __version__,
            )
        now = without_secrets(yaml.safe_load(self._resolved_recipe()))
        found = edited(checkpoint.get("recipe") or {}, now, recipe=self.folder.recipe, known=self.changes)
        if trainer.is_global_zero and found:
            _print("\n".join(f"changed     {key}: {old} -> {new}" for key, (old, new) in found.items()))

    def _clean_up(self, error: BaseException) -> None:
        """End the other processes of a run that failed; remove what a run without a step left behind."""
        kill_workers()
        launcher = self.trainer.strategy.launcher
        has_ended = isinstance(error, Exception | SystemExit)  # a stop gives the others time for their own
        if has_ended and isinstance(launcher, _SubprocessScriptLauncher):
            for process in launcher.procs:  # ranks that wait for this one would wait long
                process.kill()
        if rank() != 0:
            return
        has_stepped = self.resume is not None or self.trainer.global_step > 0 or self.folder.last.is_file()
        if self._has_begun and not has_stepped:
            names = ("recipe", "environment", "metrics", "timing", "loggers")
            for file in (getattr(self.folder, name) for name in names):
                file.unlink(missing_ok=True)

    def write_recipe(self) -> None:
        """Keep the resolved recipe and the environment; `fit --config RUN/recipe.yaml` repeats the run."""
        text = self._resolved_recipe()
        write_atomically(self.folder.recipe, text.encode())
        self.folder.write_environment(seed=self.seed)

    def _resolved_recipe(self) -> str:
        """The recipe with what the run found out: its threads, and the network of its weights."""
        # threads give the last bits of a sum: a resumed run takes as many
        text = re.sub(r"(?m)^threads: null$", f"threads: {self.threads or 'null'}", self.recipe_text)
        if self.module.arguments_from_weights:
            recipe = yaml.safe_load(text)
            recipe["model"]["init_args"].update(self.module.arguments_from_weights)
            text = yaml.safe_dump(recipe, sort_keys=False)
        return text

    def write_results(self) -> None:
        """Write weights to ship, curves and the images of the task; print the next commands to try."""
        best = self.folder.best if self.folder.best.is_file() else None
        lines = self.module.write_results(self.folder.path, best)
        if self.folder.metrics.is_file():  # fast_dev_run logs nothing
            try:
                plot_curves(self.folder.metrics, self.folder.curves)
            except ValueError as error:  # the weights are written: a damaged log shall not make a failure of the run
                log.warning("%s; no curves are drawn", error)
        made = sorted(p.name for p in self.folder.path.iterdir() if not p.name.startswith("."))
        _print("\n".join([*lines, f"in {self.folder.path}: {', '.join(made)}"]))
        _print("\n".join(["\nNext, try:", *(f"  {command}" for command in self._next_commands())]))

    def _next_commands(self) -> list[str]:
        entry = entry_of(type(self.module))
        if isinstance(entry, PretrainingEntry):
            words = ("--data.root", "FOLDER", "--model.variant", self.module.variant, "--model.weights")
            return [invocation("fit", "--config", "finetune_folder", *words, self.folder.path)]
        commands = [invocation("predict", *self.data.example_inputs(), "--weights", self.folder.path)]
        if entry is not None and entry.exports:
            commands.append(invocation("export", self.folder.path, "--format", "onnx"))
        return commands


_OF_AN_EXCHANGE = ("gloo/transport", "Application timeout caused pair closure")
"""What gloo says of an exchange that failed or took too long, as an error without a type of its own."""


@contextlib.contextmanager
def explained(checkpoint: Path | None) -> Iterator[None]:
    """Turn what the engine raises for a user's mistake into a message for that user.

    Args:
        checkpoint: which is resumed from or evaluated.
    """
    try:
        with explained_resources(), explained_restoring(checkpoint):
            yield
    except MisconfigurationException as error:
        done = re.search(r"current_epoch=(\d+), but you have set Trainer\(max_epochs=(\d+)", str(error))
        if done is None:
            raise
        raise RecipeError(
            f"the run in {checkpoint} has already reached epoch {int(done[1]) + 1}, beyond --epochs {done[2]}: raise it"
        ) from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(words in str(error) for words in _OF_AN_EXCHANGE):
            raise PeerEndedError("another training process ended; its message gives the reason") from error
        if "Error(s) in loading state_dict" not in str(error):
            raise
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise RecipeError(
            f"{checkpoint} holds another network than the recipe builds ({reasons[0].rstrip('. ')}"
            f"{f' and {len(reasons) - 1} more' if len(reasons) > 1 else ''}){told_of_version(checkpoint or '')}; "
            "leave model and data as the run's recipe.yaml has them"
        ) from error


def _again() -> str:
    return "Nothing was evaluated: start it again"


def _print(text: str, *, stderr: bool = False) -> None:
    Console(soft_wrap=True, stderr=stderr).print(
        printable(text, multiline=True), highlight=False, markup=False, emoji=False
    )
