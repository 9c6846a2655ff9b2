"""Runs that a benchmark starts from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from reco.config import Config, load_config
from reco.runs.checkpoint import has_checkpoint
from reco.training.build import build_run
from reco.training.trainer import Trainer

RUN_HEADER = ("run", "method", "seed")
"""Columns of :func:`describe_run`."""


def open_run(folder: Path, device: str) -> Trainer:
    """The trainer of a run, with the state of its last checkpoint.

    It works on a copy of the folder, since a trainer that resumes a run writes to it.

    Raises:
        ValueError: the folder has no checkpoint.
    """
    if not has_checkpoint(folder):
        raise ValueError(f"{folder}: no checkpoint, expected the folder of a run")
    config = load_config(folder / "config.yaml", [f"train.device={device}"])
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("panels", "best.pt"))
        return Trainer(build_run(config, pretrained=False), copy, resume=True)


def describe_run(folder: Path, config: Config) -> tuple[str, str, int]:
    """Folder, method and seed of a run."""
    method = config.method.mix if config.method.unsupervised else "supervised"
    reco = " + ReCo" if config.reco.enabled else ""
    return folder.name, f"{method}{reco}", config.train.seed
