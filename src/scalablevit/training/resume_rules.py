"""What may change when a run is resumed: each key of a recipe is applied in full from the next step on, or refused."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit.data.stream.index import is_remote
from scalablevit.data.stream.settings import OF_THE_MACHINE
from scalablevit.training.recipe_errors import RecipeError

_MAY_CHANGE = re.compile(
    "|".join(
        [
            # how far, where and how it runs; that a step keeps its samples is checked against the checkpoint
            r"trainer\.(max_epochs|max_steps|max_time|min_epochs|min_steps|devices|num_nodes|accelerator|strategy)",
            r"trainer\.(precision|accumulate_grad_batches|gradient_clip_val|gradient_clip_algorithm|profiler)",
            r"trainer\.(check_val_every_n_epoch|val_check_interval|limit_val_batches|num_sanity_val_steps)",
            r"trainer\.(log_every_n_steps|enable_progress_bar|enable_model_summary|deterministic|benchmark)",
            r"trainer\.(inference_mode|detect_anomaly)",
            r"threads|checkpoint_every|keep_checkpoints|logger(\..*)?",
            # where the data lie; that they are the same is checked against the checkpoint
            r"data\.(root|labelled_root|train_annotations|val_annotations|train_images|val_images|class_names_file|builtin)",
            r"data\.(batch_size|val_batch_size|num_workers|max_unreadable)",
            # the window gives the order of the samples
            rf"data\.stream\.({'|'.join(OF_THE_MACHINE)})",
            r"data\.augmentation(\..*)?",
            r"model\.(grad_checkpointing|compile|drop_path_rate|label_smoothing|auxiliary_weight|ignored_in_mean)",
            r"model\.(global_batch|max_nonfinite_steps|patience|ema_decay)",
            r"model\.mixup(\..*)?",
            r"model\.mesa(\..*)?",
            # that a teacher in another place is the same one is checked against the checkpoint
            r"model\.teacher\.(name|weights|temperature|weight|label_weight)",
            r"model\.optimizer\.(lr|lr_batch|weight_decay|betas|eps|momentum|layer_decay)",
            r"model\.schedule\..*",
        ]
    )
)
_NOT_TO_OR_FROM_NULL = ("model.ema_decay", "model.optimizer.layer_decay")  # the checkpoint has other parts then
# They watch or end a run, and change no step of it.
_CALLBACKS = (
    *("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary"),
    *("RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar"),
)
_SECRET = re.compile(r"data\.stream\.storage_options(\..*)?")
PATHS = (
    "root",
    "labelled_root",
    "train_annotations",
    "val_annotations",
    "train_images",
    "val_images",
    "class_names_file",
)


def changes(before: Mapping[str, Any], after: Mapping[str, Any], words: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Compare the recipe of a run with the one it is resumed with.

    Args:
        before: the run's recipe.
        after: the same with the words of the command line.
        words: of the command line; only keys that they name count, as an earlier version's recipe lacks some.

    Returns:
        key -> (value before, value after), of those that may change.

    Raises:
        RecipeError: a key that may not change; names both values and the remedy.
    """
    earlier, later = without_secrets(before), without_secrets(after)
    named = [_key_of(word) for word in words if word.startswith("--")]
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**later, **earlier}:
        is_named = any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in named)
        old, new = earlier.get(key), later.get(key)
        if is_named and old != new:
            _refuse_unless_it_may(key, old, new)
            found[key] = (old, new)
    return found


def _key_of(word: str) -> str:
    """The key that a word names: `--KEY`, `--KEY=VALUE`, or `--KEY+=VALUE`, which adds to a list."""
    key = word.partition("=")[0].removeprefix("--").removesuffix("+")
    return ".".join(part for part in key.split(".") if part != "init_args")


def edited(
    trained: Mapping[str, Any], now: Mapping[str, Any], *, recipe: str | os.PathLike[str], known: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Compare the recipe that a checkpoint was trained with and the one that it is resumed with.

    Args:
        trained: the checkpoint's, flattened; empty in those of earlier versions.
        now: the run's, flattened.
        recipe: the file that was edited.
        known: keys that the command line changes.

    Returns:
        key -> (value before, value after), of those that were edited by hand and may change.

    Raises:
        RecipeError: a key that may not change; names the file, both values and the remedy.
    """
    found: dict[str, tuple[Any, Any]] = {}
    changed_already = set(known)
    for key in {**now, **trained}:
        old, new = trained.get(key), now.get(key)
        if old == new or key in changed_already or not (is_told_of(key, trained) and is_told_of(key, now)):
            continue
        if key == "trainer.callbacks":
            may = (why := _why_not_callbacks(old, new)) is None
        else:
            why, may = None, may_change(key) and not (key in _NOT_TO_OR_FROM_NULL and (old is None) != (new is None))
        if not may:
            raise RecipeError(
                f"{key} in {os.fspath(recipe)} is {_said(new)}, and the run was trained with {_said(old)}, which "
                f"--resume cannot change{f' ({why})' if why else ''}: put it back; or start a new run from these "
                "weights: fit --config NAME --model.weights RUN"
            )
        found[key] = (old, new)
    return found


def is_told_of(key: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe has a key, or a value in the place of the block that holds it, or a block in its place."""
    return any(name == key or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in recipe)


def may_change(key: str) -> bool:
    """Whether a key, without `init_args`, may change on resume."""
    return _MAY_CHANGE.fullmatch(key) is not None


def _refuse_unless_it_may(key: str, old: Any, new: Any) -> None:
    new_run = "leave it out; or start a new run from these weights: fit --config NAME --model.weights RUN"
    if key == "trainer.callbacks":
        why = _why_not_callbacks(old, new)
        if why is not None:
            raise RecipeError(f"--resume cannot change {key} so: {why}; {new_run}")
        return
    if not may_change(key):
        raise RecipeError(f"--resume cannot change {key} from {_said(old)} to {_said(new)}: {new_run}")
    if key in _NOT_TO_OR_FROM_NULL and (old is None) != (new is None):
        raise RecipeError(
            f"--resume cannot turn {key} on or off ({_said(old)} to {_said(new)}), only change its value: {new_run}"
        )


def _why_not_callbacks(old: Any, new: Any) -> str | None:
    """Why a run cannot go on with other callbacks; None: it can, those that come or go change no step."""
    before, after = _listed(old), _listed(new)
    gone = [callback for callback in before if callback not in after]
    come = [callback for callback in after if callback not in before]
    for path, _ in gone + come:
        name = path.rpartition(".")[2]
        if name not in _CALLBACKS or not path.startswith(("lightning.", name)):
            return (
                f"{name} may change what a step does; of callbacks, {', '.join(_CALLBACKS)} may come and go on resume"
            )
    for path, arguments in come:
        monitor = arguments.get("monitor")
        if path.endswith("EarlyStopping") and any(
            earlier.endswith("EarlyStopping") and its.get("monitor") == monitor for earlier, its in gone
        ):
            return (
                f"the checkpoint keeps what EarlyStopping counted of {monitor} together with its patience. Remove it, "
                "resume, and stop early by --model.patience N, which may change at any time"
            )
    return None


def _listed(callbacks: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Class and arguments of each callback, as recipes have them: a list, one, or none."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []:
        is_described = isinstance(callback, Mapping)
        path = callback.get("class_path") if is_described else callback
        arguments = callback.get("init_args") if is_described else None
        found.append((str(path), arguments if isinstance(arguments, Mapping) else {}))
    return found


def _said(value: Any) -> str:
    return "null" if value is None else str(value)


def flattened(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a recipe that is no mapping, with its key; `init_args` are left out of it."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flattened(inner, key if name == "init_args" else f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def without_secrets(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a recipe, without what gives access to its data: that is for no message, tracker or checkpoint."""
    return {key: value for key, value in flattened(recipe) if not _SECRET.fullmatch(key)}


def absolute_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose files are found from any folder: paths from the current folder become absolute, in place."""
    teacher = ((recipe.get("model") or {}).get("init_args") or {}).get("teacher") or {}
    for name in ("name", "weights"):
        path = teacher.get(name)
        if isinstance(path, str) and path and Path(path).expanduser().exists():
            teacher[name] = os.path.abspath(os.path.expanduser(path))
    arguments = (recipe.get("data") or {}).get("init_args") or {}
    root = arguments.get("root")
    for name in PATHS:
        path = arguments.get(name)
        if not isinstance(path, str) or os.path.isabs(path) or is_remote(path):
            continue
        in_root = name != "root" and isinstance(root, str) and (Path(root).expanduser() / path).exists()
        if name == "root" or (not in_root and Path(path).expanduser().exists()):
            arguments[name] = os.path.abspath(os.path.expanduser(path))
    return recipe


def moved_root(recipe: Mapping[str, Any], *, was_at: Any, is_at: Path) -> str | None:
    """Where the data of a run lie that was moved together with them; None: they are where the recipe says, or unknown.

    Args:
        recipe: of the run.
        was_at: the run folder as its environment.json has it.
        is_at: the run folder now.
    """
    data = recipe.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    root = arguments.get("root") if isinstance(arguments, Mapping) else None
    if not isinstance(root, str) or not isinstance(was_at, str) or not os.path.isabs(root) or os.path.exists(root):
        return None
    found = os.path.normpath(os.path.join(os.path.abspath(is_at), os.path.relpath(root, was_at)))
    return found if os.path.exists(found) else None


def check_step(trained: Mapping[str, Any], now: Mapping[str, Any], *, is_within_epoch: bool) -> None:
    """Compare the samples of a checkpoint's steps with those of the resumed run.

    Args:
        trained: of the checkpoint: samples_per_step, samples_per_pass, num_samples, shards; earlier versions lack some.
        now: the same, of the run.
        is_within_epoch: the checkpoint was saved in the middle of an epoch.

    Raises:
        ValueError: the schedule would run something else than the recipe says.
    """
    for name in ("samples_per_step", "samples_per_pass", "num_samples"):
        if trained.get(name) is None or now.get(name) is None or trained[name] == now[name]:
            continue
        if name == "samples_per_step":
            raise ValueError(
                f"the run took {trained[name]} samples an optimizer step and would take {now[name]}: keep "
                f"data.batch_size x devices, or keep the step by --model.global_batch {trained[name]}; for another "
                "step start a new run from these weights: fit --config NAME --model.weights RUN"
            )
        if name == "num_samples":
            raise ValueError(
                f"the run was trained on {trained[name]:,} samples, and the data now have {now[name]:,}: give the same "
                "data; to train on other data start a new run from these weights: fit --config NAME --model.weights RUN"
            )
        if is_within_epoch:
            raise ValueError(
                f"the checkpoint lies within an epoch, of which {trained[name]} samples were taken at a time: resume "
                "with the same data.batch_size and number of devices until that epoch ends, then change them"
            )
    if is_within_epoch and trained.get("shards", now.get("shards")) != now.get("shards"):
        raise ValueError(
            "the checkpoint lies within an epoch, and its samples came in the order of other shards: samples would be "
            "lost and come twice; resume with the shards (and data.stream.window) of before until that epoch ends"
        )
