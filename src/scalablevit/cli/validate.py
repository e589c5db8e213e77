"""`scalablevit validate`."""

import logging
from collections.abc import Mapping
from pathlib import Path

from scalablevit.cli.errors import UsageError, fail, memory_advice
from scalablevit.cli.importing import importing
from scalablevit.cli.run_words import entry_of_recipes, split
from scalablevit.cli.terminal import print_json
from scalablevit.cli.trained_run import is_exported_file
from scalablevit.cli.validate_exported import validate_exported
from scalablevit.model_files import EXPORTED_FILE
from scalablevit.printable import printable
from scalablevit.recipes import find_recipe

SUMMARY = "Evaluate a run's checkpoint on validation data"
USAGE = f"""\
usage: scalablevit validate RUN|FILE [--checkpoint FILE] [--json] [--KEY VALUE ...]

Evaluate the best checkpoint of a run on its validation data, or on other data: --data.root FOLDER, or, with COCO
annotations, --data.val_annotations FILE --data.val_images FOLDER, which evaluate every image of that file. An
{EXPORTED_FILE} is evaluated on the data of the run that it lies in, or on those of --data.root FOLDER.

options:
  --checkpoint FILE    another checkpoint (default: best.ckpt in RUN/checkpoints; last.ckpt where there is none yet)
  --allow-class NAME   let the run's recipe name this class, given in full; comma between several
  --json               print the metrics as JSON
  --devices N, --KEY VALUE   as for fit
"""

_log = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """Run the command."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    is_first = bool(words and words[0]) and not words[0].startswith("-")
    taken = ("--run", "--resume", "--checkpoint", "--weights", "--ckpt", "--allow-class")
    given = split(words[is_first:], values=taken, flags=("--json",))
    exported = words[0] if is_first and is_exported_file(words[0]) else given.taken.get("--weights")
    if exported is not None and is_exported_file(exported):
        given.taken.pop("--weights", None)
        _print(validate_exported(Path(exported), given), as_json="--json" in given.taken)
        return 0
    run, checkpoint_named = _run_and_checkpoint(words[0] if is_first else None, given.taken)
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise ValueError(f"{run} is not a run folder: {recipe} is missing")
    best, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    has_last_only = last.is_file() and not best.is_file()
    checkpoint = checkpoint_named or (last if has_last_only else best)
    if not checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}; name one with --checkpoint")

    with importing():
        from scalablevit.training.command import TrainingCommand, quiet_lightning
        from scalablevit.training.stopping import TrainingStopped

    quiet_lightning()
    recipes = [recipe, *map(find_recipe, given.configs)]
    with memory_advice("validate", lambda: entry_of_recipes(recipes)):
        command = TrainingCommand(
            "validate", recipes, given.keys, run=run, checkpoint=checkpoint, allowed=given.allowed
        )
        if has_last_only and checkpoint_named is None:
            _log.warning("there is no %s, which the first validation writes; evaluating %s", best, last)
        try:
            metrics = command.validate()
        except TrainingStopped as stopped:
            return fail("stopped", code=128 + stopped.signum)
    if not command.trainer.is_global_zero:
        return 0
    _print(metrics, as_json="--json" in given.taken)
    return 0


def _print(metrics: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print_json(dict(metrics))
        return
    shown = {printable(name): value for name, value in metrics.items()}  # of classes there are names in it
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value:.4f}")


def _run_and_checkpoint(first: str | None, taken: dict[str, str]) -> tuple[Path, Path | None]:
    """The run folder and the checkpoint in it that a command line means; None: the best one.

    Args:
        first: argument without a flag, or None.
        taken: values of flags.

    Raises:
        UsageError: no run is named, or two.
    """
    if first is not None:
        for flag in ("--run", "--resume"):
            if flag in taken:
                raise UsageError(f"validate evaluates the run in {first}, its first argument: leave out {flag}")
    checkpoint = taken.get("--checkpoint") or taken.get("--ckpt")
    others = [taken[flag] for flag in ("--weights", "--run") if flag in taken]
    named = first or next(iter(others), None) or checkpoint
    if named is None:
        raise UsageError("the run folder comes first: scalablevit validate RUN")
    if first is not None and others and checkpoint is None:
        checkpoint = others[0]
    path = Path(named)
    if path.name == "checkpoints" and (path.parent / "recipe.yaml").is_file():
        path = path.parent
    if path.suffix == ".ckpt" and (path.parent.parent / "recipe.yaml").is_file():
        return path.parent.parent, Path(checkpoint or named)
    if path.suffix == ".safetensors" and (path.parent / "recipe.yaml").is_file():
        path = path.parent
    return path, None if checkpoint is None else Path(checkpoint)
