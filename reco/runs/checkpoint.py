"""Checkpoints: written whole or not at all, read without executing code in them.

:class:`TrainedRun` is a checkpoint that was read, for evaluation, prediction, export and analyses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from reco.classes import DatasetSpec
from reco.config import Config, config_from_dict
from reco.data import open_dataset
from reco.data.datasets.reader import Reader
from reco.data.splits import Split
from reco.models.network import SegmentationNetwork
from reco.models.weights import load_tensors, upgrade
from reco.paths import checkpoint_file
from reco.runs.build_networks import build_network, build_teacher, main_network
from reco.writing import write_binary_whole, writing

FORMAT = 1
_LATEST = ("last.pt", "previous.pt")

Checkpoint = dict[str, Any]
"""``format``, ``config``, ``dataset`` (name, class names, palette), ``split`` (without the ids,
which ``split.json`` holds), ``iteration``, ``student`` and ``teacher`` (state dicts; the teacher's
is ``None`` in a supervised run), ``optimizer``, ``scaler``, ``best`` (the highest validation mIoU
so far), ``images`` (fingerprint of those of ``dataset.eval_split``) and ``labelled_images``
(fingerprints of up to 100 labelled ones, by id); neither before the changelog names it. ``best.pt``
also has ``chosen_on``, the split whose mIoU it was chosen by."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this project, or does not fit; the message names it."""


Network = Literal["auto", "student", "teacher"]
_NETWORKS: tuple[Literal["student", "teacher"], ...] = ("student", "teacher")


@dataclass(frozen=True)
class TrainedRun:
    """A checkpoint, with access to its networks and data."""

    path: Path
    config: Config
    trained_config: Config  # without the overrides
    spec: DatasetSpec
    iteration: int  # iterations done
    images: str | None  # fingerprint of the images that the run validated on
    chosen_on: str | None  # split whose mIoU a best.pt was chosen by
    split: Mapping[
        str, Any
    ]  # of Split.summary_dict(); the ids too in checkpoints of earlier versions
    states: Mapping[
        Literal["student", "teacher"], Mapping[str, Any]
    ]  # state dicts of student and, with one, teacher

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainedRun:
        """Read a checkpoint, trained on whatever device.

        Args:
            path: ``last.pt`` or ``best.pt`` of a run, or its folder, which stands for ``last.pt``.
            overrides: ``key=value`` over its configuration, such as ``dataset.root=…``.

        Raises:
            CheckpointError: not a checkpoint of this project.
            ConfigError: overrides that do not fit.
        """
        path = checkpoint_file(path)
        checkpoint = load_checkpoint(path)
        dataset = checkpoint["dataset"]
        palette = tuple((red, green, blue) for red, green, blue in dataset["palette"])
        states = {name: checkpoint[name] for name in _NETWORKS if checkpoint[name]}
        return cls(
            path,
            config_from_dict(checkpoint["config"], str(path), overrides),
            config_from_dict(checkpoint["config"], str(path)),
            DatasetSpec(dataset["name"], tuple(dataset["class_names"]), palette),
            checkpoint["iteration"],
            checkpoint.get("images"),
            checkpoint.get("chosen_on"),
            checkpoint["split"],
            states,
        )

    def reader(self) -> Reader:
        """The data set of the run.

        Raises:
            CheckpointError: its classes are not those that the network was trained on.
            FileNotFoundError, ValueError: it cannot be opened.
        """
        reader = open_dataset(self.config.dataset)
        if reader.spec.class_names != self.spec.class_names:
            raise CheckpointError(
                f"{self.path}: trained on the classes {list(self.spec.class_names)}, but "
                f"{self.config.dataset.name} has {list(reader.spec.class_names)}"
            )
        return reader

    def unlabelled(self) -> Sequence[str]:
        """Ids of the images without labels that the run trained on, by ``split.json`` beside it.

        Raises:
            CheckpointError: no such file there, or one of another run.
        """
        if "unlabelled" in self.split:
            ids: Sequence[str] = self.split["unlabelled"]
            return ids
        path = self.path.with_name("split.json")
        try:
            split = Split.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path}: lists the images that {self.path} was trained on, but cannot be read: "
                f"{error}"
            ) from error
        if split.hash != self.split["hash"]:
            raise CheckpointError(
                f"{path}: has the hash {split.hash}, but {self.path} was trained on the split "
                f"{self.split['hash']}"
            )
        return split.unlabelled

    def which(self, network: Network) -> Literal["student", "teacher"]:
        """Resolve ``"auto"``: the teacher, or the student of a run without one."""
        return main_network(self.states) if network == "auto" else network

    def network(self, which: Network = "auto") -> SegmentationNetwork:
        """A network of the run, on the CPU and in eval mode.

        Args:
            which: ``"auto"`` is the teacher, or the student of a supervised run.

        Raises:
            CheckpointError: no such network, or weights that do not fit the configuration.
        """
        which = self.which(which)
        if which not in self.states:
            raise CheckpointError(
                f"{self.path}: network = {which!r}: this run has the "
                f"{' and '.join(self.states)} alone"
            )
        student = build_network(self.config, self.spec.num_classes, pretrained=False)
        if which == "student":
            load_state(student, self.states["student"], str(self.path))
            return student.eval()
        teacher = build_teacher(self.config, student)
        assert teacher is not None
        load_state(teacher, self.states["teacher"], str(self.path))
        assert isinstance(teacher.network, SegmentationNetwork)
        return teacher.network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path`` at once: until it is safely on disk, the old file stays.

    Raises:
        WriteError: the disk is full, say. The file that was at ``path`` is untouched then.
    """
    write_binary_whole(path, lambda file: torch.save({"format": FORMAT, **checkpoint}, file))
    _sync_folder(path.parent)


def save_latest(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``last.pt``, keeping the one before it as ``previous.pt``.

    Raises:
        WriteError: as :func:`save_checkpoint`.
    """
    last = folder / "last.pt"
    new = folder / "new.pt"
    save_checkpoint(checkpoint, new)
    with writing(last):
        if last.exists():
            last.replace(folder / "previous.pt")
        new.replace(last)
        _sync_folder(folder)


def load_checkpoint(path: Path, *, lazily: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU; no code in it can run.

    Args:
        path: of the file.
        lazily: read a tensor from the disk when it is used, which may be never.

    Raises:
        CheckpointError: no such file, truncated, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; a run keeps last.pt and best.pt in its folder"
        )
    try:
        content = load_tensors(path, lazily=lazily)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(content, dict) or "format" not in content or "student" not in content:
        raise CheckpointError(f"{path}: a torch file, but not a checkpoint of a reco run")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']}: this version reads format {FORMAT}"
        )
    return content


def checkpoint_digest(path: Path) -> str:
    """Sixteen hex digits of a checkpoint's content, whatever the file is called.

    They are those of the sizes and CRC-32 sums that the file lists of all its tensors, so that the
    tensors themselves are not read.

    Raises:
        CheckpointError: not a file of ``torch.save``.
    """
    try:
        with zipfile.ZipFile(path) as file:
            listed = [(record.file_size, record.CRC) for record in file.infolist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


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


def load_state(module: torch.nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Fill ``module`` with ``state``.

    Raises:
        CheckpointError: names or shapes differ; ``source`` and the first few are named.
    """
    expected, state = module.state_dict(), upgrade(state)
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
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
    """Synchronise a rename to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not all do: Windows, some network file systems
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
