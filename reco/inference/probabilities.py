"""Inference on whole images or by a sliding window, at several scales, mirrored.

Shapes: images (B, 3, H, W) uint8 or floating in [0, 1]; probabilities (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from reco.data.transforms import void_colour
from reco.method.augmentation import to_unit
from reco.models.network import SegmentationOutput, logits_of

Blend = Literal["uniform", "hann"]
AnyNetwork = Callable[[Tensor], SegmentationOutput | Tensor]


@dataclass(frozen=True)
class InferenceMode:
    """Windows, scales and mirroring of inference; by default the whole image once.

    Args:
        window: (height, width) of a sliding window; ``None``: the whole image at once.
        overlap: least share of the window that neighbours have in common, in [0, 1).
        blend: how overlapping windows are averaged: all alike, or less towards their borders.
        margin: pixels along a window's inner borders that are not used, since their context is cut
            off.
        scales: the image is seen at each of them; softmax probabilities are averaged.
        flip: at each scale, the mirror image too.

    Raises:
        ValueError: a value out of range.
    """

    window: tuple[int, int] | None = None
    overlap: float = 0.5
    blend: Blend = "hann"
    margin: int = 0
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("window", self.window is None or min(self.window) >= 1, "height and width >= 1"),
            ("overlap", 0 <= self.overlap < 1, "a share in [0, 1)"),
            (
                "margin",
                self.margin >= 0 and (self.window is None or 2 * self.margin < min(self.window)),
                "less than half the window",
            ),
            ("blend", self.blend in get_args(Blend), "one of " + ", ".join(get_args(Blend))),
            ("scales", bool(self.scales) and min(self.scales) > 0, "numbers > 0"),
        ):
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")


@torch.no_grad()
def predict_probabilities(
    network: AnyNetwork, images: Tensor, mode: InferenceMode | None = None
) -> Tensor:
    """Softmax probabilities at the size of the images, ``(B, C, H, W)`` float32.

    Args:
        network: in eval mode: images in [0, 1] to logits of any size.
        images: ``(B, 3, H, W)`` uint8, or floating in [0, 1].
        mode: windows, scales and mirroring.
    """
    mode = mode or InferenceMode()
    images = to_unit(images)
    size = images.shape[2:]
    views = [(scale, False) for scale in mode.scales]
    views += [(scale, True) for scale in mode.scales if mode.flip]
    total = torch.zeros(())
    for scale, flipped in views:
        view = images.flip(3) if flipped else images
        if scale != 1:
            scaled = [max(1, round(extent * scale)) for extent in size]
            view = F.interpolate(
                view, scaled, mode="bilinear", align_corners=False, antialias=scale < 1
            )
        logits = _logits(network, view, mode)
        probabilities = resize_logits(logits.flip(3) if flipped else logits, size).softmax(1)
        total = total.to(probabilities) + probabilities
    return total / len(views)


def _logits(network: AnyNetwork, images: Tensor, mode: InferenceMode) -> Tensor:
    """Logits at the images' size, by the whole image or by a sliding window."""
    if mode.window is None:
        return resize_logits(logits_of(network(images)), images.shape[2:])
    height, width = images.shape[2:]
    window = mode.window
    # An image smaller than the window is padded as crops are in training.
    extents = [max(extent, size) for extent, size in zip((height, width), window, strict=True)]
    padded = void_colour(images).repeat(len(images), 1, *extents)
    padded[:, :, :height, :width] = images
    rows, columns = (
        [
            (start, window_weight(extent, size, start, mode.blend, mode.margin).to(padded))
            for start in window_starts(extent, size, mode.overlap, mode.margin)
        ]
        for extent, size in zip(padded.shape[2:], window, strict=True)
    )
    total, weights = torch.zeros(()), torch.zeros(())
    for top, row_weight in rows:
        for left, column_weight in columns:
            part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            logits = resize_logits(logits_of(network(padded[part])), window)
            if total.ndim == 0:
                total = logits.new_zeros(*logits.shape[:2], *padded.shape[2:])
                weights = logits.new_zeros(padded.shape[2:])
            weight = row_weight[:, None] * column_weight
            total[part] += logits * weight
            weights[part] += weight
    return (total / weights)[:, :, :height, :width]


def window_starts(extent: int, window: int, overlap: float, margin: int = 0) -> list[int]:
    """First rows (or columns) of windows that cover ``extent`` >= ``window`` without a gap.

    They are evenly spread; neighbours share at least ``overlap`` of a window, and as much as it
    takes to cover everything when ``margin`` pixels along inner borders are not used.
    """
    last = extent - window
    step = max(1, min(int(window * (1 - overlap)), window - 2 * margin))
    count = 1 + -(-last // step)
    return [i * last // max(1, count - 1) for i in range(count)]


def window_weight(extent: int, window: int, start: int, blend: Blend, margin: int = 0) -> Tensor:
    """``(window,)`` weights along one axis of the window that begins at ``start``.

    They are 0 within ``margin`` of an inner border, > 0 elsewhere, and do not fall off towards the
    border of the image.
    """
    at = torch.arange(window) + 0.5
    distance = torch.full((window,), torch.inf)
    if start > 0:
        distance = distance.minimum(at - margin)
    if start + window < extent:
        distance = distance.minimum(window - at - margin)
    ramp = (distance / (window / 2 - margin)).clamp(0, 1)
    if blend == "uniform":
        return (ramp > 0).float()
    return torch.sin(ramp * torch.pi / 2) ** 2


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (or probabilities) as float32 at ``size``, bilinear."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)
