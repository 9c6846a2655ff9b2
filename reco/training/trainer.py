"""The training loop: build, step, log, validate, checkpoint.

Nothing here depends on hidden state: the random numbers of iteration t come from (seed, t, rank),
samples from (seed, position in the run), the learning rate from t. A run that stops and resumes is
therefore the run that never stopped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.data import DataLoader
from tqdm import tqdm

from reco import distributed
from reco.config import Config, ConfigError, config_from_dict
from reco.data import open_dataset
from reco.data.balance import class_weights
from reco.data.fingerprint import fingerprint
from reco.data.images import to_rgb
from reco.data.loading import (
    EvalDataset,
    TrainSample,
    TrainStream,
    deaths_explained,
    eval_loader,
    train_loader,
)
from reco.data.overview import overview
from reco.data.splits import check_evaluated, check_labelled, make_split
from reco.files import WriteError, write_whole
from reco.inference.evaluation import Evaluation, evaluate, format_evaluations
from reco.method.objective import Losses, StepStatistics
from reco.panels import PredictedImage, panel
from reco.runs.build import build_network, build_teacher
from reco.runs.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_latest,
    load_state,
    save_checkpoint,
    save_latest,
)
from reco.runs.folder import RunFolder, related_runs, sole_use
from reco.runs.results import read_metrics
from reco.seeding import stable_seed
from reco.training.build import build_objective, build_views, with_value_range
from reco.training.interrupts import WholeSteps, signals_to, some_stderr, undisturbed
from reco.training.meter import Meter, RelationMeter, held_bytes, reco_summary
from reco.training.profiling import StepProfiler

LEARNING_RATE_FLOOR = 1e-6


class NonFiniteLossError(RuntimeError):
    """A loss or weight became NaN or infinite; the last good checkpoint stands."""


class Outcome(NamedTuple):
    """How a run ended."""

    folder: Path
    iteration: int  # iterations done
    finished: bool  # False after Ctrl-C or SIGTERM
    table: str  # per-class table of the last validation
    panel: Path | None  # the last panel

    def summary(self) -> str:
        """What to look at, and what to type next."""
        if not self.finished:
            return (
                f"Stopped after {self.iteration} iterations; the checkpoint is in {self.folder}. "
                "The same command with --resume goes on from it."
            )
        lines = [self.table or f"{self.folder} was at its end, iteration {self.iteration}, already"]
        if self.panel is not None:
            lines.append(f"Look at:   {self.panel}")
        lines.append(f"Evaluate:  python scripts/eval.py --checkpoint {self.folder / 'last.pt'}")
        lines.append("Report last.pt: best.pt was chosen by its mIoU on the evaluation split")
        return "\n".join(lines)


def train(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    extend_to: int | None = None,
    tensorboard: bool = False,
    profile: bool = False,
) -> Outcome:
    """Train as ``config`` says and keep everything in ``folder``; see :class:`Trainer`."""
    among_others = distributed.in_group()  # a program that has joined a group leaves it itself
    with sole_use(folder), some_stderr():
        try:
            trainer = Trainer(
                config, folder, resume=resume, extend_to=extend_to, tensorboard=tensorboard
            )
            return trainer.run(StepProfiler(folder, trainer.device) if profile else None)
        finally:
            if not among_others:
                distributed.tear_down()


def learning_rate(config: Config, iteration: int) -> float:
    """Polynomial decay to a floor: ``max(lr · (1 - t/T)^0.9, 1e-6)``."""
    left = 1 - iteration / config.train.iterations
    decayed: float = config.train.learning_rate * left**0.9
    return max(decayed, LEARNING_RATE_FLOOR)


class Trainer:
    """One training run.

    Args:
        config: the experiment.
        folder: of the run, as :func:`reco.runs.folder.run_path` gives it.
        resume: go on from the checkpoint in ``folder``; where there is none, start.
        extend_to: resume, and make the run that long whatever ``config`` says. The learning rate
            falls towards the new end from there on, so that this is no run of that length from
            the start.
        tensorboard: log for TensorBoard too, in ``folder/tensorboard``.

    Raises:
        ConfigError, FileNotFoundError, ValueError: anything about configuration or data that can
            be known before the work starts.
        FileExistsError: the run's folder is in use and ``resume`` is not given.
        CheckpointError: the checkpoint to resume from cannot be read.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        resume: bool = False,
        extend_to: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.config = config
        self.device = distributed.set_up(config.train.device)
        self.autocast, self.scaler = _precision(config.train.precision, self.device)
        _check_sync_batchnorm(config, self.device)
        _check_shares(config)
        self.reader = open_dataset(config.dataset)
        self.config = config = with_value_range(config, self.reader)
        check_labelled(self.reader, config)
        self.split = make_split(self.reader, config.dataset)
        first_lines = overview(self.reader, self.split, config.dataset)
        if distributed.rank() == 0:
            tqdm.write("\n".join(first_lines))
        present = [name for name, images in self.split.images_per_class.items() if images]
        if config.reco.enabled and len(present) < 2 and distributed.rank() == 0:
            tqdm.write(
                f"note: of {self.reader.spec.num_classes} classes the labelled masks hold "
                f"{', '.join(present) or 'none'} alone: ReCo has no negatives and adds 0"
            )
        eval_ids = self.reader.ids(config.dataset.eval_split)
        if distributed.rank() == 0:
            check_evaluated(self.reader, config.dataset.eval_split)
        self.eval_dataset = EvalDataset(self.reader, eval_ids, config.dataset.image_size)
        self.eval_loader = eval_loader(
            self.eval_dataset,
            workers=config.train.workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=self.device.type == "cuda",
        )

        self.images = fingerprint(self.reader, eval_ids) if distributed.rank() == 0 else ""
        self.folder = RunFolder(folder, tensorboard=tensorboard and distributed.rank() == 0)
        resume = resume or extend_to is not None
        checkpoint = load_latest(folder) if resume and has_checkpoint(folder) else None
        if extend_to is not None:
            config = self.config = _extended(config, checkpoint, folder, extend_to)
        torch.manual_seed(config.train.seed)
        num_classes = self.reader.spec.num_classes
        self.student = build_network(config, num_classes, pretrained=checkpoint is None)
        self.student.to(self.device).to(memory_format=torch.channels_last)
        self.teacher = build_teacher(config, self.student)
        if config.train.sync_batchnorm and distributed.is_active():
            for network in (self.student, self.teacher):
                nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=config.train.learning_rate,
            momentum=config.train.momentum,
            weight_decay=config.train.weight_decay,
            nesterov=True,
            foreach=True,
        )
        weights = class_weights(self.reader, self.split.labelled, config)
        self.views = build_views(config)
        self.objective = build_objective(config, weights).to(self.device)
        self.iteration = self.saved = 0  # iterations done, and in the last checkpoint
        self.best = -1.0
        if checkpoint is not None:
            self._restore(checkpoint, extending=extend_to is not None)
        elif distributed.rank() == 0:
            if resume and not self.folder.exists:
                tqdm.write("\n".join([f"{folder}: starts here", *related_runs(config, folder)]))
            self.folder.create(config, self.split.to_dict(), again=resume)

        self.model: nn.Module = self.student
        if config.train.compile:
            self.student.compile()
            if self.teacher is not None:
                self.teacher.network.compile()
        if distributed.is_active():
            self.model = distributed.data_parallel(self.student)
        self.images_per_step = config.labelled_batch_size + (
            config.train.unlabelled_batch_size if config.method.unsupervised else 0
        )
        self.meter, self.relation_meter = Meter(self.device), RelationMeter()
        self.steps = WholeSteps(self._networks().values(), self.optimizer)
        self.stop_signal: int | None = None
        self.table = ""
        self.panel: Path | None = None

    def run(self, profiler: StepProfiler | None = None) -> Outcome:
        """Train until the last iteration, or until something ends the run.

        Ctrl-C and SIGTERM end it after the step that is under way. They leave a checkpoint, and so
        does whatever else ends it, but for a loss or weights that are not finite.
        """
        train, total = self.config.train, self.config.train.iterations
        bar = tqdm(
            total=total,
            initial=self.iteration,
            unit="it",
            disable=distributed.rank() != 0,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # seconds; a log needs no more
        )
        watching = profiler or contextlib.nullcontext()
        on_signal, explained = signals_to(self._note_signal), deaths_explained(train.workers)
        with on_signal, bar, explained, self._keeping_steps(bar), watching:
            if self._validation_is_missing():
                self._validate()
            for labelled, unlabelled in self.batches():
                with undisturbed(), self.steps.step():
                    losses, statistics = self.train_step(labelled, unlabelled)
                    self.iteration += 1
                self.meter.add(losses, statistics)
                self.relation_meter.add(statistics.reco)
                bar.update()
                if profiler is not None:
                    profiler.step()
                done = self.iteration == total
                stopping = self._stopping()
                due = self.iteration % train.validate_every == 0
                validating = done or (due and not stopping)
                checkpointing = done or stopping or self.iteration % train.checkpoint_every == 0
                if validating or checkpointing or self.iteration % train.log_every == 0:
                    self._log(bar, with_graph=validating)
                if checkpointing:
                    self._checkpoint()
                if validating:
                    self._validate()
                if validating or checkpointing:
                    self.meter.restart_clock()
                if stopping:
                    break
        return Outcome(
            self.folder.path, self.iteration, self.iteration == total, self.table, self.panel
        )

    def train_step(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> tuple[Losses, StepStatistics]:
        """One optimisation step on a batch; nothing here waits for the device."""
        seed = stable_seed("step", self.config.train.seed, self.iteration, distributed.rank())
        torch.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.iteration)
        with self.autocast:
            losses, statistics = self.losses(labelled, unlabelled)
        with record_function("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        with record_function("optimiser"):
            stepped = _step(self.optimizer, self.scaler)
            if stepped and self.teacher is not None:
                self.teacher.update(self.student)
        return losses, statistics

    def losses(
        self, labelled: TrainSample, unlabelled: TrainSample | None
    ) -> tuple[Losses, StepStatistics]:
        """Eq. 5 on a batch: its views, and the terms on them."""
        view = None
        labelled_view = self.views.labelled(labelled.image, labelled.label)
        if self.teacher is not None and unlabelled is not None:
            view = self.views.unlabelled(self.teacher, *unlabelled)
        result: tuple[Losses, StepStatistics] = self.objective(self.model, labelled_view, view)
        return result

    def batches(self) -> Generator[tuple[TrainSample, TrainSample | None], None, None]:
        """This rank's labelled and unlabelled batches on the device, from the next iteration on."""
        config = self.config

        def loader(
            stream: Literal["labelled", "unlabelled"], ids: Sequence[str], batch_size: int
        ) -> DataLoader[TrainSample]:
            seed = config.train.seed
            return train_loader(
                TrainStream(self.reader, ids, config.dataset, stream=stream, seed=seed),
                batch_size,
                start_iteration=self.iteration,
                iterations=config.train.iterations,
                workers=config.train.workers,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                pin_memory=self.device.type == "cuda",
            )

        loaders = [loader("labelled", self.split.labelled, config.labelled_batch_size)]
        if config.method.unsupervised:
            size = config.train.unlabelled_batch_size
            loaders.append(loader("unlabelled", self.split.unlabelled, size))
        both = zip(*loaders, strict=True)
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
        self._say_without_negatives(bar, means["without_negatives"])
        rate = learning_rate(self.config, self.iteration - 1)
        speed = steps * self.images_per_step / seconds
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

    def _say_without_negatives(self, bar: tqdm[Any], share: float) -> None:
        """At the first line of the log, say so where most steps had nothing to contrast."""
        if distributed.rank() == 0 and share > 0.5 and not bar.postfix:
            tqdm.write(
                f"note: in {share:.0%} of the steps so far one class alone took part in ReCo: it "
                "has no negatives then and adds 0. Larger crops or batches bring classes together; "
                "reco.enabled=false trains without it"
            )

    def _validation_is_missing(self) -> bool:
        """Whether the checkpoint that was resumed lacks a validation, or one on these images."""
        done, train = self.iteration, self.config.train
        due = done == train.iterations or (done > 0 and done % train.validate_every == 0)
        missing = due and distributed.rank() == 0 and done not in self._validations()
        return distributed.any_rank(missing, self.device)

    def _validations(self) -> dict[int, Any]:
        """The figures of all validations on these images that are in the metrics, by iteration."""
        if not self.folder.metrics_path.exists():
            return {}
        records = read_metrics(self.folder.path)
        return {
            record["iteration"]: record["validation"]
            for record in records
            if "validation" in record and record.get("images") == self.images
        }

    def _validate(self) -> None:
        """Evaluate student and teacher, draw the panel, keep the best."""
        spec, split = self.reader.spec, self.config.dataset.eval_split
        self._average_statistics()
        results = evaluate(
            self._networks(),
            self.eval_loader,
            spec.num_classes,
            device=self.device,
            num_examples=self.config.train.panel_images,
        )
        if distributed.rank() != 0:
            return
        self.table = format_evaluations(results, spec.class_names)
        scores = {name: result.confusion.mean_iou() for name, result in results.items()}
        tqdm.write(
            f"iteration {self.iteration}: mIoU on {split} "
            + ", ".join(f"{name} {100 * score:.2f} %" for name, score in scores.items())
        )
        main = self._main_network
        self._draw_panel(results[main], f"{main}, {split}, iteration {self.iteration}")
        if scores[main] > self.best:
            self.best = scores[main]
            save_checkpoint({**self._state(), "chosen_on": split}, self.folder.path / "best.pt")
        # Last: a validation that is in the metrics is not made again when the run is resumed.
        figures = {name: result.to_dict() for name, result in results.items()}
        which = {"split": split, "images": self.images}
        self.folder.log({"iteration": self.iteration, **which, "validation": figures})

    @property
    def _main_network(self) -> str:
        """The teacher is what one would use; without one, the student."""
        return "teacher" if self.teacher is not None else "student"

    def _networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"student": self.student}
        if self.teacher is not None:
            networks["teacher"] = self.teacher.network
        return networks

    def _average_statistics(self) -> None:
        """Give all ranks the mean of their batch norms' running statistics."""
        if distributed.is_active():
            with self.steps.step():
                for network in self._networks().values():
                    distributed.average_buffers(network)

    def _draw_panel(self, result: Evaluation, title: str) -> None:
        """A picture of the first images of the evaluation split."""
        rows = []
        for index, (prediction, confidence) in sorted(result.examples.items()):
            image, label, _ = self.eval_dataset[index]
            rows.append(
                PredictedImage(
                    to_rgb(image.permute(1, 2, 0).numpy()),
                    label.numpy(),
                    prediction.numpy(),
                    confidence.numpy(),
                )
            )
        if rows:
            self.panel = self.folder.panel_path(self.iteration)
            write_whole(self.panel, panel(rows, self.reader.spec, title=title).save)

    def _checkpoint(self) -> None:
        """Write ``last.pt``, unless the weights themselves are broken."""
        self._require_finite_weights()
        self._average_statistics()
        if distributed.rank() == 0:
            save_latest(self._state(), self.folder.path)
        self.saved = self.iteration

    def _require_finite_weights(self) -> None:
        norm = nn.utils.get_total_norm(self.student.parameters())
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"weights not finite at iteration {self.iteration}: the last checkpoint in "
                f"{self.folder.path} stands"
            )

    @contextlib.contextmanager
    def _keeping_steps(self, bar: tqdm[Any]) -> Iterator[None]:
        """Whatever ends the run, log and save the steps before it; but not weights that are broken.

        Where several processes train, the first one saves what it has: the others may be gone, so
        that neither metrics nor batch norm's running statistics can be averaged with theirs.
        """
        try:
            yield
        except NonFiniteLossError:
            raise
        except BaseException:
            if distributed.rank() == 0 and self.iteration > self.saved:
                with undisturbed():
                    self._keep_steps(bar)
            raise

    def _keep_steps(self, bar: tqdm[Any]) -> None:
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
        except Exception as error:  # it is the first error that the user has to hear of
            kept = f"the checkpoint of iteration {self.saved}" if self.saved else "no checkpoint"
            tqdm.write(f"{self.folder.path} holds {kept}: {error}", file=sys.stderr)
        else:
            tqdm.write(
                f"The first {done} iterations are kept in {self.folder.path}: --resume goes on "
                "from them once what is wrong has been repaired"
            )

    def _state(self) -> Checkpoint:
        spec = self.reader.spec
        return {
            "config": self.config.to_dict(),
            "dataset": {
                "name": spec.name,
                "class_names": list(spec.class_names),
                "palette": [list(colour) for colour in spec.palette],
            },
            "split": self.split.to_dict(),
            "iteration": self.iteration,
            "best": self.best,
            "images": self.images,
            "student": self.student.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _restore(self, checkpoint: Checkpoint, *, extending: bool) -> None:
        """Take up the state of a checkpoint of this very experiment."""
        source = str(self.folder.path)
        before = config_from_dict(checkpoint["config"], source)  # with keys added since
        changed = before.differences(self.config)
        extended = extending and changed.pop("train.iterations", None) is not None
        if changed:
            raise ConfigError(_refusal(source, changed))
        if checkpoint["split"]["hash"] != self.split.hash:
            raise ConfigError(
                f"--resume: {source} was trained on split {checkpoint['split']['hash']}, the data "
                f"now give {self.split.hash}: the images or their labels have changed"
            )
        load_state(self.student, checkpoint["student"], source)
        if self.teacher is not None:
            load_state(self.teacher, checkpoint["teacher"], source)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.iteration = self.saved = checkpoint["iteration"]
        if checkpoint.get("images", self.images) == self.images:
            self.best = checkpoint["best"]  # else it was measured on other images
        if distributed.rank() == 0:
            self.folder.forget_after(self.iteration)
            # A checkpoint is written before the validation of its iteration.
            scores = [v[self._main_network]["mean_iou"] for v in self._validations().values()]
            self.best = max([self.best, *(score for score in scores if score is not None)])
            if extended:
                self.folder.extend(self.config, self.iteration, before.train.iterations)
                save_latest(self._state(), self.folder.path)  # from here on it is that long

    def _stopping(self) -> bool:
        """Whether a signal asked to stop; ranks agree on it when they log."""
        if distributed.is_active() and self.iteration % self.config.train.log_every:
            return False
        return distributed.any_rank(self.stop_signal is not None, self.device)

    def _note_signal(self, number: int, _: FrameType | None) -> None:
        """The first signal ends the loop after the current step, a second one ends it at once."""
        if self.stop_signal is not None:
            raise KeyboardInterrupt
        self.stop_signal = number


def _step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """An optimiser step, unless a gradient overflowed in fp16; whether it was made.

    The scaler does not say so, but it calls the optimiser only then (one with ``fused=True`` would
    always be called). Asking the scale it chose next would wait for the device.
    """
    stepped = False

    def note(*_: object) -> None:
        nonlocal stepped
        stepped = True

    hook = optimizer.register_step_post_hook(note)
    try:
        scaler.step(optimizer)
    finally:
        hook.remove()
    scaler.update()
    return stepped


def _check_sync_batchnorm(config: Config, device: torch.device) -> None:
    """Batch statistics over all ranks only where torch has them: on CUDA."""
    if config.train.sync_batchnorm and device.type != "cuda":
        raise ConfigError(
            f"train.sync_batchnorm = true: expected false, since train.device = "
            f"{config.train.device} means {device.type} here and batch statistics over all "
            "processes need CUDA. Set train.sync_batchnorm=false (each process then uses its own "
            "share of the batch)"
        )


def _check_shares(config: Config) -> None:
    """Every rank gets an equal, whole and sufficient share of each batch."""
    ranks, train, method = distributed.world_size(), config.train, config.method
    batches = {"train.labelled_batch_size": config.labelled_batch_size}
    if method.unsupervised:
        batches["train.unlabelled_batch_size"] = train.unlabelled_batch_size
    for key, size in batches.items():
        if size % ranks:
            raise ConfigError(
                f"{key} = {size}: expected a multiple of the {ranks} processes, among which the "
                "batch is divided"
            )
    share = train.unlabelled_batch_size // ranks
    if method.unsupervised and method.mix in ("classmix", "cutmix") and share < 2:
        raise ConfigError(
            f"train.unlabelled_batch_size = {train.unlabelled_batch_size}: that is {share} for "
            f"each of {ranks} processes, but method.mix = {method.mix} mixes at least 2 images"
        )


def _precision(
    precision: str, device: torch.device
) -> tuple[contextlib.AbstractContextManager[Any], torch.amp.GradScaler]:
    """Autocast context and gradient scaler; ``auto`` is bf16 where a GPU has it, else float32."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "fp32"
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def _extended(
    config: Config, checkpoint: Checkpoint | None, folder: Path, iterations: int
) -> Config:
    """``config`` at the length that ``--extend-to`` asks for."""
    if checkpoint is None:
        raise ConfigError(
            f"--extend-to {iterations}: {folder} holds no checkpoint to go on from; "
            f"--set train.iterations={iterations} trains a run of that length from the start"
        )
    before = checkpoint["config"]["train"]["iterations"]
    if iterations < before:
        raise ConfigError(
            f"--extend-to {iterations}: the run in {folder} has train.iterations = {before}: "
            "expected at least as many"
        )
    return replace(config, train=replace(config.train, iterations=iterations))


def _refusal(folder: str, changed: dict[str, tuple[Any, Any]]) -> str:
    """What keeps a run from being resumed, and what would work."""
    found = "; ".join(f"{key}: {there!r} -> {here!r}" for key, (there, here) in changed.items())
    if "train.iterations" in changed:
        longest = max(changed["train.iterations"])
        remedy = f"--extend-to {longest} goes on with it to iteration {longest}; "
    else:
        remedy = ""
    return (
        f"--resume: {folder} was trained with another configuration: {found}. {remedy}"
        f"`--resume {folder}` without --config and without these keys in --set goes on with it as "
        "it is; without --resume, another output_dir starts another run"
    )
