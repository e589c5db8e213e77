"""`scalablevit export --int8`: calibration images, the evaluation of `validate`, and the table of precisions."""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit.abridged import abridged
from scalablevit.cli.errors import UsageError
from scalablevit.cli.importing import importing
from scalablevit.cli.terminal import tell
from scalablevit.cli.validate_exported import ON_CPU
from scalablevit.tasks import entries, load

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scalablevit.deploy.int8 import Int8Exported

CALIBRATION_IMAGES = 128
MAX_DROP = 1.0
_ROUNDS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of int8 to those of `export`."""
    group = parser.add_argument_group("int8 (needs scalablevit[int8])")
    group.add_argument("--int8", action="store_true", help="quantize to int8; measure accuracy and speed")
    group.add_argument("--data", metavar="FOLDER", help="training and validation images (default: those of the run)")
    group.add_argument(
        "--max-drop", type=float, metavar="POINTS",
        help=f"largest allowed drop of the metric, in percentage points (default: {MAX_DROP:g})",
    )  # fmt: skip
    group.add_argument(
        "--calibration-images", type=int, metavar="N",
        help=f"number of training images for calibration (default: {CALIBRATION_IMAGES})",
    )  # fmt: skip
    group.add_argument(
        "--exclude", nargs="+", metavar="PART", help="parts to keep in floating point, such as head or stages.0"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse flags that do not fit together.

    Raises:
        UsageError: a flag of int8 without `--int8`, or a value out of range.
    """
    for name in ("data", "max_drop", "calibration_images", "exclude"):
        if getattr(args, name) is not None and not args.int8:
            raise UsageError(f"--{name.replace('_', '-')} is for --int8: add it, or leave this out")
    if args.max_drop is not None and not args.max_drop >= 0:
        raise UsageError(f"--max-drop must be at least 0 points, got {args.max_drop}")
    if args.calibration_images is not None and args.calibration_images < 1:
        raise UsageError(f"--calibration-images must be at least 1, got {args.calibration_images}")


class Evaluator:
    """Training images and the evaluation of `scalablevit validate`, for networks in the place of the run's own.

    Args:
        model: run folder, or its `model.safetensors`.
        data: folder of the data; None: where the run's recipe has them.
        class_names: of the trained network, by index.

    Raises:
        ValueError: the folder has no recipe, or the data have other classes.
    """

    def __init__(self, model: str, data: str | None, *, class_names: Sequence[str]) -> None:
        with importing():
            from scalablevit.training.command import TrainingCommand, quiet_lightning

        quiet_lightning()
        path = Path(model)
        run = path if path.is_dir() else path.parent
        recipe = run / "recipe.yaml"
        if not recipe.is_file():
            raise ValueError(
                f"--int8 evaluates as the run does, and {recipe} is missing: name the folder that fit wrote"
            )
        words = list(ON_CPU)
        if data is not None:
            words += ["--data.root", data, *_without_builtin(recipe)]
        self.command = TrainingCommand("validate", [recipe], words, run=run)
        self.monitor = type(self.command.model).monitor[0]
        self.metric_name: str = getattr(self.command.model, "metric_name", "")
        found = list(self.command.datamodule.class_names)
        if found != list(class_names):
            raise ValueError(
                f"{data or 'the data of the run'}: classes are {abridged(found)}, but {run} was trained for "
                f"{abridged(list(class_names))}; name data of the same classes by --data"
            )

    def training_images(self, predictor: Any, count: int) -> "list[Tensor]":
        """Normalised images (1, C, H, W), as `predict` shows them to the network.

        Args:
            predictor: of the run.
            count: most images; they are spread evenly over the training set.

        Raises:
            ValueError: none of them can be read.
        """
        from scalablevit.data.check import evenly_spread
        from scalablevit.deploy.detector_graph import is_detector

        dataset: Any = self.command.datamodule.train_dataset
        paths = [dataset.path(i) for i in evenly_spread(len(dataset), count)]
        images: list[Tensor] = []
        network = predictor.network
        # A detector resizes and normalises by itself: its backbone sees what the graph will see.
        seen = network.backbone if is_detector(network) else network
        handle = seen.register_forward_pre_hook(lambda module, inputs: images.extend(inputs[0].detach().cpu().split(1)))
        try:
            failed = [found.error for found in predictor.predict(paths) if found.error is not None]
        finally:
            handle.remove()
        if not images:
            raise ValueError(
                f"none of {len(paths)} training images can be read for calibration. The first: {failed[0]}"
            )
        if failed:
            logging.getLogger(__name__).warning(
                "%d of %d calibration images cannot be read and are left out. The first: %s",
                len(failed), len(paths), failed[0],
            )  # fmt: skip
        return images[:count]

    def measure(self, network: "nn.Module") -> float:
        """The metric of a network, or of an exported file that is open, on the validation set."""
        return self.metrics(network)[self.monitor]

    def metrics(self, network: "nn.Module") -> dict[str, float]:
        """All metrics of a network on the validation set, as `scalablevit validate` has them."""
        from scalablevit.deploy.exported import ExportedNetwork

        if isinstance(network, ExportedNetwork):
            network = load(entries()[network.task].predictor).load(network).network
        module: Any = self.command.model
        original, module.network = module.network, network
        try:
            (metrics,) = self.command.trainer.validate(module, self.command.datamodule, verbose=False)
        finally:
            module.network = original
        return {name: float(value) for name, value in metrics.items()}


def export_run(args: argparse.Namespace, source: Any, predictor: Any, output: Path) -> int:
    """Quantize a run's network, and print the table of precisions.

    Args:
        args: of the command line.
        source: network, mean, std, metadata and output names.
        predictor: of the run.
        output: main file.
    """
    from scalablevit.deploy.int8 import Quantization, export_int8

    metric = entries()[source.metadata["task"]].int8_metric
    if not metric:
        known = " and ".join(entry.name for entry in entries().values() if entry.int8_metric)
        raise ValueError(
            f"--int8 quantizes runs of {known}; {args.model} holds one of {source.metadata['task']}: export it without "
            "--int8"
        )
    evaluator = Evaluator(args.model, args.data, class_names=predictor.class_names)
    metric = evaluator.metric_name or metric
    images = evaluator.training_images(predictor, args.calibration_images or CALIBRATION_IMAGES)
    tell(f"int8: calibrating on {len(images)} training images; each trial is measured on the validation set")
    max_drop = MAX_DROP if args.max_drop is None else args.max_drop
    if remark := too_few(len(evaluator.command.datamodule.val_dataset), max_drop):
        tell(f"warning: {remark}")
    quantization = Quantization(
        images,
        evaluator.measure,
        metric,
        max_drop=max_drop,
        exclude=args.exclude or (),
    )
    size = None if args.size is None else (args.size[0], args.size[-1])
    done = export_int8(
        source.network, output, quantization, format=args.format, mean=source.mean, std=source.std,
        metadata=source.metadata, output_names=source.output_names, size=size, batch=args.batch, uint8=args.uint8,
        on_step=tell,
    )  # fmt: skip
    for shape, difference in done.differences.items():
        print(f"images {' x '.join(map(str, shape))}: int8 differs from fp32 by {difference:.1e}")
    print("\n".join(table(done, metric)))
    excluded = f", without {', '.join(args.exclude)}" if args.exclude else ""
    print(f"{done.path}: int8, {done.trial.settings}{excluded}")
    return 0


def too_few(num_images: int, max_drop: float) -> str:
    """Say that a validation set is too small to measure a loss: one image weighs more points than it; else empty."""
    if max_drop * num_images >= 100 or max_drop == 0:
        return ""
    return f"a loss of {max_drop:g} points cannot be measured on {num_images} validation images: name more by --data"


def table(done: "Int8Exported", metric: str) -> list[str]:
    """Lines of metric, size and speed of each precision; timed in turns."""
    from scalablevit.bench.turns import Timing, interleave

    runs = {variant.name: lambda run=variant.run: run(done.batch) for variant in done.variants}
    for run in runs.values():
        run()
    times, _ = interleave(runs, timing=Timing(rounds=_ROUNDS), synchronise=lambda: None)
    height, width = done.batch.shape[1:3] if done.batch.shape[-1] in (1, 3) else done.batch.shape[2:]
    lines = [f"{'':12} {metric:>9} {'file':>10} {'images/s':>10}   (batch {len(done.batch)}, {height} x {width} px)"]
    for variant in done.variants:
        rate = len(done.batch) / statistics.median(times[variant.name])
        lines.append(f"{variant.name:12} {variant.metric:>9.2%} {variant.bytes / 1e6:>7.1f} MB {rate:>10.1f}")
    if len(done.variants) == 2:
        lines.append("bf16: not run natively by this runtime on this processor")
    return lines


def _without_builtin(recipe: Path) -> list[str]:
    """Words that keep a recipe from writing its built-in data set into another folder."""
    with importing():
        from scalablevit.training.recipe_file import read_recipe

    data: Any = read_recipe(recipe).get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    has_one = isinstance(arguments, Mapping) and arguments.get("builtin") is not None
    return ["--data.builtin", "null"] if has_one else []
