"""Geometry of one image together with its masks.

Shapes: image (3, H, W), uint8 or floating in [0, 1]; a mask (H, W) is labels (integers), a
confidence (floating) or a choice of pixels (bool). Pixels beyond an image have
:func:`void_colour` in images and :func:`void_value` in masks.

All random numbers come from torch's global CPU generator; nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from reco import IGNORE

# ImageNet's mean colour: 0 to a network that was trained on ImageNet. Where channels are not red,
# green and blue, each takes the mean of the three, as it does when a network normalises them.
_VOID_COLOUR = (0.485, 0.456, 0.406)


def void_colour(images: Tensor) -> Tensor:
    """The colour of pixels beyond an image, ``(C, 1, 1)`` in its dtype and range.

    Args:
        images: ``(..., C, H, W)`` uint8, or floating in [0, 1].
    """
    colour: Sequence[float] = _VOID_COLOUR
    if images.shape[-3] != len(colour):
        colour = [sum(colour) / len(colour)] * images.shape[-3]
    if not images.is_floating_point():
        colour = [round(255 * value) for value in colour]
    # Made on the device, so that nothing is copied to it.
    return torch.stack([images.new_full((1, 1), value) for value in colour])


def void_value(mask: Tensor) -> float | int | bool:
    """The value of unknown pixels in a mask: IGNORE, confidence 0, False."""
    if mask.is_floating_point():
        return 0.0
    return False if mask.dtype == torch.bool else IGNORE


def resize_pair(image: Tensor, labels: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image (bilinear, antialiased) and labels (nearest) at ``size`` = (height, width)."""
    return _resize_image(image, size), _resize_mask(labels, size)


class RandomScaleCrop:
    """Random scale, then a random crop; pixels beyond the image are void.

    Args:
        scale_range: the scale is uniform between these two.
        crop_size: (height, width) of the result.
    """

    def __init__(self, scale_range: tuple[float, float], crop_size: tuple[int, int]) -> None:
        self.scale_range = scale_range
        self.crop_size = crop_size

    def __call__(self, image: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """The same part of image ``(3, H, W)`` and masks ``(H, W)``, each of ``crop_size``.

        Raises:
            ValueError: a mask of another size than the image.
        """
        size = image.shape[1:]
        if any(mask.shape != size for mask in masks):
            shapes = ", ".join(str(tuple(mask.shape)) for mask in masks)
            raise ValueError(f"image is {tuple(size)} and masks are {shapes}: expected one size")
        low, high = self.scale_range
        at_scale, *at_place = torch.rand(3, device="cpu").tolist()
        scale = low + (high - low) * at_scale
        if scale != 1:
            size = torch.Size(max(1, round(extent * scale)) for extent in size)
            image = _resize_image(image, size)
            masks = tuple(_resize_mask(mask, size) for mask in masks)
        corner = [
            _start(extent, window, at)
            for extent, window, at in zip(size, self.crop_size, at_place, strict=True)
        ]
        return (
            self._window(image, void_colour(image), corner),
            *(self._window(mask, void_value(mask), corner) for mask in masks),
        )

    def _window(self, values: Tensor, fill: Tensor | float, corner: Sequence[int]) -> Tensor:
        """The crop whose upper left pixel is ``corner`` (row, column) of ``values``."""
        inside, source = [], []
        for extent, window, start in zip(values.shape[-2:], self.crop_size, corner, strict=True):
            end = min(start + window, extent)
            source.append(slice(max(start, 0), end))
            inside.append(slice(max(-start, 0), end - start))
        if all(s.stop - s.start == w for s, w in zip(inside, self.crop_size, strict=True)):
            return values[..., source[0], source[1]].contiguous()
        result = values.new_empty((*values.shape[:-2], *self.crop_size))
        result[:] = fill
        result[..., inside[0], inside[1]] = values[..., source[0], source[1]]
        return result


def _resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    resized: Tensor = v2.functional.resize(image, list(size), antialias=True)
    return resized


def _resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    # NEAREST_EXACT samples at pixel centres, as bilinear does; NEAREST is off by up to half a
    # pixel. A tv_tensors.Mask would always get the latter in torchvision before 0.25.
    resized: Tensor = v2.functional.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)
    return resized[0]


def _start(extent: int, window: int, at: float) -> int:
    """First row or column of a random window; negative where the window is the larger one."""
    first, last = sorted((0, extent - window))
    return first + int(at * (last - first + 1))
