"""Geometry and colour, for images together with whatever lies on their pixels.

Shapes: one image (3, H, W) with masks (H, W), or a batch (B, 3, H, W) with masks (B, H, W).
Images are uint8, or floating in [0, 1]; a mask is labels (integers, IGNORE where nothing is known)
or a confidence (floating, 0 where nothing is known).

All random numbers come from torch's global CPU generator; nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from reco import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """What pretrained backbones expect: zero mean and unit variance over ImageNet.

    Args:
        images: ``(B, 3, H, W)`` uint8, or floating in [0, 1].

    Returns:
        float32 of the same shape.
    """
    images = images.float() if images.is_floating_point() else images.float() / 255
    return (images - _per_channel(IMAGENET_MEAN, images)) / _per_channel(IMAGENET_STD, images)


def resize_pair(image: Tensor, labels: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image (bilinear, antialiased) and labels (nearest) at ``size`` = (height, width)."""
    return _resize_image(image, size), _resize_mask(labels, size)


class RandomScaleCrop:
    """Random scale, then a random crop; what the crop shows beyond the image is void.

    There the image has ImageNet's mean colour (0 after normalising), labels are IGNORE, a
    confidence is 0.

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
        mean = _per_channel(IMAGENET_MEAN, image)
        return (
            self._window(image, mean, corner),
            *(self._window(m, 0 if m.is_floating_point() else IGNORE, corner) for m in masks),
        )

    def _window(self, values: Tensor, fill: Tensor | int, corner: Sequence[int]) -> Tensor:
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


def rescale_batch(
    images: Tensor, *masks: Tensor, scale_range: tuple[float, float]
) -> tuple[Tensor, ...]:
    """Each image of a batch at a random scale of its own, cropped or padded to its old size.

    All masks, a confidence too, are carried along by nearest neighbour: what lay on one pixel stays
    together.

    Args:
        images: ``(B, 3, H, W)`` floating in [0, 1].
        masks: ``(B, H, W)`` each.
        scale_range: smallest and largest scale; (1, 1) returns the arguments themselves.
    """
    if scale_range == (1.0, 1.0):
        return images, *masks
    height, width = images.shape[2:]
    transform = RandomScaleCrop(scale_range, (height, width))
    rescaled = [transform(*sample) for sample in zip(images, *masks, strict=True)]
    return tuple(torch.stack(part) for part in zip(*rescaled, strict=True))


def photometric_flip(images: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
    """Colour jitter, blur and horizontal flip, drawn for each image of a batch.

    Jitter (probability 0.8) of brightness, contrast, saturation and hue by up to ±0.25; Gaussian
    blur (0.5) with σ from 0.15 to 1.15 pixels; flip (0.5), of the masks too.

    Args:
        images: ``(B, 3, H, W)`` floating in [0, 1], at least 5 x 5.
        masks: ``(B, H, W)`` each.

    Returns:
        Images and masks; shapes and dtypes as they came.
    """
    transform = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.25, 0.25, 0.25, 0.25)], p=0.8),
            v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=(0.15, 1.15))], p=0.5),
            v2.RandomHorizontalFlip(0.5),
        ]
    )
    # Autocast would run the blur, a convolution, in half precision, too coarse for colours.
    with torch.autocast(images.device.type, enabled=False):
        samples = [
            transform([tv_tensors.Image(image), *map(tv_tensors.Mask, of_image)])
            for image, *of_image in zip(images, *masks, strict=True)
        ]
    return tuple(
        torch.stack([values.as_subclass(Tensor) for values in part])
        for part in zip(*samples, strict=True)
    )


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


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    """``(3, 1, 1)`` in the images' dtype and range; made on the device, so nothing is copied."""
    if not images.is_floating_point():
        values = [round(255 * value) for value in values]
    return torch.stack([images.new_full((1, 1), value) for value in values])
