"""`scalablevit explain`."""

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scalablevit.cli import explain_study
from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.image_inputs import ImageInput, expand, relative_stems
from scalablevit.cli.importing import importing
from scalablevit.cli.predict import weights_of
from scalablevit.cli.prediction_table import PredictionTable
from scalablevit.cli.save_images import check_folder, save
from scalablevit.cli.terminal import print_json, show_warnings, tell
from scalablevit.cli.trained_run import is_exported_file
from scalablevit.cli.words import Parser, add_flags, device, parser_of
from scalablevit.explain.methods import CLASS, METHODS, Method
from scalablevit.model_files import TRAINED
from scalablevit.safe_write import json_text
from scalablevit.tasks import entries, load

SUMMARY = "Show what a trained network sees in images"
_NEGATIVE_POINT = re.compile(r"-[\d.]+,-?[\d.]+")
_COLUMNS = ("explanation", "found")


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("explain", SUMMARY)
    add = found.add_argument
    add("inputs", nargs="*", metavar="IMAGE", help="files, folders or globs")
    add("--weights", metavar="RUN|FILE", help=f"{TRAINED} for --method occlusion")
    add(
        "--method", nargs="+", choices=tuple(METHODS), metavar="METHOD",
        help="; ".join(f"{method.name}: {method.summary}" for method in METHODS.values()) + " (default: cam)",
    )  # fmt: skip
    add("--save", metavar="FOLDER", help="write images there, each with a JSON file of its numbers")
    add("--json", action="store_true", help="print one JSON object per line and explanation, not a table")
    add(
        "--threshold", type=float, default=0.5, metavar="X",
        help="lowest score of an object, or of a label where images have several, that is explained (default: 0.5)",
    )  # fmt: skip
    add("--device", type=device, help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    for method in METHODS.values():
        add_flags(found, method.name, method.flags)
    explain_study.add_arguments(found)
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    # argparse takes a point left of the image, -1,5, for a flag; a blank before it makes it a value
    args = parser().parse_args([f" {word}" if _NEGATIVE_POINT.fullmatch(word) else word for word in words])
    explain_study.check_arguments(args)
    if args.study is not None:
        return explain_study.run_study(args)
    inputs, weights = weights_of(args.inputs, args.weights, command="explain")
    if not 0 <= args.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {args.threshold:g}")
    methods = [METHODS[name] for name in dict.fromkeys(args.method or ["cam"])]
    for name in ("most", "windows"):
        if getattr(args, name, 1) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(args, name)}")
    options = _options(args, methods)
    if is_exported_file(weights):
        _refuse_exported(weights, methods)
    with importing():
        from scalablevit.deploy.exported import open_weights

    show_warnings()
    folder = None if args.save is None else check_folder(args.save)
    trained = open_weights(weights)
    entry = entries()[trained.task]
    if not entry.explained:
        known = ", ".join(name for name, entry in entries().items() if entry.explained)
        raise ValueError(f"{weights} holds weights for {trained.task!r}; explain knows {known}")
    report = Report(folder, as_json=args.json)
    images = expand(inputs, report.fail, tell)
    if not images:
        return report.end()
    with importing():
        predictor = load(entry.predictor).load(trained, device=args.device)
        subject_of = load(entry.explained)
    if getattr(args, CLASS.dest, None) is not None:
        load("scalablevit.explain.subject:class_index")(getattr(args, CLASS.dest), predictor.class_names)
    report.begin(images, predictor.class_names)
    subjects = Subjects(images, predictor, subject_of, args.threshold, report)
    with memory_advice("explain", lambda: entry):
        one_by_one = [method for method in methods if not method.over_images]
        if one_by_one:
            for subject in subjects:
                for method in one_by_one:
                    report.add_all(
                        method, subject.path, partial(load(method.function), subject, **options[method.name])
                    )
        for method in methods:
            if method.over_images:
                report.add_all(method, None, partial(load(method.function), subjects, **options[method.name]))
    return report.end()


def _options(args: argparse.Namespace, methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """For each method the arguments that were given as flags.

    Raises:
        UsageError: a flag of a method that is not asked for.
    """
    options: dict[str, dict[str, Any]] = {method.name: {} for method in methods}
    for flag in explain_study.method_flags():
        if not hasattr(args, flag.dest):
            continue
        users = [method for method in methods if flag in method.flags]
        if not users:
            owners = " or ".join(method.name for method in METHODS.values() if flag in method.flags)
            raise UsageError(f"{flag.name} is for --method {owners}; --method is {', '.join(m.name for m in methods)}")
        for method in users:
            options[method.name][flag.argument] = getattr(args, flag.dest)
    return options


def _refuse_exported(weights: str, methods: Sequence[Method]) -> None:
    """Raise ValueError where a method needs more than an exported file has."""
    refused = [method.name for method in methods if method.needs_network]
    if refused:
        able = ", ".join(method.name for method in METHODS.values() if not method.needs_network)
        raise ValueError(
            f"--method {' '.join(refused)} needs the network itself, but {weights} is an exported file: give the run "
            f"that it was exported from as --weights, or choose --method {able}"
        )


class Subjects:
    """The images as the network sees them; each pass reads them again, and leaves out what cannot be read.

    Args:
        images: to read.
        predictor: of the task.
        subject_of: from predictor, path, image and threshold to a `scalablevit.explain.Subject`.
        threshold: lowest score of what is explained.
        report: is told, once, of each image that cannot be read.
    """

    def __init__(
        self, images: Sequence[ImageInput], predictor: Any, subject_of: Any, threshold: float, report: "Report"
    ) -> None:
        self.images, self.predictor, self.subject_of = images, predictor, subject_of
        self.threshold, self.report = threshold, report
        self._told: set[Path] = set()

    def __iter__(self) -> Iterator[Any]:
        from scalablevit.explain.subject import read_images

        for file in read_images([image.path for image in self.images], self.predictor):
            if file.image is not None:
                yield self.subject_of(self.predictor, file.path, file.image, self.threshold)
            elif file.path not in self._told:
                self._told.add(file.path)
                self.report.fail(str(file.error))


class Report:
    """Prints and saves explanations as they come, and counts what failed.

    Args:
        folder: for images and their numbers; None: none are saved.
        as_json: print JSON, not a table.
    """

    def __init__(self, folder: Path | None, *, as_json: bool) -> None:
        self.folder, self.as_json = folder, as_json
        self.num_failed = self.num_saved = 0
        self._stems: dict[Path, Path] = {}
        self._table: PredictionTable | None = None

    def begin(self, images: Sequence[ImageInput], class_names: Sequence[str]) -> None:
        """Prepare for the images that will come."""
        self._stems = relative_stems(images)
        if not self.as_json:
            widest = [f"{name}: {class_name}" for name in METHODS for class_name in class_names]
            self._table = PredictionTable(_COLUMNS, (str(image.path) for image in images), widest)

    def fail(self, message: str) -> None:
        """Tell what failed in one line."""
        self.num_failed += 1
        tell(f"skipped {message}")

    def add_all(self, method: Method, path: Path | None, explain: Callable[[], Iterable[Any]]) -> None:
        """Run a method, and print and save what it finds; what it refuses is told in one line."""
        shown = "all images" if path is None else str(path)
        try:
            found = list(explain())
        except ValueError as error:
            self.fail(f"{shown}: {method.name}: {error}")
            return
        if not found and self._table is not None:
            self._table.add(shown, [(method.name, "nothing to explain")])
        for explanation in found:
            self._add(explanation, shown)

    def _add(self, explanation: Any, shown: str) -> None:
        row = {"path": None if explanation.path is None else shown, "method": explanation.method}
        row.update(explanation.numbers)
        if self.folder is not None:
            stem = Path("images") if explanation.path is None else self._stems[explanation.path]
            ending = f"-{explanation.method}"
            document = {f"{ending}.json": f"{json_text(row)}\n".encode()}
            paths = save({ending: explanation.draw()}, self.folder, stem, documents=document)
            self.num_saved += 1
            row["saved"] = [str(path) for path in paths]
        if self._table is not None:
            self._table.add(shown, [(f"{explanation.method}: {what}", words) for what, words in explanation.words])
        else:
            print_json(row)

    def end(self) -> int:
        """Say where images were saved; the exit code."""
        if self.num_saved:
            tell(f"images and their numbers are in {self.folder}")
        return 1 if self.num_failed else 0
