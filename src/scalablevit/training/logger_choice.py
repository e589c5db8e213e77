"""The recipe's `logger`: which trackers get a run's metrics, beside metrics.csv and TensorBoard."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.loggers import Logger

from scalablevit.training.recipe_errors import RecipeError

LoggerSetting = str | list[str | dict[str, Any]] | dict[str, Any] | None
"""A name, a class, `{class_path: ..., init_args: {...}}`, or a list of such."""

ALWAYS_THERE = ("csv", "tensorboard")


@dataclass(frozen=True)
class Tracker:
    """A tracker that is known by a short name.

    Args:
        class_path: Lightning's logger for it.
        module: what must be importable.
        install: what pip installs it by.
    """

    class_path: str
    module: str
    install: str


TRACKERS = {
    "wandb": Tracker("lightning.pytorch.loggers.WandbLogger", "wandb", "wandb"),
    "mlflow": Tracker("lightning.pytorch.loggers.MLFlowLogger", "mlflow", "mlflow"),
    "comet": Tracker("lightning.pytorch.loggers.CometLogger", "comet_ml", "comet-ml"),
    "litlogger": Tracker("lightning.pytorch.loggers.LitLogger", "litlogger", "litlogger"),
}

HARMLESS_ARGUMENTS = frozenset(
    {
        *("project", "experiment_name", "name", "run_name", "tags", "group", "entity", "notes", "job_type"),
        *("offline", "online", "workspace", "teamspace", "prefix"),
    }
)
"""Arguments that a stranger's recipe may give: they name no address, no file and no upload."""


@dataclass(frozen=True)
class LoggerChoice:
    """A logger that the recipe asks for.

    Args:
        name: as the recipe has it: one of `TRACKERS`, or the full name of a class.
        arguments: of the class.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_path(self) -> str:
        """The full name of the class."""
        return TRACKERS[self.name].class_path if self.name in TRACKERS else self.name

    def load(self) -> type[Logger]:
        """Import the class.

        Raises:
            RecipeError: its package is not installed, there is no such class, or it is no logger.
        """
        tracker = TRACKERS.get(self.name)
        if tracker is not None and find_spec(tracker.module) is None:
            raise RecipeError(
                f"--logger {self.name} needs the package {tracker.install}, which is not installed: "
                f"pip install {tracker.install}; or train without it: --logger null"
            )
        module, _, name = self.class_path.rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"--logger {self.name} cannot be imported: there is no module {error.name}; install the package that "
                "holds it, or correct the name"
            ) from error
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"--logger {self.name} cannot be imported ({error}); correct the name") from error
        if not (isinstance(found, type) and issubclass(found, Logger)):
            raise RecipeError(f"--logger {self.name} is no logger of Lightning (lightning.pytorch.loggers.Logger)")
        return found


def logger_choices(value: LoggerSetting) -> list[LoggerChoice]:
    """Read the recipe's `logger`; metrics.csv and TensorBoard are always there and left out.

    Args:
        value: as the recipe has it; names may stand in one text, with commas between them.

    Raises:
        RecipeError: a name that is not known, or an entry that is neither text nor `{class_path, init_args}`.
    """
    entries = value if isinstance(value, list) else [] if value is None else [value]
    found: list[LoggerChoice] = []
    for entry in entries:
        if isinstance(entry, str):
            found += [_choice(name.strip(), {}) for name in entry.split(",") if name.strip() not in ALWAYS_THERE]
            continue
        is_class = isinstance(entry, Mapping) and isinstance(entry.get("class_path"), str)
        arguments = entry.get("init_args") if is_class else None
        if not is_class or set(entry) - {"class_path", "init_args"} or not isinstance(arguments, Mapping | None):
            raise RecipeError(
                f"--logger (logger) must be a name such as wandb, a class, or {{class_path: wandb, init_args: "
                f"{{project: NAME}}}}; got {entry!r}"
            )
        if entry["class_path"] not in ALWAYS_THERE:
            found.append(_choice(entry["class_path"], arguments or {}))
    names = [choice.name for choice in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"--logger (logger) names {twice} twice; name it once")
    return found


def _choice(name: str, arguments: Mapping[str, Any]) -> LoggerChoice:
    if name.lower() == "neptune":
        raise RecipeError(
            f"--logger {name}: Neptune was shut down, and Lightning has no logger for it any more; use one of "
            f"{', '.join(TRACKERS)}"
        )
    if name in TRACKERS or ("." in name and all(part.isidentifier() for part in name.split("."))):
        return LoggerChoice(name, arguments)
    close = difflib.get_close_matches(name.lower(), [*TRACKERS, *ALWAYS_THERE], 1)
    hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(TRACKERS)}, or the full name of a class"
    raise RecipeError(f"--logger (logger): there is no {name!r}; {hint}")


def known_class_paths() -> set[str]:
    """Names by which a run's recipe may name a logger: the short ones, and Lightning's classes for them."""
    return {*TRACKERS, *ALWAYS_THERE, *(tracker.class_path for tracker in TRACKERS.values())}
