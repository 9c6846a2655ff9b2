"""From a configuration to the networks that it describes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Literal

from torch import nn

from reco.config import Config
from reco.method.teacher import MeanTeacher
from reco.models.network import SegmentationNetwork
from reco.models.weights import IMAGENET_MEAN, IMAGENET_STD


def build_network(
    config: Config,
    num_classes: int,
    *,
    pretrained: bool = True,
    mean_and_std: tuple[Sequence[float], Sequence[float]] | None = None,
) -> SegmentationNetwork:
    """The network of ``config``.

    Args:
        config: of the run.
        num_classes: C.
        pretrained: False when a checkpoint will fill the network.
        mean_and_std: of the images, for each channel; ``None``: as ``model.normalisation`` says.
    """
    imagenet = config.model.normalisation == "imagenet" and config.dataset.channels == 3
    if mean_and_std is None and imagenet:
        mean_and_std = IMAGENET_MEAN, IMAGENET_STD
    mean, std = mean_and_std or (None, None)
    representation_dim = None
    if config.reco.enabled:
        classifies = config.reco.loss == "cross_entropy"
        representation_dim = num_classes if classifies else config.model.representation_dim
    return SegmentationNetwork(
        **network_arguments(config, num_classes),
        weights=config.model.weights if pretrained else "none",
        representation_dim=representation_dim,
        freeze=config.model.freeze,
        drop_path=config.model.drop_path,
        mean=mean,
        std=std,
    )


def network_arguments(config: Config, num_classes: int) -> dict[str, Any]:
    """Arguments of a ``SegmentationNetwork`` that fits the state dicts of ``config``."""
    return {
        "num_classes": num_classes,
        "backbone": config.model.backbone,
        "decoder": config.model.decoder,
        "output_stride": config.model.output_stride,
        "channels": config.model.channels,
        "in_channels": config.dataset.channels,
    }


def build_teacher(config: Config, network: nn.Module) -> MeanTeacher | None:
    """The teacher of ``network``, or ``None`` for a supervised run."""
    if not config.method.unsupervised:
        return None
    return MeanTeacher(
        network,
        config.method.teacher_decay,
        batch_statistics=config.method.teacher_mode == "train",
        average_buffers=config.method.teacher_buffers == "averaged",
    )


def main_network(names: Container[str]) -> Literal["student", "teacher"]:
    """The main one of a run's networks: the teacher or, without one, the student."""
    return "teacher" if "teacher" in names else "student"
