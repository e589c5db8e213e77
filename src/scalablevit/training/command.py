"""`scalablevit fit` and `scalablevit validate`: a recipe and a command line become a run. Built on LightningCLI."""

import argparse
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from scalablevit.data.split import settings_for_evaluation
from scalablevit.moved import forward_moved_names
from scalablevit.tasks import entry_of, load
from scalablevit.training.allowed_classes import check_classes, check_paths, lies_in_a_run, only_allowed_imports
from scalablevit.training.checkpoint_interval import checkpoint_interval
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.devices import MOST_THREADS, check_devices
from scalablevit.training.launch import find_launch, launched_options
from scalablevit.training.logger_choice import LoggerSetting, logger_choices
from scalablevit.training.module import TrainingModule
from scalablevit.training.null_words import says_null, with_nulls
from scalablevit.training.recipe_errors import RecipeError, lacking, nullable_keys, origin_of, readable
from scalablevit.training.recipe_file import check_numbers, read_recipe
from scalablevit.training.resources import explained_resources
from scalablevit.training.resume_rules import absolute_paths, changes, moved_root
from scalablevit.training.run import Run
from scalablevit.training.run_folder import RunFolder, claim
from scalablevit.training.terminal import quiet_lightning, rank
from scalablevit.training.trainer import DEFAULT_TIMEOUT, MANAGED_OPTIONS, build_trainer

__all__ = ["TrainingCommand", "quiet_lightning"]

log = logging.getLogger(__name__)

_LARGEST_SEED = 2**32 - 1  # numpy's
# 1.0 is all batches, and 1 is one of them
_WHOLE_VALIDATION = {"limit_val_batches": (1.0,), "overfit_batches": (0.0, 0), "fast_dev_run": (False, 0)}
"""Trainer options that leave validation images out, and their values that leave out none."""
_MOST_KEPT = 10_000


class TrainingCommand(LightningCLI):
    """LightningCLI in which data comes first, the task learns its classes from it, and a run has a folder.

    Args:
        subcommand: "fit" or "validate".
        recipes: YAML files; each overrides values of those before it.
        args: words of the command line behind them, `--KEY VALUE`.
        run: folder of the run.
        resume: resume the run in it.
        checkpoint: for "validate": what to load; with `resume`: what to resume from; None: the last.
        allowed: full names of classes that the recipe of a run folder may name, beside the known ones.
        class_names: for "validate" without a checkpoint: of the network that will be evaluated.
        label_map: likewise, of the masks that it was trained on.
        timeout: that the processes of the run wait for each other; None: `DEFAULT_TIMEOUT`.

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
        allowed: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
        label_map: Mapping[str, Any] | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        self.verb = subcommand
        self.checkpoint = checkpoint
        self._class_names, self._label_map = class_names, label_map
        self.folder = RunFolder(run)
        self.resume = resume
        self.timeout = timeout or DEFAULT_TIMEOUT
        self.recipe_text = ""
        self.words = args
        self.recipes = settings = {str(recipe): read_recipe(recipe) for recipe in recipes}
        check_numbers(args)
        of_runs = [recipe for recipe in recipes if lies_in_a_run(recipe) or recipe == self.folder.recipe]
        self._of_run = next(iter(of_runs), None)
        for recipe in of_runs:
            check_classes(settings[str(recipe)], recipe=recipe, allowed=allowed)
        imports = only_allowed_imports(allowed) if of_runs else contextlib.nullcontext()
        class_paths = _class_paths(settings.values())
        self._recipe_before = settings[str(recipes[0])] if resume else {}
        self._words = args
        self.changes: Mapping[str, tuple[Any, Any]] = {}
        if of_runs:
            args = self._moved_root(settings[str(of_runs[0])]) + args
        try:
            with imports, explained_resources():
                if says_null(args):
                    args = with_nulls(args, class_paths, nullable_keys(class_paths))
                self._parse(recipes, args)
        except (argparse.ArgumentError, TypeError, ValueError, OSError, OverflowError, RecursionError) as error:
            origin = origin_of(error)
            if origin is None or ("class_path" in str(error) and isinstance(origin, ImportError | AttributeError)):
                raise RecipeError(readable(error, settings)) from error
            if isinstance(origin, OverflowError | RecursionError):
                raise RecipeError(f"the recipe holds a value that is too large or too deep ({origin})") from error
            if origin is error:
                raise
            raise origin from None

    def _moved_root(self, recipe: Mapping[str, Any]) -> list[str]:
        """Words that find the data of a run that was moved together with them."""
        root = moved_root(recipe, was_at=self.folder.earlier_place(), is_at=self.folder.path)
        if root is None:
            return []
        log.warning("the data folder has moved; using %s", root)
        return ["--data.root", root]

    def _parse(self, recipes: Sequence[Path], args: list[str]) -> None:
        """Have LightningCLI check every key and build data, task and trainer."""
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
                "prog": f"scalablevit {self.verb}",
                "exit_on_error": False,
                "allow_abbrev": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data knows to the task, and both to the one seed."""
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
        """Add the seed: a number, so that the recipe holds it (Lightning would take `true` for a random one)."""
        parser.add_argument("--seed_everything", type=int, default=0, help="of everything random in the run")
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads of each training process; null: the cores that the data workers leave",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=str | int | float | None,
            default=None,
            help="save within an epoch too: by the clock (90s, 10m, 2h) or by optimizer steps (500steps); null: never",
        )
        parser.add_argument(
            "--keep_checkpoints",
            type=int,
            default=0,
            help="how many checkpoints of checkpoint_every to keep beside the last and the best",
        )
        parser.add_argument(
            "--logger",
            type=LoggerSetting,
            default=None,
            help="trackers beside metrics.csv and TensorBoard: wandb, mlflow, comet, a class; commas between several",
        )

    def before_instantiate_classes(self) -> None:
        """Check the resolved recipe, then take the run folder."""
        self.resolve_recipe()
        model = self.config["model"]
        if (self.resume or self.verb == "validate") and "weights" in model["init_args"]:
            # the checkpoint holds them, and the file they once came from may be gone
            model["init_args"]["weights"] = None
        if self.verb == "validate":
            if "teacher" in model["init_args"] and not self._evaluates_with_teacher():
                model["init_args"]["teacher"] = None
            self._evaluate_all_that_is_new()
            self._evaluate_all_batches()
        # Ranks that a launcher starts repeat the command line; only the first one takes the folder.
        if self.verb == "fit" and rank() == 0:
            try:
                self.folder = claim(self.folder.path, self.resume, checkpoint=self.checkpoint)
            except OSError as error:
                raise RecipeError(
                    f"cannot write into the run folder {self.folder.path} ({error.strerror}); name another by --run"
                ) from error

    def _evaluates_with_teacher(self) -> bool:
        """Whether the task's metrics compare with a teacher."""
        module, _, name = str(self.config["model"]["class_path"]).rpartition(".")
        return bool(getattr(entry_of(load(f"{module}:{name}")), "needs_teacher", False))

    def resolve_recipe(self) -> dict[str, Any]:
        """Check the recipe with its defaults and the command line, and keep its text.

        Returns:
            the recipe with every value.
        """
        # skip_none=False: a null that overrides a default would be lost otherwise.
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        recipe = absolute_paths(yaml.safe_load(text))
        if self._of_run is not None:
            check_paths(recipe, recipe=self._of_run)
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        self.recipe_text = header + yaml.safe_dump(recipe, sort_keys=False)
        if self.resume:
            self.changes = changes(self._recipe_before, recipe, self._words)
        self._check_trainer_options()
        for part in ("model", "data"):
            if self.config[part] is None:
                raise RecipeError(lacking(part))
        return recipe

    def _evaluate_all_that_is_new(self) -> None:
        """Have the data take the classes of the checkpoint, and all images where they are not those of the run."""
        data = self.config["data"]["init_args"]
        own = (next(iter(self.recipes.values()), {}).get("data") or {}).get("init_args")
        class_names, label_map = self._class_names, self._label_map
        if self.checkpoint is not None:
            trained = RunCheckpointIO().load_checkpoint(self.checkpoint, mmap=True).get("trained") or {}
            class_names, label_map = trained.get("class_names"), trained.get("label_map")
        if not own or class_names is None:
            return
        given = {word.partition("=")[0].rpartition(".")[2] for word in self.words if word.startswith("--data.")}
        changes = settings_for_evaluation(data, own, class_names=class_names, label_map=label_map, given=given)
        for key, value in changes.items():
            data[key] = value

    def _evaluate_all_batches(self) -> None:
        """Leave out what kept the run's own validation to some batches, and say so; the command line still may."""
        given = {word.partition("=")[0].removeprefix("--trainer.") for word in self.words}
        for settings in list(self.recipes.values())[1:]:
            given |= set(settings.get("trainer") or ())
        for name, whole in _WHOLE_VALIDATION.items():
            value = self.config["trainer"][name]
            if name not in given and repr(value) not in ("None", *map(repr, whole)):
                log.warning(
                    "the run was trained with trainer.%s %s; all validation images are evaluated (for fewer: "
                    "--trainer.limit_val_batches N)", name, value,
                )  # fmt: skip
                self.config["trainer"][name] = whole[0]

    def _check_trainer_options(self) -> None:
        trainer = self.config["trainer"]
        for name in MANAGED_OPTIONS:
            if trainer[name] not in (None, True):
                other = "; for W&B, MLflow and others use --logger" if name == "logger" else ""
                raise RecipeError(
                    f"trainer.{name} is managed by the run folder {self.folder.path}; remove it from the recipe{other}"
                )
        self._launch = find_launch()
        check_devices(trainer["accelerator"], launched_options(trainer, self._launch)["devices"])
        threads = self.config["threads"]
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise RecipeError(f"--threads must be 1 to {MOST_THREADS:,} or null, got {threads}")
        every, keep = checkpoint_interval(self.config["checkpoint_every"]), self.config["keep_checkpoints"]
        if not 0 <= keep <= _MOST_KEPT:
            raise RecipeError(f"--keep-checkpoints (keep_checkpoints) must be 0 to {_MOST_KEPT:,}, got {keep}")
        if keep and every is None:
            log.warning("keep_checkpoints %d keeps nothing without checkpoint_every: set both, or neither", keep)
        if self.verb == "fit":
            for choice in logger_choices(self.config["logger"]):
                choice.load()
        if trainer["max_epochs"] == 0:
            raise RecipeError("--epochs (trainer.max_epochs) must be at least 1, got 0")

    def instantiate_classes(self) -> None:
        """Build data, task and trainer; release the folder of a run that cannot begin."""
        try:
            super().instantiate_classes()
        except BaseException:
            if self.verb == "fit" and rank() == 0:
                self.folder.release()
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with our loggers, checkpoints, progress bar and stopping."""
        options = launched_options(dict(self._get(self.config_init, "trainer", default={})), self._launch)
        return build_trainer(
            options,
            folder=self.folder,
            monitor=type(self.model).monitor,
            is_training=self.verb == "fit",
            timeout=self.timeout,
            every=checkpoint_interval(self.config["checkpoint_every"]),
            keep=self.config["keep_checkpoints"],
            loggers=logger_choices(self.config["logger"]) if self.verb == "fit" else (),
        )

    def fit(self) -> None:
        """Train; then write what the user came for."""
        self._run().fit()

    def validate(self) -> Mapping[str, float]:
        """Evaluate the checkpoint on the validation data.

        Returns:
            metric's name -> value.
        """
        return self._run().validate(self.checkpoint)

    def _run(self) -> Run:
        return Run(
            self.folder,
            module=self.model,
            data=self.datamodule,
            trainer=self.trainer,
            recipe_text=self.recipe_text,
            seed=int(self.config["seed_everything"]),
            resume=(self.checkpoint or self.folder.last) if self.resume else None,
            threads=self.config["threads"],
            changes=self.changes,
        )


def _class_paths(recipes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The classes of "model" and "data", as the last recipe that names them says."""
    found = {}
    for settings in recipes:
        for part in ("model", "data"):
            value = settings.get(part)
            name = value.get("class_path") if isinstance(value, Mapping) else value
            if isinstance(name, str):
                found[part] = name
    return found


def _seed(value: Any) -> int:
    """The seed, if it is one that all generators take."""
    if isinstance(value, bool) or not 0 <= int(value) <= _LARGEST_SEED:
        raise RecipeError(f"--seed (seed_everything) must lie in 0 to {_LARGEST_SEED}, got {value}")
    return int(value)


forward_moved_names(__name__)
