"""Checkpoints: written whole or not at all, read without executing anything in them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from reco.files import write_whole
from reco.models.weights import load_tensors

FORMAT = 1
_LATEST = ("last.pt", "previous.pt")

Checkpoint = dict[str, Any]
"""``format``, ``config``, ``dataset`` (name, class names, palette), ``split``, ``iteration``,
``student`` and ``teacher`` (state dicts; the teacher's is ``None`` in a supervised run),
``optimizer``, ``scaler`` and ``best`` (the highest validation mIoU so far)."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this project, or does not fit; the message names it."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path`` at once: until it is safely on disk, the old file stays.

    Raises:
        OSError: the disk is full, say. The file that was at ``path`` is untouched then.
    """

    def write(to: Path) -> None:
        with to.open("wb") as file:
            torch.save({"format": FORMAT, **checkpoint}, file)
            file.flush()
            os.fsync(file.fileno())

    write_whole(path, write)
    _sync_folder(path.parent)


def save_latest(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``last.pt``, keeping the one before it as ``previous.pt``."""
    last = folder / "last.pt"
    new = folder / "new.pt"
    save_checkpoint(checkpoint, new)
    if last.exists():
        last.replace(folder / "previous.pt")
    new.replace(last)
    _sync_folder(folder)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; no code in it can run.

    Raises:
        CheckpointError: no such file, truncated, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; a run keeps last.pt and best.pt in its folder"
        )
    try:
        content = load_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(content, dict) or "format" not in content or "student" not in content:
        raise CheckpointError(f"{path}: a torch file, but not a checkpoint of a reco run")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']}: this version reads format {FORMAT}"
        )
    return content


def has_checkpoint(folder: Path) -> bool:
    """Whether :func:`save_latest` has written to ``folder``."""
    return any((folder / name).exists() for name in _LATEST)


def load_latest(folder: Path) -> Checkpoint:
    """``last.pt`` of a run folder or, with a warning, ``previous.pt`` where that one is broken.

    Raises:
        CheckpointError: neither can be read.
    """
    errors = []
    for name in _LATEST:
        try:
            checkpoint = load_checkpoint(folder / name)
        except CheckpointError as error:
            errors.append(str(error))
            continue
        for message in errors:
            warnings.warn(f"{message}; going on from {folder / name}", stacklevel=2)
        return checkpoint
    raise CheckpointError(f"{folder}: nothing to resume from. " + "; ".join(errors))


def load_state(module: torch.nn.Module, state: dict[str, Any], source: str) -> None:
    """Fill ``module`` with ``state``.

    Raises:
        CheckpointError: names or shapes differ; ``source`` and the first few are named.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(value, torch.Tensor)
        and isinstance(state.get(name), torch.Tensor)
        and state[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: does not fit the network of its configuration: "
            + "; ".join(problems[:5])
            + more
        )
    module.load_state_dict(state)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system offers it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
