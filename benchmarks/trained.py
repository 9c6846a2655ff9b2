"""Runs that a benchmark starts from."""

from __future__ import annotations

from pathlib import Path

from reco.config import Config, load_config
from reco.training.parts import build_run
from reco.training.trainer import Trainer

RUN_HEADER = ("run", "method", "seed")
"""Columns of :func:`describe_run`."""


def open_run(folder: Path, device: str) -> Trainer:
    """The trainer of a run, with the state of its last checkpoint."""
    config = load_config(folder / "config.yaml", [f"train.device={device}"])
    return Trainer(build_run(config, pretrained=False), folder, resume=True)


def describe_run(folder: Path, config: Config) -> tuple[str, str, int]:
    """Folder, method and seed of a run."""
    method = config.method.mix if config.method.unsupervised else "supervised"
    reco = " + ReCo" if config.reco.enabled else ""
    return folder.name, f"{method}{reco}", config.train.seed
