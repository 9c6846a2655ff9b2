"""From a configuration to the objective that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from reco import distributed
from reco.config import Config
from reco.data.reader import FileReader, Reader
from reco.data.value_range import value_range_text
from reco.loss import ReCoLoss
from reco.method.objective import Objective
from reco.method.views import Views


def with_value_range(config: Config, reader: Reader) -> Config:
    """``config`` with the range of values of images of more than 8 bits, found where it is not set.

    What was found, or is wrong with what is set, is told.
    """
    dataset = config.dataset
    if dataset.name != "folder" or not isinstance(reader, FileReader):
        return config
    note = reader.judge_value_range()
    found = reader.image_format.value_range
    if dataset.value_range is None and found is not None:
        note = f"images of more than 8 bits: dataset.value_range = {value_range_text(found)}"
        config = replace(config, dataset=replace(dataset, value_range=found))
    if note and distributed.rank() == 0:
        tqdm.write(f"note: {note}")
    return config


def build_views(config: Config) -> Views:
    """What the student sees."""
    return Views(mix=config.method.mix, scale_range=config.dataset.scale_range)


def build_objective(config: Config, class_weights: Sequence[float] | None = None) -> Objective:
    """Eq. 5 with the terms that ``config`` switches on.

    Args:
        config: of the run.
        class_weights: as :func:`reco.data.balance.class_weights` finds them.
    """
    return Objective(
        partial_labels=config.dataset.partial_labels is not None,
        unsupervised_threshold=config.method.unsupervised_threshold,
        weak_threshold=config.reco.weak_threshold,
        reco=ReCoLoss(config.reco) if config.reco.enabled else None,
        reco_weight=config.reco.weight,
        class_weights=class_weights,
    )
