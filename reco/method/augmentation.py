"""Geometry and colour of a batch on its device, images together with what lies on their pixels.

Shapes: images (B, 3, H, W), uint8 or floating in [0, 1]; a mask (B, H, W) is labels (integers,
IGNORE where nothing is known) or a confidence (floating, 0 where nothing is known).

All random numbers come from torch's global CPU generator, an amount for each image, and go to the
device together. Every image of a batch is then treated by one set of operations; nothing here waits
for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

from reco.data.transforms import void_colour, void_value
from reco.method.colour import (
    NO_BLUR,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    flip,
    gaussian_blur,
    to_grey,
)

_JITTER, _BLUR, _FLIP = 0.8, 0.5, 0.5  # probabilities


def to_unit(images: Tensor) -> Tensor:
    """Images, uint8 or floating in [0, 1], as the networks take them: float32 in [0, 1]."""
    return images.float() if images.is_floating_point() else images.float() / 255


def rescale_batch(
    images: Tensor, *masks: Tensor, scale_range: tuple[float, float]
) -> tuple[Tensor, ...]:
    """Each image of a batch at a random scale, cropped or padded to its old size.

    That is :class:`~reco.data.transforms.RandomScaleCrop` for each, from the same random
    numbers. All masks, a confidence too, are carried along by nearest neighbour: what lay on one
    pixel stays together.

    Args:
        images: ``(B, 3, H, W)`` floating in [0, 1].
        masks: ``(B, H, W)`` each.
        scale_range: smallest and largest scale; (1, 1) returns the arguments themselves.
    """
    if scale_range == (1.0, 1.0):
        return images, *masks
    device, (height, width) = images.device, images.shape[2:]
    windows = _sample_windows(len(images), (height, width), scale_range)
    scaled, start, ratio = windows.to(device, non_blocking=True).unbind()
    # Centres of pixels of rows and of columns, (2, B, max(H, W)), in pixels of the scaled image and
    # in old ones.
    old = torch.arange(0.5, max(height, width), device=device)
    scaled_at = start + old
    at = scaled_at * ratio
    nearest = at.long().masked_fill((scaled_at < 0) | (scaled_at > scaled), -1)  # -1: outside
    rows, columns = nearest[0, :, :height, None], nearest[1, :, None, :width]
    outside = (rows | columns) < 0
    pixels = (torch.arange(len(images), device=device).view(-1, 1, 1), rows, columns)
    rescaled = _interpolated(images, old, at, ratio)
    return (
        torch.where(outside[:, None], void_colour(images), rescaled),
        *(mask[pixels].masked_fill(outside, void_value(mask)) for mask in masks),
    )


def photometric_flip(
    images: Tensor,
    *masks: Tensor,
    jitter: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25),
    grey: float = 0.0,
    blur: tuple[float, float] = (0.15, 1.15),
) -> tuple[Tensor, ...]:
    """Colour jitter, grey, blur and horizontal flip, sampled for each image of a batch.

    Jitter (probability 0.8), grey in place of colours (``grey``), Gaussian blur (0.5) and flip
    (0.5), of the masks too. The order of the jitter's changes is sampled once for the batch. Where
    channels are not red, green and blue, the jitter is of brightness and contrast alone, the same
    for all channels, and nothing turns grey.

    Args:
        images: ``(B, C, H, W)`` floating in [0, 1], at least 5 x 5.
        masks: ``(B, H, W)`` each.
        jitter: by how much brightness, contrast, saturation and hue change at most; hue in turns,
            at most 0.5.
        grey: probability of an image without colours.
        blur: smallest and largest σ, in pixels.

    Returns:
        Images and masks; shapes and dtypes as they came.
    """
    amounts = _sample_amounts(len(images), jitter, grey, blur).to(images.device, non_blocking=True)
    brightness, contrast, saturation, hue, greyed, sigma, flipped = amounts.unbind()
    flipped = flipped > 0
    changes: list[Callable[[Tensor], Tensor]] = [
        partial(adjust_brightness, factors=brightness),
        partial(adjust_contrast, factors=contrast),
    ]
    coloured = images.shape[1] == 3
    if coloured:
        changes.append(partial(adjust_saturation, factors=saturation))
        changes.append(partial(adjust_hue, turns=hue))
    # Autocast would run the blur, a convolution, in half precision, too coarse for colours.
    with torch.autocast(images.device.type, enabled=False):
        changed = images
        for change in _shuffled(changes):
            changed = change(changed)
        if grey and coloured:
            changed = to_grey(changed, greyed > 0)
        changed = gaussian_blur(changed, sigma)
    of_masks = flipped[:, 0]
    return flip(changed, flipped), *(flip(mask, of_masks) for mask in masks)


def _sample_amounts(
    batch: int, jitter: tuple[float, ...], grey: float, blur: tuple[float, float]
) -> Tensor:
    """``(7, B, 1, 1, 1)`` on the CPU: jitter (four), whether grey, σ of the blur, whether flip.

    What is not to change has the amount that changes nothing.
    """
    *around_one, turns = jitter
    rows = [  # probability, smallest, largest, without
        *((_JITTER, max(0.0, 1 - most), 1 + most, 1.0) for most in around_one),
        (_JITTER, -turns, turns, 0.0),
        (grey, 1.0, 1.0, 0.0),
        (_BLUR, *blur, NO_BLUR),
        (_FLIP, 1.0, 1.0, 0.0),
    ]
    table = torch.tensor(list(zip(*rows, strict=True)), device="cpu")
    probability, smallest, largest, without = table.view(4, -1, 1, 1, 1, 1).unbind()
    chosen = torch.rand(4, batch, 1, 1, 1, device="cpu")[[0, 0, 0, 0, 1, 2, 3]]  # a jitter has four
    amount = smallest.lerp(largest, torch.rand(len(rows), batch, 1, 1, 1, device="cpu"))
    return torch.where(chosen < probability, amount, without)


def _shuffled(
    changes: list[Callable[[Tensor], Tensor]],
) -> tuple[Callable[[Tensor], Tensor], ...]:
    """The changes in an order from the CPU's generator, so that nothing waits for a device."""
    orders = list(permutations(changes))
    return orders[int(torch.randint(len(orders), (), device="cpu"))]


def _sample_windows(batch: int, size: tuple[int, int], scale_range: tuple[float, float]) -> Tensor:
    """``(3, 2, B, 1)`` on the CPU, for rows and columns of each image.

    They are its extent when scaled, where the window begins in it (below 0: before it), and how
    many old pixels make a scaled one.
    """
    low, high = scale_range
    at_scale, *at_place = torch.rand(batch, 3, 1, device="cpu").double().unbind(1)
    extent = torch.tensor(size, device="cpu").view(2, 1, 1)
    scaled = (extent * (low + (high - low) * at_scale)).round().clamp(min=1)
    beyond = scaled - extent
    start = beyond.clamp(max=0) + (torch.stack(at_place) * (beyond.abs() + 1)).floor()
    return torch.stack([scaled, start, extent / scaled]).float()


def _interpolated(images: Tensor, old: Tensor, at: Tensor, ratio: Tensor) -> Tensor:
    """Images at other places, bilinear and antialiased; anything where a place is beyond them.

    Args:
        images: ``(B, C, H, W)``.
        old: ``(max(H, W),)`` centres of their pixels.
        at: ``(2, B, max(H, W))`` the places, of rows and of columns.
        ratio: ``(2, B, 1)`` distance between the places.
    """
    height, width = images.shape[2:]
    distance = (old - at[..., None]).abs() / ratio[..., None].clamp(min=1)
    weights = (1 - distance).clamp(min=0).to(images.dtype)
    rows, columns = (
        part / part.sum(2, keepdim=True).clamp(min=1e-3)
        for part in (weights[0, :, :height, :height], weights[1, :, :width, :width])
    )
    with torch.autocast(images.device.type, enabled=False):
        of_columns = images.flatten(1, 2).bmm(columns.mT).view(images.shape)
        return rows[:, None] @ of_columns
