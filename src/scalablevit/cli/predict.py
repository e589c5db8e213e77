"""`scalablevit predict`."""

import argparse
import contextlib
import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalablevit.cli.embeddings_file import EmbeddingsFile, check_embeddings
from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.image_inputs import ImageInput, expand, relative_stems
from scalablevit.cli.importing import importing
from scalablevit.cli.prediction_files import FORMATS, PredictionFile, check_format, open_format
from scalablevit.cli.prediction_table import PredictionTable
from scalablevit.cli.save_images import check_folder, save
from scalablevit.cli.terminal import has_no_number, print_json, show_warnings, tell
from scalablevit.cli.trained_run import is_exported_file, is_run
from scalablevit.cli.words import Parser, add_flags, device, given_arguments, parser_of
from scalablevit.model_files import TRAINED
from scalablevit.tasks import TaskEntry, entries, load

SUMMARY = "Run inference on images"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("predict", SUMMARY)
    found.add_argument("inputs", nargs="+", metavar="IMAGE", help="files, folders or globs")
    found.add_argument("--weights", metavar="RUN|FILE", help=TRAINED)
    found.add_argument("--json", action="store_true", help="print one JSON object per line and image, not a table")
    found.add_argument(
        "--save",
        metavar="FOLDER",
        help="write annotated images there, in the subfolders of IMAGE; existing files are kept",
    )
    found.add_argument(
        "--format", choices=FORMATS,
        help="also write CSV, COCO JSON or YOLO text files; CSV without --output is printed in place of the table",
    )  # fmt: skip
    found.add_argument("--output", metavar="PATH", help="file of --format csv and coco, folder of --format yolo")
    found.add_argument("--csv", metavar="FILE", help="short for --format csv --output FILE")
    found.add_argument(
        "--embeddings",
        metavar="FILE",
        help="classification: also write the features before the head; FILE ends in .npz or .csv",
    )
    found.add_argument(
        "--annotations", metavar="FILE", help="with --format coco: use the image and category ids of this COCO file"
    )
    found.add_argument(
        "--batch-size", type=int, metavar="N", help="images per batch; in segmentation tiles (default: of the task)"
    )
    found.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="read images of up to N million pixels (default: 179); raise it for files that you trust",
    )  # fmt: skip
    found.add_argument("--device", type=device, help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    for name, entry in entries().items():
        add_flags(found, name, entry.predict_flags)
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    inputs, weights = weights_of(args.inputs, args.weights)
    with importing():
        from scalablevit.data.image_file import pixel_limit
        from scalablevit.deploy.exported import open_weights

    show_warnings()
    folder = None if args.save is None else check_folder(args.save)
    if args.max_pixels is not None and args.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1 (million), got {args.max_pixels}")
    trained = open_weights(weights)
    entry = entries()[trained.task]
    options = _options(args, entry, weights)
    if args.csv and (args.format or args.output):
        raise UsageError("--csv FILE is short for --format csv --output FILE: leave out --format and --output")
    kind, output = ("csv", args.csv) if args.csv else (args.format, args.output)
    if args.json and kind == "csv" and not output:
        raise UsageError("--json and --format csv would both be printed: leave one out, or write the CSV to --output")
    if kind is not None:
        check_format(entry, kind, output, args.annotations)
    elif output or args.annotations:
        raise UsageError("--output and --annotations go with --format csv, coco or yolo")
    if args.embeddings is not None:
        check_embeddings(entry, args.embeddings, output=output)
        options["keep_embeddings"] = True
    printed = "json" if args.json else None if kind == "csv" and not output else "table"
    report = Report(entry, folder, printed=printed)
    images = expand(inputs, report.fail, tell)
    if images:
        with importing():
            from scalablevit.deploy.prediction import PAYS_FROM

            predictor = load(entry.predictor).load(trained, device=args.device)
            if len(images) >= PAYS_FROM:
                predictor.prepare()
        report.begin(images, predictor.class_names)
        if kind is not None:
            report.file = open_format(entry, kind, output, args.annotations, predictor.class_names)
        report.embeddings = None if args.embeddings is None else EmbeddingsFile(args.embeddings)
        limit = contextlib.nullcontext() if args.max_pixels is None else pixel_limit(args.max_pixels * 10**6)
        with contextlib.closing(report), limit, memory_advice("predict", lambda: entry):
            paths = [image.path for image in images]
            for prediction in predictor.predict(paths, keep_images=folder is not None, **options):
                report.add(prediction)
                del prediction  # or its image would be kept while the next one is predicted
    return report.end()


def weights_of(inputs: Sequence[str], weights: str | None, *, command: str = "predict") -> tuple[list[str], str]:
    """The images and the weights; a run folder among the images is taken for the weights where none are named.

    Raises:
        UsageError: there are no weights, or nothing else.
    """
    if weights is not None:
        return list(inputs), weights
    runs = [
        given for given in inputs if is_run(given) or Path(given).suffix in (".ckpt", ".pth") or is_exported_file(given)
    ]
    images = [given for given in inputs if given not in runs]
    if len(runs) != 1 or not images:
        raise UsageError(f"{command} needs images and weights: scalablevit {command} IMAGE ... --weights RUN")
    return images, runs[0]


def _options(args: argparse.Namespace, entry: TaskEntry, weights: str) -> dict[str, Any]:
    """Arguments of the predictor that were given as flags."""
    flags = {name: other.predict_flags for name, other in entries().items()}
    options = given_arguments(args, flags, entry.name, f"{weights} holds weights for {entry.name}")
    if args.batch_size is not None:
        options["batch_size"] = args.batch_size
    return options


class Report:
    """Prints and saves predictions as they come, and counts what failed.

    Args:
        entry: of the task.
        folder: for annotated images; None: none are saved.
        printed: "table" or "json"; None: neither.

    Attributes:
        file: that takes the predictions too; None: there is none.
        embeddings: file of features; None: there is none.
    """

    def __init__(self, entry: TaskEntry, folder: Path | None, *, printed: str | None) -> None:
        self.entry, self.folder, self.printed = entry, folder, printed
        self.file: PredictionFile | None = None
        self.embeddings: EmbeddingsFile | None = None
        self.num_failed = self.num_saved = 0
        self._stems: dict[Path, Path] = {}
        self._table: PredictionTable | None = None

    def begin(self, images: Sequence[ImageInput], class_names: Sequence[str]) -> None:
        """Prepare for the images that will come."""
        self._stems = relative_stems(images)
        if self.printed == "table":
            self._table = PredictionTable(self.entry.columns, (str(image.path) for image in images), class_names)

    def fail(self, message: str) -> None:
        """Tell what failed in one line."""
        self.num_failed += 1
        tell(f"skipped {message}")

    def add(self, prediction: Any) -> None:
        """Print and save a prediction.

        Raises:
            WriteError: the disk is full.
        """
        row = prediction.to_dict()
        if prediction.error is not None:
            if self.printed == "json":
                print_json(row)
            self.fail(prediction.error)
            return
        if has_no_number(row):
            self.num_failed += 1
            remedy = "train with a lower learning rate, or take an earlier checkpoint"
            tell(f"{prediction.path}: the network returned values that are not numbers (NaN); {remedy}")
        if self.folder is not None:
            self._save(prediction, row)
        if self._table is not None:
            self._table.add(str(prediction.path), prediction.table_rows())
        elif self.printed == "json":
            print_json(row)
        if self.embeddings is not None:
            self.embeddings.add(prediction)
        if self.file is not None:
            try:
                self.file.add(prediction, row, self._stems[prediction.path])
            except ValueError as error:
                self.fail(str(error))

    def close(self) -> None:
        """Complete the file, also of a command that was stopped."""
        with contextlib.ExitStack() as stack:  # each is completed, also where the other cannot be
            for file in (self.embeddings, self.file):
                if file is not None:
                    stack.callback(file.close)

    def end(self) -> int:
        """Say where images were saved; the exit code."""
        if self.num_saved:
            tell(f"annotated images are in {self.folder}")
        return 1 if self.num_failed else 0

    def _save(self, prediction: Any, row: dict[str, Any]) -> None:
        assert self.folder is not None
        try:
            paths = save(
                prediction.output_images(),
                self.folder,
                self._stems[prediction.path],
                documents=getattr(prediction, "output_documents", dict)(),
            )
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise
            self.num_failed += 1
            tell(f"not saved: {error.strerror or error}")
            return
        self.num_saved += len(paths)
        row["saved"] = [str(path) for path in paths]
