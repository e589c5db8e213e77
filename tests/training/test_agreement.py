"""What processes must have in common, and what may differ between them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scalablevit.training.agreement import differences, facts

RECIPE = {
    "model": {"class_path": "Task", "init_args": {"optimizer": {"lr": 0.001}, "variant": "scalablevit_small"}},
    "data": {"class_path": "Data", "init_args": {"root": "/data", "num_workers": 4, "image_size": 224}},
    "trainer": {"devices": "auto", "max_epochs": 3, "callbacks": []},
    "threads": None,
}


class Files:
    def __init__(self, root: str, names: list[str]) -> None:
        self.paths = [Path(root) / name for name in names]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.paths[index]


def found(changes: dict[str, Any] | None = None, **options: Any) -> dict[str, str]:
    recipe: dict[str, Any] = dict(RECIPE)
    for key, value in (changes or {}).items():
        part, name = key.split(".")
        recipe[part] = {**recipe[part], "init_args": {**recipe[part]["init_args"], name: value}}
    names = options.pop("names", ["a.png", "b.png"])
    data = SimpleNamespace(class_names=["cat", "dog"], train_dataset=Files(options.pop("root", "/data"), names))
    return facts(recipe=recipe, data=data, device_type=options.pop("device_type", "cpu"), checkpoint=None)


def test_the_place_of_the_data_and_its_workers_may_differ() -> None:
    cache = {"window": 64, "cache_dir": "/scratch/cache", "storage_options": {"key": "secret"}}
    assert "secret" not in str(found({"data.stream": cache}))
    theirs = found({"data.root": "/scratch/data", "data.num_workers": 12, "data.stream": cache}, root="/scratch/data")
    assert differences(theirs, found({"data.stream": {"window": 64, "cache_dir": None}})) == ""
    theirs = found({"data.root": "/scratch/data", "data.num_workers": 12}, root="/scratch/data")
    assert differences(theirs, found()) == ""


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"changes": {"model.optimizer": {"lr": 0.002}}}, "model.optimizer.lr 0.002 instead of 0.001"),
        ({"changes": {"data.image_size": 192}}, "data.image_size 192 instead of 224"),
        ({"names": ["a.png"]}, "train images 1 instead of 2"),
        ({"names": ["b.png", "a.png"]}, "train file names (hash)"),
        ({"device_type": "cuda"}, "device cuda instead of cpu"),
    ],
)
def test_what_trains_otherwise_is_named_with_its_values(theirs: dict[str, Any], said: str) -> None:
    assert said in differences(found(**theirs), found())


def test_versions_are_compared_and_long_lists_are_cut() -> None:
    ours = found()
    assert differences({**ours, "torch": "2.11.0"}, ours).startswith("torch 2.11.0 instead of ")
    assert differences({}, ours).endswith(f"; and {len(ours) - 4} more")
    assert len(differences({**ours, "model.variant": '"' + "x" * 500}, ours)) < 120
