"""The recipe of each run of a comparison, resolved before the first one starts; and that of the run in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit.data.stream.settings import OF_THE_MACHINE
from scalablevit.training.command import TrainingCommand
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.recipe_file import read_recipe
from scalablevit.training.resume_rules import is_told_of, without_secrets

_CHANGES_NOTHING = (
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "data.num_workers",
    *(f"data.stream.{name}" for name in OF_THE_MACHINE),
)
_FOUND_BY_THE_RUN = ("threads", "model.scale_value")
"""Null in what is asked: the run's recipe holds what it chose."""


class _Resolving(TrainingCommand):
    """Checks every key, and builds and takes nothing."""

    resolved: dict[str, Any]

    def before_instantiate_classes(self) -> None:
        self.resolved = self.resolve_recipe()

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _set_seed(self) -> None:
        """Leave this process's random numbers alone."""


def resolve(recipes: Sequence[Path], words: Sequence[str], *, run: Path, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """Give the recipe of a run with every value; nothing is built.

    Args:
        recipes: YAML files; each overrides values of those before it.
        words: `--KEY VALUE` behind them.
        run: its folder.
        allowed: as for `TrainingCommand`.

    Raises:
        RecipeError: a key that there is not, or a value of another kind; names it, and the nearest key.
    """
    return _Resolving("fit", recipes, list(words), run=run, allowed=allowed).resolved


def differences(asked: Mapping[str, Any], folder: Path) -> dict[str, tuple[Any, Any]]:
    """Compare what is asked with the run in a folder.

    Args:
        asked: as of `resolve`.
        folder: of a run.

    Returns:
        key -> (value of the run, value that is asked), of those that change results.

    Raises:
        RecipeError: its recipe.yaml cannot be read.
    """
    now, there = without_secrets(asked), without_secrets(read_recipe(folder / "recipe.yaml"))
    found = {}
    for key in {**there, **now}:
        old, new = there.get(key), now.get(key)
        if old == new or key in _CHANGES_NOTHING or (key in _FOUND_BY_THE_RUN and new is None):
            continue
        if is_told_of(key, there) and is_told_of(key, now):
            found[key] = (old, new)
    return found


def check_same(asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to take a run with other settings for the one that is asked.

    Raises:
        RecipeError: names keys, values and remedy.
    """
    found = differences(asked, folder)
    if not found:
        return
    shown = [f"{key} {_said(old)}, now {_said(new)}" for key, (old, new) in list(found.items())[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise RecipeError(
        f"{folder} holds a run with other settings ({'; '.join(shown)}{more}): give the same settings, name another "
        f"folder by --run, or remove {folder}"
    )


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
