"""Weights files: read safely, matched by name, and reported."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# What torchvision's weights were trained with, for RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

logger = logging.getLogger(__name__)


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


def upgrade(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of a network or a teacher, with what older versions did not write.

    Those networks took images in ImageNet's normalisation, whatever their encoder.
    """
    for prefix in ("", "network."):
        if f"{prefix}low_level.0.weight" in state and f"{prefix}mean" not in state:
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                state = {**state, f"{prefix}{name}": torch.tensor(values).view(-1, 1, 1)}
    return state


def load_backbone(network: nn.Module, path: str, backbone: str) -> None:
    """Load a state dict from a file into a backbone and log what was loaded and what was not.

    float16 tensors become float32, since parameters keep their own type.
    """
    state = _read_state_dict(path)
    # Batch norm's step counter is not a weight: whether the file has it does not matter.
    targets = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    sources = _match_names(list(targets), list(state))
    if len(sources) < len(targets) / 2:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: it names {len(sources)} of the "
            f"backbone's {len(targets)} tensors. "
            f"Expected are {_shorten(list(targets))}; the file has {_shorten(list(state))}"
        )
    mismatched = [
        f"{name} {tuple(state[source].shape)} instead of {tuple(targets[name].shape)}"
        for name, source in sources.items()
        if state[source].shape != targets[name].shape
    ]
    if mismatched:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: {_shorten(mismatched)}"
        )
    network.load_state_dict({name: state[key] for name, key in sources.items()}, strict=False)

    missing = [name for name in targets if name not in sources]
    used = set(sources.values())
    left_over = [
        key for key in state if key not in used and not key.endswith("num_batches_tracked")
    ]
    logger.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors into backbone %s; missing: %s; left over in the file: %s",
        path,
        len(sources),
        len(targets),
        backbone,
        _shorten(missing),
        _shorten(left_over),
    )


def _read_state_dict(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights={path!r} is neither 'imagenet' nor 'none' nor a file")
    try:
        state = load_tensors(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights={path!r} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights={path!r} must hold a state dict, not a {type(state).__name__}")
    other = [
        f"{key!r}: {type(value).__name__}"
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if other:
        raise ValueError(
            f"weights={path!r} must hold a state dict (names to tensors) and nothing else; "
            f"it holds {_shorten(other)}"
        )
    return state


def _match_names(targets: list[str], keys: list[str]) -> dict[str, str]:
    """The file's key for each of the backbone's names that the file has.

    All keys may have a common prefix (``module.``, ``backbone.``, MobileNet's ``features.``). Dots
    and underscores count as the same, because timm's feature networks call ``stages.0.norm``
    ``stages_0.norm``.
    """
    plain = {key.replace(".", "_"): key for key in keys}
    first = targets[0].replace(".", "_")
    matches = []
    for prefix in ["", *sorted(key.removesuffix(first) for key in plain if key.endswith(first))]:
        found = {name: plain.get(prefix + name.replace(".", "_")) for name in targets}
        matches.append({name: key for name, key in found.items() if key is not None})
    return max(matches, key=len)


def _shorten(items: list[str]) -> str:
    """At most six items of a list, for a message."""
    shown = ", ".join(items[:6]) or "nothing"
    return shown if len(items) <= 6 else f"{shown} and {len(items) - 6} more"
