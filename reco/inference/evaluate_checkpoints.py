"""Evaluating checkpoints: from their files to tables, JSON and CSV."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from reco import distributed
from reco.data import open_dataset
from reco.data.datasets.reader import Reader
from reco.data.fingerprint import fingerprint
from reco.data.loading import EvalDataset, deaths_explained, eval_loader
from reco.inference.evaluate_networks import (
    BOUNDARY_WIDTH,
    Evaluation,
    evaluate,
    format_evaluations,
)
from reco.inference.probabilities import InferenceMode
from reco.paths import checkpoint_file
from reco.precision import autocast
from reco.runs.checkpoint import CheckpointError, TrainedRun, checkpoint_digest
from reco.writing import WriteError, write_table, write_text_whole, writing

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
    output: Path | None = None,
    written: list[Path] | None = None,
) -> str:
    """Evaluate checkpoints by the protocol of their configuration, side by side.

    Beside each checkpoint go ``<name>-<split>.json`` with all figures and ``<name>-<split>.csv``
    with those of each class. The former records checkpoint, images (ids, and a fingerprint of
    their content) and options, and in ``deviations`` what differs from the validations of the run.
    With deviations, or on images in another ``dataset.root`` that are not known to be those of the
    run, it is called ``<name>-<split>-<eight digits>.json``. Files that cannot be written are a
    warning. All checkpoints are opened before the first
    one is evaluated.

    Args:
        paths: checkpoints, or runs' folders for their ``last.pt``; each is evaluated on the data
            of its configuration.
        split: ``train``, ``val`` or ``test``; by default ``dataset.eval_split``.
        overrides: ``key=value`` over the checkpoints' configurations, such as ``dataset.root=…``.
        which: of the two networks; a supervised run has a student alone.
        mode: windows, scales and mirroring; by default the whole image once.
        original_size: compare at the size of the label files instead of ``dataset.image_size``.
        boundary_width: pixels on either side of a boundary that count as near it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        output: folder of the files, instead of those of the checkpoints; their names then begin
            with that of the run's folder.
        written: a list that the paths of the files are appended to.

    Returns:
        A table with one column for each network.

    Raises:
        CheckpointError: an unreadable checkpoint, or checkpoints of different classes.
        ConfigError, FileNotFoundError, ValueError: overrides or data that do not fit, or two
            checkpoints whose files would have one name in ``output``.
        WriteError: ``output`` cannot be made.
    """
    paths = [checkpoint_file(path) for path in paths]
    chosen = distributed.find_device(device)
    options = {
        **asdict(mode or InferenceMode()),
        "original_size": original_size,
        "boundary_width": boundary_width,
    }
    columns: dict[str, Evaluation] = {}
    notes = []
    class_names = _open_all(paths, split, overrides, which)
    for path, base in zip(paths, _places(paths, output), strict=True):
        digest = checkpoint_digest(path)
        run, reader, of_split = _open(path, split, overrides)
        names = run.states if which == "both" else (which,)
        ids = reader.ids(of_split)
        data = EvalDataset(
            reader, ids, run.config.dataset.image_size, original_labels=original_size
        )
        workers = run.config.train.workers
        networks: dict[str, torch.nn.Module] = {
            name: run.network(name).to(chosen).to(memory_format=torch.channels_last)
            for name in names
        }
        with deaths_explained(workers), autocast(run.config.train.precision, chosen):
            results = evaluate(
                networks,
                eval_loader(data, workers=workers),
                len(class_names),
                device=chosen,
                mode=mode,
                boundary_width=boundary_width,
            )
        if not any(int(result.confusion.matrix.sum()) for result in results.values()):
            raise ValueError(
                f"{path}: every pixel of the {len(ids)} masks of split {of_split!r} is void, "
                "expected classes to measure on"
            )
        content = {
            "checkpoint": path.name,
            "checkpoint_digest": digest,
            "iteration": run.iteration,
            "chosen_on": run.chosen_on,
            "split": of_split,
            "images": {"fingerprint": fingerprint(reader, ids), "ids": ids},
            "options": {**options, "overrides": list(overrides)},
            "deviations": _deviations(run, options, names),
            "class_names": list(class_names),
            "networks": {name: result.to_dict() for name, result in results.items()},
        }
        files = _write_or_warn(base, content, results, run)
        if written is not None:
            written += files
        if run.chosen_on == of_split:
            notes.append(
                f"{path} was chosen by its mIoU on {of_split}, which is therefore too good: report "
                "last.pt"
            )
        prefix = f"{path.parent.name}/{path.stem} " if len(paths) > 1 else ""
        columns |= {f"{prefix}{name}": result for name, result in results.items()}
    return "\n".join([format_evaluations(columns, class_names), *notes])


def _open(
    path: Path, split: str | None, overrides: Sequence[str]
) -> tuple[TrainedRun, Reader, str]:
    """A checkpoint, its data set, and the split to evaluate it on."""
    run = TrainedRun.read(path, overrides)
    return run, run.reader(), split or run.config.dataset.eval_split


def _open_all(
    paths: Sequence[Path], split: str | None, overrides: Sequence[str], which: Which
) -> tuple[str, ...]:
    """Open each checkpoint once, to find errors before the first evaluation; their classes.

    They are closed again: their networks together may be too large for the memory.
    """
    class_names: tuple[str, ...] = ()
    for path in paths:
        run, reader, of_split = _open(path, split, overrides)
        if class_names and class_names != reader.spec.class_names:
            raise CheckpointError(f"{path}: other classes than {paths[0]}; evaluate it alone")
        class_names = reader.spec.class_names
        for name in run.states if which == "both" else (which,):
            run.network(name)
        reader.ids(of_split)
    return class_names


def _places(paths: Sequence[Path], output: Path | None) -> list[Path]:
    """Where the files of each checkpoint go, and how their names begin."""
    if output is None:
        return [path.with_suffix("") for path in paths]
    with writing(output, "choose another --output"):
        output.mkdir(parents=True, exist_ok=True)
    places = [output / f"{path.resolve().parent.name}-{path.stem}" for path in paths]
    for place in places:
        alike = [str(path) for path, other in zip(paths, places, strict=True) if other == place]
        if len(alike) > 1:
            raise ValueError(
                f"{' and '.join(alike)}: their files in {output} would both be {place.name}-…; "
                "evaluate them in several calls, each with another output folder"
            )
    return places


def _deviations(
    run: TrainedRun, options: Mapping[str, Any], networks: Collection[str]
) -> dict[str, Any]:
    """Options and keys in which an evaluation differs from the validations of the run."""
    usual = {**asdict(InferenceMode()), "original_size": False, "boundary_width": BOUNDARY_WIDTH}
    of_windows = () if options["window"] else ("overlap", "blend", "margin")
    found = {
        key: value
        for key, value in options.items()
        if value != usual[key] and key not in of_windows
    }
    for key, (_, value) in run.trained_config.differences(run.config).items():
        if key.startswith("dataset.") and key != "dataset.eval_split":
            found[key] = value
    if set(networks) != set(run.states):
        found["networks"] = list(networks)
    return found


def _has_other_images(run: TrainedRun, split: str, images: str) -> bool:
    """Whether the images are in another ``dataset.root``, and not known to be those of the run."""
    before = run.trained_config.dataset
    if run.config.dataset.root == before.root:
        return False
    if split == before.eval_split and run.images is not None:
        return run.images != images
    try:
        reader = open_dataset(before)
        return fingerprint(reader, reader.ids(split)) != images
    except (OSError, ValueError):
        return True


def _suffix(distinct: Sequence[Any]) -> str:
    """``-0123abcd``, a hash of what differs from the usual evaluation; empty for the usual one."""
    if not distinct:
        return ""
    return "-" + hashlib.sha256(json.dumps(distinct, sort_keys=True).encode()).hexdigest()[:8]


def _write_or_warn(
    base: Path, content: dict[str, Any], results: Mapping[str, Evaluation], run: TrainedRun
) -> list[Path]:
    """Write an evaluation beside ``base``, under a distinct name; warn where that fails.

    Returns:
        The paths of its files; none where that failed.
    """
    distinct: list[Any] = [content["deviations"]] if content["deviations"] else []
    images = content["images"]["fingerprint"]
    if _has_other_images(run, content["split"], images):
        distinct.append(images)
    try:
        target = base.with_name(f"{base.name}-{content['split']}{_suffix(distinct)}.json")
        return _write(target, content, results)
    except WriteError as error:
        warnings.warn(
            f"{error}: the figures are in the table alone; --output FOLDER writes them elsewhere",
            stacklevel=3,
        )
        return []


def _write(path: Path, content: dict[str, Any], results: Mapping[str, Evaluation]) -> list[Path]:
    """All figures as JSON in ``path``, and those of each class as CSV beside it; both paths."""
    write_text_whole(path, json.dumps(content, indent=1) + "\n")
    rows = []
    for name, result in results.items():
        figures = (
            result.confusion.iou().tolist(),
            result.confusion.class_accuracy().tolist(),
            result.boundary.iou().tolist(),
        )
        for class_name, *values in zip(content["class_names"], *figures, strict=True):
            rows.append([name, class_name, *values])
    header = ["network", "class", "iou", "class_accuracy", "boundary_iou"]
    table = path.with_suffix(".csv")
    write_table(table, header, rows)
    return [path, table]
