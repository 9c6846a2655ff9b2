"""Colour, sharpness and direction of a batch, by an amount for each image.

Shapes: images (B, C, H, W) floating in [0, 1]; amounts (B, 1, 1, 1), on the images' device. The
results are those of torchvision's functions for one image, up to rounding. Each is one set of
operations for the whole batch, and nothing waits for the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_BLUR = 1e-3  # σ at which neighbours have the weight 0
_BLUR_RADIUS = 4  # pixels, as torchvision's kernel_size=9


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Times ``factors``: 0 is black, 1 changes nothing."""
    return (images * factors).clamp(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Distance from an image's mean grey times ``factors``: 0 is grey all over, 1 no change."""
    greys = _grey(images) if images.shape[1] == 3 else images
    return _away_from(greys.mean((1, 2, 3), keepdim=True), images, factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Distance from each pixel's grey times ``factors``: 0 takes the colours away, 1 no change.

    Images of red, green and blue alone.
    """
    return _away_from(_grey(images), images, factors)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Hues turned by ``turns`` round the circle of colours: 0 or 1 changes nothing.

    Images of red, green and blue alone.
    """
    value, brightest = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    # Where the hue lies on a circle of 6: red at 0, green at 2, blue at 4, and how far the other
    # two channels pull it away from the brightest one. Grey has chroma 0, hence any hue.
    others = (images.roll(-1, 1) - images.roll(1, 1)) / chroma.clamp(min=1e-12)
    hue = others.gather(1, brightest).add(brightest, alpha=2).add(turns, alpha=6)
    # Each channel is below the value by up to the chroma, according to its distance on the circle.
    starts = torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)
    distance = (hue + starts) % 6
    below = distance.minimum(4 - distance).clamp(0, 1)
    return torch.where(turns == 0, images, value.addcmul(chroma, below, value=-1))


def to_grey(images: Tensor, chosen: Tensor) -> Tensor:
    """Grey in all three channels where ``chosen`` (bool) is True."""
    return torch.where(chosen, _grey(images), images)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian blur over 9 × 9 pixels with ``sigmas`` > 0 pixels; ``NO_BLUR`` changes nothing.

    Beyond their borders, which are at least 5 pixels apart, images are reflected.
    """
    at = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    kernels = ((at / sigmas.expand(-1, images.shape[1], -1, -1)) ** 2 / -2).softmax(3)
    # Each plane becomes a channel, so that a grouped convolution has a kernel for each.
    kernels = kernels.view(-1, 1, 1, len(at))
    height, width = (size + 2 * _BLUR_RADIUS for size in images.shape[2:])
    planes = F.pad(images, [_BLUR_RADIUS] * 4, mode="reflect").reshape(1, -1, height, width)
    for kernel in (kernels, kernels.mT):
        planes = F.conv2d(planes, kernel, groups=len(kernel))
    return planes.reshape(images.shape)


def flip(values: Tensor, chosen: Tensor) -> Tensor:
    """Left and right exchanged where ``chosen`` (bool, broadcast to ``values``) is True."""
    return torch.where(chosen, values.flip(-1), values)


def _grey(images: Tensor) -> Tensor:
    """``(B, 1, H, W)``, in the weights of ITU-R 601-2 that Pillow and torchvision take."""
    red, green, blue = images.chunk(3, 1)
    return (0.2989 * red).add(green, alpha=0.587).add(blue, alpha=0.114)


def _away_from(origin: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    return origin.lerp(images, factors).clamp(0, 1)
