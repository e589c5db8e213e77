"""The words that a user types. Each command imports what it needs when it runs: help answers at once."""

import argparse
import contextlib
import difflib
import functools
import importlib
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from scalablevit import __version__
from scalablevit.recipes import find_recipe, recipe_names, recipe_text, recipe_title

_log = logging.getLogger(__name__)

# Short words for what is set most; every other value of a recipe goes by its full name.
_SHORT = {
    "--devices": "--trainer.devices",
    "--epochs": "--trainer.max_epochs",
    "--precision": "--trainer.precision",
    "--seed": "--seed_everything",
}
_COMMANDS = ("fit", "validate", "predict", "info", "bench", "check-data", "recipes")
# what `scalablevit.bench.cells` knows, and what it measures without being told
_BENCH_CHOICES = {
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "mode": ("eager", "compile", "graphs", "optimized"),
    "task": ("inference", "training"),
}
_BENCH_MODELS = ("scalablevit_small", "plain:scalablevit_small")
# task -> the class that predicts, and what the columns of its table are called
_PREDICTORS = {
    "classification": ("Classifier", ("class", "probability")),
    "detection": ("Detector", ("object", "score")),
    "segmentation": ("Segmenter", ("class", "share")),
}
# argument of a predictor -> its flag, and the tasks that have it
_PREDICT_OPTIONS = {
    "top": ("--top", ("classification",)),
    "threshold": ("--threshold", ("detection",)),
    "min_size": ("--min-size", ("detection",)),
    "max_size": ("--max-size", ("detection",)),
    "tile": ("--tile", ("segmentation",)),
    "short_side": ("--short-side", ("segmentation",)),
    "scales": ("--scales", ("segmentation",)),
    "flip": ("--flip", ("segmentation",)),
}
# model -> the size and number of classes that its published figures are for
_MODELS: dict[str, tuple[list[int], int]] = {
    "classifier": ([224], 1000),
    "retinanet": ([800, 1280], 80),
    "mask_rcnn": ([800, 1280], 80),
    "semantic_fpn": ([512, 2048], 150),
    "upernet": ([512, 2048], 150),
}
# command -> what helps where the memory does not suffice
_OUT_OF_MEMORY = {
    "fit": "lower data.batch_size (model.global_batch keeps the step), or try --model.grad_checkpointing true",
    "validate": "lower data.val_batch_size in detection, data.batch_size in classification; in segmentation set "
    "--model.inference.mode slide",
    "predict": "lower --batch-size; in detection lower --min-size and --max-size too, in segmentation give --tile; or "
    "take --device cpu",
}
_CHECK_TITLES = {"classes": "a folder per class", "coco": "COCO annotations", "masks": "images and masks"}
# kind of data -> the flags that its check has beside --val-fraction
_CHECK_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "classes": {
        "--train": dict(metavar="NAME", help="training folder in it"),
        "--val": dict(metavar="NAME", help="validation folder in it"),
    },
    "coco": {
        "--train-annotations": dict(metavar="FILE", help="training annotations"),
        "--val-annotations": dict(metavar="FILE", help="validation annotations"),
        "--train-images": dict(metavar="FOLDER", help="training pictures"),
        "--val-images": dict(metavar="FOLDER", help="validation pictures"),
        "--annotation-frame": dict(
            choices=("auto", "stored", "upright"),
            help="pixels that boxes count in where EXIF turns a picture (default: auto, by the size)",
        ),
        "--no-masks": dict(action="store_true", help="look at boxes alone"),
    },
    "masks": {
        "--train": dict(metavar="NAME", help="training folder in it"),
        "--val": dict(metavar="NAME", help="validation folder in it"),
        "--images": dict(metavar="NAME", help="folder of images"),
        "--masks": dict(metavar="NAME", help="folder of masks"),
        "--reduce-zero-label": dict(action="store_true", help="label 0 is no class, label 1 the first"),
        "--ignore-labels": dict(
            type=int, nargs="*", metavar="N", help="labels that are left out (default: 255; with no N, none)"
        ),
        "--class-names-file": dict(metavar="FILE", help="names of the classes"),
        "--mask-frame": dict(
            choices=("auto", "stored", "upright"),
            help="pixels that masks lie over where EXIF turns an image (default: auto, by the size)",
        ),
    },
}
_CHECK_FLAGS = {flag for options in _CHECK_OPTIONS.values() for flag in options}
_FIT_USAGE = """\
usage: scalablevit fit --config NAME|FILE [--run FOLDER] [--KEY VALUE ...]
       scalablevit fit --resume FOLDER [--KEY VALUE ...]

Train by a recipe. NAME is one of `scalablevit recipes`, FILE a YAML of your own.

options:
  --config NAME|FILE   recipe; a further --config overrides values of the one before
  --run FOLDER         where the run goes (default: runs/NAME)
  --resume FOLDER      go on with the run in FOLDER, from its last checkpoint
  --devices N          GPUs (or CPU processes); short for --trainer.devices
  --epochs N           short for --trainer.max_epochs
  --precision P        32-true, bf16-mixed or 16-mixed; short for --trainer.precision
  --seed N             short for --seed_everything
  --KEY VALUE          any value of the recipe, such as --data.root pictures --model.drop_path_rate 0.2
  --print_config       print the recipe with every KEY and its value, and stop
  --model.help CLASS   explain the keys of model (CLASS as in model.class_path); --data.help likewise
"""
_VALIDATE_USAGE = """\
usage: scalablevit validate FOLDER [--checkpoint FILE] [--json] [--KEY VALUE ...]

Measure the best checkpoint of the run in FOLDER on its validation data, or on other data: --data.root FOLDER, or, with
COCO annotations, --data.val_annotations FILE --data.val_images FOLDER, which measure every picture of that file.

options:
  --checkpoint FILE    another checkpoint (default: best.ckpt in FOLDER/checkpoints; last.ckpt where there is none yet)
  --json               print the metrics as JSON
  --devices N, --KEY VALUE   as for fit
"""


class UsageError(ValueError):
    """A command line that is wrong whatever lies on the disk."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command `scalablevit`.

    Args:
        argv: words behind the program's name; None: those of this process.

    Returns:
        exit code: 0, or 1 where something went wrong, 2 where the command line is wrong.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in ("fit", "validate"):
            command = _fit if words[0] == "fit" else _validate
            return command(words[1:])
        parser = _parser()
        if not words:
            parser.print_help()
            return 2
        if not words[0].startswith("-") and words[0] not in _COMMANDS:
            close = difflib.get_close_matches(words[0], _COMMANDS, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(_COMMANDS)}"
            return _fail(f"there is no command {words[0]!r}; {hint}", code=2)
        args = parser.parse_args(words)
        return args.run(args)
    except KeyboardInterrupt:
        return _fail("stopped", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SCALABLEVIT_DEBUG") or not _is_users_to_mend(error):
            raise
        return _fail(_words_of(error, words[0] if words else ""), code=2 if isinstance(error, UsageError) else 1)


def _words_of(error: Exception, command: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "OutOfMemoryError" in _names_of(error):
        first = str(error).split(". ")[0]
        return f"{first}; {_OUT_OF_MEMORY.get(command, 'free some memory')}"
    return str(error)


def _is_users_to_mend(error: Exception) -> bool:
    ours = {"MisconfigurationException", "NonFiniteError", "OutOfMemoryError"}
    return isinstance(error, ValueError | OSError) or bool(_names_of(error) & ours)


def _names_of(error: Exception) -> set[str]:
    """Of its classes: importing them would cost seconds."""
    return {base.__name__ for base in type(error).__mro__}


def _fail(message: str, code: int = 1) -> int:
    print(f"scalablevit: error: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once: some packages cannot be interrupted while they are imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scalablevit",
        description="Train, measure and use ScalableViT (arXiv:2203.10790).",
        usage="scalablevit [-h] [--version] COMMAND ...",
        epilog="`scalablevit COMMAND --help` tells more. First time? `scalablevit fit --config digits`",
    )
    parser.add_argument("--version", action="version", version=f"scalablevit {__version__}")
    commands = parser.add_subparsers(prog="scalablevit", title="commands", metavar="COMMAND     ", required=True)
    commands.add_parser("fit", help="train by a recipe", add_help=False)
    commands.add_parser("validate", help="measure a run's checkpoint on validation data", add_help=False)
    _add_predict(commands)
    _add_info(commands)
    _add_bench(commands)
    _add_check_data(commands)
    _add_recipes(commands)
    return parser


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _add_predict(commands: Any) -> None:
    parser = _add(commands, "predict", _predict, "say what is in pictures")
    parser.add_argument("inputs", nargs="+", metavar="PICTURE", help="files, folders or globs")
    parser.add_argument("--weights", required=True, metavar="RUN|FILE", help="run folder, or its model.safetensors")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and picture instead of a table")
    parser.add_argument("--save", metavar="FOLDER", help="write annotated pictures there, beside what is there")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pictures at a time; in segmentation tiles (default: the task's)"
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="read pictures of up to N million pixels (default: 179); raise it for files that you trust",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    group = parser.add_argument_group("classification")
    group.add_argument("--top", type=int, metavar="N", help="classes to name (default: 5)")
    group = parser.add_argument_group("detection")
    group.add_argument("--threshold", type=float, metavar="X", help="score that an object needs (default: 0.5)")
    group.add_argument(
        "--min-size", type=int, metavar="N", help="resize the shorter side to N pixels (default: as in training) ..."
    )
    group.add_argument(
        "--max-size", type=int, metavar="N", help="... and the longer one to N at most (default: as in training)"
    )
    group = parser.add_argument_group("segmentation")
    group.add_argument("--tile", type=int, metavar="N", help="go through tiles of N pixels, for pictures of any size")
    group.add_argument(
        "--short-side", type=int, metavar="N",
        help="resize the shorter side to N pixels before (default: as in training; 0, not at all, with --tile)",
    )  # fmt: skip
    group.add_argument("--scales", type=float, nargs="+", metavar="X", help="average over these sizes")
    group.add_argument("--flip", action="store_true", default=None, help="average over the mirrored picture as well")


def _add_info(commands: Any) -> None:
    parser = _add(commands, "info", _info, "print parameters, FLOPs and the sizes of the feature maps")
    parser.add_argument("variant", nargs="?", help="such as scalablevit_small (default: a line for each)")
    parser.add_argument(
        "--model", choices=list(_MODELS), default="classifier", metavar="MODEL",
        help=f"{', '.join(_MODELS)} (default: classifier)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="pixels: side, or height width (default: the published one)"
    )
    parser.add_argument("--classes", type=int, metavar="N", help="classes of the head (default: the published number)")
    parser.add_argument(
        "--scale-value", action=argparse.BooleanOptionalAction,
        help="the scaled-value form of SSA (default: as published, that is for scalablevit_small in dense tasks)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_bench(commands: Any) -> None:
    parser = _add(commands, "bench", _bench, "measure time and memory of networks, side by side and in turns")
    parser.epilog = (
        "MODEL is any name that timm knows, plain:VARIANT (our network as published code writes it), "
        "twins_svt_small:4d, vit_pytorch:scalable_vit or vit_pytorch:scalable_vit_paper; MODEL@MODE runs it in a mode "
        "of its own. Lists give every combination."
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL",
        help=f"networks; the others are compared with the first (default: {' '.join(_BENCH_MODELS)})",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[8], metavar="N", help="images a pass (default: 8)")
    parser.add_argument(
        "--size", type=_size, nargs="+", default=[(224, 224)], metavar="N|HxW", help="pixels (default: 224)"
    )
    for name, meaning in (
        ("precision", "bf16, fp16: cast weights in inference, autocast in training"),
        ("mode", "graphs: with CUDA graphs; optimized: scalablevit.optimize, torch.compile for others"),
        ("task", "forward pass, or training step with AdamW"),
    ):
        choices = _BENCH_CHOICES[name]
        parser.add_argument(
            f"--{name}", nargs="+", choices=choices, default=[choices[0]], metavar=name[0].upper(),
            help=f"of {', '.join(choices)} (default: {choices[0]}); {meaning}",
        )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="timed turns of each (default: 20)")
    parser.add_argument("--warm-up", type=int, default=3, metavar="N", help="discarded turns before (default: 3)")
    parser.add_argument("--passes", type=int, metavar="N", help="passes a turn (default: 1 on a CPU, else 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch finds them)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto, a GPU if there is one)")
    parser.add_argument("--memory", action="store_true", help="peak memory too; on a CPU in a process of its own each")
    parser.add_argument("--channels-last", action="store_true", help="channels innermost, for all")
    parser.add_argument("--output", metavar="FILE", help="JSON with every time, whole after every combination")
    parser.add_argument("--json", action="store_true", help="print that JSON instead of a table")


def _size(text: str) -> tuple[int, int]:
    """(height, width) from "224" or "800x1280"."""
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; say a side such as 224, or height x width as 800x1280")
    return sides[0], sides[-1]


def _add_check_data(commands: Any) -> None:
    parser = _add(commands, "check-data", _check_data, "find every bad file of a data folder before training does")
    parser.add_argument(
        "root",
        help="folder with a folder per class; with COCO annotations (or the annotation file); or with images and masks",
    )
    parser.add_argument(
        "--kind", choices=("classes", "coco", "masks"), help="which of the three it is (default: see for yourself)"
    )
    parser.add_argument("--val-fraction", type=float, default=0.1, metavar="X",
                        help="share to set aside where there is no validation data (default: 0.1)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    for kind, options in _CHECK_OPTIONS.items():
        group = parser.add_argument_group(_CHECK_TITLES[kind])
        for flag, arguments in options.items():
            if not any(flag in action.option_strings for action in parser._actions):
                group.add_argument(flag, default=argparse.SUPPRESS, **arguments)


def _add_recipes(commands: Any) -> None:
    parser = _add(commands, "recipes", _recipes, "list the packaged recipes, or print one")
    parser.add_argument("name", nargs="?", help="recipe to print, as a start for one of your own")


def _fit(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(_FIT_USAGE, end="")
        return 0
    words, run, resume, configs, _ = _split(words)
    if resume is not None:
        if run is not None or configs:
            raise UsageError("--resume goes on with a run and its recipe: leave out --run and --config")
        run, configs = resume, [str(Path(resume) / "recipe.yaml")]
        if not Path(configs[0]).is_file():
            raise ValueError(f"--resume {resume}: there is no run to go on with ({configs[0]} is missing)")
    if not configs:
        raise UsageError(
            "fit needs --config NAME|FILE or --resume FOLDER; `scalablevit recipes` lists the names, "
            "`scalablevit fit --help` tells more"
        )
    recipes = [find_recipe(config) for config in configs]
    folder = Path(run) if run is not None else Path("runs") / recipes[0].stem

    with _importing():
        from scalablevit.safe_write import WriteError
        from scalablevit.training.command import TrainingCommand, quiet_lightning
        from scalablevit.training.invocation import invocation
        from scalablevit.training.stopping import TrainingStopped, leave

    quiet_lightning()
    command = TrainingCommand("fit", recipes, words, run=folder, resume=resume is not None)
    try:
        command.fit()
    except TrainingStopped as stopped:
        leave(stopped, run=folder, is_global_zero=command.trainer.is_global_zero)
    except WriteError as error:
        if not command.folder.last.is_file():
            raise
        again = invocation("fit", "--resume", folder)
        raise ValueError(f"{error.strerror}. To go on then: {again}") from error
    return 0


def _validate(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(_VALIDATE_USAGE, end="")
        return 0
    if not words or not words[0] or words[0].startswith("-"):
        raise UsageError("validate needs the run's folder first: scalablevit validate FOLDER")
    run = Path(words[0])
    words, other, resume, configs, flags = _split(words[1:], flags=("--json",), values=("--checkpoint",))
    if other is not None or resume is not None:
        raise UsageError(
            f"validate measures the run in {run}, its first word: leave out {'--run' if resume is None else '--resume'}"
        )
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise ValueError(f"{run} is not a run folder: {recipe} is missing")
    best, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    has_last_only = last.is_file() and not best.is_file()
    checkpoint = Path(flags.get("--checkpoint") or (last if has_last_only else best))
    if not checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}; name one with --checkpoint")

    with _importing():
        from scalablevit.training.command import TrainingCommand, quiet_lightning

    quiet_lightning()
    recipes = [recipe, *map(find_recipe, configs)]
    command = TrainingCommand("validate", recipes, words, run=run, checkpoint=checkpoint)
    if has_last_only and "--checkpoint" not in flags:
        _log.warning("there is no %s, which the first validation writes; measuring %s", best, last)
    metrics = command.validate()
    if not command.trainer.is_global_zero:
        return 0
    if "--json" in flags:
        # NaN, the mean over nothing, is no JSON
        print(json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()}))
    else:
        width = max(map(len, metrics), default=0)
        for name, value in metrics.items():
            print(f"{name:<{width}}  {value:.4f}")
    return 0


def _split(
    words: list[str], *, flags: Sequence[str] = (), values: Sequence[str] = ()
) -> tuple[list[str], str | None, str | None, list[str], dict[str, str]]:
    """Take our own words out of a command line: (the rest, --run, --resume, --config's, flags)."""
    rest: list[str] = []
    configs: list[str] = []
    taken: dict[str, str] = {}
    todo = iter(words)
    for word in todo:
        name, equals, value = word.partition("=")
        if name in flags:
            taken[name] = "yes"
        elif name in ("--config", "-c", "--run", "--resume", *values):
            text = value if equals else next(todo, None)
            if not text or (not equals and text.startswith("--")):
                raise UsageError(f"{name} needs a value behind it")
            if name in ("--config", "-c"):
                configs.append(text)
            else:
                taken[name] = text
        else:
            rest.append(_SHORT.get(name, name) + equals + value)
    return rest, taken.pop("--run", None), taken.pop("--resume", None), configs, taken


def _predict(args: argparse.Namespace) -> int:
    with _importing():
        from rich.console import Console
        from rich.table import Table

        from scalablevit.data.find_images import find_images
        from scalablevit.data.image_file import pixel_limit
        from scalablevit.weights import open_trained

    if args.save is not None and (not args.save or (Path(args.save).exists() and not Path(args.save).is_dir())):
        raise ValueError(f"--save {args.save!r} is not a folder; name one, it is made where it is missing")
    if args.max_pixels is not None and args.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1 (million), got {args.max_pixels}")
    paths = find_images(args.inputs)
    weights = open_trained(args.weights)
    task = weights.task
    if task not in _PREDICTORS:
        raise ValueError(f"{args.weights} holds weights for {task!r}; this version predicts {', '.join(_PREDICTORS)}")
    kind, columns = _PREDICTORS[task]
    with _importing():
        predictor = getattr(importlib.import_module(f"scalablevit.{task}"), kind).load(weights, device=args.device)
    options = _prediction_options(args, task)
    folder = None if args.save is None else Path(args.save)
    table = Table("picture", *columns, box=None, pad_edge=False, header_style="bold")
    failed = 0
    saved: dict[str, int] = {}
    limit = contextlib.nullcontext() if args.max_pixels is None else pixel_limit(args.max_pixels * 10**6)
    with limit:
        for prediction in predictor.predict(paths, keep_images=folder is not None, **options):
            if args.json:
                print(json.dumps(prediction.to_dict(), ensure_ascii=False), flush=True)
            if prediction.error is not None:
                failed += 1
                print(f"skipped {prediction.error}", file=sys.stderr)
                continue
            rows = prediction.table_rows() or [("nothing", "")]
            for i, row in enumerate(rows):
                table.add_row(str(prediction.path) if i == 0 else "", *row, end_section=True)
            if folder is not None:
                _save_pictures(prediction, folder, saved)
            del prediction  # or its picture would be kept while the next one is predicted
    if saved:
        print(f"annotated pictures are in {folder}", file=sys.stderr)
    if not args.json and table.row_count:
        # A pipe has no width to wrap to.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table)
    return 1 if failed else 0


def _prediction_options(args: argparse.Namespace, task: str) -> dict[str, Any]:
    """What was said of how to predict, if it is for this task."""
    given: dict[str, Any] = {} if args.batch_size is None else {"batch_size": args.batch_size}
    for option, (flag, tasks) in _PREDICT_OPTIONS.items():
        value = getattr(args, option)
        if value is None:
            continue
        if task not in tasks:
            raise UsageError(f"{flag} is for {' and '.join(tasks)}; {args.weights} holds weights for {task}")
        given[option] = value
    return given


def _save_pictures(prediction: Any, folder: Path, saved: dict[str, int]) -> None:
    """Write a prediction's annotated pictures; `saved` as for `_free_paths`."""
    from scalablevit.safe_write import write_atomically

    pictures = prediction.pictures()
    paths = _free_paths(folder, prediction.path.stem, list(pictures), saved)
    for path, picture in zip(paths, pictures.values(), strict=True):
        write_atomically(path, functools.partial(picture.save, format="PNG"))


def _free_paths(folder: Path, stem: str, suffixes: Sequence[str], saved: dict[str, int]) -> list[Path]:
    """STEM.png, STEM_2.png, ..., the first of which none is there; `saved` holds the number last given to a stem."""
    number = saved.get(stem, 0) + 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        paths = [folder / f"{name}{suffix}.png" for suffix in suffixes]
        if not any(map(os.path.lexists, paths)):
            break
        number += 1
    saved[stem] = number
    return paths


def _info(args: argparse.Namespace) -> int:
    published_size, published_classes = _MODELS[args.model]
    size = args.size or published_size
    classes = published_classes if args.classes is None else args.classes
    if len(size) > 2:
        raise ValueError(f"--size takes a side, or height and width, got {size}")
    height, width = size[0], size[-1]
    if min(height, width) < 1:
        raise ValueError(f"--size must be at least 1 pixel, got {size}")

    with _importing():
        from scalablevit.backbone import VARIANTS

    if args.variant is not None and args.variant not in VARIANTS:
        raise ValueError(f"there is no variant {args.variant!r}; choose from {', '.join(VARIANTS)}")
    rows = {
        name: _describe(args.model, name, height, width, classes, args.scale_value)
        for name in ([args.variant] if args.variant else VARIANTS)
    }
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    of = "" if args.model == "classifier" else f" of {args.model}"
    print(f"{'variant':<20}{'parameters':>12}{'multiply-adds':>16}{'FLOPs':>10}  {of} for {height} x {width} pixels")
    for name, row in rows.items():
        print(
            f"{name:<20}{row['parameters'] / 1e6:>10.2f} M{row['multiply_adds'] / 1e9:>14.2f} G"
            f"{row['flops'] / 1e9:>8.2f} G"
        )
    if args.variant and "stages" in rows[args.variant]:
        print()
        for i, stage in enumerate(rows[args.variant]["stages"], 1):
            print(
                f"stage {i}   stride {stage['stride']:>2}   {stage['channels']:>4} channels   "
                f"{stage['height']} x {stage['width']} tokens   {stage['blocks']} blocks"
            )
        for path in rows[args.variant].get("attention", []):
            print(f"{path['blocks']} x {path['attention']}: {path['implementation']}, as {path['reason']}")
    print("\nmultiply-adds: of convolutions and linear layers, as papers print FLOPs;")
    print("FLOPs: with attention products, a multiply-add counted as two operations")
    if args.model == "mask_rcnn":
        print("counted with 1000 regions of interest for boxes and 100 for masks")
    if args.model == "upernet":
        print("the auxiliary head is among the parameters, and not among the operations, as it serves training alone")
    return 0


def _describe(model: str, variant: str, height: int, width: int, classes: int, scale_value: bool | None) -> Any:
    """What a model costs."""
    with _importing():
        if model == "classifier":
            import timm
            import torch

            from scalablevit.bench.complexity import describe

            with torch.device("meta"):
                network = timm.create_model(variant, num_classes=classes, scale_value=bool(scale_value))
            return describe(network, height, width)
        if model in ("retinanet", "mask_rcnn"):
            from scalablevit.detection.complexity import describe as describe_dense
        else:
            from scalablevit.segmentation.models import describe as describe_dense  # type: ignore[assignment]
    return describe_dense(model, variant, height, width, num_classes=classes, scale_value=scale_value)  # type: ignore[arg-type]


def _bench(args: argparse.Namespace) -> int:
    if args.output is not None and (not args.output or Path(args.output).is_dir()):
        raise ValueError(f"--output {args.output!r} is not a file; name one, such as bench.json")
    with _importing():
        from scalablevit.bench.cells import cells
        from scalablevit.bench.result import table
        from scalablevit.bench.throughput import measure
        from scalablevit.bench.turns import Timing

    def tell(number: int, count: int, cell: object, seconds: float | None) -> None:
        text = f"[{number}/{count}] {cell} ... " if seconds is None else f"{seconds:.0f} s\n"
        print(text, end="", file=sys.stderr, flush=True)

    result = measure(
        args.models or _BENCH_MODELS,
        cells(sizes=args.size, precisions=args.precision, modes=args.mode, tasks=args.task, batches=args.batch),
        timing=Timing(rounds=args.rounds, warm_up=args.warm_up, passes=args.passes),
        device=None if args.device == "auto" else args.device,
        threads=args.threads,
        memory=args.memory,
        channels_last=args.channels_last,
        output=args.output,
        on_cell=tell,
    )
    print(json.dumps(result, indent=2) if args.json else table(result))
    measured = any("note" not in found for cell in result["cells"] for found in cell["contenders"].values())
    return 0 if measured else 1


def _check_data(args: argparse.Namespace) -> int:
    names = {name: getattr(args, name) for name in ("train", "val", "images", "masks") if hasattr(args, name)}
    kind = args.kind or _kind_of_data(args.root, names)
    given = {flag: value for flag, value in vars(args).items() if "--" + flag.replace("_", "-") in _CHECK_FLAGS}
    for flag in given:
        name = "--" + flag.replace("_", "-")
        if name not in _CHECK_OPTIONS[kind]:
            others = [_CHECK_TITLES[k] for k, options in _CHECK_OPTIONS.items() if name in options]
            raise UsageError(f"{name} is for {' and '.join(others)}; {args.root} holds {_CHECK_TITLES[kind]}")
    if given.pop("no_masks", False):
        given["masks"] = False
    check: Any
    if kind == "coco":
        from scalablevit.detection.check import check_coco as check
    elif kind == "masks":
        from scalablevit.segmentation.check import check_masks as check
    else:
        from scalablevit.classification.check import check_folder as check

    with _progress("checking pictures") as on_progress:
        report = check(args.root, val_fraction=args.val_fraction, on_progress=on_progress, **given)
    print(report.to_json() if args.json else report.to_text())
    return 0 if report.ok else 1


def _kind_of_data(root: str, names: dict[str, str]) -> str:
    """ "coco", "masks" or "classes", by what lies in a data folder; `names` are of folders, as for `scan_pairs`."""
    folder = Path(root).expanduser()
    if folder.is_file() or any(
        any(folder.glob(pattern)) for pattern in ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    ):
        from scalablevit.detection.coco import CocoError, find_parts

        try:
            find_parts(folder)
            return "coco"
        except CocoError as error:
            # a folder of pictures may hold some other JSON file beside them
            if folder.is_file() or error.kind != "no-annotation-file" or any(folder.glob("annotations/*.json")):
                return "coco"
    from scalablevit.segmentation.mask_settings import MaskSettings
    from scalablevit.segmentation.pairs import scan_pairs

    return "masks" if scan_pairs(folder, MaskSettings(**names)).train else "classes"  # type: ignore[arg-type]


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Takes (done, all) and shows a bar on standard error; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _recipes(args: argparse.Namespace) -> int:
    if args.name is not None:
        print(recipe_text(args.name), end="")
        return 0
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {recipe_title(name)}")
    print("\nscalablevit recipes NAME prints one; scalablevit fit --config NAME trains by it")
    return 0


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
