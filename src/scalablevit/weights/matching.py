"""Fill a network from a checkpoint: classifier, pyramid, or a model built around one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.weights.published_names import to_native_names
from scalablevit.weights.reading import read
from scalablevit.weights.report import LoadReport, misfit
from scalablevit.weights.source import WeightsError
from scalablevit.weights.variants import describe_variant

_STEM = "stages.0.patch_embed.proj.weight"
# before the names of a whole detector or segmentation model: none, our tasks', DDP's, torch.compile's
_TASK_PREFIXES = ("", "network.", "module.", "_orig_mod.", "model.")


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
    checkpoint = read(source)
    name, tensors, theirs = checkpoint.source, checkpoint.tensors, checkpoint.class_names
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
        message = misfit(name, report.variant, ours, sorted(problems))
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
        raise WeightsError(misfit(name, variant, describe_variant(targets), sorted(problems)))
    with torch.no_grad():
        for key, value in plan.items():
            targets[key].copy_(value)
    return report


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Make the first kernel (C, I, k, k) fit other images: summed for one channel, else repeated and scaled."""
    old = weight.shape[1]
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // old)
    return weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (old / in_chans)


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
