"""The training loop: build, step, log, validate, checkpoint.

Nothing here depends on hidden state: the random numbers of iteration t come from (seed, t, rank),
samples from (seed, position in the run), the learning rate from t. A run that stops and resumes is
therefore the run that never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from reco import distributed
from reco.build import build_network, build_objective, build_teacher
from reco.checkpoint import Checkpoint, load_latest, load_state, save_checkpoint, save_latest
from reco.config import Config, ConfigError, config_from_dict
from reco.data import open_dataset
from reco.data.loading import EvalDataset, TrainSample, TrainStream, eval_loader, train_loader
from reco.data.splits import Split, make_split
from reco.data.transforms import normalise
from reco.inference import EvaluationResult, evaluate
from reco.metrics import format_table
from reco.objective import Losses, StepStatistics
from reco.run_folder import RunFolder
from reco.visualise import PanelRow, panel

LEARNING_RATE_FLOOR = 1e-6

# Keys that may differ between a run and its resumption: they do not change what is computed.
_SAFE_KEYS = {
    "output_dir",
    "train.checkpoint_every",
    "train.device",
    "train.log_every",
    "train.panel_images",
    "train.validate_every",
    "train.workers",
}

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss or weight became NaN or infinite; the last good checkpoint stands."""


class Outcome(NamedTuple):
    """How a run ended."""

    folder: Path
    iteration: int  # iterations done
    finished: bool  # False after Ctrl-C or SIGTERM
    table: str  # per-class table of the last validation
    panel: Path | None  # the last panel


def learning_rate(config: Config, iteration: int) -> float:
    """Polynomial decay to a floor: ``max(lr · (1 - t/T)^0.9, 1e-6)``."""
    left = 1 - iteration / config.train.iterations
    return max(config.train.learning_rate * left**0.9, LEARNING_RATE_FLOOR)


class Trainer:
    """One training run.

    Args:
        config: the experiment.
        name: of the experiment; runs lie under ``output_dir/name``.
        resume: go on from the checkpoint in the run's folder.

    Raises:
        ConfigError, FileNotFoundError, ValueError: anything about configuration or data that can
            be known before the work starts.
        FileExistsError: the run's folder is in use and ``resume`` is not given.
        CheckpointError: nothing readable to resume from.
    """

    def __init__(self, config: Config, name: str, *, resume: bool = False) -> None:
        self.config = config
        self.device = distributed.set_up(config.train.device)
        self.autocast, self.scaler = _precision(config.train.precision, self.device)
        self.reader = open_dataset(config.dataset)
        self.split = make_split(self.reader, config.dataset)
        if config.method.unsupervised and not self.split.unlabelled:
            raise ConfigError(
                f"dataset.labelled_images = {config.dataset.labelled_images}: every image is in "
                "the labelled split, so none is left as unlabelled; use all (they then serve as "
                "both), add unlabelled images, or set method.unsupervised=false"
            )
        eval_ids = self.reader.ids(config.dataset.eval_split)
        self.eval_loader = eval_loader(
            EvalDataset(self.reader, eval_ids, config.dataset.image_size),
            workers=config.train.workers,
        )

        self.folder = RunFolder(config, name)
        checkpoint = load_latest(self.folder.path) if resume else None
        torch.manual_seed(config.train.seed)
        num_classes = self.reader.spec.num_classes
        self.student = build_network(config, num_classes, pretrained=checkpoint is None)
        self.student.to(self.device, memory_format=torch.channels_last)
        self.teacher = build_teacher(config, self.student)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=config.train.learning_rate,
            momentum=config.train.momentum,
            weight_decay=config.train.weight_decay,
            nesterov=True,
            foreach=True,
        )
        self.objective = build_objective(config).to(self.device)
        self.iteration = 0
        self.best = -1.0
        if checkpoint is not None:
            self._restore(checkpoint)
        elif distributed.rank() == 0:
            self.folder.create(config, self.split.to_dict())

        self.model: nn.Module = self.student
        if config.train.compile:
            self.student.compile()
            if self.teacher is not None:
                self.teacher.network.compile()
        if distributed.is_active():
            self.model = DistributedDataParallel(self.student)
        self.meter = Meter(self.device)
        self.stop_signal: int | None = None
        self.table, self.panel = "", None

    def run(self) -> Outcome:
        """Train until the last iteration, Ctrl-C or SIGTERM; both leave a checkpoint."""
        train, total = self.config.train, self.config.train.iterations
        bar = tqdm(
            total=total, initial=self.iteration, unit="it", disable=distributed.rank() != 0
        )
        with self._stopping_on_signals(), bar:
            for labelled, unlabelled in self._batches():
                losses, statistics = self.train_step(labelled, unlabelled)
                self.iteration += 1
                self.meter.add(losses, statistics)
                bar.update()
                done = self.iteration == total
                stopping = self.stop_signal is not None
                validating = done or self.iteration % train.validate_every == 0
                checkpointing = done or stopping or self.iteration % train.checkpoint_every == 0
                if validating or checkpointing or self.iteration % train.log_every == 0:
                    self._log(bar, statistics)
                if validating and not stopping:
                    self._validate()
                if checkpointing:
                    self._checkpoint()
                if stopping:
                    break
        return Outcome(
            self.folder.path, self.iteration, self.iteration == total, self.table, self.panel
        )

    def train_step(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> tuple[Losses, StepStatistics]:
        """One optimisation step on a batch; nothing here waits for the device."""
        torch.manual_seed(_step_seed(self.config.train.seed, self.iteration, distributed.rank()))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.iteration)
        with self.autocast:
            losses, statistics = self.objective(
                self.model, self.teacher, (labelled.image, labelled.label), unlabelled
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.teacher is not None:
            self.teacher.update(self.student)
        return losses, statistics

    def _batches(self) -> Iterator[tuple[TrainSample, TrainSample | None]]:
        """This rank's labelled and unlabelled batches on the device, from the next iteration on."""
        config = self.config
        streams = [("labelled", self.split.labelled, config.labelled_batch_size)]
        if config.method.unsupervised:
            size = config.train.unlabelled_batch_size
            streams.append(("unlabelled", self.split.unlabelled, size))
        loaders = [
            train_loader(
                TrainStream(self.reader, ids, config.dataset, stream=stream, seed=config.train.seed),
                batch_size,
                start_iteration=self.iteration,
                iterations=config.train.iterations,
                workers=config.train.workers,
                pin_memory=self.device.type == "cuda",
            )
            for stream, ids, batch_size in streams
        ]
        for batches in zip(*loaders, strict=True):
            labelled, *unlabelled = (self._to_device(batch) for batch in batches)
            yield labelled, unlabelled[0] if unlabelled else None

    def _to_device(self, batch: TrainSample) -> TrainSample:
        return TrainSample(*(tensor.to(self.device, non_blocking=True) for tensor in batch))

    def _log(self, bar: tqdm[Any], statistics: StepStatistics) -> None:
        """Read the meter, stop on a loss that is not finite, write a line of metrics."""
        means, not_finite, seconds, steps = self.meter.read()
        if not_finite:
            raise NonFiniteLossError(
                f"{', '.join(not_finite)}: not finite within the {steps} iterations up to "
                f"{self.iteration}; nothing was saved since, the last checkpoint in "
                f"{self.folder.path} stands. A lower train.learning_rate or train.precision=fp32 "
                "are the usual remedies"
            )
        train = self.config.train
        images = steps * (self.config.labelled_batch_size + self._unlabelled_batch_size)
        rate = learning_rate(self.config, self.iteration - 1)
        record = {
            "iteration": self.iteration,
            **means,
            **_reco_summary(statistics),
            "learning_rate": rate,
            "images_per_second": images / seconds,
        }
        if self.device.type == "cuda":
            record["memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        bar.set_postfix_str(
            f"loss {means['total']:.3f} (sup {means['supervised']:.3f} "
            f"unsup {means['unsupervised']:.3f} reco {means['reco']:.3f}) lr {rate:.1e} "
            f"{images / seconds:.1f} img/s"
        )
        if distributed.rank() == 0:
            self.folder.log(record)
        del train

    @property
    def _unlabelled_batch_size(self) -> int:
        method, train = self.config.method, self.config.train
        return train.unlabelled_batch_size if method.unsupervised else 0

    def _validate(self) -> None:
        """Evaluate student and teacher, keep the best, draw the panel."""
        networks: dict[str, nn.Module] = {"student": self.student}
        if self.teacher is not None:
            networks["teacher"] = self.teacher.network
        results = evaluate(
            networks, self.eval_loader, self.reader.spec.num_classes, device=self.device
        )
        if self.teacher is not None:
            self.teacher.train()
        self.student.train()
        self.table = format_table(results, self.reader.spec.class_names)
