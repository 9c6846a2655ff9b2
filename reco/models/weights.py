"""Weights files: read safely, matched by name, and reported."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reco.printing import join_first

# Normalisation of torchvision's weights, for RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Module names of checkpoints from before encoder and decoder were split, perhaps in a teacher.
_OLD_NAMES = re.compile(r"^(network\.)?(backbone|low_level|aspp)\.")
_NEW_NAMES = {
    "backbone": "encoder.network",
    "low_level": "decoder.low_level",
    "aspp": "decoder.aspp",
}

# Keys of the state dict in files, averaged weights first.
_CONTAINERS = ("teacher", "model_ema", "state_dict_ema", "state_dict", "model", "student")

logger = logging.getLogger(__name__)


def load_tensors(path: str | Path, *, lazily: bool = False) -> Any:
    """The content of a file of ``torch.save``, on the CPU; tensors and plain values alone.

    Args:
        path: of the file.
        lazily: read a tensor from the disk when it is used.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be read; the message does not name the file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # pickle, zip, system and key errors
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = _reason(str(error))
    # Outside of `except`: torch's message, which advises to run code of the file, is not shown.
    raise ValueError(reason)


def _reason(text: str) -> str:
    if "TorchScript" in text:
        return "it is a TorchScript program, which is not run"
    if code := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {code.group(1)}, which is not loaded: loading it could run any code"
    if "weights_only" in text:
        return "another kind of file, or one that holds more than tensors and plain values"
    return "truncated, or another kind of file"


def upgrade(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of a network or a teacher under the names of this version.

    Older versions did not write the images' mean and deviation: they were ImageNet's, whatever the
    encoder.
    """
    old = next(filter(None, map(_OLD_NAMES.match, state)), None)
    if old is None:
        return state
    upgraded = {
        f"{old[1] or ''}{name}": torch.tensor(values).view(-1, 1, 1)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    }
    for name, value in state.items():
        new = _OLD_NAMES.sub(lambda found: f"{found[1] or ''}{_NEW_NAMES[found[2]]}.", name)
        upgraded[new] = value
    return upgraded


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Weights of a first convolution, ``(O, 3, k, k)``, for images of other channels.

    One channel gets the sum of the three; more get them in turn, scaled so that the sum over all
    channels stays what it was. timm has the same rule.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-in_channels // 3), 1, 1)[:, :in_channels]
    return repeated * (3 / in_channels)


def load_weights(network: nn.Module, path: str, backbone: str) -> None:
    """Fill a network from a file, and log how much was loaded and what was not.

    The file holds a state dict of the encoder under the encoder's names, all of them with or
    without a common prefix (``module.``, ``backbone.``, ``model.``, MoCo's ``module.encoder_q.``),
    at the top or under one of ``teacher``, ``model_ema``, ``state_dict_ema``, ``state_dict``,
    ``model`` and ``student``; the first one found is taken. Or it is a checkpoint of this
    package: then its teacher's (a supervised run's student's) decoder and heads are taken too, as
    far as they have the same names and shapes. float16 tensors become float32, since parameters
    keep their type.

    Args:
        network: with the encoder as ``encoder.network``.
        path: of the file.
        backbone: names the encoder in messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read safely, or does not fit the encoder.
    """
    state, where = _read_state_dict(path)
    prefix = "encoder.network."
    # Batch norm's step counter is not a weight: whether the file has it does not matter.
    targets = {
        name: value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    of_encoder = [name for name in targets if name.startswith(prefix)]
    found = _match_names([name.removeprefix(prefix) for name in of_encoder], list(state))
    sources = {f"{prefix}{name}": key for name, key in found.items()}
    if len(sources) < len(of_encoder) / 2:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: it names {len(sources)} of the "
            f"backbone's {len(of_encoder)} tensors. Expected are "
            f"{_shorten([name.removeprefix(prefix) for name in of_encoder])}; "
            f"the file has {_shorten(list(state))}"
        )
    values = {name: _as_wide(state[key], targets[name]) for name, key in sources.items()}
    mismatched = [
        f"{name.removeprefix(prefix)} {tuple(state[sources[name]].shape)} instead of "
        f"{tuple(targets[name].shape)}"
        for name, value in values.items()
        if value.shape != targets[name].shape
    ]
    if mismatched:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: {_shorten(mismatched)}"
        )
    # Decoder, heads and normalisation of a checkpoint of this package.
    for name, target in targets.items():
        if name not in values and name in state and state[name].shape == target.shape:
            values[name], sources[name] = state[name], name
    network.load_state_dict(values, strict=False)

    missing = [name.removeprefix(prefix) for name in of_encoder if name not in values]
    used = set(sources.values())
    left_over = [
        key for key in state if key not in used and not key.endswith("num_batches_tracked")
    ]
    others = len(values) - len(of_encoder) + len(missing)
    logger.log(
        logging.WARNING if missing else logging.INFO,
        "%s%s: loaded %d of %d tensors into backbone %s%s; missing: %s; left over in the file: %s",
        path,
        where,
        len(of_encoder) - len(missing),
        len(of_encoder),
        backbone,
        f" and {others} into decoder and heads" if others else "",
        _shorten(missing),
        _shorten(left_over),
    )


def _as_wide(value: Tensor, target: Tensor) -> Tensor:
    """``value``, adapted where it is a first convolution for RGB and ``target`` is for others."""
    if value.ndim == target.ndim == 4 and value.shape[1] == 3 != target.shape[1]:
        return adapt_channels(value, target.shape[1])
    return value


def _read_state_dict(path: str) -> tuple[dict[str, Tensor], str]:
    """Names and tensors of a file, and where in the file they stood, for a message."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights={path!r} is neither 'imagenet' nor 'none' nor a file")
    try:
        content = load_tensors(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights={path!r} cannot be read as a state dict: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"weights={path!r} must hold a state dict, not a {type(content).__name__}")
    for container in _CONTAINERS:
        state = content.get(container)
        if isinstance(state, dict):
            if "student" in content and "format" in content:
                state = upgrade(state)
                if container == "teacher":
                    state = {name.removeprefix("network."): state[name] for name in state}
            # Extra state of a module, such as the teacher's, is no tensor.
            return {k: v for k, v in state.items() if isinstance(v, Tensor)}, f" ({container})"
    other = [
        f"{key!r}: {type(value).__name__}"
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if other:
        raise ValueError(
            f"weights={path!r} must hold a state dict (names to tensors), at the top or under one "
            f"of {', '.join(_CONTAINERS)}; it holds {_shorten(other)}"
        )
    return content, ""


def _match_names(targets: list[str], keys: list[str]) -> dict[str, str]:
    """The file's key for each of the encoder's names that the file has.

    All keys may have a common prefix. Dots and underscores count as the same, because timm's
    feature networks call ``stages.0.norm`` ``stages_0.norm``; some of them have a
    further prefix ``model.``.
    """
    plain = {key.replace(".", "_"): key for key in keys}
    nested = "model." if all(name.startswith("model.") for name in targets) else ""
    wanted = {name: name.removeprefix(nested).replace(".", "_") for name in targets}
    first = wanted[targets[0]]
    matches: dict[str, dict[str, str]] = {}
    for prefix in ["", *sorted(key.removesuffix(first) for key in plain if key.endswith(first))]:
        found = {name: plain.get(prefix + want) for name, want in wanted.items()}
        matches[prefix] = {name: key for name, key in found.items() if key is not None}
    # Of two networks that match equally, MoCo's slow copy (encoder_k) comes second.
    best = max(matches, key=lambda prefix: (len(matches[prefix]), "encoder_k" not in prefix))
    return matches[best]


def _shorten(items: list[str]) -> str:
    """At most six items of a list, for a message."""
    return join_first(items, 6) or "nothing"
