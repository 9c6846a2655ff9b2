"""Comparing networks with the truth.

Shapes: images (B, C, H, W) uint8; labels and predictions (B, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reco import distributed
from reco.data.loading import EvalSample
from reco.inference.probabilities import (
    AnyNetwork,
    InferenceMode,
    predict_probabilities,
    resize_logits,
)
from reco.inference.tiles import MOST_PIXELS, TensorSource, check_classes, label_large
from reco.metrics import ConfusionMatrix, finite_or_none, format_table, near_boundary

# Pixels on either side of a boundary that count as near it.
BOUNDARY_WIDTH = 3


@dataclass(frozen=True)
class Evaluation:
    """Confusion matrices of an evaluation."""

    confusion: ConfusionMatrix
    boundary: ConfusionMatrix  # of pixels near a true boundary alone
    boundary_width: int
    examples: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values; ``None`` for NaN."""
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
        mode: windows, scales and mirroring.
        boundary_width: pixels on either side of a true boundary that count as near it.
        num_examples: keep labels ``(H, W)`` uint8 and confidence ``(H, W)`` of as many images.

    Raises:
        ValueError: a network has another number of classes.
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
                try:
                    predictions, confidence = label_batch(
                        network, images, labels.shape[1:], num_classes, mode
                    )
                except ValueError as error:
                    raise ValueError(f"network {name!r} {error}") from error
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


def label_batch(
    network: AnyNetwork,
    images: Tensor,
    size: Sequence[int],
    num_classes: int,
    mode: InferenceMode | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels ``(B, H, W)`` at ``size`` and their confidence; large images tile by tile.

    Raises:
        ValueError: the network has another number of classes.
    """
    if images.shape[2] * images.shape[3] > MOST_PIXELS and tuple(images.shape[2:]) == tuple(size):
        found = [
            label_large(network, TensorSource(image), num_classes, mode, device=images.device)
            for image in images
        ]
        labels, confidence = (torch.stack(part) for part in zip(*found, strict=True))
        return labels.to(images.device).long(), confidence.to(images.device)
    probabilities = predict_probabilities(network, images, mode)
    check_classes(probabilities, num_classes)
    confidence, labels = resize_logits(probabilities, size).max(1)
    return labels, confidence


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
