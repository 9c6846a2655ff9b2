"""From a configuration to the parts of a run: data, networks, objective, optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from reco import distributed
from reco.config import Config, ConfigError
from reco.data import open_dataset
from reco.data.checks.overview import overview
from reco.data.class_weights import class_weights
from reco.data.datasets.reader import FileReader, Reader
from reco.data.reading.value_range import value_range_text
from reco.data.splits import Split, check_evaluated, check_labelled, make_split
from reco.data.statistics import mean_and_std
from reco.loss import ReCoLoss
from reco.method.objective import Objective
from reco.method.second_head import SampledCrossEntropy
from reco.method.teacher import MeanTeacher
from reco.method.views import Views
from reco.models.network import SegmentationNetwork
from reco.printing import say
from reco.runs.build_networks import build_network, build_teacher
from reco.training.optimisation import build_optimizer

_SECOND_LOSSES = {"contrast": ReCoLoss, "cross_entropy": SampledCrossEntropy}


@dataclass
class RunParts:
    """What :class:`reco.training.trainer.Trainer` needs for a run."""

    config: Config
    device: torch.device
    reader: Reader
    split: Split
    student: nn.Module
    teacher: MeanTeacher | None  # None for a supervised run
    optimizer: torch.optim.Optimizer
    views: Views
    objective: Objective

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By name; the last one is the main one, see ``main_network``."""
        networks = {"student": self.student}
        return networks if self.teacher is None else networks | {"teacher": self.teacher.network}


def build_run(
    config: Config,
    *,
    reader: Reader | None = None,
    network: nn.Module | None = None,
    pretrained: bool = True,
) -> RunParts:
    """Make the parts of a run, on the run's device; joins torchrun's process group.

    Args:
        config: the experiment.
        reader: a data set in place of the configuration's.
        network: a student in place of the configuration's: images ``(B, 3, H, W)`` in
            [0, 1] to logits and representations in train mode, as
            :class:`reco.models.network.SegmentationOutput` holds them.
        pretrained: fill the encoder with ``model.weights``; ``False`` where a checkpoint will.

    Raises:
        ConfigError, FileNotFoundError, ValueError: anything about configuration or data that can
            be known before the work starts.
    """
    device = distributed.set_up(config.train.device)
    _check_sync_batchnorm(config, device)
    _check_shares(config)
    reader = open_dataset(config.dataset) if reader is None else reader
    config = with_value_range(config, reader)
    check_labelled(reader, config)
    split = make_split(reader, config.dataset)
    if distributed.rank() == 0:
        check_evaluated(reader, config.dataset.eval_split)
        say("\n".join(overview(reader, split, config.dataset)))
        _note_single_class(config, reader, split)
    torch.manual_seed(config.train.seed)
    if network is None:
        of_images = None
        if pretrained and config.dataset.channels != 3:
            of_images = mean_and_std(reader, [*split.labelled, *split.unlabelled])
        network = build_network(
            config, reader.spec.num_classes, pretrained=pretrained, mean_and_std=of_images
        )
    student = network.to(device).to(memory_format=torch.channels_last)
    teacher = build_teacher(config, student)
    if config.train.sync_batchnorm and distributed.is_active():
        for each in (student, teacher):
            nn.SyncBatchNorm.convert_sync_batchnorm(each)  # type: ignore[no-untyped-call]
    weights = class_weights(reader, split.labelled, config)
    return RunParts(
        config=config,
        device=device,
        reader=reader,
        split=split,
        student=student,
        teacher=teacher,
        optimizer=build_optimizer(student, config.train),
        views=build_views(config, student),
        objective=build_objective(config, weights).to(device),
    )


def _note_single_class(config: Config, reader: Reader, split: Split) -> None:
    """Log a note where the labels hold one class, so that ReCo has no negatives."""
    present = [name for name, images in split.images_per_class.items() if images]
    if config.reco.enabled and len(present) < 2:
        say(
            f"note: of {reader.spec.num_classes} classes the labelled masks hold "
            f"{', '.join(present) or 'none'} alone: ReCo has no negatives and adds 0"
        )


def _check_sync_batchnorm(config: Config, device: torch.device) -> None:
    """Batch statistics over all ranks only where torch has them: on CUDA."""
    if config.train.sync_batchnorm and device.type != "cuda":
        raise ConfigError(
            f"train.sync_batchnorm = true: expected false, since train.device = "
            f"{config.train.device} means {device.type} here and batch statistics over all "
            "processes need CUDA. Set train.sync_batchnorm=false (each process then uses its "
            "share of the batch)"
        )


def _check_shares(config: Config) -> None:
    """Every rank gets an equal, whole and sufficient share of each batch."""
    ranks, train, method = distributed.world_size(), config.train, config.method
    parts, processes = ranks * train.accumulation_steps, f"{ranks} processes"
    if train.accumulation_steps > 1:
        processes += f" times train.accumulation_steps = {train.accumulation_steps}"
    batches = {"train.labelled_batch_size": config.labelled_batch_size}
    if method.unsupervised:
        batches["train.unlabelled_batch_size"] = train.unlabelled_batch_size
    for key, size in batches.items():
        if size % parts:
            raise ConfigError(
                f"{key} = {size}: expected a multiple of the {processes}, among which the batch is "
                "divided"
            )
    share = train.unlabelled_batch_size // parts
    if method.unsupervised and method.mix in ("classmix", "cutmix") and share < 2:
        raise ConfigError(
            f"train.unlabelled_batch_size = {train.unlabelled_batch_size}: that is {share} for "
            f"each of {processes}, but method.mix = {method.mix} mixes at least 2 images"
        )


def with_value_range(config: Config, reader: Reader) -> Config:
    """``config`` with the range of values of images of more than 8 bits, found where it is not set.

    Logs the range that was found, or what is wrong with the one that is set.
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
        say(f"note: {note}")
    return config


def build_views(config: Config, student: nn.Module) -> Views:
    """Make the views of a run.

    Raises:
        ConfigError: dropout in a network that is no ``SegmentationNetwork``.
    """
    method, channels = config.method, None
    if method.feature_dropout:
        if not isinstance(student, SegmentationNetwork):
            raise ConfigError(
                f"method.feature_dropout = true: expected false, since {type(student).__name__} is "
                "no SegmentationNetwork, so its encoder is unknown"
            )
        channels = student.encoder.channels
    return Views(
        mix=method.mix,
        scale_range=config.dataset.scale_range,
        cutmix_probability=method.cutmix_probability,
        cutmix_area=method.cutmix_area,
        cutmix_aspect=method.cutmix_aspect,
        strong_views=method.strong_views,
        jitter=method.jitter,
        grey=method.grey_probability,
        blur=method.blur_sigma,
        dropout_channels=channels,
    )


def build_objective(config: Config, class_weights: Sequence[float] | None = None) -> Objective:
    """Eq. 5 with the terms that ``config`` switches on.

    Args:
        config: of the run.
        class_weights: as :func:`reco.data.class_weights.class_weights` finds them.
    """
    return Objective(
        partial_labels=config.dataset.partial_labels is not None,
        unsupervised_loss=config.method.unsupervised_loss,
        unsupervised_threshold=config.method.unsupervised_threshold,
        weak_threshold=config.reco.weak_threshold,
        reco=_SECOND_LOSSES[config.reco.loss](config.reco) if config.reco.enabled else None,
        reco_weight=config.reco.weight,
        keys_from=config.reco.keys_from,
        class_weights=class_weights,
    )
