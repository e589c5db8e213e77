"""`scalablevit predict`."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.importing import importing
from scalablevit.cli.words import Parser, add_flags, given_arguments, parser_of
from scalablevit.tasks import entries, load

SUMMARY = "Run inference on images"


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("predict", SUMMARY)
    found.add_argument("inputs", nargs="+", metavar="IMAGE", help="files, folders or globs")
    found.add_argument("--weights", required=True, metavar="RUN|FILE", help="run folder, or its model.safetensors")
    found.add_argument("--json", action="store_true", help="print one JSON object per line and image, not a table")
    found.add_argument("--save", metavar="FOLDER", help="write annotated images there; existing files are kept")
    found.add_argument(
        "--batch-size", type=int, metavar="N", help="images per batch; in segmentation tiles (default: of the task)"
    )
    found.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="read images of up to N million pixels (default: 179); raise it for files that you trust",
    )  # fmt: skip
    found.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    for name, entry in entries().items():
        add_flags(found, name, entry.predict_flags)
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    with importing():
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
    if task not in entries():
        raise ValueError(f"{args.weights} holds weights for {task!r}; this version predicts {', '.join(entries())}")
    entry = entries()[task]
    with importing():
        predictor = load(entry.predictor).load(weights, device=args.device)
    flags = {name: other.predict_flags for name, other in entries().items()}
    options = given_arguments(args, flags, task, f"{args.weights} holds weights for {task}")
    if args.batch_size is not None:
        options["batch_size"] = args.batch_size
    folder = None if args.save is None else Path(args.save)
    table = Table("image", *entry.columns, box=None, pad_edge=False, header_style="bold")
    failed = 0
    saved: dict[str, int] = {}
    limit = contextlib.nullcontext() if args.max_pixels is None else pixel_limit(args.max_pixels * 10**6)
    with limit, memory_advice("predict", lambda: entry):
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
            del prediction  # or its image would be kept while the next one is predicted
    if saved:
        print(f"annotated images are in {folder}", file=sys.stderr)
    if not args.json and table.row_count:
        # A pipe has no width to wrap to.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table)
    return 1 if failed else 0


def _save_pictures(prediction: Any, folder: Path, saved: dict[str, int]) -> None:
    """Write a prediction's annotated images; `saved` as for `_free_paths`."""
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
