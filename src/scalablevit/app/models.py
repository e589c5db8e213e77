"""Find the models that the page offers, and load them when they are used."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalablevit.deploy.exported import ExportedNetwork, open_weights
from scalablevit.model_files import TRAINED, WEIGHTS_FILE
from scalablevit.tasks import TaskEntry, entries, load
from scalablevit.weights import TrainedWeights

_RECIPE = "recipe.yaml"
_DEEPEST = 3
_MOST_LOADED = 3


@dataclass(frozen=True)
class Model:
    """A trained model that can be chosen on the page.

    Attributes:
        label: its name on the page, different for each model.
        source: run folder, weights file or exported file, as it was given.
        weights: with their metadata, or the exported network, as `scalablevit predict` opens them.
        entry: of its task.
    """

    label: str
    source: Path
    weights: TrainedWeights | ExportedNetwork
    entry: TaskEntry

    @property
    def shows_top(self) -> bool:
        """Whether the likeliest classes of an image are shown, however unlikely they are."""
        return self.entry.name == "classification" and not self._is_multi_label

    @property
    def shows_threshold(self) -> bool:
        """Whether what is found in an image is shown where its score is high enough."""
        return self.entry.name == "detection" or self._is_multi_label

    @property
    def _is_multi_label(self) -> bool:
        return self.weights.metadata.get("multi_label") is True

    @property
    def run(self) -> Path | None:
        """The run folder that the weights lie in; None: they lie elsewhere."""
        folder = self.source if self.source.is_dir() else self.source.parent
        return folder if (folder / _RECIPE).is_file() or (folder / "metrics.csv").is_file() else None


def find_models(given: Sequence[str], *, runs: Path = Path("runs"), on_skipped: Callable[[str], None]) -> list[Model]:
    """Open the models that a command line names.

    Args:
        given: run folders, folders of runs, weights files and exported files; empty: the runs in `runs`.
        runs: folder that is searched where nothing is given.
        on_skipped: is told of each run in a folder of runs that cannot be used.

    Returns:
        at least one model; models have different labels.

    Raises:
        ValueError: there is no run, or what is given holds no weights that this version predicts with.
        FileNotFoundError: what is given does not exist.
    """
    sources: dict[Path, str] = {}
    opened: list[tuple[Path, TrainedWeights | ExportedNetwork]] = []
    for word in given:
        path = Path(word).expanduser()
        inside = [] if _is_run(path) else _runs_in(path)
        sources.update(dict.fromkeys(inside, "found") or {path: "given"})
    if not given:
        sources = dict.fromkeys(_runs_in(runs), "found")
    for path, origin in sources.items():
        try:
            opened.append((path, open_weights(path)))
        except (ValueError, OSError) as error:
            if origin == "given":
                raise
            on_skipped(f"skipped {error}")
    if not opened:
        where = ", ".join(given) or f"the folder {runs}"
        raise ValueError(
            f"there is no trained model in {where}; train one first: scalablevit fit --config digits (a minute and a "
            f"half on a CPU), or name a {TRAINED}: scalablevit app RUN"
        )
    labels = _labels([path for path, _ in opened])
    return [
        Model(label, path, weights, entries()[weights.task])
        for label, (path, weights) in zip(labels, opened, strict=True)
    ]


class Loaded:
    """Predictors of models, loaded when they are first used; those not used for longest are dropped.

    Args:
        device: where to compute; None: a GPU if there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._predictors: OrderedDict[str, Any] = OrderedDict()
        self.lock = threading.Lock()
        """Held while a predictor loads or computes: some set options of their network for the time of a call."""

    def predictor(self, model: Model) -> Any:
        """The predictor of a model; call it with `lock` held.

        Raises:
            ValueError: the weights do not fit what they describe, or the machine has no such device.
            OSError: the file cannot be read.
        """
        if model.label not in self._predictors:
            self._predictors[model.label] = load(model.entry.predictor).load(model.weights, device=self._device)
            while len(self._predictors) > _MOST_LOADED:
                self._predictors.popitem(last=False)
        self._predictors.move_to_end(model.label)
        return self._predictors[model.label]


def _is_run(path: Path) -> bool:
    return path.is_file() or (path / _RECIPE).is_file() or (path / WEIGHTS_FILE).is_file()


def _runs_in(folder: Path, depth: int = 1) -> list[Path]:
    """Run folders below a folder, by name; not those inside of another run."""
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []
    found = []
    for child in children:
        if _is_run(child):
            found.append(child)
        elif depth < _DEEPEST and not child.is_symlink():
            found += _runs_in(child, depth + 1)
    return found


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names of paths, different for each: the last part, or as many of the last parts as it takes.

    A file in a run folder has the folder's name in front: `export` calls all of them alike.
    """
    parts = [_named_parts(path) for path in paths]
    labels = []
    for path, own in zip(paths, parts, strict=True):
        count = 2 if path.name != WEIGHTS_FILE and path.is_file() and _is_run(path.parent) else 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        labels.append("/".join(own[-count:]))
    return [label if labels.count(label) == 1 else f"{label} ({i + 1})" for i, label in enumerate(labels)]


def _named_parts(path: Path) -> tuple[str, ...]:
    """A run is named by its folder, also where its weights file was given."""
    path = path.absolute()
    return (path.parent if path.name == WEIGHTS_FILE else path).parts[1:] or (str(path),)
