"""The training loop: build, step, log, validate, checkpoint.

Nothing here depends on hidden state: the random numbers of iteration t come from (seed, t, rank),
samples from (seed, position in the run), the learning rate from t. A resumed run therefore gives
the same numbers as one that never stopped.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from tqdm import tqdm

from reco import distributed
from reco.config import Config, ConfigError, config_from_dict
from reco.data.fingerprint import fingerprints
from reco.data.loading import (
    Loader,
    TrainSample,
    TrainStream,
    deaths_explained,
    train_loader,
)
from reco.method.objective import Losses, StepStatistics
from reco.method.teacher import MeanTeacher
from reco.method.views import LabelledView, UnlabelledView
from reco.precision import autocast
from reco.printing import say, shell_line
from reco.runs.build_networks import main_network
from reco.runs.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_latest,
    load_state,
    save_checkpoint,
    save_latest,
)
from reco.runs.folder import RunFolder, related_runs, with_absolute_root
from reco.runs.lock import exclusive_use
from reco.runs.results import read_metrics
from reco.seeding import stable_seed
from reco.training.batch_norm import (
    Buffers,
    averaging_statistics,
    copy_of_buffers,
    restore_buffers,
)
from reco.training.build import RunParts, build_run
from reco.training.cuda_settings import training_backends, validation_backends
from reco.training.due import due_after
from reco.training.interrupts import (
    StepRollback,
    defer_worker_deaths,
    ensure_stderr,
    on_stop_signal,
)
from reco.training.log_figures import Meter, RelationMeter, held_bytes, reco_summary
from reco.training.optimisation import learning_rate, optimizer_step, set_learning_rate
from reco.training.profiling import StepProfiler
from reco.training.resume import check_training_images, extended, resume_error
from reco.training.validation import Validation
from reco.writing import WriteError


class NonFiniteLossError(RuntimeError):
    """A loss or weight became NaN or infinite; the last good checkpoint stands."""


class TrainingOutcome(NamedTuple):
    """State of a run when training ended, finished or not."""

    folder: Path
    iteration: int  # iterations done
    finished: bool  # False after Ctrl-C or SIGTERM
    table: str  # per-class table of the last validation
    panel: Path | None  # the last panel

    def summary(self) -> str:
        """Table, panel and the next command, for the user."""
        if not self.finished:
            return (
                f"Stopped after {self.iteration} iterations; the checkpoint is in {self.folder}. "
                "The same command with --resume goes on from it."
            )
        lines = [self.table or f"{self.folder} was finished already, at iteration {self.iteration}"]
        if self.panel is not None:
            lines.append(f"Look at:   {self.panel}")
        evaluate = ["reco", "eval", "--checkpoint", str(self.folder / "last.pt")]
        lines.append(f"Evaluate:  {shell_line(evaluate)}")
        lines.append("Report last.pt: best.pt was chosen by its mIoU on the evaluation split")
        return "\n".join(lines)


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    extend_to: int | None = None,
    tensorboard: bool = False,
    profile: bool = False,
) -> TrainingOutcome:
    """Train by ``config`` and keep everything in ``folder``; see :class:`Trainer`."""
    folder = Path(folder)
    group_existed = distributed.in_group()  # a program that has joined a group leaves it itself
    resume = resume or extend_to is not None
    with exclusive_use(folder, wait=resume), ensure_stderr():
        try:
            parts = build_run(config, pretrained=not (resume and has_checkpoint(folder)))
            trainer = Trainer(
                parts, folder, resume=resume, extend_to=extend_to, tensorboard=tensorboard
            )
            return trainer.run(StepProfiler(folder, trainer.device) if profile else None)
        finally:
            if not group_existed:
                distributed.tear_down()


class Trainer:
    """Trains a run.

    Args:
        parts: what it is made of, from :func:`reco.training.build.build_run`.
        folder: of the run, as :func:`reco.runs.folder.run_path` gives it.
        resume: go on from the checkpoint in ``folder``; where there is none, start.
        extend_to: resume, and train to this iteration instead of the configuration's. The learning
            rate falls towards the new end from there on, unlike in a run of that length from
            the start.
        tensorboard: log for TensorBoard too, in ``folder/tensorboard``.

    Raises:
        FileExistsError: the run's folder is in use and ``resume`` is not given.
        CheckpointError, ConfigError: the checkpoint to resume from cannot be read, or is of another
            experiment.
    """

    def __init__(
        self,
        parts: RunParts,
        folder: Path,
        *,
        resume: bool = False,
        extend_to: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.parts, self.config, self.device = parts, with_absolute_root(parts.config), parts.device
        self.student, self.teacher, self.optimizer = parts.student, parts.teacher, parts.optimizer
        precision = self.config.train.precision
        self.autocast = autocast(precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.folder = RunFolder(folder, tensorboard=tensorboard and distributed.rank() == 0)
        self.validation = Validation(parts.reader, self.config, self.folder)
        self.labelled_images = fingerprints(parts.reader, parts.split.labelled)
        self.iteration = self.saved = 0  # iterations done, and in the last checkpoint
        self.best = -1.0
        resume = resume or extend_to is not None
        checkpoint = load_latest(folder) if resume and has_checkpoint(folder) else None
        if extend_to is not None:
            self.config = extended(self.config, checkpoint, folder, extend_to)
        if checkpoint is not None:
            self._restore(checkpoint, extending=extend_to is not None)
        elif distributed.rank() == 0:
            if resume and not self.folder.exists:
                say(f"{folder}: no checkpoint, starting the run")
                for line in related_runs(self.config, folder):
                    say(line)
            self.folder.create(self.config, parts.split.to_dict(), again=resume)

        self.model: nn.Module = self.student
        if self.config.train.compile:
            for network in parts.networks.values():
                network.compile()
        if distributed.is_active():
            self.model = distributed.data_parallel(self.student)
        self.meter, self.relation_meter = Meter(self.device), RelationMeter()
        self.steps = StepRollback(parts.networks.values(), self.optimizer)
        self.stop_signal: int | None = None

    def run(self, profiler: StepProfiler | None = None) -> TrainingOutcome:
        """Train until the last iteration, or until something ends the run.

        Ctrl-C and SIGTERM end it after the step that is under way. They leave a checkpoint, and so
        does whatever else ends it, but for a loss or weights that are not finite.
        """
        train = self.config.train
        bar = tqdm(
            total=train.iterations,
            initial=self.iteration,
            unit="it",
            disable=distributed.rank() != 0,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # seconds; a log needs no more
        )
        watching = profiler or contextlib.nullcontext()
        on_signal, explained = on_stop_signal(self._note_signal), deaths_explained(train.workers)
        backends = training_backends(deterministic=train.deterministic)
        reading = contextlib.closing(self.batches())
        # The steps of a run that fails are saved before its loaders end, which may take seconds.
        saving = self._saving_on_error(bar)
        with on_signal, bar, explained, reading as batches, saving, watching, backends:
            if self._validation_is_missing():
                with self._evaluation_statistics() as running:
                    self._validate(running)
            for labelled, unlabelled in batches:
                with defer_worker_deaths(), self.steps.step():
                    results = self.train_step(labelled, unlabelled)
                    self.iteration += 1
                self.meter.add(results)
                for _, statistics in results:
                    self.relation_meter.add(statistics.reco)
                bar.update()
                if profiler is not None:
                    profiler.step()
                stopping = self._stopping()
                due = due_after(self.iteration, train, stopping=stopping)
                if due.log:
                    self._log(bar, with_graph=due.validate)
                if due.checkpoint or due.validate:
                    with self._evaluation_statistics(estimate=due.validate) as running:
                        if due.checkpoint:
                            self._checkpoint(running)
                        if due.validate:
                            self._validate(running)
                    self.meter.restart_clock()
                if stopping:
                    break
        finished = self.iteration == train.iterations
        table, panel = self.validation.table, self.validation.panel
        return TrainingOutcome(self.folder.path, self.iteration, finished, table, panel)

    def train_step(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> list[tuple[Losses, StepStatistics]]:
        """One optimisation step on a batch; nothing here waits for the device.

        Returns:
            Losses and statistics of each part of the batch; its gradient is that of their mean.
        """
        seed = stable_seed("step", self.config.train.seed, self.iteration, distributed.rank())
        torch.manual_seed(seed)
        set_learning_rate(self.optimizer, self.config, self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        results, parts = [], self._parts(labelled, unlabelled)
        for number, part in enumerate(parts, start=1):
            with distributed.averaging_gradients(self.model, now=number == len(parts)):
                with self.autocast:
                    losses, statistics = self.losses(*part)
                with record_function("backward"):
                    mean = losses.total / len(parts)
                    self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
            results.append((losses, statistics))
        # After each step, so that the times of validations and checkpoints change no number.
        distributed.average_buffers(self.parts.networks.values())
        with record_function("optimiser"):
            stepped = optimizer_step(self.optimizer, self.scaler)
            if stepped and self.teacher is not None:
                self.teacher.update(self.student)
        return results

    def _parts(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> list[tuple[TrainSample, TrainSample | None]]:
        """The parts of a batch that go through the network one after another."""
        count = self.config.train.accumulation_steps

        def parts_of(batch: TrainSample) -> list[TrainSample]:
            return [
                TrainSample(*each) for each in zip(*(t.chunk(count) for t in batch), strict=True)
            ]

        rest = [None] * count if unlabelled is None else parts_of(unlabelled)
        return list(zip(parts_of(labelled), rest, strict=True))

    def losses(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> tuple[Losses, StepStatistics]:
        """Eq. 5 on a batch: its views, and the terms on them."""
        views = self._views(labelled, unlabelled, self.teacher)
        result: tuple[Losses, StepStatistics] = self.parts.objective(self.model, *views)
        return result

    def _views(
        self, labelled: TrainSample, unlabelled: TrainSample | None, teacher: MeanTeacher | None
    ) -> tuple[LabelledView, UnlabelledView | None]:
        """What the student is trained on."""
        labelled_view = self.parts.views.labelled(labelled.image, labelled.label)
        if teacher is None or unlabelled is None:
            return labelled_view, None
        return labelled_view, self.parts.views.unlabelled(teacher, *unlabelled)

    def student_images(
        self, labelled: TrainSample, unlabelled: TrainSample | None, teacher: MeanTeacher | None
    ) -> Tensor:
        """Images that the student is trained on, ``(B, 3, H, W)`` in [0, 1] and channels_last."""
        views = self._views(labelled, unlabelled, teacher)
        images = torch.cat([view.images for view in views if view is not None])
        return images.contiguous(memory_format=torch.channels_last)

    def batches(self) -> Generator[tuple[TrainSample, TrainSample | None], None, None]:
        """This rank's labelled and unlabelled batches on the device, from the next iteration on."""
        train = self.config.train
        return self.batches_of(train.seed, self.iteration, train.iterations)

    def batches_of(
        self, seed: int, first: int, end: int
    ) -> Generator[tuple[TrainSample, TrainSample | None], None, None]:
        """Batches ``first`` to ``end - 1`` of the run that would have this ``seed``."""
        config = self.config

        def loader(
            stream: Literal["labelled", "unlabelled"], ids: Sequence[str], batch_size: int
        ) -> Loader[TrainSample]:
            return train_loader(
                TrainStream(self.parts.reader, ids, config.dataset, stream=stream, seed=seed),
                batch_size,
                start_iteration=first,
                iterations=end,
                workers=config.train.workers,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                pin_memory=self.device.type == "cuda",
            )

        loaders = [loader("labelled", self.parts.split.labelled, config.labelled_batch_size)]
        if config.method.unsupervised:
            size = config.train.unlabelled_batch_size
            loaders.append(loader("unlabelled", self.parts.split.unlabelled, size))
        with contextlib.ExitStack() as streams:
            started = [streams.enter_context(contextlib.closing(iter(each))) for each in loaders]
            both = zip(*started, strict=True)
            while True:
                with record_function("data"):
                    batches = [self._to_device(batch) for batch in next(both, ())]
                if not batches:
                    return
                yield batches[0], batches[1] if len(batches) > 1 else None

    def _to_device(self, batch: TrainSample) -> TrainSample:
        return TrainSample(*(tensor.to(self.device, non_blocking=True) for tensor in batch))

    def _log(self, bar: tqdm[Any], *, with_graph: bool) -> None:
        """Read the meters, stop on a loss that is not finite, write a line of metrics."""
        means, not_finite, steps, seconds = self.meter.read()
        if not_finite:
            raise NonFiniteLossError(
                f"loss not finite: {', '.join(not_finite)}, within the {steps} iterations up to "
                f"{self.iteration}. Nothing was saved since: the last checkpoint in "
                f"{self.folder.path} stands. A lower train.learning_rate or train.precision=fp32 "
                "are the usual remedies"
            )
        self._note_missing_negatives(bar, means["without_negatives"])
        rate = learning_rate(self.config, self.iteration - 1)
        speed = steps * self.config.images_per_step / seconds
        record: dict[str, Any] = {
            "iteration": self.iteration,
            **means,
            **reco_summary(self.relation_meter.last),
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": speed,
        }
        graph = self.relation_meter.read()
        if with_graph and graph is not None:
            record["relation_graph"] = graph
        memory = held_bytes(self.device)
        if memory is not None:
            record["memory_mib"] = round(memory / 2**20)
        if distributed.rank() == 0:
            self.folder.log(record)
        bar.set_postfix_str(
            f"loss {means['total']:.2f} = sup {means['supervised']:.2f} + unsup "
            f"{means['unsupervised']:.2f} + reco {means['reco']:.2f}, lr {rate:.1e}, "
            f"{speed:.1f} img/s"
        )

    def _note_missing_negatives(self, bar: tqdm[Any], share: float) -> None:
        """With the first line of the log, note that most steps gave ReCo no negatives."""
        if distributed.rank() == 0 and share > 0.5 and not bar.postfix:
            say(
                f"note: in {share:.0%} of the steps so far one class alone took part in ReCo: it "
                "has no negatives then and adds 0. Larger crops or batches bring classes together; "
                "reco.enabled=false trains without it"
            )

    def _validation_is_missing(self) -> bool:
        """Whether the checkpoint that was resumed lacks a validation, or one on these images."""
        due = self.iteration > 0 and due_after(self.iteration, self.config.train).validate
        missing = due and distributed.rank() == 0 and self.iteration not in self._validations()
        return distributed.any_rank(missing, self.device)

    def _validations(self) -> dict[int, Any]:
        """The figures of all validations on these images that are in the metrics, by iteration."""
        if not self.folder.metrics_path.exists():
            return {}
        records = read_metrics(self.folder.path)
        return {
            record["iteration"]: record["validation"]
            for record in records
            if "validation" in record and record.get("images") == self.validation.images
        }

    @contextlib.contextmanager
    @torch.no_grad()
    def _evaluation_statistics(self, *, estimate: bool = True) -> Iterator[Buffers | None]:
        """In this context batch norm's running statistics are means over training batches.

        These batches are always the same ones, and student and teacher see the images that the
        student is trained on, without feature dropout. A teacher in eval mode has the student's
        statistics, or goes on with their moving average. The context gives the statistics of the
        training itself, which goes on with them.
        """
        count = self.config.train.statistics_batches if estimate else 0
        if not count:
            yield None
            return
        networks = self.parts.networks
        running, labeller = copy_of_buffers(networks), copy.deepcopy(self.teacher)
        estimated = [self.student]
        if self.teacher is not None and self.teacher.batch_statistics:
            estimated.append(self.teacher.network)
        seed = stable_seed("statistics", self.config.train.seed)
        try:
            with averaging_statistics(estimated), validation_backends(), self.autocast:
                for number, batch in enumerate(self.batches_of(seed, 0, count)):
                    torch.manual_seed(stable_seed(seed, number, distributed.rank()))
                    for part in self._parts(*batch):
                        images = self.student_images(*part, labeller)
                        for network in estimated:
                            network(images)
            del labeller  # its memory is not needed for the evaluation
            distributed.average_buffers(networks.values())
            if self.teacher is not None:
                self.teacher.copy_statistics(self.student)
            yield running
        finally:
            restore_buffers(networks, running)

    def _validate(self, running: Buffers | None) -> None:
        """Evaluate student and teacher, and keep the best."""
        with validation_backends(), self.autocast:
            results = self.validation.evaluate(self.parts.networks, self.iteration)
        if distributed.rank() != 0:
            return
        split, score = self.validation.split, results[main_network(results)].confusion.mean_iou()
        if score > self.best:
            self.best = score
            state = {**self._state(running), "chosen_on": split}
            save_checkpoint(state, self.folder.path / "best.pt")
        # Last: a resumed run does not repeat a validation that is in the metrics.
        figures = {name: result.to_dict() for name, result in results.items()}
        which = {"split": split, "images": self.validation.images}
        self.folder.log({"iteration": self.iteration, **which, "validation": figures})

    def _checkpoint(self, running: Buffers | None) -> None:
        """Write ``last.pt``, unless the weights themselves are broken."""
        self._require_finite_weights()
        if distributed.rank() == 0:
            save_latest(self._state(running), self.folder.path)
        self.saved = self.iteration

    def _require_finite_weights(self) -> None:
        norm = nn.utils.get_total_norm(self.student.parameters())
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"weights not finite at iteration {self.iteration}: the last checkpoint in "
                f"{self.folder.path} stands"
            )

    @contextlib.contextmanager
    def _saving_on_error(self, bar: tqdm[Any]) -> Iterator[None]:
        """Whatever ends the run, log and save the steps before it; but not weights that are broken.

        Where several processes train, the first one saves what it has: the others may be gone, so
        that metrics cannot be averaged over ranks.
        """
        try:
            yield
        except NonFiniteLossError:
            raise
        except BaseException:
            if distributed.rank() == 0 and self.iteration > self.saved:
                with defer_worker_deaths():
                    self._save_steps(bar)
            raise

    def _save_steps(self, bar: tqdm[Any]) -> None:
        done = self.iteration
        try:
            if not self.steps.undo():
                raise RuntimeError("the run ended in the middle of an update of the weights")
            if self.meter.steps and not distributed.is_active():
                with contextlib.suppress(WriteError):  # the checkpoint may still be written
                    self._log(bar, with_graph=False)
            self._require_finite_weights()
            save_latest(self._state(), self.folder.path)
        except NonFiniteLossError:
            raise
        except Exception as error:  # the one that ended the run is raised
            kept = f"the checkpoint of iteration {self.saved}" if self.saved else "no checkpoint"
            say(f"{self.folder.path} holds {kept}: {error}", error=True)
        else:
            say(
                f"The first {done} iterations are kept in {self.folder.path}: --resume goes on "
                "from them once what is wrong has been repaired"
            )

    def _state(self, running: Buffers | None = None) -> Checkpoint:
        spec = self.parts.reader.spec
        return {
            "config": self.config.to_dict(),
            "dataset": {
                "name": spec.name,
                "class_names": list(spec.class_names),
                "palette": [list(colour) for colour in spec.palette],
            },
            "split": self.parts.split.summary_dict(),
            "iteration": self.iteration,
            "best": self.best,
            "images": self.validation.images,
            "labelled_images": self.labelled_images,
            "student": self.student.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "running_statistics": running,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _restore(self, checkpoint: Checkpoint, *, extending: bool) -> None:
        """Restore a checkpoint of this experiment."""
        source = str(self.folder.path)
        before = config_from_dict(checkpoint["config"], source)  # with keys added since
        changed = before.differences(self.config)
        extended = extending and changed.pop("train.iterations", None) is not None
        if changed:
            raise ConfigError(resume_error(source, changed))
        check_training_images(self.folder.path, checkpoint, self.parts.split, self.labelled_images)
        load_state(self.student, checkpoint["student"], source)
        if self.teacher is not None:
            load_state(self.teacher, checkpoint["teacher"], source)
        if checkpoint.get("running_statistics") is not None:
            restore_buffers(self.parts.networks, checkpoint["running_statistics"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.iteration = self.saved = checkpoint["iteration"]
        if checkpoint.get("images", self.validation.images) == self.validation.images:
            self.best = checkpoint["best"]  # else it was measured on other images
        if distributed.rank() == 0:
            self.folder.drop_after(self.iteration)
            # A checkpoint is written before the validation of its iteration.
            scores = [v[main_network(v)]["mean_iou"] for v in self._validations().values()]
            self.best = max([self.best, *(score for score in scores if score is not None)])
            if extended:
                self.folder.extend(self.config, self.iteration, before.train.iterations)
                save_latest(self._state(), self.folder.path)  # with the new length

    def _stopping(self) -> bool:
        """Whether a stop signal has come; ranks agree on it when they log."""
        if distributed.is_active() and self.iteration % self.config.train.log_every:
            return False
        return distributed.any_rank(self.stop_signal is not None, self.device)

    def _note_signal(self, number: int, _: FrameType | None) -> None:
        """The first signal ends the loop after the current step, a second one ends it at once."""
        if self.stop_signal is not None:
            raise KeyboardInterrupt
        self.stop_signal = number
