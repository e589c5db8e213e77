"""Match a whole detector or segmentation model with a checkpoint of its own kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from scalablevit.weights.published_names import to_native_names
from scalablevit.weights.report import LoadReport, misfit
from scalablevit.weights.source import WeightsError
from scalablevit.weights.variants import describe_variant

# before the names of a whole detector or segmentation model: none, our tasks', DDP's, torch.compile's
TASK_PREFIXES = ("", "network.", "module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Wish:
    """What is to stay fresh.

    Attributes:
        fresh_head: the layers that depend on the classes.
        other_classes: the checkpoint's classes have other names, which has the same effect.
    """

    fresh_head: bool
    other_classes: bool


@dataclass(frozen=True)
class Plan:
    """What to copy.

    Attributes:
        values: name in the model -> tensor to copy there.
        report: of it.
    """

    values: dict[str, Tensor]
    report: LoadReport


def plan_whole(
    targets: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    prefix: str,
    name: str,
    wish: Wish,
    *,
    class_layers: tuple[str, ...],
) -> Plan:
    """Plan to fill a model from a checkpoint of its own kind; layers of other classes stay fresh.

    A part that the model lacks as a whole, such as an auxiliary head, is ignored; more layers in a part that it has
    make another network of it.

    Args:
        targets: the model's parameters and buffers.
        tensors: the checkpoint's.
        prefix: of the model's names in the checkpoint.
        name: of the checkpoint, for messages.
        wish: what to leave fresh.
        class_layers: prefixes of names that depend on the classes.

    Raises:
        WeightsError: the checkpoint is of another network.
    """
    report = LoadReport(name, describe_variant(to_native_names(tensors)))
    values: dict[str, Tensor] = {}
    problems: list[str] = []
    same_shapes = all(
        tensors[prefix + key].shape == target.shape for key, target in targets.items() if key.startswith(class_layers)
    )
    for key, target in targets.items():
        value = tensors.get(prefix + key)
        if value is None:
            problems.append(f"the checkpoint lacks {key} {tuple(target.shape)}")
        elif key.startswith(class_layers) and (wish.fresh_head or wish.other_classes or not same_shapes):
            report.adapted[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}, freshly initialised for the classes"
        elif value.shape != target.shape:
            problems.append(f"{key} is {tuple(value.shape)}, the model needs {tuple(target.shape)}")
        else:
            values[key] = value
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
    return Plan(values, report)


def why_backbone_alone(
    targets: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    others: Sequence[str],
    *,
    class_layers: tuple[str, ...],
) -> str:
    """Say what keeps a checkpoint from filling all of a model, of whose `others` it has some.

    Args:
        targets: the model's parameters and buffers.
        tensors: the checkpoint's.
        others: names in `targets` that are not of the backbone.
        class_layers: prefixes of names that depend on the classes.

    Returns:
        text for the report; empty where the checkpoint has none of the others.
    """
    prefix = max(TASK_PREFIXES, key=lambda p: sum(p + key in tensors for key in others))
    if not any(prefix + key in tensors for key in others):
        return ""
    theirs = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    parts = dict.fromkeys(part for key in others if (part := key.split(".")[0]) not in theirs)
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
