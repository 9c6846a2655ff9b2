"""What a teacher's pseudo-labels offer each class: how many pixels, how sure, how often right.

ReCo takes unlabelled pixels above δ_w alone. A class that the teacher never labels that surely gets
its queries and keys from the few labelled images, however many unlabelled ones there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from reco import distributed
from reco.checkpoint import CheckpointError, load_checkpoint
from reco.config import config_from_dict
from reco.data import open_dataset
from reco.data.loading import EvalDataset, eval_loader
from reco.inference import predict_probabilities
from reco.metrics import ConfusionMatrix
from reco.predictor import choose_network


class Supply(NamedTuple):
    """One class in the pseudo-labels; all shares in %."""

    class_name: str
    truth: float  # of all pixels
    pseudo_labels: float  # of all pixels
    above_weak: float | None  # of these pseudo-labels, those ReCo may take; None: there are none
    right: float | None  # of those above δ_w


@torch.no_grad()
def survey(
    paths: Sequence[Path], *, overrides: Sequence[str] = (), device: str = "auto"
) -> list[Supply]:
    """Compare pseudo-labels with the truth on the unlabelled images of the checkpoints' runs.

    Whole images, the teacher in eval mode; the pixels of several checkpoints are counted together.

    Args:
        paths: checkpoints of runs with a teacher.
        overrides: ``key=value`` over their configurations, such as ``dataset.root=…``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CheckpointError: a checkpoint without a teacher, of other classes than the first one, or
            whose unlabelled images have no labels to compare with.
        ConfigError, FileNotFoundError, ValueError: overrides or data that do not fit.
    """
    chosen = distributed.set_up(device)
    names: Sequence[str] = ()
    matrices: list[ConfusionMatrix] = []
    for path in paths:
        checkpoint = load_checkpoint(path)
        config = config_from_dict(checkpoint["config"], str(path), overrides)
        network = choose_network(checkpoint, "teacher", path).to(chosen).eval()
        reader = open_dataset(config.dataset)
        if names and list(names) != list(reader.spec.class_names):
            raise CheckpointError(f"{path}: other classes than {paths[0]}; survey it alone")
        if not names:
            names = reader.spec.class_names
            matrices = [ConfusionMatrix(len(names), chosen) for _ in range(2)]
        ids = sorted(set(checkpoint["split"]["unlabelled"]) & set(reader.ids("train")))
        if not ids:
            raise CheckpointError(f"{path}: its unlabelled images have no labels to compare with")
        dataset = EvalDataset(reader, ids, config.dataset.image_size)
        loader = eval_loader(dataset, workers=config.train.workers)
        for sample in tqdm(loader, desc=str(path.parent.name), unit="batch", leave=False):
            images, labels = sample.image.to(chosen), sample.label.to(chosen)
            confidence, pseudo = predict_probabilities(network, images).max(1)
            matrices[0].update(pseudo, labels)
            matrices[1].update(pseudo, labels, confidence > config.reco.weak_threshold)
    return _supplies(names, *(matrix.matrix.cpu() for matrix in matrices))


def _supplies(names: Sequence[str], everywhere: Tensor, sure: Tensor) -> list[Supply]:
    """From counts ``(C, C)`` of (truth, pseudo-label): of all pixels, and of those above δ_w."""
    total = int(everywhere.sum())
    return [
        Supply(
            name,
            _percent(everywhere[c].sum(), total) or 0.0,
            _percent(everywhere[:, c].sum(), total) or 0.0,
            _percent(sure[:, c].sum(), int(everywhere[:, c].sum())),
            _percent(sure[c, c], int(sure[:, c].sum())),
        )
        for c, name in enumerate(names)
    ]


def _percent(part: Tensor, whole: int) -> float | None:
    return round(100 * int(part) / whole, 2) if whole else None
