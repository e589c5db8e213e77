"""Words that `fit` and `validate` share: those of ours, and the recipe's keys that pass through."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalablevit.cli.errors import UsageError
from scalablevit.tasks import TaskEntry, entry_of, load

# short words for what is set most; every other value of a recipe goes by its full name
SHORT = {
    "--devices": "--trainer.devices",
    "--epochs": "--trainer.max_epochs",
    "--precision": "--trainer.precision",
    "--seed": "--seed_everything",
}


@dataclass
class RunWords:
    """A command line, taken apart.

    Attributes:
        keys: `--KEY VALUE` words for the recipe, in order.
        configs: values of --config.
        taken: flag -> value of the others; "yes" for a flag without a value.
    """

    keys: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)


def split(words: Sequence[str], *, values: Sequence[str], flags: Sequence[str] = ()) -> RunWords:
    """Take our own words out of a command line.

    Args:
        words: behind the command.
        values: flags that take a value, beside --config.
        flags: flags without a value.

    Raises:
        UsageError: a value is missing.
    """
    found = RunWords()
    todo = iter(words)
    for word in todo:
        name, equals, value = word.partition("=")
        if name in flags:
            found.taken[name] = "yes"
        elif name in ("--config", "-c", *values):
            text = value if equals else next(todo, None)
            if not text or (not equals and text.startswith("--")):
                raise UsageError(f"{name} needs a value")
            if name in ("--config", "-c"):
                found.configs.append(text)
            else:
                found.taken[name] = text
        else:
            found.keys.append(SHORT.get(name, name) + equals + value)
    return found


def entry_of_recipes(recipes: Sequence[Path]) -> TaskEntry | None:
    """The entry of the task that recipes name, the last one first; None: they name none that is known."""
    import yaml

    for recipe in reversed(recipes):
        with contextlib.suppress(Exception):  # the recipes are checked elsewhere, with messages
            module, _, name = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["class_path"].rpartition(".")
            return entry_of(load(f"{module}:{name}"))
    return None
