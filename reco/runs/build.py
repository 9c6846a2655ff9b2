"""From a configuration to the networks that it describes."""

from __future__ import annotations

from reco.config import Config
from reco.method.teacher import MeanTeacher
from reco.models.network import DeepLabV3Plus


def build_network(config: Config, num_classes: int, *, pretrained: bool = True) -> DeepLabV3Plus:
    """The network of ``config``; ``pretrained=False`` when a checkpoint will fill it."""
    return DeepLabV3Plus(
        num_classes,
        backbone=config.model.backbone,
        weights=config.model.weights if pretrained else "none",
        representation_dim=config.model.representation_dim if config.reco.enabled else None,
        output_stride=config.model.output_stride,
        channels=config.model.channels,
    )


def build_teacher(config: Config, network: DeepLabV3Plus) -> MeanTeacher | None:
    """The teacher of ``network``, or ``None`` for a supervised run."""
    if not config.method.unsupervised:
        return None
    return MeanTeacher(
        network,
        config.method.teacher_decay,
        batch_statistics=config.method.teacher_mode == "train",
    )
