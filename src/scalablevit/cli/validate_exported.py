"""`scalablevit validate` of an exported file: the evaluation of its run, with the file in the network's place."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.importing import importing
from scalablevit.cli.run_words import RunWords, entry_of_recipes
from scalablevit.recipes import find_recipe
from scalablevit.tasks import TaskEntry, entries, load

# Exported files are computed on the CPU, in the precision that they were written in.
ON_CPU = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true")


def validate_exported(file: Path, given: RunWords) -> Mapping[str, float]:
    """Evaluate an exported file on validation data.

    The data are those of --data.root; without it, of the run that the file lies in.

    Args:
        file: .onnx, .xml or .pt2.
        given: the command line.

    Returns:
        metric's name -> value.

    Raises:
        WeightsError: the file cannot be opened.
        ValueError: there are no data, or they do not fit.
    """
    if surplus := sorted(set(given.taken) - {"--json", "--allow-class"}):
        raise UsageError(f"{surplus[0]} is for runs; an exported file is evaluated as it is: {file}")
    with importing():
        from scalablevit.deploy.exported import open_exported
        from scalablevit.training.command import TrainingCommand, quiet_lightning

    quiet_lightning()
    exported = open_exported(file)
    if exported.task not in entries():
        raise ValueError(f"{file} holds a network for {exported.task!r}, which has no evaluation")
    entry = entries()[exported.task]
    predictor = load(entry.predictor).load(exported)
    with tempfile.TemporaryDirectory() as folder:
        recipe, run = file.parent / "recipe.yaml", file.parent
        if not recipe.is_file():
            recipe, run = Path(folder) / "recipe.yaml", Path(folder) / "run"
            root = _root(given)
            if root is None:
                raise ValueError(f"{file} lies in no run folder: name the data to evaluate it on by --data.root FOLDER")
            _write_recipe(recipe, entry, exported.metadata, root)
        elif (other := entry_of_recipes([recipe])) is not None and other.name != entry.name:
            raise _of_another_run(file, recipe)
        words = [*given.keys, *ON_CPU, *_size(entry, exported)]
        with memory_advice("validate", lambda: entry):
            command = TrainingCommand(
                "validate",
                [recipe, *map(find_recipe, given.configs)],
                words,
                run=run,
                allowed=given.allowed,
                class_names=predictor.class_names,
                label_map=exported.metadata.get("label_map"),
            )
            _check_same(file, recipe, entry, command.model, predictor)
            command.model.network = predictor.network
            return command.validate()


def _root(given: RunWords) -> str | None:
    """Value of --data.root."""
    for i, word in enumerate(given.keys):
        name, equals, value = word.partition("=")
        if name == "--data.root":
            return value if equals else next(iter(given.keys[i + 1 :]), None)
    return None


def _write_recipe(path: Path, entry: TaskEntry, metadata: Mapping[str, Any], root: str) -> None:
    """Write the recipe that the file's metadata stand for, on all images of a folder."""
    parts = load(f"scalablevit.{entry.name}.exported_recipe:evaluation_recipe")(metadata)
    parts["data"] |= {
        "root": root,
        "augmentation": None,
        "trained_class_names": metadata["class_names"],
        "val_fraction": 1.0,
    }
    classes = {"model": entry.task, "data": entry.data} | parts.pop("classes", {})
    recipe = {
        part: {"class_path": classes[part].replace(":", "."), "init_args": arguments}
        for part, arguments in parts.items()
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _size(entry: TaskEntry, exported: Any) -> list[str]:
    """Words that set the size of all images to that of the file, where task and file have one."""
    if not entry.image_size_key or exported.fixed_size is None:
        return []
    return [f"--{entry.image_size_key}", str(list(exported.fixed_size))]


def _check_same(file: Path, recipe: Path, entry: TaskEntry, task: Any, predictor: Any) -> None:
    """Refuse a file that was put beside the recipe of another run.

    Raises:
        ValueError: task, classes or normalisation differ.
    """
    if getattr(type(task), "task", None) != entry.name or list(task.class_names) != predictor.class_names:
        raise _of_another_run(file, recipe)
    # the data normalise by the recipe, and the file takes that back by its own numbers
    own, exported = (
        [tuple(getattr(part.preprocessing, name, ())) for name in ("mean", "std")] for part in (task, predictor)
    )
    if own != exported:
        raise _of_another_run(file, recipe)


def _of_another_run(file: Path, recipe: Path) -> ValueError:
    return ValueError(
        f"{file} is no export of the run whose {recipe.name} lies beside it: they differ in their task, classes or "
        "normalisation; move it out of that folder, and name its data by --data.root FOLDER"
    )
