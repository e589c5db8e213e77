"""`scalablevit bench`."""

import argparse
import sys
from pathlib import Path

from scalablevit.cli.importing import importing
from scalablevit.cli.terminal import print_json, show_warnings, tell
from scalablevit.cli.trained_run import is_exported_file, is_run, not_a_run, run_metadata, run_of_part, variant_of
from scalablevit.cli.words import Parser, parser_of
from scalablevit.model_files import EXPORTED_FILE

SUMMARY = "Measure time and memory of networks, side by side and interleaved"
MODELS = ("scalablevit_small", "plain:scalablevit_small")
CHOICES = {
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "mode": ("eager", "compile", "graphs", "optimized"),
    "task": ("inference", "training"),
}
"""What `scalablevit.bench.cells` can measure; the first is the default."""
_MEANINGS = {
    "precision": "bf16, fp16: cast weights in inference, autocast in training",
    "mode": "graphs: with CUDA graphs; optimized: scalablevit.optimize, torch.compile for others",
    "task": "forward pass, or training step with AdamW",
}


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("bench", SUMMARY)
    found.epilog = (
        "MODEL is any name that timm knows, plain:VARIANT (our network as published code writes it), "
        "twins_svt_small:4d, vit_pytorch:scalable_vit or vit_pytorch:scalable_vit_paper; MODEL@MODE runs it in a mode "
        "of its own. A run folder stands for its variant; beside an "
        f"{EXPORTED_FILE} for the network that it trained. Lists give every combination."
    )
    add = found.add_argument
    add(
        "models", nargs="*", metavar="MODEL",
        help=f"networks; the others are compared with the first (default: {' '.join(MODELS)})",
    )  # fmt: skip
    add("--batch", type=int, nargs="+", default=[8], metavar="N", help="images per pass (default: 8)")
    add(
        "--size",
        type=_size,
        nargs="+",
        default=[(224, 224)],
        metavar="N|HxW",
        help="image size in pixels (default: 224)",
    )
    for name, choices in CHOICES.items():
        add(
            f"--{name}", nargs="+", choices=choices, default=[choices[0]], metavar=name[0].upper(),
            help=f"one or more of {', '.join(choices)} (default: {choices[0]}); {_MEANINGS[name]}",
        )  # fmt: skip
    add("--rounds", type=int, default=20, metavar="N", help="timed rounds of each network (default: 20)")
    add("--warm-up", type=int, default=3, metavar="N", help="rounds that are run first and discarded (default: 3)")
    add("--passes", type=int, metavar="N", help="passes per round (default: 1 on a CPU, else 5)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: as torch sets them)")
    add("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto, a GPU if there is one)")
    add(
        "--memory",
        action="store_true",
        help="measure peak memory too; on a CPU each network then runs in its own process",
    )
    add("--channels-last", action="store_true", help="use the channels-last memory format for all networks")
    add("--output", metavar="FILE", help="write every time as JSON, again after every combination")
    add("--json", action="store_true", help="print that JSON instead of a table")
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    show_warnings()
    if args.output is not None and (not args.output or Path(args.output).is_dir()):
        raise ValueError(f"--output {args.output!r} is not a file; name one, such as bench.json")
    with importing():
        from scalablevit.bench.cells import cells
        from scalablevit.bench.result import table
        from scalablevit.bench.throughput import measure
        from scalablevit.bench.turns import Timing

    def tell(number: int, count: int, cell: object, seconds: float | None) -> None:
        text = f"[{number}/{count}] {cell} ... " if seconds is None else f"{seconds:.0f} s\n"
        print(text, end="", file=sys.stderr, flush=True)

    result = measure(
        _models(args.models) or MODELS,
        cells(sizes=args.size, precisions=args.precision, modes=args.mode, tasks=args.task, batches=args.batch),
        timing=Timing(rounds=args.rounds, warm_up=args.warm_up, passes=args.passes),
        device=None if args.device == "auto" else args.device,
        threads=args.threads,
        memory=args.memory,
        channels_last=args.channels_last,
        output=args.output,
        on_cell=tell,
    )
    if args.json:
        print_json(result, indent=2)
    else:
        print(table(result))
    measured = any("note" not in found for cell in result["cells"] for found in cell["contenders"].values())
    return 0 if measured else 1


def _models(given: list[str]) -> list[str]:
    """The networks to measure; beside exported files a run is measured with the layers that it was exported with."""
    if not any(is_exported_file(model) for model in given):
        return [_variant(model) for model in given]
    return [str(Path(model).parent) if Path(model).suffix == ".safetensors" else model for model in given]


def _variant(model: str) -> str:
    """A run stands for the variant that it trained: the time of a pass does not depend on the weights."""
    if not is_run(model):
        if run_of_part(model) is not None:  # a folder may have the name of a network of timm
            raise ValueError(not_a_run(model))
        return model
    trained = run_metadata(model)
    variant = variant_of(trained)
    with importing():
        from scalablevit.networks import is_ours

    if not is_ours(variant):  # its options make another network of it
        tell(f"{model}: measuring the network of this run, {variant}")
        return str(trained.path.parent)
    tell(f"{model}: measuring {variant}, the network of this run")
    return variant


def _size(text: str) -> tuple[int, int]:
    """(height, width) from "224" or "800x1280"."""
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give a side such as 224, or height x width as 800x1280")
    return sides[0], sides[-1]
