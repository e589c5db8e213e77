"""Every checkpoint format in, one out, and the report of what was loaded."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.backbone import VARIANTS, PyramidBackbone, ScalableViT
from scalablevit.checkpoint_names import to_native_names
from scalablevit.safe_write import write_atomically

WEIGHTS_FILE = "model.safetensors"
METADATA_KEY = "scalablevit"
_STEM = "stages.0.patch_embed.proj.weight"
_CONTAINERS = ("model", "state_dict", "model_state_dict", "module")
# before the names of a whole detector or segmentation model: none, our tasks', DDP's, torch.compile's
_TASK_PREFIXES = ("", "network.", "module.", "_orig_mod.", "model.")


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the model."""


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: where the weights came from.
        variant: name of the variant the checkpoint holds, or a description of its widths and depths.
        matched: names of the model's parameters that were copied as they were.
        adapted: name -> what was changed to make it fit.
        fresh: names that the checkpoint does not hold, which keep their initialisation.
        ignored: entries of the checkpoint that the model has no place for.
        warning: why less was taken than the names of the checkpoint promise, and what to do; empty: all is well.
    """

    source: str
    variant: str
    matched: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    warning: str = ""

    def __str__(self) -> str:
        lines = [f"loaded {self.source} ({self.variant}): {len(self.matched)} tensors matched"]
        lines += [f"  warning  {self.warning}"] if self.warning else []
        lines += [f"  adapted  {name}: {what}" for name, what in self.adapted.items()]
        for word, names in (("fresh  ", self.fresh), ("ignored", self.ignored)):
            if names:
                lines.append(f"  {word}  {abridged(names, 6)}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    fresh_head: bool = False,
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Copy weights into a `ScalableViT`, a backbone of `create_backbone`, or a model built around one.

    Reads safetensors, pickles (released classifiers `{"model": ..., "args": Namespace}`, dense backbones, bare state
    dicts, `state_dict`, Lightning checkpoints; with prefixes such as `module.` and `backbone.`), folders with a
    `model.safetensors`, and `hf-hub:` and `local-dir:` names. Pickles are never allowed to run code.

    What may differ: the number of input channels (the first kernel is summed or repeated), the number of classes (the
    last layer stays fresh), the head and norms that only one of classifier and pyramid has. All of it is in the
    report; any other difference is an error, and the model is left as it was.

    A detector or a segmentation model is filled as a whole from a checkpoint of its own kind, but for the layers that
    hang on the classes (`model.class_layers`, prefixes of names) where the classes differ; from any other checkpoint
    its backbone is filled, and the rest stays fresh. Where the checkpoint has layers of the same names beside the
    backbone, the report warns and says what differs.

    Args:
        model: network to fill; one with exactly one `ScalableViT` or `PyramidBackbone` inside will do.
        source: file, folder, name, or a state dict or checkpoint already in memory.
        fresh_head: leave the classifier's head as it is, whatever the checkpoint holds.
        class_names: of the model's classes by index; where the checkpoint names others, the head stays fresh.

    Returns:
        report of what matched, what was adapted, what stayed fresh, and what was ignored.

    Raises:
        WeightsError: (a ValueError) the source cannot be read, or does not fit.
        FileNotFoundError: no such file.
    """
    name = "state dict in memory" if isinstance(source, Mapping) else str(source)
    tensors, theirs = (_tensors(source, name), None) if isinstance(source, Mapping) else _read(source)
    other_classes = class_names is not None and theirs is not None and list(class_names) != theirs
    if _STEM in model.state_dict():
        return _load_network(model, tensors, name, fresh_head=fresh_head, other_classes=other_classes)
    inner = {key: part for key, part in model.named_modules() if isinstance(part, ScalableViT | PyramidBackbone)}
    if len(inner) != 1:
        raise WeightsError(
            f"{type(model).__name__} is not a ScalableViT; it must hold one, not {len(inner)}: pass the network "
            "itself: load_weights(model.backbone, ...)"
        )
    ((where, backbone),) = inner.items()
    others = [key for key in model.state_dict() if not key.startswith(f"{where}.")]
    prefix = next((p for p in _TASK_PREFIXES if all(p + key in tensors for key in others)), None)
    if prefix is not None:
        return _load_whole(model, tensors, prefix, name, fresh_head=fresh_head, other_classes=other_classes)
    report = _load_network(backbone, tensors, name, fresh_head=fresh_head, other_classes=other_classes)
    return LoadReport(
        report.source,
        report.variant,
        [f"{where}.{key}" for key in report.matched],
        {f"{where}.{key}": what for key, what in report.adapted.items()},
        [*(f"{where}.{key}" for key in report.fresh), *others],
        report.ignored,
        _why_backbone_alone(model, tensors, others),
    )


def _why_backbone_alone(model: nn.Module, tensors: Mapping[str, Tensor], others: Sequence[str]) -> str:
    """What keeps a checkpoint from filling all of a model, of whose `others` it has some; empty where it has none."""
    prefix = max(_TASK_PREFIXES, key=lambda p: sum(p + key in tensors for key in others))
    if not any(prefix + key in tensors for key in others):
        return ""
    theirs = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    parts = dict.fromkeys(part for key in others if (part := key.split(".")[0]) not in theirs)
    targets = model.state_dict()
    class_layers = tuple(getattr(model, "class_layers", ()))
    reshaped = [
        f"{key} is {tuple(tensors[prefix + key].shape)} there and {tuple(targets[key].shape)} here"
        for key in others
        if prefix + key in tensors
        and tensors[prefix + key].shape != targets[key].shape
        and not key.startswith(class_layers)
    ]
    lacking = next(key for key in others if prefix + key not in tensors)  # or the whole would have been filled
    reasons = [*([] if parts else reshaped[:1]), f"there is no {' and no '.join(parts) or lacking} there"]
    kind = "segmenter" if any(key.startswith("decoder.") for key in others) else "detector"
    return (
        f"only the backbone was taken: {', and '.join(reasons)}; give the same model.{kind} and model.{kind}_options "
        "as that run's recipe.yaml to take all of it"
    )


def _load_whole(
    model: nn.Module, tensors: Mapping[str, Tensor], prefix: str, name: str, *, fresh_head: bool, other_classes: bool
) -> LoadReport:
    """Fill a model from a checkpoint of its own kind; layers of other classes stay fresh.

    A part that the model lacks as a whole, such as an auxiliary head, is ignored; more layers in a part that it has
    make another network of it.
    """
    targets = model.state_dict()
    class_layers = tuple(getattr(model, "class_layers", ()))
    report = LoadReport(name, describe_variant(to_native_names(tensors)))
    plan: dict[str, Tensor] = {}
    problems: list[str] = []
    same_shapes = all(
        tensors[prefix + key].shape == target.shape for key, target in targets.items() if key.startswith(class_layers)
    )
    for key, target in targets.items():
        value = tensors.get(prefix + key)
        if value is None:
            problems.append(f"the checkpoint lacks {key} {tuple(target.shape)}")
        elif key.startswith(class_layers) and (fresh_head or other_classes or not same_shapes):
            report.adapted[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}, freshly initialised for the classes"
        elif value.shape != target.shape:
            problems.append(f"{key} is {tuple(value.shape)}, the model needs {tuple(target.shape)}")
        else:
            plan[key] = value
            report.matched.append(key)
    parts = {key.split(".")[0] for key in targets}
    for key in sorted(tensors):
        inner = key.removeprefix(prefix)
        if inner in targets:
            continue
        if key.startswith(prefix) and inner.split(".")[0] in parts:
            problems.append(f"the model has no place for {inner} {tuple(tensors[key].shape)}")
        else:
            report.ignored.append(key)
    if problems:
        ours = describe_variant(to_native_names(targets))
        message = _misfit(name, report.variant, ours, sorted(problems))
        if report.variant == ours:
            message += (
                "\nIt was made with other options: build the model with the same ones (fit: model.detector_options or "
                "model.segmenter_options, as the recipe.yaml of its run has them), or load the weights of a classifier."
            )
        raise WeightsError(message)
    with torch.no_grad():
        for key, value in plan.items():
            targets[key].copy_(value)
    return report


def _load_network(
    model: nn.Module, tensors: Mapping[str, Tensor], name: str, *, fresh_head: bool, other_classes: bool
) -> LoadReport:
    """Fill a `ScalableViT` or a `PyramidBackbone`."""
    state = to_native_names(tensors)
    targets = model.state_dict()
    if not any(key.startswith("stages.") for key in state):
        raise WeightsError(f"{name} does not hold a ScalableViT; its entries are {abridged(sorted(state), 6)}")
    variant = describe_variant(state)
    report = LoadReport(name, variant)
    plan: dict[str, Tensor] = {}
    keep_head = set() if other_classes else _head_to_keep(state, targets, fresh_head, name)
    # Norms are there or not as a whole: a file that holds some of them is damaged.
    held = {key.split(".")[0] for key in state}
    problems: list[str] = []
    for key, target in targets.items():
        part, value = key.split(".")[0], state.get(key)
        if part == "head" and key not in keep_head:
            if value is not None and value.shape != target.shape:
                report.adapted[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}, freshly initialised"
            elif value is not None and other_classes:
                report.adapted[key] = "freshly initialised, as the checkpoint's classes have other names"
            else:
                report.fresh.append(key)
        elif value is None:
            if part not in held and (part == "norms" or (part == "norm" and fresh_head)):
                report.fresh.append(key)
            else:
                problems.append(f"the checkpoint lacks {key} {tuple(target.shape)}")
        elif value.shape == target.shape:
            plan[key] = value
            report.matched.append(key)
        elif key == _STEM and (value.shape[0], *value.shape[2:]) == (target.shape[0], *target.shape[2:]):
            plan[key] = adapt_in_chans(value, target.shape[1])
            report.adapted[key] = f"{value.shape[1]} -> {target.shape[1]} input channels"
        else:
            problems.append(f"{key} is {tuple(value.shape)}, the model needs {tuple(target.shape)}")
    for key in state.keys() - targets.keys():
        if key.startswith(("stages.", "blocks.")):
            problems.append(f"the model has no place for {key} {tuple(state[key].shape)}")
        else:
            report.ignored.append(key)
    report.ignored.sort()
    if problems:
        raise WeightsError(_misfit(name, variant, describe_variant(targets), sorted(problems)))
    with torch.no_grad():
        for key, value in plan.items():
            targets[key].copy_(value)
    return report


def read_checkpoint(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without running code that a pickle may hold.

    Args:
        source: safetensors or pickle file, a folder with `model.safetensors`, or an `hf-hub:` or `local-dir:` name.

    Returns:
        name in the file -> tensor on the CPU.

    Raises:
        WeightsError: truncated, not a checkpoint, or a pickle with anything but data.
        FileNotFoundError: no such file.
    """
    return _read(source)[0]


def _read(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors of a checkpoint, and the names of its classes where it knows them."""
    name = str(source)
    try:
        if name.startswith("hf-hub:"):
            return _tensors(
                timm.models.load_state_dict_from_hf(name.removeprefix("hf-hub:"), weights_only=True), name
            ), None
        path = _weights_file(source)
        if path.stat().st_size == 0:
            raise WeightsError(f"{path} is empty; copy or download it again")
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path), read_metadata(path).get("class_names")
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (WeightsError, FileNotFoundError):
        raise
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise WeightsError(f"{name} is truncated or not a checkpoint; copy or download it again") from error
        raise WeightsError(
            f"{name} holds more than data: unpickling would call {blocked[1]}, which could run any code. If you trust "
            "its source, load it there with torch.load and save the state dict alone with safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{name} is truncated or not a checkpoint ({_first_line(error)}); copy it again") from error
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{name} holds a {type(checkpoint).__name__}, not a state dict")
    trained = checkpoint.get("trained")  # what our tasks add to their checkpoints
    names = trained.get("class_names") if isinstance(trained, Mapping) else None
    return _tensors(checkpoint, name), names


def _weights_file(source: str | os.PathLike[str]) -> Path:
    """The file that a path, a run folder or a `local-dir:` name means."""
    path = Path(str(source).removeprefix("local-dir:"))
    remedy = f"give a .safetensors or .pth file, or a folder with {WEIGHTS_FILE}"
    if not path.is_dir():
        if not path.exists():
            near = _names_near(path)
            raise FileNotFoundError(
                f"no weights at {path}: there is no such file or folder"
                f"{f' (did you mean {near}?)' if near else ''}; {remedy}"
            )
        return path
    file = path / WEIGHTS_FILE
    if not file.exists():
        last = path / "checkpoints" / "last.ckpt"
        if last.is_file():
            raise FileNotFoundError(
                f"no weights at {file}, which a run writes when it is done: go on with scalablevit fit --resume "
                f"{path}; or start another run from its last checkpoint: --model.weights {last}"
            )
        raise FileNotFoundError(f"no weights at {file}; {remedy}")
    return file


def _names_near(path: Path) -> str:
    """The file or folder beside a missing one whose name is most like it; empty where none is."""
    try:
        names = os.listdir(path.parent)
    except OSError:  # no such folder, or one that may not be read
        return ""
    close = difflib.get_close_matches(path.name, names, 1)
    return str(path.parent / close[0]) if close else ""


def save_weights(model: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file, under a temporary name first, so that an interrupted write loses nothing.

    Args:
        model: its state dict is written, under its own names.
        path: file to write.
        metadata: anything JSON can hold; `read_metadata` gives it back.

    Raises:
        WriteError: (an OSError) the disk is full or the folder cannot be written; an earlier file is intact.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    content = safetensors.torch.save(state, {"format": "pt", METADATA_KEY: json.dumps(dict(metadata or {}))})
    write_atomically(path, lambda file: file.write(content))


def save_model(
    model: ScalableViT,
    folder: str | os.PathLike[str],
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> Path:
    """Write a folder that `load_model`, and timm by `local-dir:`, build the network from.

    Args:
        model: classifier to write.
        folder: gets `model.safetensors`, with all of the metadata, and timm's `config.json`.
        architecture: name of the variant.
        model_args: arguments with which timm's `create_model` makes this network, beside the name.
        metadata: class names under `class_names`, preprocessing under `preprocessing`, and what else is worth keeping.

    Returns:
        the safetensors file.
    """
    folder = Path(folder)
    path = folder / WEIGHTS_FILE
    model_args = dict(model_args)
    if isinstance(model_args.get("window_size"), tuple):
        # JSON has no tuples, and a list means one size per stage.
        model_args["window_size"] = [list(model_args["window_size"])] * len(model.stages)
    everything = {**metadata, "architecture": architecture, "model_args": model_args}
    save_weights(model, path, metadata=everything)
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": model_args,
        "pretrained_cfg": {
            "first_conv": "stages.0.patch_embed.proj",  # by these two timm adapts channels and classes
            "classifier": "head.fc",
            **_timm_preprocessing(metadata.get("preprocessing"), model.in_chans),
            **_names(metadata),
        },
    }
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / "config.json", lambda file: file.write(text.encode()))
    return path


def load_model(source: str | os.PathLike[str]) -> tuple[ScalableViT, dict[str, Any]]:
    """Build the network that a file of `save_model` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it.

    Returns:
        network, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or does not fit what it describes.
        FileNotFoundError: no such file.
    """
    metadata = read_metadata(source)
    try:
        # Never through timm's create_model: its arguments can name further files and hubs to load from.
        numbers = VARIANTS[metadata["architecture"]]
        with torch.device("meta"):  # no time lost on an initialisation that is overwritten at once
            model = ScalableViT(**{**numbers, **metadata["model_args"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{source} does not say how to build its network ({_first_line(error)}); "
            "build it yourself and fill it with load_weights(model, file)"
        ) from error
    model = model.to_empty(device="cpu")
    load_weights(model, source)
    return model.eval(), metadata


def save_network(model: nn.Module, folder: str | os.PathLike[str], *, metadata: Mapping[str, Any]) -> Path:
    """Write a folder that `load_network` builds a detector or a segmentation model from.

    Args:
        model: to write.
        folder: gets `model.safetensors`, with all of the metadata.
        metadata: `task`, `variant` and `model_args`, from which it can be built; `class_names`, `preprocessing`, and
            what else is worth keeping. JSON must be able to hold it.

    Returns:
        the safetensors file.
    """
    path = Path(folder) / WEIGHTS_FILE
    save_weights(model, path, metadata=metadata)
    return path


def load_network(
    source: str | os.PathLike[str], build: Callable[[dict[str, Any]], nn.Module]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model that a file of `save_network` describes, with its weights, in evaluation mode.

    Args:
        source: `model.safetensors`, or the folder that holds it.
        build: from the metadata to the model; a KeyError, TypeError or ValueError of it blames the metadata.

    Returns:
        model, and the metadata written with it.

    Raises:
        WeightsError: the file has no metadata of ours, or does not fit what it describes.
        FileNotFoundError: no such file.
    """
    metadata = read_metadata(source)
    try:
        model = build(metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{source} does not say how to build its model ({_first_line(error)}); take a run folder of "
            "`scalablevit fit`, or the model.safetensors in it"
        ) from error
    tensors = read_checkpoint(source)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise WeightsError(f"{source} does not fit what it describes: {'; '.join(reasons[:2])}") from error
    return model.eval(), metadata


def read_metadata(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata that `save_weights` put into a safetensors file; empty where there is none.

    Raises:
        WeightsError: not a safetensors file.
        FileNotFoundError: no such file.
    """
    path = _weights_file(source)
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is truncated or not a safetensors file ({_first_line(error)})") from error


def trained_task(source: str | os.PathLike[str]) -> str:
    """What a run folder's weights were trained for: "classification", "detection" or "segmentation".

    Args:
        source: run folder, or the `model.safetensors` in it.

    Raises:
        WeightsError: not weights that a run left.
        FileNotFoundError: no such file.
    """
    _refuse_bare_checkpoint(source)
    task = read_metadata(source).get("task")
    if not isinstance(task, str):
        raise WeightsError(
            f"{source} holds weights without the task that they were trained for; predicting takes a run folder of "
            "`scalablevit fit`, or the model.safetensors in it"
        )
    return task


def metadata_for(source: str | os.PathLike[str], task: str) -> dict[str, Any]:
    """The metadata of a run's weights that were trained for `task`.

    Args:
        source: run folder, or the `model.safetensors` in it.
        task: as `trained_task` gives it.

    Raises:
        WeightsError: not weights that a run left, or such for another task.
        FileNotFoundError: no such file.
    """
    _refuse_bare_checkpoint(source)
    metadata = read_metadata(source)
    if metadata.get("task") != task:
        raise WeightsError(f"{source} holds weights for {metadata.get('task')!r}, not for {task}")
    return metadata


def _refuse_bare_checkpoint(source: str | os.PathLike[str]) -> None:
    """A checkpoint that does not say what its network is for cannot predict."""
    path = Path(source)
    if path.is_file() and path.suffix != ".safetensors":
        raise WeightsError(
            f"{path}: predicting takes a run folder or its model.safetensors, which know the class names "
            "and the preprocessing; from other checkpoints a run can start: "
            "scalablevit fit --config finetune_folder --model.weights ..."
        )


def holds_scaled_values(source: str | os.PathLike[str]) -> bool | None:
    """Whether a checkpoint's SSA is of the scaled-value form; None where it has no block that would tell.

    Args:
        source: as for `read_checkpoint`.

    Raises:
        WeightsError: it cannot be read.
        FileNotFoundError: no such file.
    """
    return _scaled_values(to_native_names(read_checkpoint(source)))


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Make the first kernel (C, I, k, k) fit other images: summed for one channel, else repeated and scaled."""
    old = weight.shape[1]
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // old)
    return weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (old / in_chans)


def describe_variant(state: Mapping[str, Tensor]) -> str:
    """Name of the variant that a state dict in our names holds, or its widths and depths."""
    widths: list[int] = []
    depths: list[int] = []
    while (stem := state.get(f"stages.{len(widths)}.patch_embed.proj.weight")) is not None:
        blocks = {key.split(".")[3] for key in state if key.startswith(f"stages.{len(widths)}.blocks.")}
        widths.append(stem.shape[0])
        depths.append(len(blocks))
    if not widths:
        return "not a ScalableViT"
    form = ", scaled-value form" if _scaled_values(state) else ""
    for name, numbers in VARIANTS.items():
        if (tuple(widths), tuple(depths)) == (numbers["embed_dims"], numbers["depths"]):
            return name + form
    return f"a ScalableViT of widths {widths} and depths {depths}{form}"


def _scaled_values(state: Mapping[str, Tensor]) -> bool | None:
    """Whether SSA is of the scaled-value form, of a state dict in our names; None: no block tells."""
    trunks = {key.removesuffix("expand.weight") for key in state if key.endswith(".attn.expand.weight")}
    return any(f"{trunk}kv.weight" in state for trunk in trunks) if trunks else None


def _head_to_keep(
    state: Mapping[str, Tensor], targets: Mapping[str, Tensor], fresh_head: bool, source: str
) -> set[str]:
    """Names of the model's head that are to be filled from the checkpoint."""
    ours = {key for key in targets if key.startswith("head.")}
    theirs = {key for key in state if key.startswith("head.")}
    if fresh_head or not ours:
        return set()
    if not theirs:
        raise WeightsError(f"{source} has no classifier; pass fresh_head=True to keep the model's own head")
    form = "published" if any(key.startswith(("head.hidden.", "head.norm.")) for key in theirs) else "plain"
    layers = ("fc", "hidden", "norm") if form == "published" else ("fc",)
    missing = {f"head.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} - theirs
    if missing:
        raise WeightsError(
            f"{source} is incomplete: its head lacks {', '.join(sorted(missing))}; copy it again, or pass "
            "fresh_head=True to keep the model's own head"
        )
    same_classes = state["head.fc.weight"].shape[0] == targets["head.fc.weight"].shape[0]
    if ours == theirs:
        return ours if same_classes else {key for key in ours if not key.startswith("head.fc.")}
    if same_classes:
        raise WeightsError(
            f"{source} has the {form} head, the model the other; build the model with head={form!r}, "
            "or pass fresh_head=True"
        )
    return set()


def _tensors(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, however it is wrapped."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return _tensors(checkpoint[key], source)
    tensors = {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{source} holds no tensors; its entries are {abridged(sorted(map(str, checkpoint)), 6)}")
    return tensors


def _misfit(source: str, theirs: str, ours: str, problems: list[str]) -> str:
    lines = [f"{source} does not fit; nothing was loaded."]
    if theirs != ours:
        lines.append(f"The checkpoint holds {theirs}, the model is {ours}.")
        if "scaled-value" in theirs and "scaled-value" not in ours:
            lines.append("Build the model with scale_value=True.")
        elif "scaled-value" in ours and "scaled-value" not in theirs:
            lines.append("Build the model with scale_value=False.")
        elif theirs in VARIANTS:
            lines.append(f"Build the model as {theirs!r} (fit: --model.variant {theirs}), or load other weights.")
    if all(problem.startswith("the checkpoint lacks norm.") for problem in problems):
        lines.append("It comes from a dense task; pass fresh_head=True to keep the model's own final norm.")
    lines += [f"  {problem}" for problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"  and {len(problems) - 5} more")
    return "\n".join(lines)


def _timm_preprocessing(preprocessing: Mapping[str, Any] | None, in_chans: int) -> dict[str, Any]:
    if preprocessing is None:
        return {}
    return {
        "input_size": [in_chans, *preprocessing["image_size"]],
        "crop_pct": preprocessing["crop_ratio"],
        "interpolation": preprocessing["interpolation"],
        "mean": list(preprocessing["mean"]),
        "std": list(preprocessing["std"]),
    }


def _names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"label_names": list(metadata["class_names"])} if metadata.get("class_names") else {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
