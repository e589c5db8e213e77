"""`scalablevit export`."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from scalablevit.cli import int8
from scalablevit.cli.errors import UsageError
from scalablevit.cli.importing import importing
from scalablevit.cli.terminal import tell
from scalablevit.cli.trained_run import is_run, not_a_run, variant_of
from scalablevit.cli.words import Parser, parser_of
from scalablevit.model_files import EXPORTED
from scalablevit.safe_write import check_writable
from scalablevit.tasks import entries, load

SUMMARY = "Export a network to ONNX, OpenVINO or PyTorch, checked by its runtime"


class _Source(NamedTuple):
    """What to export, and what its file shall tell of it."""

    network: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metadata: dict[str, Any]
    output_names: list[str] | None
    predictor: Any = None
    fixed_size: tuple[int, int] | None = None


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("export", SUMMARY)
    found.add_argument("model", metavar="RUN|VARIANT", help="run folder, its model.safetensors, or a variant's name")
    found.add_argument(
        "--format", default="onnx", choices=tuple(EXPORTED),
        help="onnx (.onnx), openvino (.xml and .bin) or torch (.pt2) (default: onnx)",
    )  # fmt: skip
    found.add_argument(
        "--output",
        metavar="FILE",
        help="file to write (default: beside the weights; of a variant, in the current folder)",
    )
    found.add_argument(
        "--size", type=int, nargs="+", metavar="N",
        help="fix the image to this side, or height and width, in pixels (default: free)",
    )  # fmt: skip
    found.add_argument("--batch", type=int, metavar="N", help="fix the number of images (default: free)")
    found.add_argument(
        "--uint8", action="store_true", help="take bytes (N, H, W, C) instead of floats in 0..1 (N, C, H, W)"
    )
    found.add_argument(
        "--pyramid", action="store_true", help="export the four feature maps of a variant instead of its classifier"
    )
    int8.add_arguments(found)
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    if args.size is not None and len(args.size) > 2:
        raise UsageError(f"--size takes a side, or height and width, got {args.size}")
    int8.check_arguments(args)
    size = None if args.size is None else (args.size[0], args.size[-1])
    with importing():
        from scalablevit.deploy.export import checked_format, export, file_bytes
        from scalablevit.deploy.quantize import check_can_quantize

    output = _output(args, EXPORTED[args.format])
    chosen = checked_format(args.format, output)
    check_writable(output)
    try:
        chosen.check_installed(args.format)
        if args.int8:
            check_can_quantize(args.format)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    if args.int8 and not is_run(args.model):
        raise UsageError("--int8 is for runs: a variant's random weights have no accuracy to keep")
    source = _run(args) if is_run(args.model) else _variant(args)
    if source.fixed_size is not None and size is None:
        height, width = size = source.fixed_size
        args.size = list(size)
        tell(f"the network takes images of one size: the file is fixed to {height} x {width} pixels")
    if args.int8:
        return int8.export_run(args, source, source.predictor, output)
    tell(f"exporting to {args.format} and checking with {chosen.runtime}; this takes from seconds to minutes")
    try:
        done = export(
            source.network,
            output,
            format=args.format,
            mean=source.mean,
            std=source.std,
            metadata=source.metadata,
            output_names=source.output_names,
            size=size,
            batch=args.batch,
            uint8=args.uint8,
        )
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    for check in done.checks:
        compared = "" if check.detections is None else f" of {check.detections} detections"
        images = " x ".join(map(str, check.shape))
        print(f"images {images}: largest relative difference {check.difference:.1e}{compared}")
    print(f"{done.path}: {file_bytes(done.path) / 1e6:.1f} MB, checked with {done.runtime}")
    return 0


def _output(args: argparse.Namespace, suffix: str) -> Path:
    if args.output is not None:
        return Path(args.output)
    if not is_run(args.model):
        return Path(f"{args.model}{suffix}")
    path = Path(args.model)
    path = path / "model" if path.is_dir() else path.with_suffix("")
    return path.with_name(f"{path.name}-int8{suffix}" if args.int8 else f"{path.name}{suffix}")


def _run(args: argparse.Namespace) -> _Source:
    """The network of a run, with what its weights say of it."""
    if args.pyramid:
        raise UsageError("--pyramid is for a variant's name; a run is exported as it was trained")
    with importing():
        from scalablevit.networks import takes_one_size
        from scalablevit.visualization.palette import class_colours
        from scalablevit.weights import open_trained

        trained = open_trained(args.model)
    entry = entries().get(trained.task)
    if entry is None or not entry.exports:
        known = ", ".join(entry.name for entry in entries().values() if entry.exports)
        raise ValueError(f"{args.model} holds weights for {trained.task!r}; export knows {known}")
    predictor = load(entry.predictor).load(trained, device="cpu")
    palette = getattr(predictor, "palette", None) or class_colours(len(predictor.class_names))
    metadata = {**trained.metadata, "colours": [list(colour) for colour in palette]}
    preprocessing = predictor.preprocessing
    name, options = variant_of(trained), trained.metadata.get("model_args") or {}
    fixed = preprocessing.image_size if entry.image_size_key and takes_one_size(name, options) else None
    return _Source(predictor.network, preprocessing.mean, preprocessing.std, metadata, None, predictor, fixed)


def _variant(args: argparse.Namespace) -> _Source:
    """A network of random weights: for measuring speed, and for whoever fills in weights later."""
    with importing():
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        from scalablevit.backbone import VARIANTS
        from scalablevit.deploy.untrained import untrained_classifier, untrained_pyramid

    if args.model not in VARIANTS:
        if Path(args.model).exists():
            raise ValueError(not_a_run(args.model))
        raise ValueError(
            f"{args.model} is neither a run folder nor a variant of ours; these are {', '.join(VARIANTS)}; of other "
            "networks, export takes runs"
        )
    tell(f"{args.model} has random weights: name a run folder to export what was trained")
    network, metadata, names = (untrained_pyramid if args.pyramid else untrained_classifier)(args.model)
    return _Source(network, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, metadata, names)
