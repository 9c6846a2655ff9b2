"""The segmentation network: an encoder, a decoder, and two heads side by side.

    images ─ normalise ─ encoder ─ decoder ─┬─ classifier
                                            └─ representation head (train mode only)

Shapes: B batch, C classes, D representation, I channels of the image, H×W image, h×w the decoder's
map (h = H/4 and w = W/4, rounded as the encoder rounds; with a transformer, four cells a patch).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from reco.models.decoders import DeepLabV3PlusDecoder, DPTDecoder, conv_bn_relu, without_padding
from reco.models.encoders import build_encoder
from reco.models.weights import load_weights

Decoder = Literal["auto", "deeplabv3plus", "dpt"]


class SegmentationOutput(NamedTuple):
    """Logits and representations, at a quarter of the image's size."""

    logits: Tensor  # (B, C, h, w)
    representations: Tensor | None  # (B, D, h, w); None in eval mode or without that head


def logits_of(output: SegmentationOutput | Tensor) -> Tensor:
    """The logits in the output of a network, which may be the logits themselves.

    Raises:
        TypeError: the output is neither a tensor nor has ``logits``.
    """
    if isinstance(output, Tensor):
        return output
    if not hasattr(output, "logits"):
        raise TypeError(
            f"the network returned a {type(output).__name__}: expected logits (B, C, h, w), or a "
            "named tuple whose field `logits` holds them"
        )
    return output.logits


class SegmentationNetwork(nn.Module):
    """Encoder, decoder and two parallel heads at a quarter of the image's size.

    The representation head runs in train mode only; in eval mode ``representations`` is None. That
    depends on the mode of this module, not of its children: a teacher with only its batch norm in
    train mode returns no representations.

    Images are float ``(B, I, H, W)`` in [0, 1], of any size; the network brings them to the mean
    and deviation that the encoder's weights were trained with, which are part of its state. Batches
    of one image can be trained on. Convolutions of the decoder in front of a ReLU start from
    Kaiming's normal distribution (fan-in), the 1×1 convolution that ends each head from PyTorch's
    default; batch norm starts at 1 and 0.

    Args:
        num_classes: C, at least 1.
        backbone: the encoder: ``resnet18``, ``resnet50``, ``resnet101``, ``mobilenet_v3_large``
            (torchvision), or ``timm/<name>`` (extra ``timm``) of one of the families in
            :data:`reco.models.encoders.TIMM_FAMILIES`.
        weights: of the encoder. ``"imagenet"`` downloads torchvision's ``IMAGENET1K_V1`` (for timm
            the network's default weights, whatever they were trained on); ``"none"`` or None starts
            from random numbers; anything else is the path of a file: a state dict of the encoder,
            plain or as training code leaves it, or a checkpoint of this package, of which the
            decoder and the heads that fit are taken too. See
            :func:`reco.models.weights.load_weights`.
        decoder: ``deeplabv3plus`` for pyramids, ``dpt`` for plain vision transformers, ``auto``
            for the one that the encoder needs.
        representation_dim: D, or None to build no representation head.
        output_stride: of the encoder's coarsest map: 8 or 16 where it dilates
            (``mobilenet_v3_large``: 16), 32 as it is. Encoders that cannot dilate stay at 32 with
            16 too; a transformer has the stride of its patch.
        channels: width of decoder and heads; the papers' networks have 256.
        in_channels: I. The first layer's weights are adapted; see
            :func:`reco.models.weights.adapt_channels`.
        mean: of the images, I numbers in [0, 1]; default: what the encoder's weights were trained
            with or, with other than three channels, the average of that for each.
        std: their deviation, I positive numbers; default as ``mean``.
        freeze: the encoder gets no gradients and stays in eval mode; no activations are kept.
        drop_path: rate of stochastic depth of timm's encoders, in [0, 1); None: as timm has it.

    Raises:
        ValueError: for an unknown backbone, one that cannot have these options, a size below 1, or
            a weights file that does not fit (its names or shapes, or not a state dict).
        FileNotFoundError: if ``weights`` names no file.
        ImportError: if the backbone is timm's and timm is not installed.
        OSError: if ImageNet weights cannot be downloaded.
    """

    mean: Tensor  # (I, 1, 1) of the images, in [0, 1]
    std: Tensor  # (I, 1, 1)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101",
        weights: str | None = "imagenet",
        decoder: Decoder = "auto",
        representation_dim: int | None = 256,
        output_stride: int = 16,
        channels: int = 256,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        freeze: bool = False,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "channels": channels, "in_channels": in_channels}
        if representation_dim is not None:
            sizes["representation_dim"] = representation_dim
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")

        self.encoder = build_encoder(
            backbone,
            pretrained=weights == "imagenet",
            output_stride=output_stride,
            in_channels=in_channels,
            drop_path=drop_path,
            frozen=freeze,
        )
        of_weights = {"mean": self.encoder.image_mean, "std": self.encoder.image_std}
        for name, given in (("mean", mean), ("std", std)):
            values = _per_channel(name, given, of_weights[name], in_channels)
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        needed: Decoder = "dpt" if self.encoder.kind == "transformer" else "deeplabv3plus"
        if decoder not in ("auto", needed):
            raise ValueError(f"decoder={decoder!r}: backbone={backbone!r} needs {needed!r}")
        self.decoder: DPTDecoder | DeepLabV3PlusDecoder = (
            DPTDecoder(self.encoder.channels, width=channels)
            if needed == "dpt"
            else DeepLabV3PlusDecoder(
                self.encoder.channels, last_stride=self.encoder.strides[-1], width=channels
            )
        )
        # Pixels between two cells of the heads' maps.
        self.stride = Fraction(self.encoder.strides[0], self.decoder.cells)
        self.classifier = _head(self.decoder.out_channels, channels, num_classes)
        self.representation: nn.Module | None = None
        if representation_dim is not None:
            self.representation = _head(self.decoder.out_channels, channels, representation_dim)
        if weights not in ("imagenet", "none", None):
            load_weights(self, weights, backbone)

    def forward(
        self, images: Tensor, *, feature_factors: Sequence[Tensor] | None = None
    ) -> SegmentationOutput:
        """Run the network.

        Args:
            images: ``(B, I, H, W)`` float in [0, 1]; RGB where I is 3.
            feature_factors: ``(B, C_l)`` for each map of the encoder, multiplied with its channels,
                such as dropout.

        Returns:
            Logits ``(B, C, h, w)`` and representations ``(B, D, h, w)``; the latter None in eval
            mode, and if ``representation_dim`` is.

        Raises:
            ValueError: images that are not floating, or of another number of channels.
        """
        if not images.is_floating_point() or images.shape[1] != len(self.mean):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}: expected floating numbers in "
                f"[0, 1], (B, {len(self.mean)}, H, W)"
            )
        return self.forward_normalised((images - self.mean) / self.std, feature_factors)

    def forward_normalised(
        self, images: Tensor, feature_factors: Sequence[Tensor] | None = None
    ) -> SegmentationOutput:
        """As :meth:`forward`, of images that the caller has brought to ``mean`` and ``std``."""
        features = self.encoder(self.encoder.pad(images))
        if feature_factors is not None:
            features = [
                each * factors[:, :, None, None].to(each.dtype)
                for each, factors in zip(features, feature_factors, strict=True)
            ]
        decoded = self.decoder(features)
        if self.encoder.multiple > 1:
            decoded = without_padding(decoded, images.shape[2:], self.stride)
        logits = self.classifier(decoded)
        if self.representation is None or not self.training:
            return SegmentationOutput(logits, None)
        return SegmentationOutput(logits, self.representation(decoded))

    def parameter_groups(self) -> dict[Literal["encoder", "decoder"], list[nn.Parameter]]:
        """Trained parameters: of the encoder (none of a frozen one), and of decoder and heads."""
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        ids = {id(p) for p in self.encoder.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in ids]
        return {"encoder": encoder, "decoder": rest}


class DeepLabV3Plus(SegmentationNetwork):
    """The paper's network: :class:`SegmentationNetwork` with the decoder of DeepLabv3+."""

    def __init__(self, num_classes: int, **arguments: Any) -> None:
        super().__init__(num_classes, decoder="deeplabv3plus", **arguments)


def _head(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, kernel_size=3),
        nn.Conv2d(channels, out_channels, kernel_size=1),
    )


def _per_channel(
    name: str, given: Sequence[float] | None, trained: Sequence[float], in_channels: int
) -> list[float]:
    """One number for each channel of the images."""
    if given is None:
        if in_channels == len(trained):
            return list(trained)
        return [sum(trained) / len(trained)] * in_channels
    if len(given) != in_channels or (name == "std" and min(given) <= 0):
        positive = "positive " if name == "std" else ""
        raise ValueError(
            f"{name} = {list(given)}: expected {in_channels} {positive}numbers, one for each of "
            "the image's channels"
        )
    return list(given)
