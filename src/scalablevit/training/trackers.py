"""Trackers such as W&B and MLflow: resumed in the same remote run, and never the end of a training."""

import inspect
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from scalablevit.printable import printable
from scalablevit.safe_write import WriteError, write_json
from scalablevit.training.logger_choice import LoggerChoice
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.run_folder import RunFolder
from scalablevit.weights.source import first_line

log = logging.getLogger(__name__)

_PROJECT = "scalablevit"
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 600.0  # seconds without a further try after a failure
# MLflow waits for a server that does not answer for a quarter of an hour, in the middle of a step
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class TolerantLogger(Logger):
    """A logger whose failures do not end the run: it warns once, and tries again later.

    Args:
        name: for messages, and the key of its id in loggers.json.
        inner: the logger.
        folder: of the run, whose loggers.json keeps the id of the remote run.
        id_of: the id of the remote run, of the inner logger; None where it has none.
        known_id: of the remote run that the run has logged to before; None: there is none.
    """

    def __init__(
        self, name: str, inner: Logger, *, folder: RunFolder, id_of: Callable[[Logger], Any], known_id: str | None
    ) -> None:
        super().__init__()
        self.label = name
        self.inner = inner
        self.known_id = known_id
        self._folder = folder
        self._id_of = id_of
        self._num_failures = 0
        self._paused_until = 0.0
        self._has_warned = False
        self._has_started = False

    @property
    def name(self) -> str | None:
        """Of the project or experiment."""
        found = self._looked_up("name")
        return None if found is None else str(found)

    @property
    def version(self) -> int | str | None:
        """Of the remote run."""
        found: int | str | None = self._looked_up("version")
        return self.known_id if found is None else found

    @property
    def save_dir(self) -> str | None:
        """Where it writes locally."""
        found: str | None = self._looked_up("save_dir")
        return found

    @property
    def experiment(self) -> Any:
        """The tracker's own object; the first call, before training, begins the remote run.

        Raises:
            RecipeError: a run that has not logged there before cannot begin.
        """
        if not self._has_started and time.monotonic() >= self._paused_until:
            self._start()
        return self._looked_up("experiment")

    def _looked_up(self, name: str) -> Any:
        """A property of the inner logger, which may ask the network for it; None where that fails, or has not begun."""
        try:
            return getattr(self.inner, name, None) if self._has_started else None
        except Exception as error:  # any library's any error
            self._note_failure(error)
            return None

    def _start(self) -> None:
        try:
            _ = getattr(self.inner, "experiment", None)
        except Exception as error:  # any library's any error
            if self.known_id is None:
                raise RecipeError(
                    f"--logger {self.label} cannot begin ({_said(error)}): log in or check the network, work offline "
                    "(docs/scale.md), or train without it: --logger null"
                ) from error
            self._note_failure(error)
        else:
            self._has_started = True

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Hand over what the run is made of, as training begins, and note the id of the remote run.

        Args:
            parameters: key of the recipe -> value, and the run's folder.
        """
        self._attempt(self._begin, parameters)

    def _begin(self, parameters: Mapping[str, Any]) -> None:
        if self.known_id is None:  # MLflow refuses to change what a run was begun with
            self.inner.log_hyperparams(dict(parameters))
        remember_id(self._folder, self.label, self._id_of(self.inner))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step."""
        self._attempt(self.inner.log_metrics, dict(metrics), step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log hyperparameters."""
        self._attempt(self.inner.log_hyperparams, params, *args, **kwargs)

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Log the graph."""
        self._attempt(self.inner.log_graph, *args, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Hear of a checkpoint."""
        self._attempt(self.inner.after_save_checkpoint, checkpoint_callback)

    def save(self) -> None:
        """Write what is pending."""
        self._attempt(self.inner.save)

    def finalize(self, status: str) -> None:
        """Write what is pending, and close the remote run."""
        self._attempt(self.inner.finalize, status)
        run: Any = getattr(self.inner, "_experiment", None)
        if hasattr(run, "finish") and type(self.inner).__name__ == "WandbLogger":  # else a later run goes on in it
            self._attempt(run.finish)
            self.inner._experiment = None  # type: ignore[attr-defined]

    def _attempt(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a method of the logger; where it fails, let the run go on."""
        if time.monotonic() < self._paused_until:
            return
        try:
            method(*args, **kwargs)
        except Exception as error:  # any library's any error
            self._note_failure(error)
        else:
            self._num_failures = 0

    def _note_failure(self, error: Exception) -> None:
        pause = min(_FIRST_PAUSE * 2**self._num_failures, _LONGEST_PAUSE)
        self._num_failures += 1
        self._paused_until = time.monotonic() + pause
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "the logger %s fails (%s); the run continues and tries it again later, metrics.csv has all metrics",
                self.label,
                _said(error),
            )


def build_trackers(choices: Sequence[LoggerChoice], *, folder: RunFolder) -> list[Logger]:
    """Build the loggers that a recipe asks for.

    Args:
        choices: of the recipe.
        folder: of the run.

    Raises:
        RecipeError: a package is missing, or a class refuses its arguments.
    """
    ids = read_ids(folder)
    found: list[Logger] = []
    for choice in choices:
        kind = choice.load()
        known = ids.get(choice.name)
        defaults, id_of = _defaults(choice, kind, folder=folder, known=known)
        try:
            inner = kind(**{**defaults, **choice.arguments})
        except Exception as error:  # any library's any error
            raise RecipeError(
                f"--logger {choice.name} cannot be built ({_said(error)}): correct its init_args, or train without it: "
                "--logger null"
            ) from error
        found.append(TolerantLogger(choice.name, inner, folder=folder, id_of=id_of, known_id=known))
    return found


def read_ids(folder: RunFolder) -> dict[str, str]:
    """Name of each logger -> id of the remote run that this run logs to; none of a damaged file."""
    try:
        entries = json.loads(folder.loggers.read_text(encoding="utf-8"))
        return {str(name): str(entry["id"]) for name, entry in entries.items() if entry["id"] is not None}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        log.warning("%s cannot be read: the run is logged as a new one", folder.loggers)
        return {}


def remember_id(folder: RunFolder, name: str, remote: Any) -> None:
    """Note in loggers.json where a logger logs to, for a resumed run to go on there."""
    if remote is None:
        return
    entries = {known: {"id": value} for known, value in read_ids(folder).items()}
    if entries.get(name) == {"id": str(remote)}:
        return
    try:
        write_json(folder.loggers, {**entries, name: {"id": str(remote)}})
    except WriteError as error:
        log.warning("%s", error.strerror or error)


def _defaults(
    choice: LoggerChoice, kind: type[Logger], *, folder: RunFolder, known: str | None
) -> tuple[dict[str, Any], Callable[[Logger], Any]]:
    """Arguments of a logger that the recipe need not give, and where its remote run's id is found."""
    run_name = os.path.basename(os.path.abspath(folder.path))
    place = os.path.abspath(folder.path)
    path = choice.class_path
    if path.endswith("loggers.WandbLogger"):
        given = known or uuid.uuid4().hex[:12]
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        return {"project": project, "name": run_name, "save_dir": place, "version": given}, lambda inner: given
    if path.endswith("loggers.MLFlowLogger"):
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place}/mlflow.db"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        arguments = {"experiment_name": experiment, "run_name": run_name, "tracking_uri": uri, "run_id": known}
        return arguments, lambda inner: inner.version
    if path.endswith("loggers.CometLogger"):
        given = known or uuid.uuid4().hex
        return {"project": os.environ.get("COMET_PROJECT_NAME", _PROJECT), "experiment_key": given}, lambda inner: given
    parameters = inspect.signature(kind.__init__).parameters
    offered = {"save_dir": place, "root_dir": place, "name": run_name, "version": known}
    arguments = {name: value for name, value in offered.items() if name in parameters and value is not None}
    return arguments, lambda inner: inner.version


def _said(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {first_line(error)}"[:300])
