"""`scalablevit fit` and `scalablevit validate`: a recipe becomes a run. Built on LightningCLI."""

import argparse
import contextlib
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from scalablevit.safe_write import write_atomically
from scalablevit.training.checkpoint_io import SafeCheckpointIO
from scalablevit.training.invocation import invocation
from scalablevit.training.module import TrainingModule
from scalablevit.training.progress import EpochLines, ProgressLine
from scalablevit.training.recipe_errors import RecipeError, lacking, origin_of, read_recipe, readable
from scalablevit.training.run_folder import CSVMetrics, RunFolder, claim
from scalablevit.training.stopping import StopOnSignal
from scalablevit.visualization.curves import plot_curves

log = logging.getLogger(__name__)
_REMOVED_OPTIONS = (
    "logger",
    "plugins",
    "use_distributed_sampler",
    "default_root_dir",
    "enable_checkpointing",
)
_LARGEST_SEED = 2**32 - 1  # numpy's


class TrainingCommand(LightningCLI):
    """LightningCLI in which data comes first, the task learns its classes from it, and a run has a folder.

    Args:
        subcommand: "fit" or "validate".
        recipes: YAML files; each overrides values of those before it.
        args: words of the command line behind them, `--KEY VALUE`.
        run: folder of the run.
        resume: go on with the run in it.
        checkpoint: for "validate": what to load.

    Raises:
        RecipeError: the recipe or the command line cannot become a run; names file or key, and remedy.
    """

    def __init__(
        self,
        subcommand: str,
        recipes: Sequence[Path],
        args: list[str],
        *,
        run: Path,
        resume: bool = False,
        checkpoint: Path | None = None,
    ) -> None:
        self.verb = subcommand
        self.checkpoint = checkpoint
        self.folder = RunFolder(run)
        self.resume = resume
        self.recipe_text = ""
        settings = {str(recipe): read_recipe(recipe) for recipe in recipes}
        try:
            super().__init__(
                TrainingModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                auto_configure_optimizers=False,
                args=[word for recipe in recipes for word in ("--config", str(recipe))] + args,
                run=False,
                # allow_abbrev: `--trainer.max_epoch 3` would be taken for max_epochs otherwise
                parser_kwargs={
                    "prog": f"scalablevit {subcommand}",
                    "exit_on_error": False,
                    "allow_abbrev": False,
                },
            )
        except (argparse.ArgumentError, TypeError, ValueError, OSError) as error:
            origin = origin_of(error)
            if origin is None or ("class_path" in str(error) and isinstance(origin, ImportError | AttributeError)):
                raise RecipeError(readable(error, settings)) from error
            if origin is error:
                raise
            raise origin from None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the data knows, the task need not be told; and one seed is enough."""
        parser.link_arguments("data.class_names", "model.init_args.class_names", apply_on="instantiate")
        parser.link_arguments(
            "data.preprocessing",
            "model.init_args.preprocessing",
            compute_fn=lambda preprocessing: preprocessing.to_dict(),
            apply_on="instantiate",
        )
        for part in ("data", "model"):
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=_seed)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed: a number, so that the recipe holds it (Lightning would take `true` for a random one)."""
        parser.add_argument("--seed_everything", type=int, default=0, help="of everything random in the run")

    def before_instantiate_classes(self) -> None:
        """Take the run's folder, now that the command line is known to be right."""
        # skip_none=False: a null that overrides a default would be lost otherwise.
        self.recipe_text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        trainer = self.config["trainer"]
        for name in _REMOVED_OPTIONS:
            if trainer[name] not in (None, True):
                raise RecipeError(
                    f"trainer.{name} is given by the run folder {self.folder.path}; remove it from the recipe"
                )
        check_devices(trainer["accelerator"], trainer["devices"])
        if trainer["max_epochs"] == 0:
            raise RecipeError("--epochs (trainer.max_epochs) must be at least 1, got 0")
        model = self.config["model"]
        for part in ("model", "data"):
            if self.config[part] is None:
                raise RecipeError(lacking(part))
        if (self.resume or self.verb == "validate") and "weights" in model["init_args"]:
            # the checkpoint holds them, and the file they once came from may be gone
            model["init_args"]["weights"] = None
        # Ranks that a launcher starts repeat the command line; only the first one takes the folder.
        if self.verb == "fit" and _rank() == 0:
            try:
                claim(self.folder.path, self.resume)
            except OSError as error:
                raise RecipeError(
                    f"cannot make the run folder {self.folder.path} ({error.strerror}); name another by --run"
                ) from error

    def instantiate_classes(self) -> None:
        """Data, task and trainer; a folder made for a run that cannot begin goes again."""
        try:
            super().instantiate_classes()
        except BaseException:
            self._release_folder()
            raise

    def _release_folder(self) -> None:
        """Give back a folder in which no training has begun."""
        if self.verb == "fit" and _rank() == 0 and not self.folder.holds_a_run():
            shutil.rmtree(self.folder.tensorboard, ignore_errors=True)
            for folder in (self.folder.checkpoints, self.folder.path):
                with contextlib.suppress(OSError):  # not empty, or not there
                    folder.rmdir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with our loggers, checkpoints, progress bar and stopping."""
        options: dict[str, Any] = dict(self._get(self.config_init, "trainer", default={}))
        for name in _REMOVED_OPTIONS:
            options.pop(name, None)
        given = options.pop("callbacks", None) or []
        callbacks: list[Callback] = [*given] if isinstance(given, list) else [given]
        if self.verb == "fit":
            metric, mode = type(self.model).monitor
            where: dict[str, Any] = {"dirpath": self.folder.checkpoints, "enable_version_counter": False}
            callbacks += [
                MovableCheckpoint(filename="best", monitor=metric, mode=mode, **where),
                # with or without a validation: a crash shall cost one epoch at most
                MovableCheckpoint(filename="last", save_on_train_epoch_end=True, **where),
                StopOnSignal(self.folder.last),
            ]
        if options.get("enable_progress_bar") is not False:
            callbacks.append(ProgressLine())
            if self.verb == "fit":
                callbacks.append(EpochLines())
        if options.get("enable_model_summary") is None:
            options["enable_model_summary"] = False  # `scalablevit info` says more
        return Trainer(
            **options,
            callbacks=callbacks,
            logger=self._loggers() if self.verb == "fit" else False,
            enable_checkpointing=self.verb == "fit",
            plugins=[RunCheckpointIO()],
            use_distributed_sampler=False,
            default_root_dir=self.folder.path,
        )

    def _loggers(self) -> list[Any]:
        return [
            CSVMetrics(self.folder.metrics),
            TensorBoardLogger(self.folder.path, name="", version="tensorboard", default_hp_metric=False),
        ]

    def fit(self) -> None:
        """Train; then write what the user came for."""
        self.announce()
        self.share_cores()
        trained: list[bool] = []

        def begin(trainer: Trainer, module: LightningModule) -> None:
            # not before: a run that cannot begin leaves nothing behind
            trained.append(True)
            if trainer.is_global_zero:
                self.write_recipe()

        self.trainer.callbacks.insert(0, LambdaCallback(on_train_start=begin))  # type: ignore[attr-defined]
        checkpoint = self.folder.last if self.resume else None
        try:
            with _explained(checkpoint):
                self.trainer.fit(self.model, self.datamodule, ckpt_path=checkpoint)
        except BaseException as error:
            launcher = self.trainer.strategy.launcher
            if isinstance(error, Exception) and isinstance(launcher, _SubprocessScriptLauncher):
                for process in launcher.procs:  # ranks that wait for this one would wait long
                    process.kill()
            has_stepped = self.resume or self.trainer.global_step > 0 or self.folder.last.is_file()
            if trained and not has_stepped and _rank() == 0:
                for file in (self.folder.recipe, self.folder.environment, self.folder.metrics):
                    file.unlink(missing_ok=True)
            self._release_folder()
            raise
        if self.trainer.is_global_zero:
            if not trained:
                Console(soft_wrap=True).print(
                    f"the run had all its {self.trainer.current_epoch} epochs already; to train on: "
                    f"{invocation('fit', '--resume', self.folder.path, '--epochs', 'N')}",
                    highlight=False,
                    markup=False,
                )
            self.write_results()

    def validate(self) -> Mapping[str, float]:
        """Measure a checkpoint on the validation data.

        Returns:
            metric's name -> value.
        """
        self.announce()
        try:
            with _explained(self.checkpoint):
                (metrics,) = self.trainer.validate(
                    self.model, self.datamodule, ckpt_path=self.checkpoint, verbose=False
                )
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        return metrics

    def share_cores(self) -> None:
        """On a CPU, leave the data workers their cores: threads that wait for a core spin, and slow each other down."""
        if self.trainer.strategy.root_device.type == "cpu":
            # From what the machine has, not from what is set: the same run then computes with as many threads, to
            # the bit, whatever ran in this process before.
            cores = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
            workers = int(getattr(self.datamodule, "num_workers", 0))
            torch.set_num_threads(max(1, cores // self.trainer.num_devices - workers))

    @rank_zero_only
    def announce(self) -> None:
        """Say what is about to happen."""
        # standard output of validate is for the metrics
        console = Console(soft_wrap=True, stderr=self.verb == "validate")
        lines = [self.datamodule.summary()] if hasattr(self.datamodule, "summary") else []
        count = sum(p.numel() for p in self.model.network.parameters())
        name = getattr(self.model, "variant", type(self.model.network).__name__)
        lines.append(f"network     {name}, {count / 1e6:.1f} M parameters")
        if getattr(self.model, "load_report", None) is not None:
            lines.append(f"weights     {self.model.load_report}")
        if self.verb == "fit":
            lines.append(f"run         {self.folder.path}")
        console.print("\n".join(lines), highlight=False, markup=False)

    def write_recipe(self) -> None:
        """Keep the resolved recipe and the environment; `fit --config RUN/recipe.yaml` repeats the run."""
        text = self.recipe_text
        if self.model.arguments_from_weights:
            recipe = yaml.safe_load(text)
            recipe["model"]["init_args"].update(self.model.arguments_from_weights)
            text = yaml.safe_dump(recipe, sort_keys=False)
        write_atomically(self.folder.recipe, lambda file: file.write(text.encode()))
        self.folder.write_environment(seed=int(self.config["seed_everything"]))

    def write_results(self) -> None:
        """Weights to ship, curves, and the pictures of the task; the next command to try."""
        console = Console(soft_wrap=True)
        best = self.folder.best if self.folder.best.is_file() else None
        lines = self.model.write_results(self.folder.path, best)
        if self.folder.metrics.is_file():  # fast_dev_run logs nothing
            plot_curves(self.folder.metrics, self.folder.curves)
        for line in lines:
            console.print(line, highlight=False, markup=False)
        made = sorted(p.name for p in self.folder.path.iterdir() if not p.name.startswith("."))
        console.print(f"in {self.folder.path}: {', '.join(made)}", highlight=False, markup=False)
        command = invocation("predict", *self.datamodule.example_inputs(), "--weights", self.folder.path)
        console.print(f"\nNext, try:\n  {command}", highlight=False, markup=False)


class MovableCheckpoint(ModelCheckpoint):
    """Knows the best score of a run folder that was moved; Lightning's forgets it, and a worse one wins."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the files of this folder."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = {name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class RunCheckpointIO(SafeCheckpointIO):
    """Refuses what is no checkpoint of a Trainer, which would fail deep inside Lightning."""

    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As `SafeCheckpointIO`.

        Raises:
            ValueError: the file is no checkpoint of a run.
        """
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        missing = {"pytorch-lightning_version", "state_dict", "epoch", "global_step"} - checkpoint.keys()
        if missing:
            raise ValueError(
                f"{os.fspath(path)} is not a checkpoint of a run: it lacks {', '.join(sorted(missing))}. "
                "Take RUN/checkpoints/last.ckpt or best.ckpt; weights alone go to fit --model.weights"
            )
        return checkpoint


@contextlib.contextmanager
def _explained(checkpoint: Path | None) -> Iterator[None]:
    """A checkpoint of another network is the user's to mend; of a rank that lost another, that one says why."""
    try:
        yield
    except MisconfigurationException as error:
        done = re.search(r"current_epoch=(\d+), but you have set Trainer\(max_epochs=(\d+)", str(error))
        if done is None:
            raise
        raise RecipeError(
            f"the run in {checkpoint} has come to epoch {int(done[1]) + 1}, beyond --epochs {done[2]}: ask for more"
        ) from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):
            raise ConnectionError("another of the training processes ended; what it said is the reason") from error
        if "Error(s) in loading state_dict" not in str(error):
            raise
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise RecipeError(
            f"{checkpoint} holds another network than the recipe builds ({reasons[0].rstrip('. ')}"
            f"{f' and {len(reasons) - 1} more' if len(reasons) > 1 else ''}); "
            "leave model and data as the run's recipe.yaml has them"
        ) from error


def _rank() -> int:
    """Of this process, known before the ranks have met."""
    return int(getattr(rank_zero_only, "rank", 0))


def _seed(value: Any) -> int:
    """The seed, if it is one that all generators take."""
    if isinstance(value, bool) or not 0 <= int(value) <= _LARGEST_SEED:
        raise RecipeError(f"--seed (seed_everything) must lie in 0 to {_LARGEST_SEED}, got {value}")
    return int(value)


def check_devices(accelerator: str, devices: Any) -> None:
    """Refuse more devices than this machine has, in words; Lightning runs any number of CPU processes.

    Args:
        accelerator: of the Trainer.
        devices: of the Trainer: a number, a list of them, "auto", or any of these as text.

    Raises:
        RecipeError: with the number asked for, the number there is, and the remedy; or a list where it is
            not GPUs that it picks from.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps", "tpu"):
        raise RecipeError(f"trainer.accelerator must be auto, cpu, gpu, cuda, mps or tpu, got {accelerator!r}")
    gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    on_gpu = accelerator in ("gpu", "cuda", "mps") or (accelerator == "auto" and gpus > 0)
    if on_gpu and gpus == 0:
        raise RecipeError(
            f"trainer.accelerator {accelerator}: this machine has no GPU that torch can use; "
            "train with --trainer.accelerator cpu, or mend the driver"
        )
    if devices in ("auto", -1, "-1") or accelerator == "tpu":
        return
    listed = isinstance(devices, list) or "," in str(devices)
    try:
        wanted = devices if isinstance(devices, list) else [int(word) for word in str(devices).split(",") if word]
    except ValueError:
        wanted = []
    if not wanted:
        raise RecipeError(f"--devices {devices}: give a number of devices, a list such as 0,2, or auto")
    if listed and not on_gpu:
        raise RecipeError(
            f"--devices {devices}: a list picks GPUs, and this run is on the CPU; give a number of processes"
        )
    there, kind = (gpus, "GPU(s)") if on_gpu else (os.cpu_count() or 1, "CPU core(s)")
    most = max(wanted) + 1 if listed else wanted[0]
    if most > there or min(wanted) < 0 or (not listed and most < 1):
        what = f"choose from 0 to {there - 1}" if listed else f"ask for 1 to {there}"
        raise RecipeError(f"--devices {devices}: this machine has {there} {kind}; {what}")


class _Terminal(logging.Handler):
    """Warnings of ours as a line on stderr, once a run rather than once a process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; of other ranks only what they alone know: which pictures they could not read."""
        alone = dist.is_available() and dist.is_initialized() and record.name.endswith(".unreadable")
        if _rank() == 0 or alone:
            # looked up at each call: a live bar puts its own stream there
            sys.stderr.write(f"{record.levelname.lower()}: {record.getMessage()}\n")


def quiet_lightning() -> None:
    """Keep what a user can act on: hide Lightning's tips and torch's internal deprecations."""
    for name in ("lightning.pytorch", "lightning.fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ours = logging.getLogger("scalablevit")
    if not any(isinstance(handler, _Terminal) for handler in ours.handlers):
        ours.addHandler(_Terminal(logging.WARNING))
    if _rank() != 0:
        warnings.simplefilter("ignore")
        return
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*Detected call of `lr_scheduler.step.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*Glyph .* missing from font.*",
        ".*Detected pickle protocol.*",
    ):
        warnings.filterwarnings("ignore", message)
