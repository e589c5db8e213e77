"""Time, size and accuracy of a network in PyTorch, prepared, and exported to each runtime, on a CPU.

    python benchmarks/deployment.py small                        S at 224 pixels, batch 8, random weights
    python benchmarks/deployment.py classifier=runs/digits       a run, with its accuracy on its validation set

Each part is timed in turns in one process and kept in `benchmarks/results/deployment-CPU.json`; parts may be measured
one after the other. `--times-only` times again what has been evaluated, on a machine that has nothing else to do. The
last step writes the tables of docs/deployment.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.bench.conditions import conditions
from scalablevit.bench.contenders import find_contender
from scalablevit.bench.turns import Timing, compare, interleave
from scalablevit.deploy.detector_graph import detector_graph, is_detector, layer_weights
from scalablevit.deploy.export import export, file_bytes
from scalablevit.deploy.exported import ExportedNetwork, open_exported
from scalablevit.deploy.optimize import fold, optimize
from scalablevit.deploy.precision import native_bfloat16
from scalablevit.deploy.quantize import TRIALS, Settings, best_quantization, quantize
from scalablevit.deploy.runtimes import precisions_of
from scalablevit.safe_write import write_atomically, write_json

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "deployment.md"
MASK_AP = "val/mask_ap"
EAGER, PLAIN = "PyTorch, eager", "plain definition"
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_BLOCK = re.compile(r"(<!-- table: deployment -->\n).*?(<!-- end -->)", re.DOTALL)

Call = Callable[[], Any]


def cpu_features() -> list[str]:
    """The vector and matrix units that bf16 and int8 depend on, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in FEATURES if name in flags]


class Part:
    """One network in all its forms.

    Args:
        network: PyTorch's, in evaluation mode.
        mean, std: of its images.
        images: normalised (N, C, H, W), to be timed; of a detector a list of (C, H, W) in 0..1.
        folder: for exported files.
        metadata: of the run.
        opened: an exported file that is open, in the place of the network.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        mean: Any,
        std: Any,
        images: Any,
        folder: Path,
        metadata: Mapping[str, Any] | None = None,
        opened: Callable[[ExportedNetwork], torch.nn.Module] = lambda exported: exported,
    ) -> None:
        self.network, self.mean, self.std, self.images, self.folder = network, mean, std, images, folder
        self.metadata, self.opened = metadata, opened
        self.networks: dict[str, torch.nn.Module] = {EAGER: network}
        self.bytes: dict[str, int] = {EAGER: sum(x.nbytes for x in network.state_dict().values())}

    def add_prepared(self) -> None:
        """Add `scalablevit.optimize`, in bf16 too where the processor has it."""
        self.networks["prepared, fp32"] = optimize(self.network, dtype=torch.float32)
        if native_bfloat16(torch.device("cpu")):
            self.networks["prepared, bf16"] = optimize(self.network, dtype=torch.bfloat16)

    def add_exported(self, quantized: Callable[[Path], Path]) -> None:
        """Add the files of each runtime.

        Args:
            quantized: a file in fp32 to the same in int8.
        """
        for format, suffix, title in (("onnx", ".onnx", "ONNX Runtime"), ("openvino", ".xml", "OpenVINO")):
            path = self.folder / f"m{suffix}"
            export(self.network, path, format=format, mean=self.mean, std=self.std, metadata=self.metadata)
            print(f"exported {path.name}", flush=True)
            for file, kind in ((path, "fp32"), (quantized(path), "int8")):
                for precision in precisions_of(file):
                    label = {"fp32": {"f32": "fp32", "bf16": "bf16"}, "int8": {"f32": "int8", "bf16": "int8 + bf16"}}
                    name = f"{title}, {label[kind][precision]}"
                    self.networks[name] = self.opened(open_exported(file, precision=precision))
                    self.bytes[name] = file_bytes(file)

    def measure(self, *, rounds: int, others: Mapping[str, torch.nn.Module] | None = None) -> dict[str, Any]:
        """Times in turns, and the largest difference from PyTorch relative to the largest output."""
        networks = {**self.networks, **(others or {})}
        with torch.inference_mode():
            expected = _first(self.network(self.images))
            outputs = {name: _first(network(self.images)) for name, network in networks.items()}  # warm-up too
            runs: dict[str, Call] = {name: lambda n=n: n(self.images) for name, n in networks.items()}
            times, _ = interleave(runs, timing=Timing(rounds=rounds, passes=1), synchronise=lambda: None)
        found = compare(times, first=PLAIN if PLAIN in times else EAGER, batch=len(self.images))
        for name, figures in found.items():
            if name != PLAIN:
                found_here, wanted = _of_one_length(outputs[name], expected)
                figures["difference"] = float((found_here - wanted).abs().max() / wanted.abs().max())
            figures["bytes"] = self.bytes.get(name)
        shape = [len(self.images), *self.images[0].shape]
        return {"images": shape, "rounds": rounds, "forms": found}


def _first(outputs: Any) -> torch.Tensor:
    """What is compared: the first output, of a detector the scores of the first image."""
    first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return first["scores"] if isinstance(first, Mapping) else first


def _of_one_length(found: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of detections, filled up with zeros where there are more of the other; other outputs as they are."""
    if found.ndim != 1:
        return found, expected
    length = max(len(found), len(expected))
    return tuple(torch.nn.functional.pad(x, (0, length - len(x))) for x in (found, expected))  # type: ignore[return-value]


def measure_small(*, rounds: int, folder: Path) -> dict[str, Any]:
    """S at 224 pixels, batch 8, beside the plain definition; random weights, so without accuracy."""
    torch.manual_seed(0)
    network = ScalableViT(**VARIANTS["scalablevit_small"]).eval()
    plain = find_contender("plain:scalablevit_small").build((224, 224)).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    part = Part(network, mean=mean, std=std, images=torch.randn(8, 3, 224, 224), folder=folder)
    part.add_prepared()

    def quantized(path: Path) -> Path:
        target = path.with_name(f"int8{path.suffix}")
        images = [torch.rand(1, 3, 224, 224).numpy() for _ in range(4)]
        quantize(path, target, images, Settings())
        return target

    part.add_exported(quantized)
    found = part.measure(rounds=rounds, others={PLAIN: plain})
    return {**found, "title": "ScalableViT-S, random weights", "int8_settings": str(Settings())}


def measure_run(
    run: str, *, data: str | None, rounds: int, folder: Path, calibration: int, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A run, with the metrics of its validation set, or with those of an earlier result and its settings of int8."""
    from scalablevit.cli.int8 import Evaluator
    from scalablevit.tasks import entries, load
    from scalablevit.weights import open_trained

    trained = open_trained(run)
    entry = entries()[trained.task]
    predictor = load(entry.predictor).load(trained, device="cpu")
    evaluator = Evaluator(run, data, class_names=predictor.class_names)
    images = evaluator.training_images(predictor, calibration)
    alike = [x for x in images if x.shape == images[0].shape][: 8 if trained.task == "classification" else 1]
    mean, std = predictor.preprocessing.mean, predictor.preprocessing.std
    settings: dict[str, str] = {}
    shown: Any = torch.cat(alike)
    folded = fold(predictor.network)
    weights, detections = folded.state_dict(), 0
    if is_detector(predictor.network):
        # An exported detector sees each image alone; in a batch, padding changes what it finds.
        evaluator.command.datamodule.val_batch_size = 1
        shown = [images[0][0] * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]]
        graph = detector_graph(folded)
        weights, detections = layer_weights(graph), graph.detections_per_image
    metadata = {**trained.metadata, "task": trained.task}
    part = Part(
        predictor.network, mean=mean, std=std, images=shown, folder=folder, metadata=metadata,
        opened=lambda exported: load(entry.predictor).load(exported).network,
    )  # fmt: skip
    part.add_prepared()

    def quantized(path: Path) -> Path:
        opened = open_exported(path)
        trial = best_quantization(
            path, folder, images=[opened.as_taken(image).numpy() for image in images], weights=weights,
            measure=lambda file: 0.0 if earlier else evaluator.measure(open_exported(file)),
            floor=0.0 if earlier else evaluator.measure(opened) - 0.003, detections=detections,
            trials=[x for x in TRIALS if not earlier or str(x) == earlier["int8_settings"][path.suffix]],
        )  # fmt: skip
        settings[path.suffix] = str(trial.settings)
        return trial.path

    part.add_exported(quantized)
    found = part.measure(rounds=rounds)
    for name, network in part.networks.items():
        if earlier:
            kept = earlier["forms"][name]
            found["forms"][name] |= {key: kept[key] for key in ("metric", "mask_ap") if key in kept}
            continue
        metrics = evaluator.metrics(network)
        found["forms"][name]["metric"] = metrics[evaluator.monitor]
        if MASK_AP in metrics:
            found["forms"][name]["mask_ap"] = metrics[MASK_AP]
    about = trained.metadata
    kind, variant = (
        about.get("segmenter") or about.get("detector") or "classifier",
        about.get("variant") or about.get("architecture"),
    )
    return {**found, "title": f"{kind}, {variant}", "metric": entry.int8_metric, "int8_settings": settings}


def _load(about: Mapping[str, Any]) -> str:
    """What else ran, where it was noted: it slows all forms, and some more than others."""
    return f"load average {about['load']:.0f}, " if "load" in about else ""


def table(result: Mapping[str, Any]) -> str:
    """The tables of docs/deployment.md."""
    features = ", ".join(result["features"]) or "none of " + ", ".join(FEATURES)
    lines = [f"Processor: {result['device']} ({features})."]
    for part in result["parts"].values():
        about, forms = part["conditions"], part["forms"]
        base = PLAIN if PLAIN in forms else EAGER
        shape = " × ".join(map(str, part["images"]))
        lines += [
            "",
            f"{part['title']}: images {shape}, {about['threads']} thread(s), {part['rounds']} rounds in turns, "
            f"{_load(about)}"
            f"{about['date'][:10]} at commit {about['commit']}, torch {about['torch']}.",
            "",
        ]
        metric = part.get("metric")
        with_masks = any("mask_ap" in found for found in forms.values())
        accuracy = [*([metric] if metric else []), *(["mask AP"] if with_masks else [])]
        header = ["", f"speed, {base} = 1", "images/s", "MB", *accuracy, "largest difference"]
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|" + "---|" * len(header))
        for name, found in forms.items():
            size, difference = found.get("bytes"), found.get("difference")
            row = [name, f"{1 / found['median_of_ratios']:.2f}", f"{found['images_per_second']:.1f}"]
            row.append("" if size is None else f"{size / 1e6:.1f}")
            row += [f"{found['metric']:.2%}" if "metric" in found else ""] if metric else []
            row += [f"{found['mask_ap']:.2%}" if "mask_ap" in found else ""] if with_masks else []
            row.append("" if difference is None else f"{difference:.0e}")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with the tables that the results give; unchanged where there are none."""
    files = sorted(RESULTS.glob("deployment-*.json"))
    text = "\n\n".join(table(json.loads(file.read_text())) for file in files)
    return _BLOCK.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page) if files else page


def result_file() -> Path:
    """Where this processor's results stand."""
    name = re.sub(r"[^a-z0-9]+", "-", conditions("cpu")["device"].lower()).strip("-")
    return RESULTS / f"deployment-{name}.json"


def main() -> int:
    """Measure the parts that are named; write results and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="small, or NAME=RUN or NAME=RUN@DATA")
    parser.add_argument("--rounds", type=int, default=10, help="timed turns of each form (default: 10)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--times-only", action="store_true", help="keep the metrics and the int8 settings of the result file"
    )
    parser.add_argument("--calibration-images", type=int, default=64, help="for int8 (default: 64)")
    args = parser.parse_args()
    about = conditions("cpu")  # before the first result is written, which changes the working tree
    torch.set_num_threads(args.threads)
    path = result_file()
    result = json.loads(path.read_text()) if path.is_file() else {"parts": {}}
    result |= {"device": conditions("cpu")["device"], "features": cpu_features()}
    for word in args.parts:
        name, _, source = word.partition("=")
        run, _, data = source.partition("@")
        with tempfile.TemporaryDirectory() as folder:
            if name == "small":
                part = measure_small(rounds=args.rounds, folder=Path(folder))
            else:
                part = measure_run(
                    run, data=data or None, rounds=args.rounds, folder=Path(folder),
                    calibration=args.calibration_images, earlier=result["parts"][name] if args.times_only else None,
                )  # fmt: skip
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        part["conditions"] = {**about, "threads": args.threads, "load": load}
        result["parts"][name] = part
        write_json(path, result)
        for label, found in part["forms"].items():
            print(f"{name:12} {label:28} {1 / found['median_of_ratios']:.2f}  {found.get('metric', '')}", flush=True)
    page = filled(PAGE.read_text())
    write_atomically(PAGE, page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
