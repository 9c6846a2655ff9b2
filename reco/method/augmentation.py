"""Geometry and colour of a batch on its device, images together with what lies on their pixels.

Shapes: images (B, 3, H, W), uint8 or floating in [0, 1]; a mask (B, H, W) is labels (integers,
IGNORE where nothing is known) or a confidence (floating, 0 where nothing is known).

All random numbers come from torch's global CPU generator; nothing here waits for a device.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from reco.data.transforms import RandomScaleCrop


def to_unit(images: Tensor) -> Tensor:
    """Images, uint8 or floating in [0, 1], as the networks take them: float32 in [0, 1]."""
    return images.float() if images.is_floating_point() else images.float() / 255


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


def photometric_flip(
    images: Tensor,
    *masks: Tensor,
    jitter: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25),
    grey: float = 0.0,
    blur: tuple[float, float] = (0.15, 1.15),
) -> tuple[Tensor, ...]:
    """Colour jitter, grey, blur and horizontal flip, drawn for each image of a batch.

    Jitter (probability 0.8), grey in place of colours (``grey``), Gaussian blur (0.5) and flip
    (0.5), of the masks too. Where channels are not red, green and blue, the jitter is of brightness
    and contrast alone, the same for all channels, and nothing turns grey.

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
    colour: v2.Transform = v2.ColorJitter(*jitter)
    if images.shape[1] not in (1, 3):  # of grey images torchvision leaves saturation and hue alone
        change = partial(_jitter_brightness_and_contrast, strength=jitter[:2])
        colour = v2.Lambda(change, tv_tensors.Image)
    transforms = [v2.RandomApply([colour], p=0.8)]
    if grey and images.shape[1] == 3:
        transforms.append(v2.RandomGrayscale(grey))
    transform = v2.Compose(
        [
            *transforms,
            v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=blur)], p=0.5),
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


def _jitter_brightness_and_contrast(image: Tensor, strength: tuple[float, float]) -> Tensor:
    """Both by up to ``strength``, of an image ``(C, H, W)``; contrast is that with its mean."""
    least = 1 - torch.tensor(strength, device="cpu")
    brightness, contrast = (least + 2 * (1 - least) * torch.rand(2, device="cpu")).tolist()
    image = (image * brightness).clamp(0, 1)
    mean = image.mean()
    jittered: Tensor = (mean + (image - mean) * contrast).clamp(0, 1)
    return jittered
