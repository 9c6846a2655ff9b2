"""Segmentation quality from a confusion matrix.

Shapes: predictions and labels (B, H, W) integer; matrix (C, C) int64, row = truth, column =
prediction. Pixels labelled IGNORE never count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reco import IGNORE, distributed


class ConfusionMatrix:
    """Counts of (true class, predicted class), and the figures that follow from them.

    A class without a true pixel is absent: its IoU and accuracy are NaN, and means leave it out,
    even where it is predicted (those pixels still lower the IoU of the classes they belong to).
    torchmetrics scores such a class 0; it agrees wherever every predicted class has true pixels.

    Args:
        num_classes: C.
        device: where the counts are kept; only figures synchronise with it.

    Raises:
        ValueError: more than 255 classes, one of which would be taken for IGNORE.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        if num_classes > IGNORE:
            raise ValueError(
                f"ConfusionMatrix: num_classes = {num_classes}: expected at most {IGNORE}, since "
                f"{IGNORE} is IGNORE"
            )
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor, where: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            predictions: ``(B, H, W)`` integer in 0 .. C-1.
            labels: ``(B, H, W)`` integer in 0 .. C-1, or IGNORE.
            where: ``(B, H, W)`` bool: count only these pixels.

        Raises:
            ValueError: shapes differ; on the CPU, where the check needs no synchronisation, also a
                counted class outside 0 .. C-1. Elsewhere such a pixel is not counted.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"ConfusionMatrix: predictions is {tuple(predictions.shape)}, labels is "
                f"{tuple(labels.shape)}: expected the same shape"
            )
        counted = labels != IGNORE if where is None else (labels != IGNORE) & where
        known = torch.ones_like(counted)
        for classes in (predictions, labels):
            known = known & (classes >= 0) & (classes < self.num_classes)
        if counted.device.type == "cpu" and bool((counted & ~known).any()):
            for name, classes in (("predictions", predictions), ("labels", labels)):
                lowest, highest = (int(extreme) for extreme in classes[counted].aminmax())
                if lowest < 0 or highest >= self.num_classes:
                    raise ValueError(
                        f"ConfusionMatrix: {name} holds classes {lowest} .. {highest}: "
                        f"expected 0 .. {self.num_classes - 1}"
                    )
        counted = counted & known
        pairs = labels.long() * self.num_classes + predictions.long()
        # One more bin for pixels that are not counted, so that no shape depends on the data.
        bins = self.num_classes**2
        pairs = torch.where(counted, pairs, bins).flatten()
        counts = torch.zeros(bins + 1, dtype=torch.int64, device=pairs.device)
        counts.scatter_add_(0, pairs, torch.ones_like(pairs))
        self.matrix += counts[:bins].view_as(self.matrix)

    def reset(self) -> None:
        """Set all counts to 0."""
        self.matrix.zero_()

    def reduce(self) -> None:
        """Make the counts those of all ranks together."""
        self.matrix = distributed.sum_over_ranks(self.matrix)

    def iou(self) -> Tensor:
        """``(C,)`` float64, intersection over union; NaN for an absent class."""
        true, predicted, hit = self._marginals()
        return torch.where(true > 0, hit / (true + predicted - hit), torch.nan)

    def mean_iou(self) -> float:
        """Mean IoU of the classes that are there, in [0, 1]; NaN where nothing was counted."""
        return float(self.iou().nanmean())

    def frequency_weighted_iou(self) -> float:
        """IoU weighted by the classes' true pixels, in [0, 1]."""
        true, _, _ = self._marginals()
        return float((self.iou() * true).nansum() / true.sum())

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right."""
        true, _, hit = self._marginals()
        return float(hit.sum() / true.sum())

    def class_accuracy(self) -> Tensor:
        """``(C,)`` float64, share of a class's pixels that are right; NaN for an absent class."""
        true, _, hit = self._marginals()
        return hit / true

    def mean_class_accuracy(self) -> float:
        """Mean of :meth:`class_accuracy` over the classes that are there."""
        return float(self.class_accuracy().nanmean())

    def absent_classes(self) -> list[int]:
        """Classes without a true pixel."""
        return [c for c, count in enumerate(self.matrix.sum(1).tolist()) if count == 0]

    def compute(self) -> dict[str, Any]:
        """All figures as JSON values; ``None`` for NaN, as of an absent class."""
        return {
            "mean_iou": finite_or_none(self.mean_iou()),
            "iou": [finite_or_none(iou) for iou in self.iou().tolist()],
            "pixel_accuracy": finite_or_none(self.pixel_accuracy()),
            "mean_class_accuracy": finite_or_none(self.mean_class_accuracy()),
            "class_accuracy": [finite_or_none(share) for share in self.class_accuracy().tolist()],
            "frequency_weighted_iou": finite_or_none(self.frequency_weighted_iou()),
            "absent_classes": self.absent_classes(),
            "matrix": self.matrix.tolist(),
        }

    def _marginals(self) -> tuple[Tensor, Tensor, Tensor]:
        """True, predicted and right pixels of each class, ``(C,)`` float64 on the CPU."""
        matrix = self.matrix.cpu().double()
        return matrix.sum(1), matrix.sum(0), matrix.diagonal()


def finite_or_none(figure: float) -> float | None:
    """``None`` for NaN, which is not part of JSON."""
    return None if math.isnan(figure) else figure


def near_boundary(labels: Tensor, width: int) -> Tensor:
    """Which pixels lie within ``width`` of another class, ``(B, H, W)`` bool: a trimap.

    The distance is the Chebyshev one. The edge of an IGNORE region is no boundary.

    Args:
        labels: ``(B, H, W)`` integer.
        width: in pixels, at least 1.
    """
    values = labels.float()[:, None]
    ignored = values == IGNORE

    def highest(values: Tensor) -> Tensor:
        values = values.masked_fill(ignored, -torch.inf)
        return F.max_pool2d(values, 2 * width + 1, stride=1, padding=width)

    mixed: Tensor = highest(values) != -highest(-values)
    return (mixed & ~ignored)[:, 0]


def format_table(
    confusions: Mapping[str, ConfusionMatrix],
    boundaries: Mapping[str, ConfusionMatrix],
    class_names: Sequence[str],
) -> str:
    """IoU per class and the summary figures in %, one column for each network, as plain text.

    Args:
        confusions: by the column's name.
        boundaries: the same, of pixels near a boundary.
        class_names: C names.
    """
    names = list(confusions)
    first = next(iter(confusions.values()))
    share = first.matrix.sum(1).double().cpu()
    share = 100 * share / share.sum()
    rows = [
        (name, f"{share[c]:.2f}", *(_percent(confusions[n].iou()[c]) for n in names))
        for c, name in enumerate(class_names)
    ]
    summary = [
        ("mIoU", [_percent(confusions[n].mean_iou()) for n in names]),
        ("mIoU near boundaries", [_percent(boundaries[n].mean_iou()) for n in names]),
        (
            "frequency-weighted IoU",
            [_percent(confusions[n].frequency_weighted_iou()) for n in names],
        ),
        ("pixel accuracy", [_percent(confusions[n].pixel_accuracy()) for n in names]),
        ("mean class accuracy", [_percent(confusions[n].mean_class_accuracy()) for n in names]),
    ]
    rows += [(title, "", *figures) for title, figures in summary]
    header = ("IoU in %", "pixels %", *names)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            entry.ljust(width) if i == 0 else entry.rjust(width)
            for i, (entry, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    rule = "-" * len(lines[0])
    lines[1:1] = [rule]
    lines[-len(summary) : -len(summary)] = [rule]
    absent = first.absent_classes()
    if absent:
        listed = ", ".join(class_names[c] for c in absent)
        lines.append(f"not in these images, and left out of the means: {listed}")
    return "\n".join(lines)


def _percent(value: Tensor | float) -> str:
    number = 100 * float(value)
    return "-" if math.isnan(number) else f"{number:.2f}"
