"""Whether a run can be resumed, and the error where it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from reco.config import Config, ConfigError
from reco.runs.checkpoint import Checkpoint


def extended(
    config: Config, checkpoint: Checkpoint | None, folder: Path, iterations: int
) -> Config:
    """``config`` with the length of ``--extend-to``."""
    if checkpoint is None:
        raise ConfigError(
            f"--extend-to {iterations}: {folder} holds no checkpoint to go on from; "
            f"--set train.iterations={iterations} trains a run of that length from the start"
        )
    before = checkpoint["config"]["train"]["iterations"]
    if iterations < before:
        raise ConfigError(
            f"--extend-to {iterations}: the run in {folder} has train.iterations = {before}: "
            "expected at least as many"
        )
    return replace(config, train=replace(config.train, iterations=iterations))


def resume_error(folder: str, changed: dict[str, tuple[Any, Any]]) -> str:
    """Error text: why a run cannot be resumed, and what to do instead."""
    found = "; ".join(f"{key}: {there!r} -> {here!r}" for key, (there, here) in changed.items())
    if "train.iterations" in changed:
        longest = max(changed["train.iterations"])
        remedy = f"--extend-to {longest} goes on with it to iteration {longest}; "
    else:
        remedy = ""
    return (
        f"--resume: {folder} was trained with another configuration: {found}. {remedy}"
        f"`--resume {folder}` without --config and without these keys in --set goes on with it as "
        "it is; without --resume, another output_dir starts another run"
    )
