"""Fill a network from a checkpoint: classifier, pyramid, or a model built around one."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.timm_pyramid import TimmPyramid
from scalablevit.weights.classes import check_class_names
from scalablevit.weights.input_channels import adapt_in_chans
from scalablevit.weights.metadata import PRETRAINING_TASK
from scalablevit.weights.published_names import to_native_names
from scalablevit.weights.reading import read
from scalablevit.weights.report import LoadReport, misfit
from scalablevit.weights.source import WeightsError, shortened
from scalablevit.weights.timm_networks import plan_timm
from scalablevit.weights.unwrapping import Unwrapped, unwrap
from scalablevit.weights.values import check_values
from scalablevit.weights.variants import describe_variant
from scalablevit.weights.whole_models import TASK_PREFIXES, Plan, Wish, plan_whole, why_backbone_alone

_STEM = "stages.0.patch_embed.proj.weight"


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    fresh_head: bool = False,
    class_names: Sequence[str] | None = None,
    entry: str | None = None,
) -> LoadReport:
    """Copy weights into a `ScalableViT`, a backbone of `create_backbone`, a network of timm, or a model around one.

    Reads safetensors, pickles (released classifiers `{"model": ..., "args": Namespace}`, dense backbones, bare state
    dicts, `state_dict`, Lightning checkpoints; with prefixes such as `module.` and `backbone.`), folders with a
    `model.safetensors`, and `hf-hub:` and `local-dir:` names. Pickles are never allowed to run code.

    Where a checkpoint also holds averaged weights (`model_ema`, `state_dict_ema`, ...), the plain ones are taken, and
    the report tells of the others; `entry="model_ema"`, or FILE#model_ema as the source, takes those.

    What may differ: the number of input channels (the first kernel is summed or repeated), the number of classes (the
    last layer stays fresh), the head and norms that only one of classifier and pyramid has. All of it is in the
    report; any other difference is an error, and the model is left as it was.

    A detector or a segmentation model is filled as a whole from a checkpoint of its own kind, but for the layers that
    depend on the classes (`model.class_layers`, prefixes of names) where the classes differ; from any other checkpoint
    its backbone is filled, and the rest stays fresh. Where the checkpoint has layers of the same names beside the
    backbone, the report warns and says what differs.

    Args:
        model: network to fill; one with exactly one `ScalableViT` or `PyramidBackbone` inside will do, also wrapped by
            `torch.compile`, `DataParallel`, an averaged model, timm's `features_only` or a Lightning module.
        source: file, folder, name, or a state dict or checkpoint already in memory; FILE#ENTRY as with `entry`.
        fresh_head: leave the classifier's head as it is, whatever the checkpoint holds.
        class_names: of the model's classes by index; where the checkpoint names others, the head stays fresh.
        entry: of the checkpoint's entries, the one with the weights, such as "model_ema"; None: the usual one.

    Returns:
        report of what matched, what was adapted, what stayed fresh, and what was ignored.

    Raises:
        WeightsError: (a ValueError) the source cannot be read, or does not fit.
        FileNotFoundError: no such file.
    """
    checkpoint = read(source, entry=entry)
    theirs = checkpoint.class_names
    check_class_names(checkpoint.tensors, theirs, checkpoint.source)
    has_no_head = checkpoint.task == PRETRAINING_TASK
    wish = Wish(
        fresh_head or has_no_head,
        class_names is not None and theirs is not None and not _same_names(class_names, theirs),
    )
    target = unwrap(model)
    tensors = _without_compiled(checkpoint.tensors)
    whole = target.cores.get("")
    if whole is not None and not isinstance(whole, ScalableViT | PyramidBackbone):
        plan = plan_timm(whole, target.tensors, tensors, checkpoint.source, wish)
    elif _STEM in target.tensors:
        plan = _plan_network(target.tensors, tensors, checkpoint.source, wish, is_partial=target.is_partial)
    elif len(target.cores) == 1:
        plan = _plan_model(target, tensors, checkpoint.source, wish)
    else:
        found = f", not {len(target.cores)} ({abridged(target.cores, 4)})" if target.cores else ", and holds none"
        raise WeightsError(
            f"{type(model).__name__} is not a ScalableViT; it must hold one{found}: pass the network itself: "
            f"load_weights(model.{next(iter(target.cores), 'backbone')}, ...)"
        )
    check_values(plan.values, checkpoint.source)
    with torch.no_grad():
        for key, value in plan.values.items():
            target.tensors[key].copy_(value)
    report = plan.report.renamed(target.names)
    return replace(report, entry=checkpoint.entry, other_entries=list(checkpoint.others))


def _plan_model(target: Unwrapped, tensors: Mapping[str, Tensor], name: str, wish: Wish) -> Plan:
    """Plan to fill a model that is built around a network: all of it, or the network alone."""
    ((where, core),) = target.cores.items()
    others = [key for key in target.tensors if not key.startswith(f"{where}.")]
    prefix = next((p for p in TASK_PREFIXES if all(p + key in tensors for key in others)), None)
    class_layers = tuple(getattr(target.network, "class_layers", ()))
    if others and prefix is not None:
        return plan_whole(target.tensors, tensors, prefix, name, wish, class_layers=class_layers)
    inner = {key.removeprefix(f"{where}."): t for key, t in target.tensors.items() if key.startswith(f"{where}.")}
    if isinstance(core, TimmPyramid):
        plan = plan_timm(core, inner, tensors, name, wish)
    else:
        plan = _plan_network(inner, tensors, name, wish, is_partial=target.is_partial)
    report = plan.report.renamed({key: f"{where}.{key}" for key in inner})
    report.fresh.extend(others)
    warning = why_backbone_alone(target.tensors, tensors, others, class_layers=class_layers)
    return Plan({f"{where}.{key}": value for key, value in plan.values.items()}, replace(report, warning=warning))


def _plan_network(
    targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, wish: Wish, *, is_partial: bool
) -> Plan:
    """Plan to fill a `ScalableViT` or a `PyramidBackbone`; a partial one lacks stages that the checkpoint has."""
    state = to_native_names(tensors)
    if not any(key.startswith("stages.") for key in state):
        entries = shortened(abridged(sorted(state), 6))
        raise WeightsError(f"{name} does not hold a ScalableViT; its entries are {entries}")
    report = LoadReport(name, describe_variant(state))
    values: dict[str, Tensor] = {}
    keep_head = set() if wish.other_classes else _head_to_keep(state, targets, wish.fresh_head, name)
    # Norms are there or not as a whole: a file that holds some of them is damaged.
    held = {key.split(".")[0] for key in state}
    problems: list[str] = []
    for key, target in targets.items():
        part, value = key.split(".")[0], state.get(key)
        if part == "head" and key not in keep_head:
            if value is not None and value.shape != target.shape:
                report.adapted[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}, freshly initialised"
            elif value is not None and wish.other_classes:
                report.adapted[key] = "freshly initialised, as the checkpoint's classes have other names"
            else:
                report.fresh.append(key)
        elif value is None:
            if part not in held and (part == "norms" or (part == "norm" and wish.fresh_head)):
                report.fresh.append(key)
            else:
                problems.append(f"the checkpoint lacks {key} {tuple(target.shape)}")
        elif value.shape == target.shape:
            values[key] = value
            report.matched.append(key)
        elif key == _STEM and value.ndim == 4 and _all_but_channels(value) == _all_but_channels(target):
            values[key] = adapt_in_chans(value, target.shape[1])
            report.adapted[key] = f"{value.shape[1]} -> {target.shape[1]} input channels"
        else:
            problems.append(f"{key} is {tuple(value.shape)}, the model needs {tuple(target.shape)}")
    stages = {key.split(".")[1] for key in targets if key.startswith("stages.")}
    for key in sorted(state.keys() - targets.keys()):
        is_left_out = is_partial and key.startswith("stages.") and key.split(".")[1] not in stages
        if key.startswith(("stages.", "blocks.")) and not is_left_out:
            problems.append(f"the model has no place for {key} {tuple(state[key].shape)}")
        else:
            report.ignored.append(key)
    if problems:
        raise WeightsError(misfit(name, report.variant, describe_variant(targets), sorted(problems)))
    return Plan(values, report)


def _all_but_channels(kernel: Tensor) -> tuple[int, ...]:
    return (kernel.shape[0], *kernel.shape[2:])


def _without_compiled(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take the mark of torch.compile out of the names, wherever parts of the network were compiled."""
    names = {key: key.replace("_orig_mod.", "") for key in tensors}
    return {names[key]: t for key, t in tensors.items()} if len(set(names.values())) == len(names) else tensors


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
    if state["head.fc.weight"].ndim != 2:
        found = tuple(state["head.fc.weight"].shape)
        raise WeightsError(
            f"{source} is damaged: its head.fc.weight is {found}, not (classes, channels); copy it again"
        )
    same_classes = state["head.fc.weight"].shape[:1] == targets["head.fc.weight"].shape[:1]
    if ours == theirs:
        return ours if same_classes else {key for key in ours if not key.startswith("head.fc.")}
    if same_classes:
        raise WeightsError(
            f"{source} has the {form} head, the model the other; build the model with head={form!r}, "
            "or pass fresh_head=True"
        )
    return set()


def _same_names(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether classes have the same names in the same order, with accents in either form."""
    return [unicodedata.normalize("NFC", name) for name in ours] == [
        unicodedata.normalize("NFC", name) for name in theirs
    ]
