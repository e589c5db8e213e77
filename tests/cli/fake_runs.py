"""`fit` replaced by a writer of run folders, so that comparisons are tested without training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from scalablevit.recipes import find_recipe
from scalablevit.training.comparison.asked import resolve

COST = {"parameters": 650_000, "multiply_adds": 5_000_000, "flops": 12_000_000, "image": [32, 32]}


@dataclass
class FakeFit:
    """Stands in for the process of `fit`.

    Attributes:
        value: from the resolved recipe to the last epoch's metric.
        fail: folder's name, as COMBINATION/seed-N -> what the run prints before it ends with exit code 1.
        stop: likewise -> the signal that reaches the program while the run trains; it saves a checkpoint.
        calls: words of every start.
    """

    value: Callable[[Mapping[str, Any]], float] = lambda recipe: 0.5
    fail: dict[str, str] = field(default_factory=dict)
    stop: dict[str, int] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)
    metric: str = "val/top1"

    def __call__(self, words: Sequence[str], log: Path, signals: Any, on_wait: Callable[[], None]) -> int:
        """Write what a run leaves behind."""
        words = list(words)
        self.calls.append(words)
        resumed = words[0] == "--resume"
        folder = Path(words[1] if resumed else words[words.index("--run") + 1])
        name = f"{folder.parent.name}/{folder.name}"
        folder.mkdir(parents=True, exist_ok=True)
        on_wait()
        if name in self.fail:
            with log.open("a") as file:
                file.write(f"epoch 1/2\nscalablevit: error: {self.fail[name]}\n")
            return 1
        if not resumed:
            (folder / "recipe.yaml").write_text(yaml.safe_dump(_asked(words)))
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        value = self.value(recipe)
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
        if name in self.stop:
            signals._handle(self.stop.pop(name), None)
            return 130
        (folder / "metrics.csv").write_text(f"epoch,step,{self.metric}\n0,1,{value / 2}\n1,2,{value}\n")
        (folder / "timing.json").write_text(
            '{"epochs": [{"epoch": 0, "training_seconds": 3, "validation_seconds": 1}]}'
        )
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "results.json").write_text("{}")
        return 0


def _asked(words: list[str]) -> dict[str, Any]:
    """The recipe that the words mean."""
    configs, keys, todo = [], [], iter(words)
    seed = 0
    for word in todo:
        if word == "--config":
            configs.append(find_recipe(next(todo)))
        elif word == "--run":
            next(todo)
        elif word.startswith("--seed_everything="):
            seed = int(word.partition("=")[2])
        else:
            keys.append(word)
    return {**resolved_once(configs, keys), "seed_everything": seed}


def resolved_once(recipes: Sequence[Path], words: Sequence[str], **_: Any) -> dict[str, Any]:
    """`resolve`, which takes a third of a second, once for the same words in all tests."""
    return _resolved(tuple(recipes), tuple(words))


@cache
def _resolved(recipes: tuple[Path, ...], words: tuple[str, ...]) -> dict[str, Any]:
    recipe = resolve(recipes, words, run=Path("run"))
    recipe["data"]["init_args"]["root"] = "data"  # each test has a current folder of its own
    return recipe
