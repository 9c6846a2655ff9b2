"""Reading files of weights without running what they hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch


def load_tensors(path: str | Path) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU; tensors and plain values alone.

    Raises:
        OSError: the file cannot be opened.
        ValueError: why it cannot be read. It does not name the file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it meets: pickle, zip, system and key errors
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = _reason(f"{type(error).__name__}: {error}")
    # Outside of `except`: torch's own text, which advises to run what the file holds, is not shown.
    raise ValueError(reason)


def _reason(text: str) -> str:
    if "TorchScript" in text:
        return "it is a TorchScript program, which is not run"
    if code := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {code.group(1)}, which is not loaded: loading it could run any code"
    if "weights_only" in text:
        return "another kind of file, or one that holds more than tensors and plain values"
    return f"truncated, or another kind of file ({text.splitlines()[0]})"
