"""The packaged list of switches that `scalablevit ablate` turns, one at a time."""

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from scalablevit.training.comparison.axes import Combination, SettingsLoader

BASELINE = "baseline"


def packaged_text() -> str:
    """The YAML of the packaged list."""
    return files(__package__).joinpath("switches.yaml").read_text(encoding="utf-8")


def read_switches(file: Path | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Read a list of switches.

    Args:
        file: YAML; None: the packaged list.

    Returns:
        switch -> label of a level -> values of the recipe by key.

    Raises:
        ValueError: it is no such list; names file and remedy.
        OSError: it cannot be read.
    """
    said = file or "the packaged list of switches"
    try:
        text = packaged_text() if file is None else file.read_text(encoding="utf-8")
        found = yaml.load(text, SettingsLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{said}: not valid YAML ({str(error).splitlines()[0]}); correct it") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{said}: it holds no switches; `scalablevit ablate --print-switches` shows what they look like"
        )
    labels: set[str] = {BASELINE}
    for switch, levels in found.items():
        if not isinstance(levels, dict) or not levels:
            raise ValueError(f"{said}: {switch} must be a mapping from labels to values of the recipe; correct it")
        for label, values in levels.items():
            if not isinstance(values, dict) or not values or not all(isinstance(key, str) for key in values):
                raise ValueError(
                    f"{said}: {switch}, {label}: give keys of the recipe with values, such as "
                    "{model.network_options.lim: false}"
                )
            if str(label) in labels:
                raise ValueError(f"{said}: {switch}: the label {label} is taken; give each level a label of its own")
            labels.add(str(label))
    return {str(switch): {str(label): values for label, values in levels.items()} for switch, levels in found.items()}


def one_at_a_time(switches: Mapping[str, Mapping[str, Any]], only: Sequence[str] = ()) -> list[Combination]:
    """The baseline, then every level of every switch alone.

    Args:
        switches: as of `read_switches`.
        only: switches to take; empty: all.

    Raises:
        ValueError: no such switch; names those that there are.
    """
    for name in only:
        if name not in switches:
            close = difflib.get_close_matches(name, switches, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(switches)}"
            raise ValueError(f"there is no switch {name!r}; {hint}")
    found = [Combination(BASELINE)]
    for switch, levels in switches.items():
        if not only or switch in only:
            found += [Combination(label, values, switch) for label, values in levels.items()]
    return found
