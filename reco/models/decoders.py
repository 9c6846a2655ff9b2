"""Decoders: from the encoder's feature maps to the map that both heads read."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: ``(B, in_channels, ...)`` to ``(B, out_channels, ...)``.

    torchvision's ASPP but for the image-level branch, which has no batch norm here. On a 1×1 map
    batch norm sees one value per image and channel: it refuses a batch of one, and in a batch of
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
        """The high-level map, seen at several rates and pooled."""
        branches = [branch(features) for branch in self.branches]
        # One value per channel everywhere. `expand` says the same, but its zero strides would make
        # `cat` give up a channels_last layout.
        pooled = self.pooled(features) + torch.zeros_like(branches[0])
        projected: Tensor = self.project(torch.cat([*branches, pooled], dim=1))
        return projected


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
