"""`scalablevit fit`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from scalablevit.cli.durations import duration
from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.importing import importing
from scalablevit.cli.run_words import entry_of_recipes, split
from scalablevit.recipes import find_recipe, recipe_names

if TYPE_CHECKING:
    from scalablevit.training.command import TrainingCommand

SUMMARY = "Train with a recipe"
USAGE = """\
usage: scalablevit fit --config NAME|FILE [--run FOLDER] [--KEY VALUE ...]
       scalablevit fit --resume FOLDER [--KEY VALUE ...]

Train with a recipe. NAME is one of `scalablevit recipes`, FILE your own YAML.

options:
  --config NAME|FILE   recipe; a further --config overrides values of the one before
  --run FOLDER         run folder to create (default: runs/NAME); under torchrun: --run-folder FOLDER
  --resume FOLDER      resume the run in FOLDER from its last checkpoint, or from the checkpoint that is named
  --devices N          GPUs (or CPU processes); short for --trainer.devices
  --timeout DURATION   how long processes wait for each other, such as 90s, 10m or 1h (default: 30m)
  --epochs N           short for --trainer.max_epochs
  --precision P        32-true, bf16-mixed or 16-mixed; short for --trainer.precision
  --seed N             short for --seed_everything
  --checkpoint-every T save within an epoch too: by the clock (90s, 10m, 2h) or by steps (500steps); default: never
  --keep-checkpoints K keep the K newest of these beside the last and the best (default: 0)
  --logger NAME        log to wandb, mlflow, comet or a class of your own too; comma between several
  --lr, --batch-size, --weights, --variant, --data FOLDER, --workers   short for the keys of the recipe
  --KEY VALUE          any value of the recipe, such as --data.root images --model.drop_path_rate 0.2
  --allow-class NAME   with --resume: let the run's recipe name this class, given in full; comma between several
  --print_config       print the recipe with every KEY and its value, and stop
  --model.help CLASS   explain the keys of model (CLASS as in model.class_path); --data.help likewise

environment:
  SCALABLEVIT_PROCESS_TIMEOUT  seconds within which the other processes end after one of them ended (default: 30)
  SCALABLEVIT_DATA_TIMEOUT     seconds without a batch after which a data worker counts as hanging (default: 300)
"""


def main(words: list[str]) -> int:
    """Run the command."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    first = [] if not words or words[0].startswith("-") else ["--config", recipe_named(words[0])]
    given = split(
        [*first, *words[len(first) // 2 :]], values=("--run", "--run-folder", "--resume", "--allow-class", "--timeout")
    )
    # torchrun takes --run for a beginning of its own --run-path, wherever it stands
    run = given.taken.get("--run", given.taken.get("--run-folder"))
    resume, configs = given.taken.get("--resume"), given.configs
    checkpoint = None
    if resume is not None:
        if run is not None or configs:
            raise UsageError("--resume continues a run with its own recipe: leave out --run and --config")
        resume, checkpoint = _run_of(resume)
        run, configs = resume, [str(Path(resume) / "recipe.yaml")]
        if not Path(configs[0]).is_file():
            raise ValueError(f"--resume {resume}: there is no run to resume ({configs[0]} is missing)")
    if not configs:
        raise UsageError(
            "fit needs --config NAME|FILE or --resume FOLDER; `scalablevit recipes` lists the names, "
            "`scalablevit fit --help` tells more"
        )
    recipes = [find_recipe(config) for config in configs]
    folder = Path(run) if run is not None else Path("runs") / recipes[0].stem

    text = given.taken.get("--timeout")
    timeout = None if text is None else duration(text, flag="--timeout")
    with importing():
        from scalablevit.training.command import TrainingCommand, quiet_lightning
        from scalablevit.training.launch import told_once

    quiet_lightning()
    with memory_advice("fit", lambda: entry_of_recipes(recipes)):
        try:
            command = TrainingCommand(
                *("fit", recipes, given.keys),
                run=folder,
                resume=resume is not None,
                checkpoint=checkpoint,
                allowed=given.allowed,
                timeout=timeout,
            )
        except (ValueError, OSError) as error:
            raise told_once(error)  # noqa: B904 - the first process's error as it is
        _fit(command)
    return 0


def recipe_named(word: str) -> str:
    """The first word as a recipe.

    Raises:
        UsageError: it is a folder, or nothing that is known.
    """
    path = Path(word)
    if (path / "recipe.yaml").is_file():
        raise UsageError(f"{word} is a run: resume it with scalablevit fit --resume {shlex.quote(word)}")
    if path.is_dir():
        line = f"scalablevit fit --config train_folder --data.root {shlex.quote(word)}"
        raise UsageError(f"{word} is a folder; name a recipe too: {line}")
    if not path.is_file() and word not in recipe_names():
        raise UsageError(f"{word!r} is not understood: values are given as --KEY VALUE, a recipe as --config NAME|FILE")
    return word


def _run_of(resume: str) -> tuple[str, Path | None]:
    """The run folder that --resume means, and the checkpoint where one of its files is named.

    Raises:
        ValueError: another file is named.
    """
    path = Path(resume)
    if path.name == "checkpoints" and (path.parent / "recipe.yaml").is_file():
        return str(path.parent), None
    if not path.is_file():
        return resume, None
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if path.suffix == ".ckpt" and (run / "recipe.yaml").is_file():
        return str(run), None if path.name == "last.ckpt" else path
    raise ValueError(
        f"--resume {resume}: a run resumes from its last.ckpt, by its folder: --resume RUN; to start another run from "
        f"these weights: fit --config NAME --model.weights {resume}"
    )


def _fit(command: "TrainingCommand") -> None:
    """Train; where the run stops or the disk is full, say how to resume it."""
    from scalablevit.safe_write import WriteError
    from scalablevit.training.invocation import invocation
    from scalablevit.training.stopping import TrainingStopped, leave

    folder = command.folder.path
    try:
        command.fit()
    except TrainingStopped as stopped:
        leave(stopped, run=folder, is_global_zero=command.trainer.is_global_zero)
    except WriteError as error:
        checkpoints = {command.folder.last: folder, command.folder.best: command.folder.best}
        kept = next((named for file, named in checkpoints.items() if file.is_file()), None)
        if kept is None:
            raise
        again = invocation("fit", "--resume", kept)
        raise ValueError(f"{error.strerror}. To resume then: {again}") from error
