"""ReCo: semantic segmentation from a handful of labelled images, with Regional Contrast.

``reco.load("last.pt").predict("street.jpg")`` labels an image; ``from reco.loss import ReCoLoss``
is the loss for other training code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reco.config import load_config
    from reco.inference.predictor import Prediction, Predictor, load
    from reco.loss import ReCoLoss, ReCoOptions
    from reco.method.mixing import classmix, cutmix, cutout
    from reco.method.objective import Objective
    from reco.method.teacher import MeanTeacher
    from reco.metrics import ConfusionMatrix
    from reco.models.network import DeepLabV3Plus, SegmentationNetwork
    from reco.training.trainer import Trainer, train

__version__ = "0.1.0"

IGNORE = 255
"""The ignore label in tensors and in written files; readers map the void values of data to it."""

__all__ = [
    "IGNORE",
    "ConfusionMatrix",
    "DeepLabV3Plus",
    "MeanTeacher",
    "Objective",
    "Prediction",
    "Predictor",
    "ReCoLoss",
    "ReCoOptions",
    "SegmentationNetwork",
    "Trainer",
    "classmix",
    "cutmix",
    "cutout",
    "load",
    "load_config",
    "train",
]

# Modules of the public names, imported on first use: the loss needs torch alone.
_MODULES = {
    "ConfusionMatrix": "reco.metrics",
    "DeepLabV3Plus": "reco.models.network",
    "MeanTeacher": "reco.method.teacher",
    "Objective": "reco.method.objective",
    "Prediction": "reco.inference.predictor",
    "Predictor": "reco.inference.predictor",
    "ReCoLoss": "reco.loss",
    "ReCoOptions": "reco.loss",
    "SegmentationNetwork": "reco.models.network",
    "Trainer": "reco.training.trainer",
    "classmix": "reco.method.mixing",
    "cutmix": "reco.method.mixing",
    "cutout": "reco.method.mixing",
    "load": "reco.inference.predictor",
    "load_config": "reco.config",
    "train": "reco.training.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
