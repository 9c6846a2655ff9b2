"""Mixing of unlabelled images with their pseudo-labels: CutOut, CutMix and ClassMix.

Shapes: images (B, 3, H, W), uint8 or floating in [0, 1]; labels (B, H, W) integer, 0..254 or
IGNORE; any further mask (B, H, W): a confidence (floating), more labels, or a choice of pixels
(bool). Everything happens on the tensors' device, for the whole batch at once, and nothing waits
for the host.

CutMix and ClassMix lay part of image i over image i + 1 of the batch (the last over the first).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reco import IGNORE
from reco.data.transforms import void_colour, void_value
from reco.method.check_labels import checked_labels


def classmix(
    images: Tensor,
    labels: Tensor,
    *masks: Tensor,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Lay the pixels of a random half of image i's classes over image i + 1.

    Of n classes in the (pseudo-)label, n/2 rounded up are chosen; ignored pixels are never laid
    over anything. Olsson et al., "ClassMix", WACV 2021.

    Args:
        images: ``(B, 3, H, W)``.
        labels: ``(B, H, W)`` integer, 0 .. 254 or IGNORE.
        *masks: ``(B, H, W)`` each, such as a confidence.
        generator: makes the choice repeatable.

    Returns:
        Images, labels and masks; pixel by pixel they come from one image.

    Raises:
        ValueError: shapes that do not match, a batch of one image, or labels that are no
            integers. Values are checked on eager CPU tensors only; elsewhere one out of range
            becomes IGNORE.
    """
    labels = _checked(images, labels, *masks, at_least=2)
    flat = labels.flatten(1).long()
    present = torch.zeros(len(flat), IGNORE + 1, dtype=torch.bool, device=labels.device)
    present.scatter_(1, flat, True)
    present[:, IGNORE] = False
    uniform = torch.rand(present.shape, device=labels.device, generator=generator)
    # Absent classes rank last, so that a rank below n/2 is a present class.
    ranks = uniform.masked_fill(~present, 2.0).argsort(1).argsort(1)
    chosen = present & (2 * ranks < present.sum(1, keepdim=True))
    return _lay_over_next(images, labels, *masks, where=chosen.gather(1, flat).view_as(labels))


def cutmix(
    images: Tensor,
    labels: Tensor,
    *masks: Tensor,
    probability: float = 1.0,
    area: tuple[float, float] = (0.5, 0.5),
    aspect: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Lay a box of image i over image i + 1; by default, of half its area.

    French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations",
    BMVC 2020. UniMatch (arXiv 2208.09910) has ``probability=0.5``, ``area=(0.02, 0.4)`` and
    ``aspect=(0.3, 3.3)``. Further arguments and errors as for :func:`classmix`.

    Args:
        images: ``(B, 3, H, W)``.
        labels: ``(B, H, W)`` integer, 0 .. 254 or IGNORE.
        *masks: ``(B, H, W)`` each, such as a confidence.
        probability: of a box, image by image; without one, image i + 1 stays as it is.
        area: smallest and largest share of the image, uniform; 0 < smallest <= largest < 1.
        aspect: smallest and largest height : width of a box, both in shares of the image's;
            uniform in its logarithm. Limited to what fits; None: all that fits.
        generator: makes the choice repeatable.
    """
    if not 0 < area[0] <= area[1] < 1:
        raise ValueError(f"cutmix: area = {area}: expected 0 < smallest <= largest < 1")
    if aspect is not None and not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"cutmix: aspect = {aspect}: expected 0 < smallest <= largest")
    labels = _checked(images, labels, *masks, at_least=2)
    box = _box(labels.shape, images.device, generator, area, aspect)
    if probability < 1:
        uniform = torch.rand(len(box), 1, 1, device=box.device, generator=generator)
        box &= uniform < probability
    return _lay_over_next(images, labels, *masks, where=box)


def cutout(
    images: Tensor,
    labels: Tensor,
    *masks: Tensor,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Erase a box of half the area, as if it lay beyond the image.

    It becomes :func:`~reco.data.transforms.void_colour` in images, IGNORE in labels, 0 in a
    confidence. DeVries & Taylor, arXiv 1708.04552. Arguments and errors as for :func:`classmix`,
    but a single image is enough.
    """
    labels = _checked(images, labels, *masks, at_least=1)
    box = _box(labels.shape, images.device, generator)
    return (
        torch.where(box[:, None], void_colour(images), images),
        *(mask.masked_fill(box, void_value(mask)) for mask in (labels, *masks)),
    )


def _lay_over_next(images: Tensor, *masks: Tensor, where: Tensor) -> tuple[Tensor, ...]:
    """Image i where ``where`` (B, H, W), image i + 1 elsewhere."""
    return (
        torch.where(where[:, None], images, images.roll(-1, 0)),
        *(torch.where(where, mask, mask.roll(-1, 0)) for mask in masks),
    )


def _box(
    shape: torch.Size,
    device: torch.device,
    generator: torch.Generator | None,
    area: tuple[float, float] = (0.5, 0.5),
    aspect: tuple[float, float] | None = None,
) -> Tensor:
    """``(B, H, W)`` bool: in each image a box of random proportions and place; see `cutmix`."""
    batch, height, width = shape
    proportion, *places = torch.rand(3, batch, 1, device=device, generator=generator)
    share: Tensor | float = area[0]
    if area[0] < area[1]:
        uniform = torch.rand(batch, 1, device=device, generator=generator)
        share = area[0] + (area[1] - area[0]) * uniform
    # The two sides are share^u and share^(1-u) of the image's: their product is the share, and
    # height : width is share^(2u-1).
    if aspect is not None:
        logarithm = (torch.ones((), device=device) * share).log()
        tallest, flattest = ((1 + math.log(a) / logarithm) / 2 for a in reversed(aspect))
        lowest, highest = tallest.clamp(0, 1), flattest.clamp(0, 1)
        proportion = lowest + (highest - lowest) * proportion
    sides = (share**proportion, share ** (1 - proportion))
    inside: list[Tensor] = []
    for extent, side, place in zip((height, width), sides, places, strict=True):
        length = (side * extent).round()
        start = (place * (extent - length + 1)).floor()
        at = torch.arange(extent, device=device)
        inside.append((at >= start) & (at < start + length))  # (B, extent)
    return inside[0][:, :, None] & inside[1][:, None, :]


def _checked(images: Tensor, *masks: Tensor, at_least: int) -> Tensor:
    """The labels, which are the first mask."""
    for i, mask in enumerate(masks):
        name = f"mask {i}" if i else "labels"
        if images.ndim != 4 or mask.shape != (len(images), *images.shape[2:]):
            raise ValueError(
                f"mixing: images is {tuple(images.shape)} and {name} is {tuple(mask.shape)}: "
                "expected (B, 3, H, W) and (B, H, W)"
            )
    if len(images) < at_least:
        raise ValueError(
            f"mixing: images holds {len(images)}: expected at least {at_least}, since an image is "
            "mixed with the next one of the batch"
        )
    return checked_labels(masks[0], IGNORE, "mixing")
