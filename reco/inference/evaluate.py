"""Evaluating checkpoints: from their files to tables, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from reco import distributed
from reco.data.loading import EvalDataset, eval_loader
from reco.files import write_text_whole
from reco.inference.evaluation import (
    BOUNDARY_WIDTH,
    Evaluation,
    evaluate,
    format_evaluations,
)
from reco.inference.probabilities import InferenceMode
from reco.runs.checkpoint import CheckpointError, TrainedRun

Which = Literal["student", "teacher", "both"]


def evaluate_checkpoints(
    paths: Sequence[Path],
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    which: Which = "both",
    mode: InferenceMode | None = None,
    original_size: bool = False,
    boundary_width: int = BOUNDARY_WIDTH,
    device: str = "auto",
) -> str:
    """Evaluate checkpoints by the protocol of their configuration, side by side.

    Beside each checkpoint go ``<name>-<split>.json`` with all figures and ``<name>-<split>.csv``
    with those of each class. The former says in ``deviations`` what was not done as training's own
    validation does it.

    Args:
        paths: checkpoints; each is evaluated on the data its own configuration names.
        split: ``train``, ``val`` or ``test``; by default ``dataset.eval_split``.
        overrides: ``key=value`` over the checkpoints' configurations, such as ``dataset.root=…``.
        which: of the two networks; a supervised run has a student alone.
        mode: how the networks look at an image; once, at the whole of it, by default.
        original_size: compare at the size of the label files instead of ``dataset.image_size``.
        boundary_width: pixels on either side of a boundary that count as near it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        A table with one column for each network.

    Raises:
        CheckpointError: an unreadable checkpoint, or checkpoints of different classes.
        ConfigError, FileNotFoundError, ValueError: overrides or data that do not fit.
    """
    chosen = distributed.find_device(device)
    usual = {**asdict(InferenceMode()), "original_size": False, "boundary_width": BOUNDARY_WIDTH}
    asked = {
        **asdict(mode or InferenceMode()),
        "original_size": original_size,
        "boundary_width": boundary_width,
        # Where the data lie and how they are loaded changes no figure.
        "overrides": [o for o in overrides if not o.startswith(("dataset.root=", "train."))],
    }
    deviations = {key: value for key, value in asked.items() if value != usual.get(key, [])}
    columns: dict[str, Evaluation] = {}
    class_names: Sequence[str] = ()
    for path in paths:
        run = TrainedRun.read(path, overrides)
        config, reader = run.config, run.reader()
        if class_names and list(class_names) != list(reader.spec.class_names):
            raise CheckpointError(f"{path}: other classes than {paths[0]}; evaluate it alone")
        class_names = reader.spec.class_names
        names = run.states if which == "both" else (which,)
        of_split = split or config.dataset.eval_split
        dataset = EvalDataset(
            reader,
            reader.ids(of_split),
            config.dataset.image_size,
            original_labels=original_size,
        )
        results = evaluate(
            {name: run.network(name).to(chosen) for name in names},
            eval_loader(dataset, workers=config.train.workers),
            len(class_names),
            device=chosen,
            mode=mode,
            boundary_width=boundary_width,
        )
        _write(path, of_split, run.iteration, results, class_names, deviations)
        prefix = f"{path.parent.name}/{path.stem} " if len(paths) > 1 else ""
        columns |= {f"{prefix}{name}": result for name, result in results.items()}
    return format_evaluations(columns, class_names)


def _write(
    path: Path,
    split: str,
    iteration: int,
    results: dict[str, Evaluation],
    class_names: Sequence[str],
    deviations: dict[str, Any],
) -> None:
    content: dict[str, Any] = {
        "checkpoint": path.name,
        "iteration": iteration,
        "split": split,
        "deviations": deviations,
        "class_names": list(class_names),
        "networks": {name: result.to_dict() for name, result in results.items()},
    }
    target = path.with_name(f"{path.stem}-{split}.json")
    write_text_whole(target, json.dumps(content, indent=1) + "\n")
    with target.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "class", "iou", "class_accuracy", "boundary_iou"])
        for name, result in results.items():
            figures = (
                result.confusion.iou().tolist(),
                result.confusion.class_accuracy().tolist(),
                result.boundary.iou().tolist(),
            )
            for class_name, *values in zip(class_names, *figures, strict=True):
                writer.writerow([name, class_name, *values])
