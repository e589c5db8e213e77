"""What the networks of a comparison cost, counted once for each combination."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalablevit.tasks import entries, load
from scalablevit.training.comparison.results import CombinationResult
from scalablevit.training.recipe_file import read_recipe
from scalablevit.weights import open_trained, read_metadata
from scalablevit.weights.metadata import PRETRAINING_TASK

log = logging.getLogger(__name__)


def add_costs(results: Sequence[CombinationResult]) -> None:
    """Count the network of each combination's first finished run; one that cannot be counted has no cost."""
    for result in results:
        for run in result.runs.values():
            try:
                result.cost = cost_of(run.folder)
            except Exception as error:  # a network from elsewhere may do what a count on the meta device does not take
                log.warning("%s: its cost cannot be counted (%s)", run.folder, error)
            break


def cost_of(folder: Path) -> dict[str, Any] | None:
    """Count the network of a finished run.

    Returns:
        parameters, multiply_adds, flops, and image: the (height, width) that they are of; None: its task counts none.

    Raises:
        ValueError: the folder holds no weights of a task, or the recipe cannot be read.
    """
    if read_metadata(folder).get("task") == PRETRAINING_TASK:
        return None
    trained = open_trained(folder)
    entry = entries()[trained.task]
    if not entry.run_cost:
        return None
    predictor = load(entry.predictor).load(trained, device="cpu")
    data = (read_recipe(folder / "recipe.yaml").get("data") or {}).get("init_args") or {}
    cost, size = load(entry.run_cost)(predictor, data)
    return {
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "image": list(size),
    }
