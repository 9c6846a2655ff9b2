"""Predicting and evaluating with a trained network.

Shapes: images (B, 3, H, W) uint8 or floating in [0, 1]; probabilities (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from reco import distributed
from reco.data.loading import EvalSample
from reco.data.transforms import void_colour
from reco.method.augmentation import to_unit
from reco.metrics import ConfusionMatrix, finite_or_none, format_table, near_boundary
from reco.models.network import SegmentationOutput, logits_of

Blend = Literal["uniform", "linear", "hann"]
AnyNetwork = Callable[[Tensor], SegmentationOutput | Tensor]

# Pixels on either side of a boundary that count as near it.
BOUNDARY_WIDTH = 3


@dataclass(frozen=True)
class InferenceMode:
    """How a network looks at an image; the default is once, at the whole of it.

    Args:
        window: (height, width) of a sliding window; ``None``: the whole image at once.
        overlap: least share of the window that neighbours have in common, in [0, 1).
        blend: how overlapping windows are averaged: all alike, or less towards their borders.
        margin: pixels along a window's inner borders that are not used at all, since the network
            cannot see past them.
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
    """Softmax probabilities at the images' own size, ``(B, C, H, W)`` float32.

    Args:
        network: in eval mode: images in [0, 1] to logits of any size.
        images: ``(B, 3, H, W)`` uint8, or floating in [0, 1].
        mode: how to look at them.
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
        logits = _look(network, view, mode)
        probabilities = _resize(logits.flip(3) if flipped else logits, size).softmax(1)
        total = total.to(probabilities) + probabilities
    return total / len(views)


def _look(network: AnyNetwork, images: Tensor, mode: InferenceMode) -> Tensor:
    """Logits at the images' size, by the whole image or by a sliding window."""
    if mode.window is None:
        return _resize(logits_of(network(images)), images.shape[2:])
    height, width = images.shape[2:]
    window = mode.window
    # An image smaller than the window is extended by what training shows beyond an image.
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
            logits = _resize(logits_of(network(padded[part])), window)
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
    image's own border, past which no window can see more.
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
    return ramp if blend == "linear" else torch.sin(ramp * torch.pi / 2) ** 2


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation counted."""

    confusion: ConfusionMatrix
    boundary: ConfusionMatrix  # of pixels near a true boundary alone
    boundary_width: int
    examples: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON knows them; ``None`` where there is none."""
        return {
            **self.confusion.compute(),
            "boundary_mean_iou": finite_or_none(self.boundary.mean_iou()),
            "boundary_iou": [finite_or_none(iou) for iou in self.boundary.iou().tolist()],
            "boundary_width": self.boundary_width,
        }


def format_evaluations(results: Mapping[str, Evaluation], class_names: Sequence[str]) -> str:
    """Table of IoU per class and the summary figures, one column for each network."""
    return format_table(
        {name: result.confusion for name, result in results.items()},
        {name: result.boundary for name, result in results.items()},
        class_names,
    )


@torch.no_grad()
def evaluate(
    networks: Mapping[str, nn.Module],
    loader: Iterable[EvalSample],
    num_classes: int,
    *,
    device: torch.device | str,
    mode: InferenceMode | None = None,
    boundary_width: int = BOUNDARY_WIDTH,
    num_examples: int = 0,
) -> dict[str, Evaluation]:
    """Compare networks with the truth, all of them in one pass over the images.

    Predictions are brought to the labels' size before they are compared. With torch.distributed
    every rank evaluates its part of the images, and all get the figures of the whole.

    Args:
        networks: by name; their modes are restored afterwards.
        loader: batches of :class:`reco.data.loading.EvalSample`.
        num_classes: C.
        device: of the networks.
        mode: how they look at an image.
        boundary_width: pixels on either side of a true boundary that count as near it.
        num_examples: keep labels ``(H, W)`` uint8 and confidence ``(H, W)`` of as many images.

    Raises:
        ValueError: a network tells another number of classes apart.
    """
    results = {
        name: Evaluation(
            ConfusionMatrix(num_classes, device),
            ConfusionMatrix(num_classes, device),
            boundary_width,
        )
        for name in networks
    }
    quiet = distributed.rank() != 0
    with _in_eval_mode(networks.values()):
        for sample in tqdm(loader, desc="evaluating", unit="batch", leave=False, disable=quiet):
            images = sample.image.to(device, non_blocking=True)
            labels = sample.label.to(device, non_blocking=True)
            near = near_boundary(labels, boundary_width)
            for name, network in networks.items():
                probabilities = predict_probabilities(network, images, mode)
                if probabilities.shape[1] != num_classes:
                    raise ValueError(
                        f"network {name!r} predicts {probabilities.shape[1]} classes: "
                        f"expected the data set's {num_classes}"
                    )
                confidence, predictions = _resize(probabilities, labels.shape[1:]).max(1)
                result = results[name]
                result.confusion.update(predictions, labels)
                result.boundary.update(predictions, labels, near)
                for i, index in enumerate(torch.as_tensor(sample.index).reshape(-1).tolist()):
                    if index < num_examples:
                        result.examples[index] = (
                            predictions[i].to("cpu", torch.uint8),
                            confidence[i].cpu(),
                        )
    for result in results.values():
        result.confusion.reduce()
        result.boundary.reduce()
    return results


@contextmanager
def _in_eval_mode(networks: Iterable[nn.Module]) -> Iterator[None]:
    modules = [module for network in networks for module in network.modules()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)
