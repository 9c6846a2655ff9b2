"""DeepLabv3+ with a representation head beside the classifier.

    images ─ backbone ─┬─ high-level map ─ ASPP ─ upsample ─┐
                       └─ low-level map ─ 1×1 to 48 ────────┴─ concatenate ─┬─ classifier
                                                                            └─ representation head

Shapes: B batch, C classes, D representation, H×W image, h×w low-level feature map (h = H/4 and
w = W/4, rounded as the backbone rounds).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reco.models.decoders import ASPP, conv_bn_relu
from reco.models.encoders import ATROUS_RATES, build_backbone

_LOW_LEVEL_CHANNELS = 48


class SegmentationOutput(NamedTuple):
    """What a network says, at a quarter of the image's size."""

    logits: Tensor  # (B, C, h, w)
    representations: Tensor | None  # (B, D, h, w); None in eval mode or without that head


def logits_of(output: SegmentationOutput | Tensor) -> Tensor:
    """The logits of what a network of this package, or one that knows logits alone, returns."""
    return output if isinstance(output, Tensor) else output.logits


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP, decoder and two parallel heads at a quarter of the image's size.

    The representation head runs in train mode only; in eval mode ``representations`` is None. The
    mode that counts is that of this module, not of its children: a teacher with only its batch norm
    in train mode returns no representations.

    Images are float ``(B, 3, H, W)``, RGB in [0, 1]; the network brings them to the mean and
    deviation that the backbone's weights were trained with, which are part of its state. A batch of
    one image trains.
    Convolutions in front of a ReLU start from Kaiming's normal distribution (fan-in), the 1×1
    convolution that ends each head from PyTorch's default; batch norm starts at 1 and 0.

    Args:
        num_classes: C, at least 1.
        backbone: ``resnet18``, ``resnet50``, ``resnet101``, ``mobilenet_v3_large`` (torchvision),
            or ``timm/<name>`` for a timm network that offers ``features_only`` with
            ``output_stride`` (extra ``timm``).
        weights: of the backbone. ``"imagenet"`` downloads torchvision's ``IMAGENET1K_V1`` (for timm
            the network's default weights); ``"none"`` or None starts from random numbers; anything
            else is the path of a file that holds a state dict under the backbone's own names,
            with or without a common prefix such as ``module.``. What was loaded from a file is
            logged, as a warning if something was missing.
        representation_dim: D, or None to build no representation head.
        output_stride: of the backbone's high-level map, 8 or 16 (``mobilenet_v3_large``: 16).
        channels: width of the convolutions in ASPP and heads; the paper's network has 256.

    Raises:
        ValueError: for an unknown backbone, one that cannot have this output stride, a size below
            1, or a weights file that does not fit (its names or shapes, or not a state dict).
        FileNotFoundError: if ``weights`` names no file.
        ImportError: if the backbone is timm's and timm is not installed.
        OSError: if ImageNet weights cannot be downloaded.
    """

    mean: Tensor  # (3, 1, 1) of the images, in [0, 1]
    std: Tensor  # (3, 1, 1)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101",
        weights: str | None = "imagenet",
        representation_dim: int | None = 256,
        output_stride: int = 16,
        channels: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "channels": channels}
        if representation_dim is not None:
            sizes["representation_dim"] = representation_dim
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if output_stride not in ATROUS_RATES:
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")

        extractor = build_backbone(backbone, weights, output_stride)
        for name, values in (("mean", extractor.mean), ("std", extractor.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.backbone = extractor.network
        self._low, self._high = extractor.low, extractor.high
        self.low_level = conv_bn_relu(extractor.low_channels, _LOW_LEVEL_CHANNELS, kernel_size=1)
        self.aspp = ASPP(extractor.high_channels, channels, ATROUS_RATES[output_stride])
        decoder_channels = channels + _LOW_LEVEL_CHANNELS
        self.classifier = _head(decoder_channels, channels, num_classes)
        self.representation: nn.Module | None = None
        if representation_dim is not None:
            self.representation = _head(decoder_channels, channels, representation_dim)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Run the network.

        Args:
            images: ``(B, 3, H, W)`` float, RGB in [0, 1].

        Returns:
            Logits ``(B, C, h, w)`` and representations ``(B, D, h, w)``; the latter None in eval
            mode, and if ``representation_dim`` is.

        Raises:
            ValueError: images that are not floating.
        """
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}: expected floating numbers in [0, 1]")
        return self.forward_normalised((images - self.mean) / self.std)

    def forward_normalised(self, images: Tensor) -> SegmentationOutput:
        """As :meth:`forward`, of images that the caller has brought to ``mean`` and ``std``."""
        features = self.backbone(images)
        low = self.low_level(features[self._low])
        high = self.aspp(features[self._high])
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        decoded = torch.cat([high, low], dim=1)
        logits = self.classifier(decoded)
        if self.representation is None or not self.training:
            return SegmentationOutput(logits, None)
        return SegmentationOutput(logits, self.representation(decoded))


def _head(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    """The shape of both heads."""
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, kernel_size=3),
        nn.Conv2d(channels, out_channels, kernel_size=1),
    )
