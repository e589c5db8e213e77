"""`scalablevit fit` and `scalablevit validate`: a recipe becomes a run. Built on LightningCLI."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from scalablevit.training.checkpoint_io import SafeCheckpointIO, write_atomically
from scalablevit.training.curves import plot_curves
from scalablevit.training.module import TrainingModule
from scalablevit.training.progress import ProgressLines
from scalablevit.training.run_folder import CSVMetrics, RunFolder, claim
from scalablevit.training.stopping import StopOnSignal

log = logging.getLogger(__name__)
_REMOVED_OPTIONS = ("logger", "plugins", "use_distributed_sampler", "default_root_dir", "enable_checkpointing")


class TrainingCommand(LightningCLI):
    """LightningCLI in which data comes first, the task learns its classes from it, and a run has a folder.

    Args:
        subcommand: "fit" or "validate".
        args: words of the command line behind the subcommand.
        run: folder of the run.
        resume: go on with the run in it.
        checkpoint: for "validate": what to load.
    """

    def __init__(
        self, subcommand: str, args: list[str], *, run: Path, resume: bool = False, checkpoint: Path | None = None
    ) -> None:
        self.verb = subcommand
        self.checkpoint = checkpoint
        self.folder = RunFolder(run)
        self.resume = resume
        super().__init__(
            TrainingModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=args,
            run=False,
            parser_kwargs={"prog": f"scalablevit {subcommand}", "exit_on_error": False},
        )

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
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Take the run's folder, now that the command line is known to be right."""
        # Ranks that Lightning starts itself repeat the command line; only the first one takes the folder.
        if self.verb == "fit" and "LOCAL_RANK" not in os.environ:
            claim(self.folder.path, self.resume)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with our loggers, checkpoints, progress bar and stopping."""
        options: dict[str, Any] = dict(self._get(self.config_init, "trainer", default={}))
        for name in _REMOVED_OPTIONS:
            if options.get(name) not in (None, True):
                raise ValueError(f"trainer.{name} is set by the run folder ({self.folder.path}); remove it from the recipe")
            options.pop(name, None)
        check_devices(options.get("accelerator", "auto"), options.get("devices", "auto"))
        callbacks: list[Callback] = list(options.pop("callbacks", None) or [])
        if self.verb == "fit":
            metric, mode = type(self.model).monitor
            where: dict[str, Any] = dict(dirpath=self.folder.checkpoints, enable_version_counter=False)
            callbacks += [
                ModelCheckpoint(filename="best", monitor=metric, mode=mode, **where),
                ModelCheckpoint(filename="last", **where),
                StopOnSignal(self.folder.last),
            ]
        if options.get("enable_progress_bar") is not False:
            callbacks.append(ProgressLines())
        if options.get("enable_model_summary") is None:
            options["enable_model_summary"] = False  # `scalablevit info` says more
        loggers = [
            CSVMetrics(self.folder.metrics),
            TensorBoardLogger(self.folder.path, name="", version="tensorboard", default_hp_metric=False),
        ]
        return Trainer(
            **options,
            callbacks=callbacks,
            logger=loggers if self.verb == "fit" else False,
            plugins=[SafeCheckpointIO()],
            use_distributed_sampler=False,
            default_root_dir=self.folder.path,
        )

    def fit(self) -> None:
        """Train; then write what the user came for."""
        self.announce()
        if self.trainer.is_global_zero:
            self.write_recipe()
        self.trainer.fit(self.model, self.datamodule, ckpt_path=self.folder.last if self.resume else None)
        if self.trainer.is_global_zero:
            self.write_results()

    def validate(self) -> Mapping[str, float]:
        """Measure a checkpoint on the validation data.

        Returns:
            metric's name -> value.
        """
        self.announce()
        (metrics,) = self.trainer.validate(self.model, self.datamodule, ckpt_path=self.checkpoint, verbose=False)
        return metrics

    @rank_zero_only
    def announce(self) -> None:
        """Say what is about to happen."""
        console = Console()
        if hasattr(self.datamodule, "summary"):
            console.print(self.datamodule.summary(), highlight=False, markup=False)
        count = sum(p.numel() for p in self.model.network.parameters())
        name = getattr(self.model, "variant", type(self.model.network).__name__)
        console.print(f"network     {name}, {count / 1e6:.1f} M parameters", highlight=False)
        if self.verb == "fit":
            console.print(f"run         {self.folder.path}", highlight=False)

    def write_recipe(self) -> None:
        """Keep the resolved recipe and the environment; `fit --config RUN/recipe.yaml` repeats the run."""
        # skip_none=False: a null that overrides a default would be lost otherwise.
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        write_atomically(self.folder.recipe, lambda file: file.write(text.encode()))
        seed = self.config["seed_everything"]
        self.folder.write_environment(seed=int(seed))

    def write_results(self) -> None:
        """Weights to ship, curves, and the pictures of the task; the next command to try."""
        console = Console(soft_wrap=True)
        best = self.folder.best if self.folder.best.is_file() else None
        lines = self.model.write_results(self.folder.path, best)
        plot_curves(self.folder.metrics, self.folder.curves)
        for line in lines:
            console.print(line, highlight=False, markup=False)
        made = sorted(p.name for p in self.folder.path.iterdir() if not p.name.startswith("."))
        console.print(f"in {self.folder.path}: {', '.join(made)}", highlight=False, markup=False)
        console.print("\nNext, try:", highlight=False)
        inputs = " ".join(self.model.example_inputs())
        console.print(f"  scalablevit predict {inputs} --weights {self.folder.path}", highlight=False, markup=False)


def readable(error: Exception) -> str:
    """jsonargparse's message without what only programmers read."""
    skipped = ("Subtypes:", "Given value", "Errors:", "Does not validate against any of the Union subtypes")
    lines = []
    for line in str(error).splitlines():
        text = line.strip().removeprefix("- ")
        if not text.startswith(skipped) and not text.endswith("<class 'NoneType'>"):
            lines.append(line.rstrip())
    return "\n".join(lines)


def check_devices(accelerator: str, devices: Any) -> None:
    """Refuse more devices than this machine has, in words; Lightning runs any number of CPU processes.

    Raises:
        ValueError: with the number asked for, the number there is, and the remedy.
    """
    gpus = torch.cuda.device_count()
    if accelerator in ("auto", "cpu") and isinstance(devices, str) and devices in ("auto", "-1"):
        return
    try:
        wanted = len(devices) if isinstance(devices, list) else int(devices)
    except ValueError:
        return
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus > 0)
    there = gpus if on_gpu else os.cpu_count() or 1
    kind = "GPU(s)" if on_gpu else "CPU core(s)"
    if wanted > there:
        raise ValueError(
            f"--devices {devices}: this machine has {there} {kind}; ask for at most {there}"
            + ("" if gpus or accelerator != "gpu" else ", or train with --trainer.accelerator cpu")
        )


def quiet_lightning() -> None:
    """Keep what a user can act on: hide Lightning's tips and torch's internal deprecations."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*Detected call of `lr_scheduler.step.*",
    ):
        warnings.filterwarnings("ignore", message)
