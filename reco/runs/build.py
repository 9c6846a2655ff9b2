"""From a configuration to the network, the objective and the teacher that it describes."""

from __future__ import annotations

from torch import nn

from reco.config import Config, config_from_dict
from reco.loss import ReCoLoss
from reco.method.objective import Objective
from reco.method.teacher import MeanTeacher
from reco.models.network import DeepLabV3Plus
from reco.runs.checkpoint import Checkpoint, load_state


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


def restore_networks(checkpoint: Checkpoint, source: str) -> dict[str, nn.Module]:
    """``student`` and, unless the run was supervised, ``teacher`` of a checkpoint, in eval mode.

    Args:
        checkpoint: as :func:`reco.runs.checkpoint.load_checkpoint` gives it.
        source: names it in errors.

    Raises:
        CheckpointError: the weights do not fit the network of the checkpoint's configuration.
    """
    config = config_from_dict(checkpoint["config"], source)
    num_classes = len(checkpoint["dataset"]["class_names"])
    student = build_network(config, num_classes, pretrained=False)
    teacher = build_teacher(config, student)
    load_state(student, checkpoint["student"], source)
    networks: dict[str, nn.Module] = {"student": student}
    if teacher is not None:
        load_state(teacher, checkpoint["teacher"], source)
        networks["teacher"] = teacher.network
    return {name: network.eval() for name, network in networks.items()}


def build_objective(config: Config) -> Objective:
    """Eq. 5 with the terms that ``config`` switches on."""
    return Objective(
        mix=config.method.mix,
        scale_range=config.dataset.scale_range,
        unsupervised_threshold=config.method.unsupervised_threshold,
        weak_threshold=config.reco.weak_threshold,
        true_labels=config.reco.true_labels,
        reco=build_reco_loss(config),
        reco_weight=config.reco.weight,
    )


def build_reco_loss(config: Config) -> ReCoLoss | None:
    """The ReCo loss, or ``None`` where it is switched off."""
    reco = config.reco
    if not reco.enabled:
        return None
    return ReCoLoss(
        num_queries=reco.num_queries,
        num_negatives=reco.num_negatives,
        temperature=reco.temperature,
        strong_threshold=reco.strong_threshold,
        relation_temperature=reco.relation_temperature,
        query_sampling=reco.query_sampling,
        key_sampling=reco.key_sampling,
        negatives=reco.negatives,
        gradient_through_means=reco.gradient_through_means,
    )
