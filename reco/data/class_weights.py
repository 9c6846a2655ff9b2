"""Weights of the classes in the cross-entropies: ``train.class_weights``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reco.config import Config, ConfigError
from reco.data.datasets.reader import Reader
from reco.data.partial import partial_labels
from reco.threads import in_threads


def class_weights(reader: Reader, labelled: Sequence[str], config: Config) -> list[float] | None:
    """One weight for each class, or ``None`` where all pixels count alike.

    ``balanced`` gives a class with the share s of the labelled pixels the weight 1 / (C s), C being
    the number of classes that have any: each of them then weighs as much as the others together
    with its pixels, and a pixel weighs 1 on average. A class without pixels has weight 1.

    Args:
        reader: of the data set.
        labelled: ids of the labelled images.
        config: of the run.

    Raises:
        ConfigError: another number of weights than classes.
        ValueError: a mask that cannot be used.
    """
    weights, num_classes = config.train.class_weights, reader.spec.num_classes
    if weights is None:
        return None
    if weights == "balanced":
        pixels = labelled_pixels(reader, labelled, config)
        present = pixels > 0
        shares = pixels / pixels.sum().clamp(min=1)
        return torch.where(present, 1 / (present.sum() * shares), 1.0).tolist()
    if len(weights) != num_classes:
        raise ConfigError(
            f"train.class_weights = {list(weights)}: {len(weights)} numbers, expected one for each "
            f"of the {num_classes} classes {', '.join(reader.spec.class_names)}"
        )
    return list(weights)


def labelled_pixels(reader: Reader, labelled: Sequence[str], config: Config) -> Tensor:
    """Pixels of each class ``(C,)`` float64 that training may use, at the size of the files."""
    dataset = config.dataset

    def count(id: str) -> Tensor:
        labels = torch.from_numpy(np.array(reader.label(id)))
        if dataset.partial_labels is not None:
            labels = partial_labels(labels, dataset.partial_labels, seed=dataset.split_seed, id=id)
        return torch.bincount(labels.flatten(), minlength=256)[: reader.spec.num_classes]

    counts = list(in_threads(count, labelled, title="class weights"))
    return torch.stack(counts).sum(0).double()
