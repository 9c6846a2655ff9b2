"""Partial labels: a pixel, or a share of the pixels, of each class of an image stays known.

Shapes: labels (H, W), 0 .. C-1 or IGNORE.

Nothing is stored: the same (seed, image id, budget) gives the same pixels on every machine.
"""

from __future__ import annotations

import math
import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reco import IGNORE
from reco.seeding import stable_seed

# A 5x5 dilation carries a region two pixels further in every direction.
_RING = 2


def partial_labels(
    labels: Tensor, budget: Literal["pixel"] | float, *, seed: int, id: str
) -> Tensor:
    """Labels with only ``budget`` of each class left; the rest is IGNORE.

    Per class a seed pixel is sampled uniformly. ``"pixel"`` keeps that one alone. For a share it is
    grown by 5x5 dilations within the class until the share is covered: the r-th gives the square
    of radius 2r around the seed pixel, so r follows from the Chebyshev distance of the last pixel
    needed. Larger budgets contain smaller ones.

    Args:
        labels: ``(H, W)`` uint8, at the size that the network is trained at.
        budget: ``"pixel"``, or a share in (0, 1].
        seed: of the experiment's partial labels.
        id: of the image.

    Raises:
        ValueError: another budget.
    """
    if budget != "pixel" and not (isinstance(budget, int | float) and 0 < budget <= 1):
        raise ValueError(
            f"dataset.partial_labels = {budget!r}: expected null, pixel, or a share in (0, 1]"
        )
    # `random` is the one method that Python promises to be the same in all versions.
    rng = random.Random(stable_seed("partial", seed, id))
    flat = labels.numpy().ravel()
    width = labels.shape[1]
    # A stable sort puts each class's pixels side by side, in reading order.
    by_class = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=IGNORE + 1)
    ends = counts.cumsum()
    kept = np.full_like(flat, IGNORE)
    for c in np.flatnonzero(counts[:IGNORE]):
        pixels = by_class[ends[c] - counts[c] : ends[c]]
        start = pixels[int(rng.random() * len(pixels))]
        if budget == "pixel":
            kept[start] = c
            continue
        rows, columns = np.divmod(pixels, width)
        row, column = divmod(int(start), width)
        distance = np.maximum(abs(rows - row), abs(columns - column))
        # Slightly less than the product, so that 7 % of 100 is 7 and not 7.000000000000001.
        needed = max(1, math.ceil(budget * len(pixels) - 1e-9))
        furthest = np.partition(distance, needed - 1)[needed - 1]
        radius = _RING * math.ceil(furthest / _RING)
        kept[pixels[distance <= radius]] = c
    return torch.from_numpy(kept.reshape(labels.shape))
