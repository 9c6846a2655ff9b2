"""The number type that networks compute in."""

from __future__ import annotations

import torch

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast of ``train.precision``: ``auto`` is bf16 where a GPU has it, else float32."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "fp32"
    dtype = _TYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
