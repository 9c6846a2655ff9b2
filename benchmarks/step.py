"""Time a training step, and the passes through the networks that any implementation needs.

    python benchmarks/step.py --config demo.yaml
    python benchmarks/step.py --config cityscapes_5shot.yaml --device cuda --compile

With and without ReCo, with and without data loading, all in turn in one process; each variant is a
trainer. Then where the time of the step goes. The table goes to <output>/step.csv too.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from timing import alternate, describe, make_parser, peak_bytes, set_up
from torch import Tensor
from torch.profiler import profile

from reco.config import ConfigError, load_config
from reco.data.loading import TrainSample
from reco.loss import ReCoLoss
from reco.training.build import build_run
from reco.training.profiling import phase_seconds, profiler_activities
from reco.training.trainer import Trainer
from reco.writing import write_table

Batch = tuple[TrainSample, TrainSample | None]

STEP, LOADING, PASSES, LOSS = "step", "step with data loading", "network passes", "ReCo loss"
_PHASE_STEPS = 5
# Batches for the steps with data loading: more than any number of rounds takes.
_ITERATIONS = 100_000


class Variant(NamedTuple):
    """A way to run the step."""

    name: str
    overrides: Sequence[str]


class StepTiming(NamedTuple):
    """A timing of one variant."""

    variant: str
    what: str
    seconds: list[float]
    images: int  # in a step
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """The middle one of ``seconds``."""
        return statistics.median(self.seconds)


def variants(device: torch.device, *, compiled: bool) -> list[Variant]:
    """With and without ReCo; on a GPU in bf16 and float32; compiled on request."""
    found = [
        Variant("ReCo, fp32", ["train.precision=fp32"]),
        Variant("ClassMix alone, fp32", ["train.precision=fp32", "reco.enabled=false"]),
    ]
    if device.type == "cuda":
        found += [
            Variant("ReCo, bf16", ["train.precision=bf16"]),
            Variant("ClassMix alone, bf16", ["train.precision=bf16", "reco.enabled=false"]),
        ]
    if compiled:
        found += [
            Variant(f"{name}, compiled", [*overrides, "train.compile=true"])
            for name, overrides in found
        ]
    return found


def benchmark_step(
    config: str,
    overrides: Sequence[str],
    *,
    device: torch.device,
    repeats: int,
    compiled: bool,
) -> list[StepTiming]:
    """Time the training step of a configuration.

    Args:
        config: a file, as for training.
        overrides: ``key=value`` over it.
        device: where.
        repeats: rounds that count.
        compiled: time the compiled networks too.

    Returns:
        The timings, variant by variant; printed as they come.

    Raises:
        ConfigError: the configuration has no unlabelled images, hence no whole step.
    """
    if not load_config(config, overrides).method.unsupervised:
        raise ConfigError("method.unsupervised = false: a supervised run has no whole step to time")
    print(f"{config} on {describe(device)}, {repeats} rounds in turn")
    with tempfile.TemporaryDirectory() as folder:
        benches = [
            _Bench(variant, config, overrides, device, Path(folder) / str(number))
            for number, variant in enumerate(variants(device, compiled=compiled))
        ]
        seconds = alternate(
            {(b.name, what): step for b in benches for what, step in b.steps.items()},
            repeats,
        )
        timings = []
        for bench in benches:
            print(f"\n{bench.name}")
            for what, step in bench.steps.items():
                timing = StepTiming(
                    bench.name,
                    what,
                    seconds[bench.name, what],
                    bench.trainer.config.images_per_step,
                    # Not on the CPU, where the allocator's reserves hide it.
                    peak_bytes(step, device) if device.type == "cuda" else None,
                )
                timings.append(timing)
                print(_line(timing, statistics.median(seconds[bench.name, STEP])))
            for phase, share in bench.phase_shares().items():
                print(f"    {phase:<26} {100 * share:5.1f} % of the step")
            bench.batches.close()  # and with them the loaders' workers
    return timings


class _Bench:
    """One variant, ready to be timed."""

    def __init__(
        self,
        variant: Variant,
        config: str,
        overrides: Sequence[str],
        device: torch.device,
        folder: Path,
    ) -> None:
        self.name, self.device = variant.name, device
        fixed = [f"train.device={device}", f"train.iterations={_ITERATIONS}"]
        loaded = load_config(config, [*overrides, *fixed, *variant.overrides])
        self.trainer = trainer = Trainer(build_run(loaded), folder)
        self.batches: Generator[Batch, None, None] = trainer.batches()
        self.batch = next(self.batches)
        labelled, unlabelled = self.batch
        assert unlabelled is not None
        labelled_images, unlabelled_images = labelled.image, unlabelled.image
        self.images = torch.cat([labelled_images, unlabelled_images]).float() / 255
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.count = len(labelled_images)
        self.steps: dict[str, Callable[[], object]] = {
            STEP: lambda: trainer.train_step(*self.batch),
            LOADING: lambda: trainer.train_step(*next(self.batches)),
            PASSES: self._passes,
        }
        if isinstance(trainer.parts.objective.reco, ReCoLoss):
            self.steps[LOSS] = self._loss_step(trainer.parts.objective.reco)

    def _passes(self) -> None:
        """Student forward and backward, teacher forward: needed by any implementation."""
        trainer = self.trainer
        with trainer.autocast:
            outputs = [output for output in trainer.model(self.images) if output is not None]
            if trainer.teacher is not None:
                with torch.no_grad():
                    trainer.teacher.network(self.images[self.count :])
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    def _loss_step(self, loss: ReCoLoss) -> Callable[[], object]:
        """The loss at this step's sizes; half of the pixels are hard, none is ignored."""
        with torch.no_grad():
            logits, representations = self.trainer.student(self.images)
        representations = representations.detach().requires_grad_()
        labels = logits.argmax(1)
        labels = torch.where(torch.rand(labels.shape, device=self.device) < 0.5, labels, 0)

        def step() -> None:
            representations.grad = None
            value: Tensor = loss(representations, logits, labels)
            value.backward()  # type: ignore[no-untyped-call]

        return step

    def phase_shares(self) -> dict[str, float]:
        """Share of a step with data loading that each phase takes."""
        with profile(activities=profiler_activities(self.device)) as finished:
            for _ in range(_PHASE_STEPS):
                self.steps[LOADING]()
        seconds = phase_seconds(finished, self.device, _PHASE_STEPS)
        total = sum(seconds.values())
        return {phase: value / total for phase, value in seconds.items()}


def _line(timing: StepTiming, step_seconds: float) -> str:
    memory = "" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:8.0f} MiB more"
    return (
        f"  {timing.what:<28} {1e3 * timing.median:9.1f} ms  "
        f"{100 * timing.median / step_seconds:5.1f} % of the step  "
        f"{1 / timing.median:7.2f} it/s {timing.images / timing.median:8.1f} img/s {memory}"
    )


def write_step_csv(timings: Sequence[StepTiming], path: Path) -> None:
    """One line for each timing."""
    rows = []
    for timing in timings:
        peak = "" if timing.peak_bytes is None else round(timing.peak_bytes / 2**20)
        speed = f"{timing.images / timing.median:.2f}"
        rows.append([timing.variant, timing.what, f"{1e3 * timing.median:.2f}", speed, peak])
    write_table(path, ["variant", "what", "median_ms", "images_per_second", "peak_mib"], rows)


def main(words: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--config", required=True, help="as for reco train")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    add("--compile", action="store_true", help="time compiled networks too")
    arguments = parser.parse_args(words)
    try:
        timings = benchmark_step(
            arguments.config,
            arguments.overrides,
            device=set_up(arguments.device),
            repeats=arguments.repeats,
            compiled=arguments.compile,
        )
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    write_step_csv(timings, arguments.output / "step.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
