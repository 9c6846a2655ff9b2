"""Decoders: from the encoder's feature maps to the one map that both heads read.

Shapes: B batch, h×w cells of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By the stride of ASPP's input: the rates cover the same distance in the image.
_ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
_SKIP_CHANNELS = 48


class DeepLabV3PlusDecoder(nn.Module):
    """ASPP on the coarsest map, beside finer ones (Chen et al., ECCV 2018).

        finest map (stride 4) ─ 1×1 to 48 ─────────────┐
        maps in between       ─ 1×1 to 48 ─ upsample ──┼─ concatenate
        coarsest map          ─ ASPP ────── upsample ──┘

    With an encoder that dilates there are no maps in between: that is the published decoder. One
    that ends at stride 32 adds its maps of strides 8 and 16.

    Args:
        channels: of the encoder's maps, from the finest.
        last_stride: of the coarsest: 8, 16 or 32.
        width: channels of ASPP.
    """

    cells = 1  # of the result, per cell of the finest map along each axis

    def __init__(self, channels: Sequence[int], *, last_stride: int, width: int) -> None:
        super().__init__()
        finest, *between, coarsest = channels
        self.low_level = conv_bn_relu(finest, _SKIP_CHANNELS, kernel_size=1)
        self.between = nn.ModuleList(
            [conv_bn_relu(size, _SKIP_CHANNELS, kernel_size=1) for size in between]
        )
        self.aspp = ASPP(coarsest, width, _ATROUS_RATES[last_stride])
        self.out_channels = width + _SKIP_CHANNELS * (1 + len(between))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(B, out_channels, h, w)`` with the finest map's h and w."""
        low = self.low_level(features[0])
        coarse = [self.aspp(features[-1])]
        coarse += [skip(m) for skip, m in zip(self.between, features[1:-1], strict=True)]
        high, *between = [
            F.interpolate(m, size=low.shape[-2:], mode="bilinear", align_corners=False)
            for m in coarse
        ]
        return torch.cat([high, low, *between], dim=1)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: ``(B, in_channels, ...)`` to ``(B, out_channels, ...)``.

    torchvision's ASPP but for the image-level branch, which has no batch norm here. On a 1×1 map
    batch norm has one value per image and channel: it fails on a batch of one, and in a batch of
    two it turns every channel into ±1, whatever the images show.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, out_channels, kernel_size=1)])
        for rate in rates:
            self.branches.append(
                conv_bn_relu(in_channels, out_channels, kernel_size=3, dilation=rate)
            )
        pooled = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        nn.init.kaiming_normal_(pooled.weight, nonlinearity="relu")
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), pooled, nn.ReLU())
        self.project = nn.Sequential(
            conv_bn_relu((len(rates) + 2) * out_channels, out_channels, kernel_size=1),
            nn.Dropout(0.5),
        )

    def forward(self, features: Tensor) -> Tensor:
        """The coarsest map, filtered at several rates and pooled."""
        branches = [branch(features) for branch in self.branches]
        # Broadcast by addition: the zero strides of `expand` make `cat` lose channels_last.
        pooled = self.pooled(features) + torch.zeros_like(branches[0])
        projected: Tensor = self.project(torch.cat([*branches, pooled], dim=1))
        return projected


class DPTDecoder(nn.Module):
    """Dense prediction transformer's decoder (Ranftl, Bochkovskiy and Koltun, ICCV 2021).

    *Reassemble*: each of four depths of a vision transformer becomes a map; the earliest is
    enlarged four times, the next twice, the third stays, the last is halved. *Fusion*: from the
    last to the first, RefineNet's residual units add each map to what came before, enlarged to its
    size. Class and register tokens are left out (the paper's variant "ignore"). The last fusion
    does not enlarge: with a patch of 16 the heads work at a quarter of the image, as after
    DeepLabv3+, where the paper goes on to half of it.

    Args:
        channels: of the four depths, from the earliest.
        width: channels of the result; the paper's decoder has 256.
    """

    cells = 4  # of the result, per patch along each axis

    def __init__(self, channels: Sequence[int], *, width: int) -> None:
        super().__init__()
        resample = (
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=4),
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
            nn.Identity(),
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1),
        )
        self.reassemble = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(size, width, kernel_size=1), layer)
                for size, layer in zip(channels, resample, strict=True)
            ]
        )
        # The last depth starts the fusion: it is added to nothing.
        self.skips = nn.ModuleList([_ResidualUnit(width) for _ in channels[:-1]])
        self.fusions = nn.ModuleList([_ResidualUnit(width) for _ in channels])
        self.projections = nn.ModuleList([nn.Conv2d(width, width, kernel_size=1) for _ in channels])
        self.dropout = nn.Dropout(0.1)
        self.out_channels = width

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(B, width, h, w)``; h and w are four times the transformer's grid."""
        maps = [layer(m) for layer, m in zip(self.reassemble, features, strict=True)]
        fused = self.projections[-1](self.fusions[-1](maps[-1]))
        for level in reversed(range(len(maps) - 1)):
            finer = maps[level]
            fused = F.interpolate(
                fused, size=finer.shape[-2:], mode="bilinear", align_corners=False
            )
            fused = self.fusions[level](fused + self.skips[level](finer))
            fused = self.projections[level](fused)
        result: Tensor = self.dropout(fused)
        return result


class _ResidualUnit(nn.Module):
    """RefineNet's residual unit, with the batch norm that DPT adds for segmentation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            conv_bn_relu(width, width, kernel_size=3),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.body(features)
        return result


def conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel_size: int, dilation: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def without_padding(cells: Tensor, size: Sequence[int], stride: Fraction) -> Tensor:
    """Crop cells over a padded image to the image in its upper left corner.

    Where the image ends within a cell, the result's cells are slightly smaller than those of the
    padded image, by bilinear interpolation.

    Args:
        cells: ``(B, C, h', w')`` over the padded image.
        size: (height, width) of the image in pixels.
        stride: pixels between two cells.

    Returns:
        ``(B, C, h, w)`` with h = ⌈height / stride⌉, and w likewise.
    """
    num, per = stride.numerator, stride.denominator
    kept = [(extent * per + num - 1) // num for extent in size]
    # A graph that is compiled or exported serves all sizes.
    if not torch.compiler.is_compiling() and all(extent * per % num == 0 for extent in size):
        return cells[:, :, : kept[0], : kept[1]]
    rows, columns = (
        _interpolation(cells, axis, count, extent / count * per / num)
        for axis, count, extent in zip((2, 3), kept, size, strict=True)
    )
    return rows @ cells @ columns.t()


def _interpolation(cells: Tensor, axis: int, kept: int, step: float) -> Tensor:
    """``(kept, cells)``: each kept cell, ``step`` cells wide, as a mean of two neighbours."""
    count = cells.shape[axis]
    numbers = torch.arange(count, device=cells.device, dtype=torch.float32)
    centres = torch.arange(kept, device=cells.device, dtype=torch.float32) + 0.5
    centres = (centres * step - 0.5).clamp(min=0).minimum(numbers[-1])
    weights = (1 - (centres[:, None] - numbers).abs()).clamp(min=0)
    return weights.to(cells.dtype)
