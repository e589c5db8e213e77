"""The rivals of the race cost what ours costs, so that accuracy is all that differs."""

from pathlib import Path

import pytest
import yaml

from scalablevit.classification.cost import parts
from scalablevit.complexity import Complexity
from scalablevit.recipes import recipe_text
from scalablevit.training.comparison.switches import read_switches

EXAMPLES = Path(__file__).parents[2] / "examples"


def cost(variant: str, size: int, **options: object) -> Complexity:
    return parts("classifier", variant, size, size, num_classes=10, in_chans=1, **options).cost()


@pytest.mark.parametrize(("recipe", "file"), [("fashion_mnist", "rivals_32px.yaml"), ("glyphs", "rivals_64px.yaml")])
def test_rivals_cost_what_ours_costs_within_five_percent(recipe: str, file: str) -> None:
    settings = yaml.safe_load(recipe_text(recipe))
    model, size = settings["model"]["init_args"], settings["data"]["init_args"]["image_size"]
    assert f"{size}px" in file
    ours = cost(model["variant"], size, window_size=model["window_size"])
    for label, values in read_switches(EXAMPLES / file)["network"].items():
        rival = cost(values["model.variant"], size, **values["model.network_options"])
        assert rival.parameters == pytest.approx(ours.parameters, rel=0.05), label
        assert rival.multiply_adds == pytest.approx(ours.multiply_adds, rel=0.05), label
