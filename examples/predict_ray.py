"""Run inference on an archive of images through Ray Data: on this machine, or on a cluster. Restartable.

    pip install 'scalablevit[ray,stream]'
    python predict_ray.py photos --weights runs/mine --output found
    python predict_ray.py s3://bucket/shards --weights runs/mine --output found
    python predict_ray.py photos --weights model.onnx --output found --format parquet --actors 8 --address auto

The images are listed, sorted, and cut into parts of `--part-size`. An actor holds the network, predicts a part, and
writes its file, whole or not at all. Run it again after it was stopped, killed, or lost a machine: parts whose files
are there are left out, so that no image comes twice and none is missing. An image that cannot be read has a row with
the reason; with `--retry`, parts that have such rows are predicted again.

Images are files, folders, patterns, or one folder or address of shards that `scalablevit shard` wrote. `--weights` is a
run folder, its model.safetensors, or a file of `scalablevit export` (.onnx, .xml). On a cluster, images, weights and
output lie on a disk that all machines share.
"""

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

INSTALL = "pip install 'scalablevit[ray,stream]'"

try:
    import ray
    import ray.data

    from scalablevit.data.find_images import find_images, has_image_suffix
    from scalablevit.data.stream.index import is_stream
    from scalablevit.data.stream.opened import OpenStream, open_stream, task_of
    from scalablevit.safe_write import json_text, sweep_leftovers, write_atomically, write_json
except ImportError as missing:
    sys.exit(f"predict_ray.py: error: a package is missing ({missing}); run: {INSTALL}")

Row = dict[str, Any]


class Archive:
    """The images to predict: files, or what lies in shards.

    Args:
        inputs: files, folders and patterns, or one folder or address of shards.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        self.shards: OpenStream | None = None
        if len(inputs) == 1 and is_stream(inputs[0]):
            self.shards = open_stream(inputs[0], task=str(task_of(inputs[0])))

    def names(self, inputs: Sequence[str]) -> list[str]:
        """Every image, sorted, as its rows name it."""
        if self.shards is None:
            return [str(path.absolute()) for path in find_images(inputs)]
        parts = {part: self.shards.names(part) for part in self.shards.index.parts}
        return sorted(
            f"{self.shards.address}/{part}/{name}" for part in parts for name in parts[part] if has_image_suffix(name)
        )

    def open(self, names: Sequence[str]) -> list[Path]:
        """What a predictor reads, for images of `names`."""
        if self.shards is None:
            return [Path(name) for name in names]
        inside = (name.removeprefix(f"{self.shards.address}/").partition("/") for name in names)
        return [self.shards.folder(part) / name for part, _, name in inside]


class PartPredictor:
    """Holds the network in an actor, and predicts part after part.

    Args:
        inputs: what the command line names.
        weights: what `--weights` names.
        output: folder of the parts.
        kind: "jsonl" or "parquet".
        batch_size: images that are computed at a time.
        device: such as "cuda"; None: a GPU if the actor has one.
    """

    def __init__(
        self, inputs: Sequence[str], weights: str, output: str, kind: str, batch_size: int, device: str | None
    ) -> None:
        from scalablevit.deploy.exported import open_weights
        from scalablevit.tasks import entries, load

        trained = open_weights(weights)
        self.predictor = load(entries()[trained.task].predictor).load(trained, device=device)
        self.predictor.prepare()
        self.archive = Archive(inputs)
        self.output, self.kind, self.batch_size = Path(output), kind, batch_size

    def __call__(self, batch: Row) -> Row:
        """Predict the parts of a batch, each a list of paths, and write their files."""
        counts: Row = {"part": [], "images": [], "unreadable": []}
        for number, text in zip(batch["part"], batch["paths"], strict=True):
            paths = self.archive.open(json.loads(text))
            predictions = self.predictor.predict(paths, keep_images=False, batch_size=self.batch_size)
            rows = [prediction.to_dict() for prediction in predictions]
            write_part(self.output, int(number), self.kind, rows)
            counts["part"].append(int(number))
            counts["images"].append(len(rows))
            counts["unreadable"].append(sum("error" in row for row in rows))
        return counts


def part_file(output: Path, number: int, kind: str) -> Path:
    """Where the rows of a part stand."""
    return output / f"part-{number:06d}.{kind}"


def write_part(output: Path, number: int, kind: str, rows: Sequence[Row]) -> None:
    """Write the rows of a part: complete, or not at all."""
    file = part_file(output, number, kind)
    if kind == "jsonl":
        write_atomically(file, "".join(f"{json_text(row, indent=None)}\n" for row in rows).encode())
        return
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema([("path", text), ("error", text), ("prediction", text)])
    columns = [
        {
            "path": row["path"],
            "error": row.get("error"),
            "prediction": None if "error" in row else json_text(row, indent=None),
        }
        for row in rows
    ]
    write_atomically(file, partial(pyarrow.parquet.write_table, pyarrow.Table.from_pylist(columns, schema=schema)))


def read_part(file: Path) -> Iterator[Row]:
    """The rows of a part: path, and error where the image could not be read."""
    if file.suffix == ".jsonl":
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(file).to_pylist():
        yield {"path": row["path"], **({} if row["error"] is None else {"error": row["error"]})}


def has_errors(file: Path) -> bool:
    """Whether a part has images that could not be read."""
    return any("error" in row for row in read_part(file))


def begin(output: Path, plan: Row) -> None:
    """Make the output folder, or check that its parts are of the same images and weights.

    Raises:
        ValueError: it was not; names what differs and the remedy.
    """
    output.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(output)
    file = output / "plan.json"
    has_parts = any(output.glob("part-*"))
    if has_parts and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for key in plan:
            if before.get(key) != plan[key]:
                raise ValueError(
                    f"{output} was begun with {key} {before.get(key)}, and it is {plan[key]} now: give what it was "
                    "begun with, or another --output"
                )
    elif has_parts:
        raise ValueError(f"{output} holds parts and no plan.json: name another --output")
    write_json(file, plan)


def file_hash(path: Path) -> str:
    """Of the weights: a run folder's model.safetensors, or the file."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--weights {path}: there is no {file.name}; name a run folder or a file of weights")
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def counted(number: int, noun: str) -> str:
    """Such as "1 part" and "1,000 parts"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description="Run inference on many images through Ray Data; restartable.")
    found.add_argument("inputs", nargs="+", help="images, folders (at any depth), patterns; or shards")
    found.add_argument("--weights", required=True, help="run folder, model.safetensors, .onnx or .xml")
    found.add_argument("--output", required=True, type=Path, help="folder for the parts; run again to complete it")
    found.add_argument("--retry", action="store_true", help="predict parts with unreadable images again")
    found.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="of the parts (default: jsonl)")
    found.add_argument("--address", default="local", help="of a Ray cluster, or auto (default: one on this machine)")
    found.add_argument("--actors", type=int, default=1, help="copies of the network (default: 1)")
    found.add_argument("--cpus", type=float, default=1, help="cores of each (default: 1)")
    found.add_argument("--gpus", type=float, default=0, help="GPUs of each, also a share such as 0.5 (default: 0)")
    found.add_argument("--batch-size", type=int, default=32, help="images that are computed at a time (default: 32)")
    found.add_argument("--part-size", type=int, default=512, help="images of a part (default: 512)")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Predict what is missing, then tell counts.

    Returns:
        0; 1 where images could not be read.
    """
    args = parser().parse_args(words)
    for name, least in (("actors", 1), ("batch_size", 1), ("part_size", 1), ("cpus", 0), ("gpus", 0)):
        if not getattr(args, name) >= least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    args.inputs = [given if "://" in given else str(Path(given).expanduser().absolute()) for given in args.inputs]
    paths = Archive(args.inputs).names(args.inputs)
    weights = Path(args.weights).expanduser().absolute()
    listed = hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()
    plan = {"images": len(paths), "list": listed, "weights": file_hash(weights)}
    begin(args.output, {**plan, "part_size": args.part_size, "format": args.format})
    parts = [paths[i : i + args.part_size] for i in range(0, len(paths), args.part_size)]
    files = [part_file(args.output, number, args.format) for number in range(len(parts))]
    missing = [number for number, file in enumerate(files) if not file.is_file() or (args.retry and has_errors(file))]
    print(f"{counted(len(paths), 'image')} in {counted(len(parts), 'part')}; to be predicted: {len(missing):,}")
    if missing:
        check_weights(weights)
        predict(args, weights, {number: parts[number] for number in missing})
    rows = unreadable = 0
    for file, part in zip(files, parts, strict=True):
        found = list(read_part(file))
        if [row["path"] for row in found] != part:
            raise ValueError(f"{file} does not hold the images of its part: remove it and run this again")
        rows += len(found)
        unreadable += sum("error" in row for row in found)
    print(f"{counted(rows, 'image')} in {args.output}, of which {unreadable:,} could not be read")
    if unreadable:
        print("their rows say why; run this again with --retry once they can be read")
    return 1 if unreadable else 0


def check_weights(weights: Path) -> None:
    """Open the weights here, where what is wrong with them is one message.

    Raises:
        ValueError: they are none, or damaged.
        ImportError: a package that computes them is missing.
    """
    from scalablevit.deploy.exported import open_weights

    open_weights(weights)


def predict(args: argparse.Namespace, weights: Path, parts: dict[int, list[str]]) -> None:
    """Predict parts in a pool of actors."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors come back, and are told in a line
    here = {"include_dashboard": False} if args.address == "local" else {}
    ray.init(address=args.address, log_to_driver=False, logging_level=logging.ERROR, **here)
    try:
        refuse_too_few(args)
        ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
        items = [{"part": number, "paths": json.dumps(paths)} for number, paths in parts.items()]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            PartPredictor,
            fn_constructor_args=(
                *(args.inputs, str(weights), str(args.output.absolute()), args.format, args.batch_size),
                "cuda" if args.gpus else "cpu",
            ),
            batch_size=1,
            concurrency=min(args.actors, len(items)),
            num_cpus=args.cpus,
            num_gpus=args.gpus,
        )
        count = 0
        for row in done.iter_rows():
            count += int(row["images"])
            images = counted(int(row["images"]), "image")
            print(f"part {row['part']}: {images}, {row['unreadable']} could not be read; {count:,} now")
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray could not predict: {cause_of(error)}. Parts that are there are kept") from error
    finally:
        ray.shutdown()


def cause_of(error: Exception) -> str:
    """What an actor's error says, without the stack traces that Ray puts around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Exit|Interrupt): ", line)]
    first_hand = [line for line in causes if not line.startswith("ray.")]
    return (first_hand or causes or lines or [type(error).__name__])[-1].rstrip(".")


def refuse_too_few(args: argparse.Namespace) -> None:
    """Refuse an actor that this machine has no room for: Ray would wait for it for ever.

    Raises:
        ValueError: names what is too much.
    """
    here = ray.cluster_resources()
    for name, wanted, found in (("cpus", args.cpus, here.get("CPU", 0)), ("gpus", args.gpus, here.get("GPU", 0))):
        if args.address == "local" and wanted > found:
            raise ValueError(f"--{name} {wanted:g} of each actor are more than the {found:g} of this machine: lower it")


def run(words: Sequence[str] | None = None) -> int | str:
    """Do as `main`; what is wrong is one line to exit with."""
    try:
        return main(words)
    except ImportError as error:
        return f"predict_ray.py: error: a package is missing ({error}); run: {INSTALL}"
    except (ValueError, OSError) as error:
        return f"predict_ray.py: error: {error}"


if __name__ == "__main__":
    sys.exit(run())
