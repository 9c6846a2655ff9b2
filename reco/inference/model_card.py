"""The model card beside exported networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reco.markdown import markdown_table
from reco.runs.checkpoint import TrainedRun
from reco.runs.results import records_if_any

_FIGURES = ("split", "network", "mIoU in %")
_NOT_RECORDED = "not recorded beside the checkpoint"
_HEAD = """\
---
library_name: reco
pipeline_tag: image-segmentation
tags: [semantic-segmentation, semi-supervised, reco]
---
"""


def model_card(run: TrainedRun, which: str, metadata: Mapping[str, Any]) -> str:
    """Markdown: classes, input, training data and split, figures, and commit.

    Files beside the checkpoint (``environment.json``, ``metrics.jsonl``, evaluations) are read
    where they exist; the card names what is missing.

    Args:
        run: the checkpoint.
        which: the network that was exported, ``student`` or ``teacher``.
        metadata: of the export: class names, input, output, image size, arguments of the network.
    """
    data, model, config = run.config.dataset, metadata["model"], run.config
    shown = [("training data", f"{data.name}, {_labels(run)}")]
    shown += [("split", f"seed {data.split_seed}, hash {run.split.get('hash', 'unknown')}")]
    shown += [("trained for", f"{run.iteration} of {config.train.iterations} iterations")]
    shown += [("method", _method(run)), ("exported network", which)]
    shown += [("encoder", model["backbone"]), ("input", metadata["input"])]
    shown += [("output", metadata["output"]), ("image size", _size(metadata["image_size"]))]
    shown += [("seed", str(config.train.seed)), ("commit", _commit(run.path.parent))]
    classes = [[str(i), name] for i, name in enumerate(metadata["class_names"])]
    figures = list(_figures(run))
    return "\n".join(
        [
            _HEAD,
            f"# Semantic segmentation of {len(classes)} classes\n",
            markdown_table(["", ""], shown),
            "\n## Classes\n",
            markdown_table(["index", "name"], classes),
            "\n## Figures\n",
            markdown_table(_FIGURES, figures) if figures else _NOT_RECORDED,
            "",
            *_chosen(run),
        ]
    )


def _labels(run: TrainedRun) -> str:
    data = run.config.dataset
    if data.partial_labels is not None:
        return f"all images, labels of each class: {data.partial_labels}"
    if data.labelled_ids is not None:
        return f"labelled images as {Path(data.labelled_ids).name} lists them"
    return f"labelled images: {data.labelled_images}"


def _method(run: TrainedRun) -> str:
    method, parts = run.config.method, ["supervised"]
    if method.unsupervised:
        parts = ["Mean Teacher", method.mix]
    return " + ".join([*parts, *["ReCo"] * run.config.reco.enabled])


def _size(size: Sequence[int] | None) -> str:
    if size is None:
        return "as the image comes"
    return f"{size[0]} x {size[1]} (height x width): resize images to it, and probabilities back"


def _commit(folder: Path) -> str:
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _NOT_RECORDED
    return str(environment.get("commit", _NOT_RECORDED))


def _figures(run: TrainedRun) -> Iterator[list[str]]:
    """Split, network and mIoU of evaluations of this checkpoint without deviations."""
    measured: dict[str, Mapping[str, Any]] = {}
    for record in records_if_any(run.path.parent):
        if "validation" in record and record["iteration"] == run.iteration:
            measured[record["split"]] = record["validation"]
    for path in sorted(run.path.parent.glob(f"{run.path.stem}-*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("deviations") == {} and content.get("iteration") == run.iteration:
            measured[content["split"]] = content["networks"]
    for split, networks in measured.items():
        for name, values in networks.items():
            yield [split, name, f"{100 * values['mean_iou']:.1f}"]


def _chosen(run: TrainedRun) -> list[str]:
    if run.chosen_on is None:
        return []
    return [f"This checkpoint was chosen by its mIoU on `{run.chosen_on}`: too good there.\n"]
