"""Complementary channel dropout between two strong views, of UniMatch V2 (arXiv 2410.10777).

Shapes: B images; C_l channels of the encoder's map of level l.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def complementary_dropout(
    num_images: int,
    channels: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Factors on the encoder's channels: what one view of an image drops, the other keeps doubled.

    For each image and channel m is 0 or 2 with equal chance; the first view is multiplied by m, the
    second by 2 - m. A random half of the images (rounded down) keeps all its channels in both
    views. Maps of one width have the same m, so all maps of a plain transformer do.

    Args:
        num_images: B.
        channels: C_l of each map.
        device: of the factors; they are sampled on the CPU.
        generator: makes the choice repeatable.

    Returns:
        ``(2 * B, C_l)`` for each map: the first view's images, then the second view's.
    """
    halves = {
        width: 2.0 * torch.randint(2, (num_images, width), generator=generator)
        for width in sorted(set(channels))
    }
    whole = torch.randperm(num_images, generator=generator)[: num_images // 2]
    factors = {}
    for width, first in halves.items():
        first[whole] = 1.0
        factors[width] = torch.cat([first, 2 - first]).to(device, non_blocking=True)
    return tuple(factors[width] for width in channels)
