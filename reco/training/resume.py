"""Whether a run can be resumed, and the error where it cannot."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reco import distributed
from reco.config import Config, ConfigError
from reco.data.splits import Split
from reco.printing import join_first, say
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


def check_training_images(
    folder: Path, checkpoint: Checkpoint, split: Split, labelled: Mapping[str, str]
) -> None:
    """Refuse other training images than those of a run; tell of single files that changed.

    A file that has been repaired is no reason to lose a run.

    Args:
        folder: of the run.
        checkpoint: of the run.
        split: of the images that are there.
        labelled: fingerprints of its labelled images, by id.

    Raises:
        ConfigError: another split, or several labelled images and all of them other files.
    """
    before_split = checkpoint["split"]["hash"]
    if before_split != split.hash:
        raise ConfigError(_split_error(folder, before_split, split))
    # Checkpoints of earlier versions have no fingerprints.
    _check_labelled_images(folder, checkpoint.get("labelled_images"), labelled)


def _check_labelled_images(
    folder: Path, before: Mapping[str, str] | None, now: Mapping[str, str]
) -> None:
    changed = [id for id, found in now.items() if before is not None and before[id] != found]
    if len(changed) == len(now) > 1:
        raise ConfigError(
            f"--resume: {folder} was trained on other files: none of the labelled images and masks "
            f"is the same, such as {changed[0]}. Is this another data set with the same names? "
            "Train on it under another output_dir, or from a configuration of another name"
        )
    if changed and distributed.rank() == 0:
        say(f"note: since {folder} was saved, labelled images changed: {join_first(changed)}")


def _split_error(folder: Path, before: str, split: Split) -> str:
    """Error text: which training images came or went since a run began, and what to do."""
    text = f"--resume: {folder} was trained on other images (split {before}, now {split.hash})"
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads((folder / "split.json").read_text(encoding="utf-8"))
        for role in ("labelled", "unlabelled"):
            then, now = content[role], getattr(split, role)
            if gone := sorted(set(then) - set(now)):
                text += f"; no longer {role}: {join_first(gone)}"
            if new := sorted(set(now) - set(then)):
                text += f"; newly {role}: {join_first(new)}"
    return text + ". Restore the files or masks, or train anew under another output_dir"


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
