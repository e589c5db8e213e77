"""Words that `fit` and `validate` share: those of ours, and the recipe's keys that pass through."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalablevit.cli.errors import UsageError
from scalablevit.cli.familiar import KEYS, did_you_mean, key_of
from scalablevit.tasks import PretrainingEntry, TaskEntry, entry_of, load

_LIGHTNING = (
    "--seed_everything",
    "--threads",
    "--checkpoint_every",
    "--keep_checkpoints",
    "--logger",
    "--print_config",
    "--trainer",
    "--help",
)
_TAKE_A_MINUS = ("--checkpoint-every", "--checkpoint_every", "--keep-checkpoints", "--keep_checkpoints")


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

    @property
    def allowed(self) -> list[str]:
        """Classes that --allow-class names."""
        return [name.strip() for name in self.taken.get("--allow-class", "").split(",") if name.strip()]


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
            elif name == "--allow-class":
                found.taken[name] = f"{found.taken.get(name, '')},{text}"
            else:
                found.taken[name] = text
        elif name in ("--data", "--model", "--device"):
            text = value if equals else next(todo, "")
            found.keys += [_whole(name, text), text]
        else:
            _refuse_misspelt(name, [*values, *flags])
            if name in _TAKE_A_MINUS and not equals:  # argparse takes -1steps for a flag
                equals, value = "=", next(todo, "")
                if not value or value.startswith("--"):
                    raise UsageError(f"{name} needs a value")
            found.keys.append(key_of(name) + equals + value)
    return found


def _refuse_misspelt(name: str, known: Sequence[str]) -> None:
    """Name the short flag that was meant; everything else is checked with the recipe."""
    is_short = name.startswith("--") and "." not in name and key_of(name) == name
    if not is_short or name in _LIGHTNING:
        return
    hint = did_you_mean(name, [*KEYS, *known, "--config", "--data", "--model", "--device"])
    if hint is not None:
        raise UsageError(f"there is no key {name}; {hint}")


def _whole(name: str, value: str) -> str:
    """The key that a value is meant for; a class, or a file of settings, goes to the part itself."""
    if name == "--device":
        return "--trainer.devices" if value.isdigit() or "," in value else "--trainer.accelerator"
    is_class_or_file = value.endswith((".yaml", ".yml")) or (value.count(".") > 0 and not Path(value).exists())
    return name if is_class_or_file else {"--data": "--data.root", "--model": "--model.variant"}[name]


def entry_of_recipes(recipes: Sequence[Path]) -> TaskEntry | PretrainingEntry | None:
    """The entry of the task that recipes name, the last one first; None: they name none that is known."""
    task = task_of_recipes(recipes)
    return None if task is None else entry_of(task)


def task_of_recipes(recipes: Sequence[Path]) -> type | None:
    """The class of the task that recipes name, the last one first; None: they name none that can be imported."""
    import yaml

    for recipe in reversed(recipes):
        with contextlib.suppress(Exception):  # the recipes are checked elsewhere, with messages
            module, _, name = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["class_path"].rpartition(".")
            found: type = load(f"{module}:{name}")
            return found
    return None
