"""How often a run is saved within an epoch: by the clock or by optimizer steps."""

import re
from dataclasses import dataclass
from typing import Any

from scalablevit.training.recipe_errors import RecipeError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(?P<count>[+-]?\d+(?:\.\d+)?)(?P<unit>steps?|s|m|h|d)")
_LONGEST = 366 * 86400.0
_MOST_STEPS = 10**12


@dataclass(frozen=True)
class CheckpointInterval:
    """The distance between two checkpoints: one of the two is given.

    Args:
        seconds: by the clock of rank zero.
        steps: optimizer steps.
    """

    seconds: float | None = None
    steps: int | None = None


def checkpoint_interval(value: Any) -> CheckpointInterval | None:
    """Read the recipe's `checkpoint_every`.

    Args:
        value: such as "90s", "10m", "2h", "1d" or "500steps"; None: epochs alone are saved.

    Raises:
        RecipeError: it has no unit, another one, or is not above 0.
    """
    if value is None:
        return None
    text = str(value).strip().lower().replace(" ", "")
    found = _FORM.fullmatch(text)
    if found is None:
        remedy = "it lacks a unit" if re.fullmatch(r"[+-]?\d+(\.\d+)?", text) else "it is neither"
        raise RecipeError(
            f"--checkpoint-every (checkpoint_every) must be a time such as 90s, 10m or 2h, or a number of optimizer "
            f"steps such as 500steps; got {value!r}: {remedy}"
        )
    count, unit = float(found["count"]), found["unit"]
    if unit.startswith("step"):
        if count != int(count) or not 1 <= count <= _MOST_STEPS:
            raise RecipeError(
                f"--checkpoint-every (checkpoint_every) must be a whole number of steps, at least 1; got {value!r}"
            )
        return CheckpointInterval(steps=int(count))
    seconds = count * _UNITS[unit]
    if not 0 < seconds <= _LONGEST:
        raise RecipeError(
            f"--checkpoint-every (checkpoint_every) must be a time above 0, at most 366d; got {value!r}. null saves "
            "at the end of each epoch alone"
        )
    return CheckpointInterval(seconds=seconds)
