"""A teacher: a trained network that is shown what the trained one is shown, and changes no more."""

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.complexity import count
from scalablevit.training.teacher_network import TeacherNetwork, open_teacher
from scalablevit.weights.source import first_line

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grayscale


@dataclass(frozen=True)
class TeacherSettings:
    """Who teaches, and what is learned of it.

    Args:
        name: run folder, its model.safetensors, authors' checkpoint of a ScalableViT, `local-dir:` or `hf-hub:` name,
            or a name of timm's registry.
        weights: checkpoint to fill a network of timm's registry with; null: timm's own, which are downloaded.
        size: pixels that its images are resized to, a side or [height, width]; null: what it was trained for.
        temperature: both networks' logits are divided by it before their softmax; above 0.
        weight: of the logits' loss, temperature^2 * KL(teacher, network); at least 0. It needs the same classes.
        pooled_weight: of the loss of pooled features, which any teacher has; at least 0.
        dense_weight: of the loss of the last feature map; at least 0.
        label_weight: of the labels' own loss; at least 0.

    Raises:
        ValueError: a value is out of its range.
    """

    name: str = ""
    weights: str | None = None
    size: int | list[int] | None = None
    temperature: float = 1.0
    weight: float = 1.0
    pooled_weight: float = 0.0
    dense_weight: float = 0.0
    label_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"model.teacher.temperature must be above 0, got {self.temperature}")
        for name in ("weight", "pooled_weight", "dense_weight", "label_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"model.teacher.{name} must be at least 0, got {value}")
        if self.weight == self.pooled_weight == self.dense_weight == 0:
            raise ValueError(
                "model.teacher teaches nothing: raise weight, pooled_weight or dense_weight, or set it to null"
            )
        sides = [] if self.size is None else [self.size] if isinstance(self.size, int) else list(self.size)
        if self.size is not None and (len(sides) not in (1, 2) or min(sides) < 1):
            raise ValueError(f"model.teacher.size must be a side or [height, width] in pixels, got {self.size}")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`size` as (height, width) in pixels."""
        if self.size is None:
            return None
        sides = [self.size] if isinstance(self.size, int) else self.size
        return sides[0], sides[-1]


class Outputs:
    """What a network makes of images, each computed once.

    Attributes:
        logits: (B, K).
        pooled: (B, C), before the head; None where nobody asked for it.
        dense: (B, C, H', W'), the last map, normalised where the network can; None where nobody asked for it.
    """

    def __init__(self, logits: Tensor, pooled: Tensor | None = None, dense: Tensor | None = None) -> None:
        self.logits, self.pooled, self.dense = logits, pooled, dense


def outputs_of(network: nn.Module, images: Tensor, *, pooled: bool = False, dense: bool = False) -> Outputs:
    """Run a network once; features by timm's calling convention, logits alone by calling it.

    Args:
        network: from images (B, C, H, W) to logits (B, K).
        images: as it needs them.
        pooled: give the pooled features too.
        dense: give the last feature map too.
    """
    if not (pooled or dense):
        return Outputs(network(images))
    timms: Any = network
    last = None
    if dense:
        x, maps = timms.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW")
        last = maps[-1]
    else:
        x = timms.forward_features(images)
    return Outputs(timms.forward_head(x), timms.forward_head(x, pre_logits=True) if pooled else None, last)


def checked_outputs(network: nn.Module, images: Tensor, who: str, *, pooled: bool, dense: bool) -> Outputs:
    """Run a network once, in evaluation and without gradients, so that what it cannot do is said before a run begins.

    Args:
        network, images, pooled, dense: as of `outputs_of`.
        who: the network, for the message.

    Raises:
        ValueError: it fails on images of this size, or has no such features; names the remedy.
    """
    was_training = network.training
    remedy = "leave out model.teacher.dense_weight, or pooled_weight, or choose another network"
    try:
        with torch.no_grad():
            found = outputs_of(network.eval(), images, pooled=pooled, dense=dense)
    except Exception as error:  # timm's networks assert, reshape and convolve where a size does not fit
        height, width = images.shape[2:]
        remedy = f"change model.teacher.size, {remedy}" if who.startswith("the teacher") else remedy
        raise ValueError(
            f"model.teacher: {who} cannot be run on images of {height} x {width} pixels ({first_line(error)}): {remedy}"
        ) from error
    finally:
        network.train(was_training)
    for kind, value, ndim in (("pooled", found.pooled, 2), ("dense", found.dense, 4)):
        if value is not None and not (isinstance(value, Tensor) and value.ndim == ndim):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"model.teacher: {who} has no {kind} features to compare, but {shape}: {remedy}")
    return found


class Teacher:
    """A frozen network that answers for the images of another.

    It is no `nn.Module`: so it is in no checkpoint, no optimizer and no moving average, and copies share it.

    Args:
        settings: who teaches, and what.
        class_names: of the network that learns, by class index.
        mean, std: by which its images are normalised, a channel each.
        multi_label: an image has any number of that network's classes: logits are learned of such a teacher alone.

    Raises:
        ValueError: there is no such network, or its logits are of other classes.
        FileNotFoundError: no such file.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        multi_label: bool = False,
    ) -> None:
        self.settings, self.multi_label = settings, multi_label
        self.opened = open_teacher(settings.name, weights=settings.weights, image_size=settings.image_size)
        self.network = self.opened.network.requires_grad_(False).eval()
        self.image_size = settings.image_size or self.opened.image_size
        # where their classes stand in another order: the teacher's index of each of ours
        self._order: list[int] | None = None
        self._identity: dict[str, Any] | None = None
        if settings.weight > 0:
            _check_kind(self.opened, settings.name, multi_label=multi_label)
            self._order = _matching_classes(self.opened, list(class_names), settings.name)
        image = torch.zeros(1, len(self.opened.mean), *self.image_size)
        wanted = {"pooled": settings.pooled_weight > 0, "dense": settings.dense_weight > 0}
        checked_outputs(self.network, image, f"the teacher {settings.name}", **wanted)
        self._from = _as_channels(mean), _as_channels(std)
        self._to = _as_channels(self.opened.mean), _as_channels(self.opened.std)

    def __deepcopy__(self, memo: Any) -> "Teacher":
        """The same teacher: whoever copies the network that learns does not copy whom it learns from."""
        return self

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self.network = self.network.to(device)
        self._from = self._from[0].to(device), self._from[1].to(device)
        self._to = self._to[0].to(device), self._to[1].to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        """Answer for images that are normalised for the other network, (B, C, H, W); logits are of its classes."""
        wants = self.settings
        view = self.view(images)
        # weights stay in float32 also where the trained network's are not
        with torch.autocast(view.device.type, dtype=images.dtype) if _is_half(images) else contextlib.nullcontext():
            found = outputs_of(self.network, view, pooled=wants.pooled_weight > 0, dense=wants.dense_weight > 0)
        if self._order is not None:
            found.logits = found.logits[:, self._order]
        return found

    def view(self, images: Tensor) -> Tensor:
        """The same images as the teacher needs them: its channels, its size, its mean and deviation, in float32."""
        mean, std = self._from
        pixels = images.float() * std + mean  # in 0..1, but for erased rectangles of noise
        channels = len(self.opened.mean)
        if pixels.shape[1] != channels:
            pixels = _in_channels(pixels, channels)
        if pixels.shape[-2:] != self.image_size:
            pixels = F.interpolate(pixels, self.image_size, mode="bicubic", antialias=True)
        return (pixels - self._to[0]) / self._to[1]

    def identity(self) -> dict[str, Any]:
        """What a checkpoint keeps of the teacher: by this a resumed run knows that it is the same."""
        if self._identity is None:
            self._identity = {
                "name": self.settings.name,
                "digest": _digest(self.network),
                "image_size": list(self.image_size),
                "mean": list(self.opened.mean),
                "std": list(self.opened.std),
            }
        return self._identity

    def announcement(self) -> list[str]:
        """Lines that tell who teaches, what, and what it costs."""
        settings, opened = self.settings, self.opened
        height, width = self.image_size
        image = torch.empty(1, len(opened.mean), height, width, device="meta")
        parameters = sum(p.numel() for p in self.network.parameters())
        try:
            cost = (
                f"{count(self.network, image).multiply_adds / 1e9:.2f} G multiply-adds an image of {height} x {width}"
            )
        except (NotImplementedError, RuntimeError):  # of operators that the meta device does not know
            cost = f"multiply-adds unknown, images of {height} x {width}"
        learned = {
            f"logits (weight {settings.weight:g}, temperature {settings.temperature:g})": settings.weight,
            f"pooled features (weight {settings.pooled_weight:g})": settings.pooled_weight,
            f"dense features (weight {settings.dense_weight:g})": settings.dense_weight,
            f"labels (weight {settings.label_weight:g})": settings.label_weight,
        }
        lines = [
            f"teacher     {settings.name}, {parameters / 1e6:.1f} M parameters, {cost}",
            f"learned     {', '.join(what for what, weight in learned.items() if weight > 0)}",
        ]
        if settings.weight > 0 and opened.class_names is None:
            lines.append(
                f"            the teacher does not name its {opened.num_classes:,} classes: they are taken to be those "
                "of the data, in the same order"
            )
        return lines


def check_identity(before: Mapping[str, Any] | None, teacher: Teacher | None) -> None:
    """Compare the teacher of a checkpoint with the one of the resumed run.

    Args:
        before: `Teacher.identity` of the checkpoint; None: it had no teacher.
        teacher: of the run.

    Raises:
        ValueError: they differ; names both and the remedy.
    """
    now = None if teacher is None else teacher.identity()
    remedy = "give the same teacher; or start a new run from these weights: fit --config NAME --model.weights RUN"
    if (before is None) != (now is None):
        had, has = (_named(identity) for identity in (before, now))
        raise ValueError(f"model.teacher: the run was trained with {had} and would go on with {has}: {remedy}")
    if before is None or now is None:
        return
    for key, what in (("digest", "weights"), ("image_size", "size"), ("mean", "mean"), ("std", "std")):
        if before.get(key) != now[key]:
            raise ValueError(
                f"model.teacher: {now['name']} is not the teacher that the run was trained with "
                f"({before.get('name')}): its {what} differ ({_short(before.get(key))}, now {_short(now[key])}): "
                f"{remedy}"
            )


def _named(identity: Mapping[str, Any] | None) -> str:
    return "no teacher" if identity is None else f"the teacher {identity.get('name')}"


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _digest(network: nn.Module) -> str:
    """SHA-256 of names, shapes and values of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _check_kind(opened: TeacherNetwork, name: str, *, multi_label: bool) -> None:
    """Refuse logits of a softmax where those of a yes or no for each class are learned, and the other way round."""
    if opened.multi_label == multi_label:
        return
    kinds = {True: "any number of labels an image", False: "one class an image"}
    raise ValueError(
        f"model.teacher: {name} was trained for {kinds[opened.multi_label]}, and this network is for "
        f"{kinds[multi_label]}: their logits mean different things. To learn from the teacher's features: "
        "--model.teacher.weight 0 --model.teacher.pooled_weight 1, or dense_weight"
    )


def _matching_classes(opened: TeacherNetwork, ours: list[str], name: str) -> list[int] | None:
    """The teacher's index of each of our classes; None: they are the same.

    Raises:
        ValueError: the classes are others.
    """
    theirs = opened.class_names
    if theirs == ours or (theirs is None and opened.num_classes == len(ours)):
        return None
    if theirs is not None and len(theirs) == len(ours) == len(set(theirs)) and set(theirs) == set(ours):
        return [theirs.index(own) for own in ours]
    said = f"{opened.num_classes:,} classes" + ("" if theirs is None else f" ({abridged(theirs)})")
    raise ValueError(
        f"model.teacher: {name} has {said}, the data have {len(ours):,} ({abridged(ours)}), and logits can be learned "
        "of the same classes only. To learn from the teacher's features: --model.teacher.weight 0 "
        "--model.teacher.pooled_weight 1, or dense_weight"
    )


def _as_channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)


def _in_channels(pixels: Tensor, channels: int) -> Tensor:
    """Gray to colour by repetition, colour to gray by its brightness.

    Raises:
        ValueError: other numbers of channels.
    """
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    if channels == 1 and pixels.shape[1] == len(_LUMA):
        return (pixels * pixels.new_tensor(_LUMA).view(-1, 1, 1)).sum(1, keepdim=True)
    raise ValueError(
        f"model.teacher takes {channels} channel(s), the images have {pixels.shape[1]}: choose another teacher"
    )


def _is_half(images: Tensor) -> bool:
    return images.dtype in (torch.bfloat16, torch.float16)
