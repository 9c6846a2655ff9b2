"""The labels that ReCo gets of each class: cells of the output, and pseudo-labels above δ_w.

ReCo works on the network's output, cells of 4 x 4 pixels. A class that is thinner than a cell
shares it with others, which one representation cannot separate. Of unlabelled pixels, ReCo takes
those above δ_w alone: a class without such pseudo-labels gets its queries and keys from the
labelled images only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from reco import distributed
from reco.data.loading import EvalDataset, eval_loader
from reco.inference.probabilities import predict_probabilities
from reco.method.objective import nearest_pixels
from reco.metrics import ConfusionMatrix
from reco.runs.checkpoint import CheckpointError, TrainedRun

_CELL = 4  # side of a cell, in pixels of the image


class LabelStatistics(NamedTuple):
    """One class; all shares in %."""

    class_name: str
    truth: float  # true pixels of the class, of all pixels
    of_cell: float | None  # its pixels, of those of the cells with its label; None: no cell
    pseudo_labels: float  # pseudo-labels of the class, of all pixels
    above_weak: float | None  # of these pseudo-labels, those ReCo may take; None: there are none
    right: float | None  # right ones, of those above δ_w


@torch.no_grad()
def label_statistics(
    paths: Sequence[Path], *, overrides: Sequence[str] = (), device: str = "auto"
) -> list[LabelStatistics]:
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
    chosen = distributed.find_device(device)
    names: Sequence[str] = ()
    matrices: list[ConfusionMatrix] = []
    cells = torch.zeros(2, 0)
    for path in paths:
        run = TrainedRun.read(path, overrides)
        config, reader = run.config, run.reader()
        network = run.network("teacher").to(chosen)
        if names and list(names) != list(reader.spec.class_names):
            raise CheckpointError(f"{run.path}: other classes than {paths[0]}; count it alone")
        if not names:
            names = reader.spec.class_names
            matrices = [ConfusionMatrix(len(names), chosen) for _ in range(2)]
            cells = torch.zeros(2, len(names), device=chosen, dtype=torch.float64)
        ids = sorted(set(run.unlabelled()) & set(reader.ids("train")))
        if not ids:
            raise CheckpointError(
                f"{run.path}: its unlabelled images have no labels to compare with"
            )
        dataset = EvalDataset(reader, ids, config.dataset.image_size)
        loader = eval_loader(dataset, workers=config.train.workers)
        for sample in tqdm(loader, desc=str(run.path.parent.name), unit="batch", leave=False):
            images, labels = sample.image.to(chosen), sample.label.to(chosen)
            confidence, pseudo = predict_probabilities(network, images).max(1)
            cells += _filled_cells(labels, len(names))
            matrices[0].update(pseudo, labels)
            matrices[1].update(pseudo, labels, confidence > config.reco.weak_threshold)
    return _statistics(names, cells.cpu(), *(matrix.matrix.cpu() for matrix in matrices))


def _filled_cells(labels: Tensor, num_classes: int) -> Tensor:
    """``(2, C)``: area that each class fills of the cells with its label, in cells; their number.

    Args:
        labels: ``(B, H, W)`` integer, IGNORE where unknown.
        num_classes: C.
    """
    height, width = labels.shape[1:]
    size = (-(-height // _CELL), -(-width // _CELL))
    pixels = nearest_pixels(labels, size)
    carried = labels.flatten(1).gather(1, pixels.flatten(1)).view(pixels.shape)
    found = []
    for c in range(num_classes):
        share = F.adaptive_avg_pool2d((labels == c).double()[:, None], size)[:, 0]
        found.append(torch.stack([share[carried == c].sum(), (carried == c).sum()]))
    return torch.stack(found, 1)


def _statistics(
    names: Sequence[str], cells: Tensor, everywhere: Tensor, sure: Tensor
) -> list[LabelStatistics]:
    """From counts ``(2, C)`` of cells, and ``(C, C)`` of (truth, pseudo-label).

    The latter of all pixels, and of those above δ_w.
    """
    total = int(everywhere.sum())
    return [
        LabelStatistics(
            name,
            _percent(everywhere[c].sum(), total) or 0.0,
            _percent(cells[0, c], int(cells[1, c])),
            _percent(everywhere[:, c].sum(), total) or 0.0,
            _percent(sure[:, c].sum(), int(everywhere[:, c].sum())),
            _percent(sure[c, c], int(sure[:, c].sum())),
        )
        for c, name in enumerate(names)
    ]


def _percent(part: Tensor, whole: int) -> float | None:
    return round(100 * part.item() / whole, 2) if whole else None
