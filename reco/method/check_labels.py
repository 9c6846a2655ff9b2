"""Labels that are neither a class nor IGNORE: an error on the CPU, ignored on other devices."""

from __future__ import annotations

import torch
from torch import Tensor

from reco import IGNORE


def checked_labels(labels: Tensor, num_classes: int, name: str) -> Tensor:
    """``labels`` with IGNORE in the place of what is no class, as :class:`reco.loss.ReCoLoss` does.

    Cross-entropy and scatter would end in an IndexError, on an accelerator in an assert that names
    neither tensor nor value.

    Args:
        labels: of any shape, integers that can hold IGNORE.
        num_classes: C, at most 255.
        name: of the caller, for errors.

    Raises:
        ValueError: not such integers, more classes, or, for eager CPU tensors, where the check
            needs no synchronisation, a label that is neither 0 .. C-1 nor IGNORE.
    """
    if num_classes > IGNORE:
        raise ValueError(
            f"{name}: {num_classes} classes: expected at most {IGNORE}, since {IGNORE} is IGNORE"
        )
    kind = labels.dtype
    if kind.is_floating_point or kind in (torch.bool, torch.int8):
        raise ValueError(f"{name}: labels are {kind}: expected integers that can be {IGNORE}")
    in_range = (labels >= 0) & (labels < num_classes)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[~in_range & (labels != IGNORE)]
        if wrong.numel():
            raise ValueError(
                f"{name}: labels holds {sorted(set(wrong.tolist()))[:10]}: expected 0 to "
                f"{num_classes - 1}, or IGNORE = {IGNORE}"
            )
    return labels.where(in_range, IGNORE)
