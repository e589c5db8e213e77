"""Masked image modelling: a network learns to reconstruct what is hidden from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.pretraining.draw import draw_reconstructions
from scalablevit.pretraining.masking import MaskedImages, check_masking, last_map, masked_l1
from scalablevit.pretraining.task import PretrainingSettings, PretrainingTask
from scalablevit.pretraining.unlabelled_images import UnlabelledBatch, collate

_DRAWN = 8


@dataclass(frozen=True)
class MaskedSettings(PretrainingSettings):
    """How masked image modelling is done.

    Args:
        mask_patch_size: side of a masked patch in pixels: a multiple of the pixels per token of the network's first map
            (4) that divides the sides of the images.
        mask_ratio: share of the patches that is masked, in (0, 1).
    """

    mask_patch_size: int = 32
    mask_ratio: float = 0.6


class MaskedPretraining(PretrainingTask):
    """A network that reconstructs masked patches of images, by L1 on masked pixels and one linear decoder.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the
            command line takes it from the data.
        settings: arguments of `MaskedSettings`.

    Raises:
        ValueError: no such variant, weights or masks that do not fit, or an argument out of range.

    Source: SimMIM, arXiv:2111.09886.
    """

    settings: MaskedSettings

    def __init__(self, variant: str, *, preprocessing: dict[str, Any], **settings: Any) -> None:
        own = MaskedSettings(**settings)
        super().__init__(variant, preprocessing=preprocessing, settings=own)
        self.settings = own
        self.masked_images = self._build_masked_images()
        self._leave_out_unused()

    def _build_masked_images(self) -> MaskedImages:
        own, size, name = self.settings, self.preprocessing.image_size, self.variant
        info: Any = getattr(self.network, "feature_info", None)
        if not hasattr(self.network, "forward_intermediates") or not info:
            raise ValueError(f"model.variant: {name} has no feature maps to reconstruct images from; choose another")
        first, stride = int(info[0]["reduction"]), int(info[-1]["reduction"])
        check_masking(
            size,
            mask_patch_size=own.mask_patch_size,
            mask_ratio=own.mask_ratio,
            first_stride=first,
            last_stride=stride,
        )
        in_chans = self.preprocessing.in_chans
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(own.seed)
            found = last_map(self.network.eval(), torch.zeros(1, in_chans, *size))
            self.network.train()
            expected = size[0] // stride, size[1] // stride
            if found.shape[-2:] != expected:
                raise ValueError(
                    f"model.variant: {name} gives a map of {found.shape[-2]} x {found.shape[-1]} for images of "
                    f"{size[0]} x {size[1]} pixels, and {expected[0]} x {expected[1]} are needed; choose another "
                    "network or size"
                )
            return MaskedImages(
                found.shape[1], in_chans=in_chans, stride=stride, patch_size=own.mask_patch_size, ratio=own.mask_ratio
            )

    def trained_beside_network(self) -> list[nn.Module]:
        """The learned patch and the decoder."""
        return [self.masked_images]

    def losses(self, network: nn.Module, batch: UnlabelledBatch) -> dict[str, Tensor]:
        """L1 on the masked pixels of a batch."""
        pixels = self.masked_images.pixels(batch.seeds, batch.images)
        return {"l1": masked_l1(self.masked_images(network, batch.images, pixels), batch.images, pixels)}

    def announcement(self, data: Any) -> list[str]:
        """Lines about what is masked."""
        own = self.settings
        height, width = self.preprocessing.image_size
        patches = height * width // own.mask_patch_size**2
        masked = round(own.mask_ratio * patches)
        side = own.mask_patch_size
        return [*super().announcement(data), f"masked      {masked} of {patches} patches of {side} x {side} pixels"]

    @torch.inference_mode()
    def draw(self, network: nn.Module, folder: Path) -> None:
        """Draw `reconstructions.png`: held-out images, what is visible of them, and what is made of that."""
        dataset: Any = self.trainer.datamodule.val_dataset  # type: ignore[attr-defined]
        count = len(dataset)
        shown = min(count, _DRAWN)
        samples = [dataset[i * count // shown] for i in range(shown)]
        readable = [sample for sample in samples if sample.is_readable]
        if not readable:
            return
        batch = collate(readable)
        images = batch.images.to(next(network.parameters()).device)
        pixels = self.masked_images.pixels(batch.seeds, images)
        found = self.masked_images(network, images, pixels)
        draw_reconstructions(images, pixels, found, self.preprocessing, folder / "reconstructions.png")
