"""Labels of large images in bounded memory: tile by tile, each seen with its surroundings.

Shapes: parts of images (C, h, w) uint8; labels and confidence (h, w). Evaluation and prediction
both cut images of more than ``MOST_PIXELS``; within a tile the :class:`InferenceMode` applies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reco.inference.probabilities import AnyNetwork, InferenceMode, predict_probabilities

MOST_PIXELS = 2**21
"""Images of more pixels are cut into tiles."""

TILE, SURROUNDINGS = 1024, 128


class Source(Protocol):
    """An image that is read in parts."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """``(C, h, w)`` uint8 of a part."""


class TensorSource:
    """An image ``(C, H, W)`` that is in memory."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.size: tuple[int, int] = (image.shape[1], image.shape[2])

    def read(self, rows: slice, columns: slice) -> Tensor:
        """``(C, h, w)`` of a part."""
        return self.image[:, rows, columns]


class Tile(NamedTuple):
    """Labels and confidence of a part of an image."""

    rows: slice
    columns: slice
    labels: Tensor  # (h, w) uint8
    confidence: Tensor  # (h, w) float32, of the label


@torch.no_grad()
def label_tiles(
    network: AnyNetwork,
    source: Source,
    num_classes: int,
    mode: InferenceMode | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[Tile]:
    """The tiles of an image, which together cover every pixel once.

    Args:
        network: in eval mode: images in [0, 1] to logits.
        source: the image.
        num_classes: of the network.
        mode: windows, scales and mirroring within a tile and its surroundings. A window larger
            than a tile makes tiles as large.
        device: of the network.
    """
    mode = mode or InferenceMode()
    height, width = source.size
    smallest = max(mode.window or (0,)) / min(mode.scales)
    tile = max(TILE, int(smallest))
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            first_row, first_column = max(0, top - SURROUNDINGS), max(0, left - SURROUNDINGS)
            seen = source.read(
                slice(first_row, min(height, bottom + SURROUNDINGS)),
                slice(first_column, min(width, right + SURROUNDINGS)),
            )
            found = predict_probabilities(network, seen[None].to(device), mode)
            check_classes(found, num_classes)
            probabilities = found[0]
            rows = slice(top - first_row, bottom - first_row)
            columns = slice(left - first_column, right - first_column)
            confidence, labels = probabilities[:, rows, columns].max(0)
            yield Tile(slice(top, bottom), slice(left, right), labels.to(torch.uint8), confidence)


def check_classes(probabilities: Tensor, num_classes: int) -> None:
    """Raise ``ValueError`` unless ``(B, C, H, W)`` are of ``num_classes``."""
    if probabilities.shape[1] != num_classes:
        raise ValueError(
            f"predicts {probabilities.shape[1]} classes: expected the data set's {num_classes}"
        )


def num_tiles(size: tuple[int, int]) -> int:
    """About how many tiles an image of (height, width) has."""
    return len(_spans(size[0], TILE)) * len(_spans(size[1], TILE))


def label_large(
    network: AnyNetwork,
    source: Source,
    num_classes: int,
    mode: InferenceMode | None = None,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Labels ``(H, W)`` uint8 of an image and their confidence ``(H, W)``, both on the CPU."""
    labels = torch.empty(source.size, dtype=torch.uint8)
    confidence = torch.empty(source.size)
    for tile in label_tiles(network, source, num_classes, mode, device=device):
        labels[tile.rows, tile.columns] = tile.labels.cpu()
        confidence[tile.rows, tile.columns] = tile.confidence.cpu()
    return labels, confidence


def _spans(extent: int, tile: int) -> list[tuple[int, int]]:
    """Tiles of nearly equal size along one axis."""
    count = -(-extent // tile)
    edges = [i * extent // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
