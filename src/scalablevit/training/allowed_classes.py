"""Which classes the recipe in a run folder may name: a run folder may be a stranger's, and a class is code.

`fit --config FILE` takes a recipe that the user chose, and any class. `fit --resume RUN`, `validate RUN` and a
`recipe.yaml` that lies in a run folder take the classes that the tasks' entries name as task and data, Lightning's
callbacks that neither run code of the recipe's choice nor write outside the run folder, and what the user allows by
name. Names are compared whole: nothing else of this package or of theirs passes.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings
from lightning.pytorch import callbacks

from scalablevit.tasks import TaskEntry, trained_entries
from scalablevit.training.logger_choice import HARMLESS_ARGUMENTS, known_class_paths, logger_choices
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.settings import FreezeSettings, OptimizerSettings, ScheduleSettings

_CALLBACKS = (
    *("DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor", "ModelCheckpoint"),
    *("ModelSummary", "RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar"),
)
# Metrics in it are written as numbers. Other formats make any character of a number: {step:c} is a dot at step 46.
_PLAIN_FILENAME = re.compile(r"([^{}]|\{[\w/-]+(:0?\d{0,2}(\.\d{1,2})?[dfeg%]?)?\})*")


def lies_in_a_run(recipe: Path) -> bool:
    """Whether a recipe file is that of a run folder."""
    run = RunFolder(recipe.parent)
    others = (run.environment, run.metrics, run.last, run.best, run.weights)
    return recipe.name == run.recipe.name and any(file.exists() for file in others)


def check_classes(settings: Mapping[str, Any], *, recipe: Path, allowed: Sequence[str]) -> None:
    """Refuse a run's recipe that names other classes than the known ones; nothing is imported for that.

    Args:
        settings: content of the recipe.
        recipe: its file, for the message.
        allowed: full names of further classes, which the user allows.

    Raises:
        RecipeError: names key, class and remedy.
    """
    for part in ("model", "data", "trainer"):
        value = settings.get(part)
        if value is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{recipe}: {part} must be a mapping of keys, got {value!r}")
    _check(settings.get("model") or {}, "model", _registered("task"), recipe, allowed)
    _check(settings.get("data") or {}, "data", _registered("data"), recipe, allowed)
    trainer = dict(settings.get("trainer") or {})
    for key, callback in _callbacks(trainer.pop("callbacks", None)):
        described = {"class_path": callback} if isinstance(callback, str) else callback
        if not isinstance(described, Mapping):
            raise RecipeError(f"{recipe}: {key} must be a mapping with class_path, got {callback!r}")
        _check(described, key, {*_CALLBACKS, *_callback_paths()}, recipe, allowed)
    _check(trainer, "trainer", (), recipe, allowed)
    _check_loggers(settings.get("logger"), recipe, allowed)
    if trainer.get("model_registry") is not None:
        raise RecipeError(
            f"{recipe}: trainer.model_registry {trainer['model_registry']!r} would upload the checkpoints, and a run "
            "folder may be a stranger's; set it to null there"
        )
    for name, value in trainer.items():
        if isinstance(value, str) and "." in value and not value.replace(".", "").isdigit() and value not in allowed:
            raise _refusal(f"trainer.{name}", value, recipe)


def _check_loggers(setting: Any, recipe: Path, allowed: Sequence[str]) -> None:
    """Refuse loggers of other classes than the trackers', and arguments that name addresses, files or uploads."""
    for choice in logger_choices(setting):
        if choice.name in allowed:
            continue
        if choice.name not in known_class_paths():
            raise _refusal("logger", choice.name, recipe)
        other = next((name for name in choice.arguments if name not in HARMLESS_ARGUMENTS), None)
        if other is not None:
            raise RecipeError(
                f"{recipe}: logger {choice.name} sets {other}, which can send the run elsewhere, and a run folder "
                f"may be a stranger's. If you trust it: --allow-class {choice.name}; or set it by the environment "
                "variable"
            )
        _check(choice.arguments, "logger", (), recipe, allowed)


def check_paths(resolved: Mapping[str, Any], *, recipe: Path) -> None:
    """Refuse a callback of a run's recipe that writes outside the run folder.

    Args:
        resolved: the recipe as it was parsed, for a file has several ways to give an argument (`dict_kwargs`, keys with
            dots), which all end in `init_args`.
        recipe: its file, for the message.

    Raises:
        RecipeError: names key, path and remedy.
    """
    for key, callback in _callbacks((resolved.get("trainer") or {}).get("callbacks")):
        arguments = {**(callback.get("init_args") or {}), **(callback.get("dict_kwargs") or {})}
        filename = str(arguments.get("filename") or "")
        is_plain = _PLAIN_FILENAME.fullmatch(filename) is not None
        for name, is_wrong in (
            ("dirpath", arguments.get("dirpath") is not None),
            ("filename", ".." in filename or Path(filename).is_absolute() or not is_plain),
        ):
            if is_wrong:
                raise RecipeError(
                    f"{recipe}: {key}.{name} {arguments[name]!r} could write outside the run folder, and a run folder "
                    "may be a stranger's; set it to null there, or copy the recipe elsewhere and train with fit "
                    "--config"
                )


@contextlib.contextmanager
def only_allowed_imports(allowed: Sequence[str]) -> Iterator[None]:
    """While a run's recipe is parsed, import nothing that it names but known classes: neither classes nor functions.

    Args:
        allowed: full names of further classes, which the user allows.
    """
    names = ("import_path_verdicts", "import_paths_enforced", "instantiate_subclass_spec_in_any")
    before = {name: parsing_settings[name] for name in names}
    known = [*_registered("task"), *_registered("data"), *_settings(), *_callback_paths(), *allowed]
    try:
        set_parsing_settings(
            import_path_denylist=["*"], import_path_allowlist=known, instantiate_subclass_spec_in_any=False
        )
        yield
    finally:
        parsing_settings.update(before)


def _registered(part: Literal["task", "data"]) -> set[str]:
    """The classes that the tasks' entries name."""
    known: list[str] = []
    for entry in trained_entries():
        known.append(entry.task if part == "task" else entry.data)
        if isinstance(entry, TaskEntry):
            known += entry.other_tasks if part == "task" else entry.other_data
    return _names(known)


def _settings() -> set[str]:
    """The dataclasses that blocks of recipes become; a recipe gives their values and does not name them."""
    shared = (
        f"{kind.__module__}:{kind.__qualname__}" for kind in (OptimizerSettings, ScheduleSettings, FreezeSettings)
    )
    return _names([*shared, *(reference for entry in trained_entries() for reference in entry.settings)])


def _names(references: Iterable[str]) -> set[str]:
    """Full names of "package.module:name": by the module, and as the package exports it."""
    names = set()
    for reference in references:
        module, _, name = reference.partition(":")
        names |= {f"{module}.{name}", f"{module.rpartition('.')[0]}.{name}"}
    return names


def _callback_paths() -> set[str]:
    """The callbacks as Lightning exports them, and by the modules that define them."""
    kinds = [getattr(callbacks, name) for name in _CALLBACKS]
    defined = {f"{kind.__module__}.{kind.__qualname__}" for kind in kinds}
    return {*(f"lightning.pytorch.callbacks.{name}" for name in _CALLBACKS), *defined}


def _callbacks(given: Any) -> Iterator[tuple[str, Any]]:
    """Key and description of each callback; a recipe may hold one, or a list."""
    for i, callback in enumerate(given if isinstance(given, list) else [given] if given else []):
        yield f"trainer.callbacks[{i}]", callback


def _check(value: Any, key: str, known: Collection[str], recipe: Path, allowed: Sequence[str]) -> None:
    """Check the `class_path` of a value, which may be one of `known`, and every other in it, which may not."""
    if isinstance(value, Mapping):
        name = value.get("class_path")
        if name is not None and not (isinstance(name, str) and (name in known or name in allowed)):
            raise _refusal(key, name, recipe)
        for inner_key, inner in value.items():
            below = key if inner_key == "init_args" else f"{key}.{inner_key}"
            _check(inner, below, (), recipe, allowed)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check(inner, f"{key}[{i}]", (), recipe, allowed)


def _refusal(key: str, name: Any, recipe: Path) -> RecipeError:
    return RecipeError(
        f"{recipe}: {key} names {name}, which is not among the classes that a run folder may name, as it may be a "
        f"stranger's and a class runs code. If you trust it: --allow-class {name}"
    )
