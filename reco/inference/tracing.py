"""Replacements for functions of timm that depend on image sizes, for ``torch.export``.

With timm's functions the export fails, or the network takes the size of the example alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def traceable() -> Iterator[None]:
    """Trace timm's networks for all sizes in this context; without timm it does nothing."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for module, owner, name, function in _REPLACEMENTS:
            try:
                home = importlib.import_module(f"timm.{module}")
            except ImportError:
                continue
            target = getattr(home, owner, None) if owner else home
            if hasattr(target, name):
                replaced.append((target, name, getattr(target, name)))
                setattr(target, name, function)
        yield
    finally:
        for target, name, function in replaced:
            setattr(target, name, function)


def _same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> Any:
    """TensorFlow's "same" padding in whole numbers; timm's goes through a quotient and its ceil."""
    extent = (kernel - 1) * dilation + 1
    rest = size - 1 - (size - 1) // stride * stride  # remainder of (size - 1) / stride
    if extent >= stride:
        return extent - 1 - rest
    # max(extent - 1 - rest, 0) without a max: torch 2.6 cannot trace that of symbolic sizes.
    return sum(1 - (rest + stride - 1 - place) // stride for place in range(extent - 1))


def _rotary_embedding(self: Any, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """DINOv3's: ``(h * w, 2 * dim)`` sines, then cosines, of the places of (h, w) patches."""
    axes = [
        2 * (torch.arange(n, device=self.periods.device) + 0.5 + self.grid_offset) / n - 1
        for n in shape
    ]
    places = torch.stack(torch.meshgrid(axes, indexing=self.grid_indexing), -1).flatten(0, 1)
    angles = (2 * math.pi * places[:, :, None] / self.periods).flatten(1)
    if self.rotate_half:
        angles = torch.cat([angles, angles], -1)
    else:
        angles = angles.repeat_interleave(2, -1)
    return torch.cat([angles.sin(), angles.cos()], -1).to(dtype or self.periods.dtype)


def _shifted_window_mask(self: Any, x: Tensor | None = None, **_: Any) -> Tensor | None:
    """Swin's: ``(windows, area, area)``, -100 between pixels that only the shift made neighbours.

    Args:
        self: a block.
        x: ``(B, H, W, C)``, whole windows.
    """
    if not any(self.shift_size):
        return None
    assert x is not None  # None only while timm builds a network
    (height, width), (rows, columns) = self.window_size, x.shape[1:3]

    def bands(extent: int, window: int, shift: int) -> Tensor:
        places = torch.arange(extent, device=x.device)
        return (places >= extent - window).long() + (places >= extent - shift).long()

    regions = 3 * bands(rows, height, self.shift_size[0])[:, None]
    regions = regions + bands(columns, width, self.shift_size[1])
    windows = regions.view(rows // height, height, columns // width, width)
    windows = windows.permute(0, 2, 1, 3).reshape(-1, height * width)
    apart = windows[:, None] != windows[:, :, None]
    return torch.zeros(apart.shape, dtype=x.dtype, device=x.device).masked_fill(apart, -100.0)


# Module of timm, class in it or "" for the module itself, name of the function.
_REPLACEMENTS: tuple[tuple[str, str, str, Any], ...] = (
    ("layers.padding", "", "get_same_padding", _same_padding),
    ("layers.pos_embed_sincos", "RotaryEmbeddingDinoV3", "get_embed", _rotary_embedding),
    ("models.swin_transformer", "SwinTransformerBlock", "get_attn_mask", _shifted_window_mask),
    ("models.swin_transformer_v2", "SwinTransformerV2Block", "get_attn_mask", _shifted_window_mask),
    (
        "models.swin_transformer_v2_cr",
        "SwinTransformerV2CrBlock",
        "get_attn_mask",
        _shifted_window_mask,
    ),
)
