"""The list of tasks, and what an entry tells of one. Imports nothing heavy: the command line's help is made from it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

TASKS = ("classification", "detection", "segmentation")
"""Packages that hold a task; each has an `entry.py` with an `ENTRY`."""

PRETRAINING = ("scalablevit.pretraining.entry:MASKED", "scalablevit.pretraining.entry:DISTILLED")
"""References to the entries of what trains a backbone alone, for tasks to start from."""


def load(reference: str) -> Any:
    """Import what "package.module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def accepted_by(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that are arguments of a function or class."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in settings.items() if name in names}


@dataclass(frozen=True)
class Flag:
    """A command-line flag that fills one argument of a function.

    Args:
        name: with its dashes, such as "--min-size".
        help: one line, without the final stop.
        metavar: placeholder of the value.
        type: converts the value; None: text.
        nargs: as argparse takes it; None: one value.
        choices: values that are allowed; None: all.
        switch: for a flag without a value: what it sets; None: the flag takes a value.
        fills: the function's argument; empty: the flag's own name.
    """

    name: str
    help: str
    metavar: str | None = None
    type: Callable[[str], Any] | None = None
    nargs: str | int | None = None
    choices: tuple[str, ...] | None = None
    switch: bool | None = None
    fills: str = ""

    @property
    def dest(self) -> str:
        """Name of the flag's value among parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def argument(self) -> str:
        """Name of the argument that the flag fills."""
        return self.fills or self.dest

    def argparse_options(self) -> dict[str, Any]:
        """Keyword arguments of `add_argument`, without a default."""
        if self.switch is not None:
            return {"dest": self.dest, "action": "store_const", "const": self.switch, "help": self.help}
        options = {"metavar": self.metavar, "type": self.type, "nargs": self.nargs, "choices": self.choices}
        given = {name: value for name, value in options.items() if value is not None}
        return {"dest": self.dest, "help": self.help, **given}


VALUE_RANGE = Flag(
    "--value-range",
    "values that become black and white in grayscale images of more than 8 bits, such as 0 4095",
    metavar="X",
    type=float,
    nargs=2,
)
"""Flag of every check of images."""


def frame_flag(name: str, what: str) -> Flag:
    """Make the flag that names the pixel grid of boxes or masks where EXIF rotates an image."""
    words = f"pixel grid of the {what} where EXIF rotates an image (default: auto, by the image's size)"
    return Flag(name, words, choices=("auto", "stored", "upright"))


@dataclass(frozen=True)
class DataCheck:
    """How `scalablevit check-data` checks the data folder of a task.

    Args:
        kind: value of --kind.
        title: of the layout, for help and messages.
        function: reference to the check: (root, val_fraction, on_progress, **flags) to a `DataReport`.
        flags: of this check alone.
        recognizes: reference to a function (folder, flags) that says whether the folder has this layout;
            empty: the layout of folders that no other task recognizes.
        shards: reference to a function (root, **flags) that lists what goes into shards of the data; empty: they
            cannot be sharded.
        shard_flags: names of the flags that this function takes.
    """

    kind: str
    title: str
    function: str
    flags: tuple[Flag, ...] = ()
    recognizes: str = ""
    shards: str = ""
    shard_flags: tuple[str, ...] = ()

    def matches(self, folder: Path, given: Mapping[str, Any]) -> bool:
        """Whether the folder has this layout; `given` are values of flags."""
        return bool(self.recognizes) and bool(load(self.recognizes)(folder, given))


@dataclass(frozen=True)
class Model:
    """A model whose cost `scalablevit info` prints.

    Args:
        name: value of --model.
        size: height and width in pixels, or the one side, of the published figures.
        num_classes: of the published figures.
        note: how its cost was counted.
    """

    name: str
    size: tuple[int, ...]
    num_classes: int
    note: str = ""


@dataclass(frozen=True)
class TaskEntry:
    """Everything that the command line knows of a task.

    References are "package.module:name"; they are imported when they are needed.

    Args:
        name: of the task's package, as the metadata of weights has it.
        task: reference to the LightningModule.
        data: reference to the data module.
        settings: references to the dataclasses that blocks of its recipes become, beside those of every task.
        predictor: reference to the class with `load` and `predict`.
        columns: headings of the table that `scalablevit predict` prints behind the image's path.
        predict_flags: flags of `scalablevit predict` that fill arguments of `predictor.predict`.
        check: the check of its data.
        other_checks: the checks of data of the task in another layout.
        other_tasks: references to the LightningModules that recipes may name in the place of `task`, its subclasses.
        other_data: references to the data modules that recipes may name in the place of `data`.
        cost: reference to (model, variant, num_classes, scale_value) to `scalablevit.complexity.Parts`.
        run_cost: reference to a function from a predictor and the keys of its run's data to the cost of its network and
            the (height, width) of the image that it is counted for; empty: it is not counted.
        untrained: reference to a function from the keys of a recipe's model to its untrained network for two classes;
            it raises a ValueError of settings that build none; empty: comparisons do not check its networks.
        models: that `cost` knows.
        csv_columns: what `scalablevit predict --format csv` writes of each class or object behind the image's path;
            "x_min" to "y_max" are those of a box.
        found: reference to a function from a prediction to the image's size and a list of
            `scalablevit.data.found_objects.FoundObject`; empty: the task finds none.
        model_key: key of a run's metadata that names the model; empty: the only one.
        validation_images: reference to a function (data folder, keys of the data module) that lists the images of the
            validation set, without the training engine; empty: there is none.
        exports: `scalablevit export` can export its networks.
        embeds: its predictor gives features of images, which `scalablevit predict --embeddings` writes.
        explained: reference to a function from a predictor, a path, its image and the lowest score of what is explained
            to a `scalablevit.explain.Subject`; empty: `scalablevit explain` knows no such task.
        annotated: reference to a function from a data folder, a predictor, a number of images and what is told of
            unreadable files to `scalablevit.explain.annotated.AnnotatedImage`s; empty: its data have no regions.
        int8_metric: name of the metric by which `scalablevit export --int8` judges a quantized network; empty: its
            networks are not quantized.
        image_size_key: key of the data for the one size of all images, at which a file that is fixed to a size is
            evaluated; empty: images keep sizes of their own.
        out_of_memory: command -> what to change where memory runs out.
    """

    name: str
    task: str
    data: str
    predictor: str
    columns: tuple[str, str]
    check: DataCheck
    cost: str
    models: tuple[Model, ...]
    other_checks: tuple[DataCheck, ...] = ()
    other_tasks: tuple[str, ...] = ()
    other_data: tuple[str, ...] = ()
    run_cost: str = ""
    untrained: str = ""
    model_key: str = ""
    csv_columns: tuple[str, ...] = ()
    found: str = ""
    predict_flags: tuple[Flag, ...] = ()
    validation_images: str = ""
    exports: bool = False
    embeds: bool = False
    explained: str = ""
    annotated: str = ""
    int8_metric: str = ""
    image_size_key: str = ""
    settings: tuple[str, ...] = ()
    out_of_memory: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainingEntry:
    """Everything that the command line knows of a way to pretrain a backbone.

    Args:
        name: of the package, as the metadata of weights has it.
        task: reference to the LightningModule.
        data: reference to the data module.
        settings: references to the dataclasses that blocks of its recipes become, beside those of every task.
        out_of_memory: command -> what to change where memory runs out.
        needs_teacher: evaluation too compares with the teacher.
    """

    name: str
    task: str
    data: str
    settings: tuple[str, ...] = ()
    out_of_memory: Mapping[str, str] = field(default_factory=dict)
    needs_teacher: bool = False


@cache
def entries() -> dict[str, TaskEntry]:
    """Every task's entry by name."""
    return {name: load(f"scalablevit.{name}.entry:ENTRY") for name in TASKS}


def data_checks() -> dict[str, DataCheck]:
    """Title of a layout -> its check."""
    found = [check for entry in entries().values() for check in (entry.check, *entry.other_checks)]
    return {check.title: check for check in found}


def layout_of(root: str, kind: str | None, given: Mapping[str, Any]) -> str:
    """Title of the layout of a data folder: the one of `kind`, or the one that recognizes the folder.

    Args:
        root: the data folder.
        kind: of the layout; None: it is detected.
        given: values of flags.
    """
    checks = data_checks()
    if kind is not None:
        return next(title for title, check in checks.items() if check.kind == kind)
    folder = Path(root).expanduser()
    used = {flag.dest for check in checks.values() for flag in check.flags if flag.dest in given}
    # Those that have every flag go first: masks may lie beside annotations of boxes.
    ordered = sorted(checks.items(), key=lambda item: not used <= {flag.dest for flag in item[1].flags})
    otherwise = next(title for title, check in checks.items() if not check.recognizes)
    return next((title for title, check in ordered if check.matches(folder, given)), otherwise)


@cache
def trained_entries() -> tuple[TaskEntry | PretrainingEntry, ...]:
    """The entries of all that a recipe can train: the tasks, and what pretrains a backbone for them."""
    return (*entries().values(), *map(load, PRETRAINING))


def entry_of(task_class: type) -> TaskEntry | PretrainingEntry | None:
    """The entry whose task is this class or a base of it; None: the class is no task of this package."""
    references = {f"{base.__module__}:{base.__qualname__}" for base in task_class.__mro__}
    return next((entry for entry in trained_entries() if entry.task in references), None)
