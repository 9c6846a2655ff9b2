"""Time the ReCo loss: beside the floor, and beside a Python loop over classes and queries.

    python benchmarks/loss.py
    python benchmarks/loss.py --device cuda --output benchmark
    python benchmarks/loss.py --sizes cityscapes pixels --no-reference

Forward and backward. The floor is one read of the representations and one write of their gradient;
the loop is reco/loss_reference.py. The table goes to <output>/loss.csv too, a picture to
<output>/loss.png (extra plot).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.multiprocessing as multiprocessing
from timing import alternate, describe, duration, make_parser, peak_bytes, set_up
from torch import Tensor

from reco.loss import ReCoLoss
from reco.loss_reference import reference_loss
from reco.writing import write_table


class Size(NamedTuple):
    """Size of one call of the loss."""

    batch: int
    classes: int
    channels: int
    side: int  # the feature map is square
    num_queries: int = 256
    num_negatives: int = 512

    @property
    def pixels(self) -> int:
        """All pixels of the batch."""
        return self.batch * self.side**2

    @property
    def bytes(self) -> int:
        """Of the representations in float32."""
        return 4 * self.pixels * self.channels

    def __str__(self) -> str:
        return f"{self.batch}×{self.classes}×{self.channels}×{self.side}×{self.side}"


class Timing(NamedTuple):
    """Seconds of one step at one size, and its memory beside the inputs."""

    size: Size
    what: str
    seconds: list[float]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """The middle one of ``seconds``."""
        return sorted(self.seconds)[len(self.seconds) // 2]


# 512 x 512 crops of Cityscapes, 321 x 321 of Pascal and as many classes as ADE20K has, at a
# quarter of the resolution.
SIZES = {
    "cityscapes": Size(4, 19, 256, 128),
    "pascal": Size(20, 21, 256, 81),
    "classes150": Size(4, 150, 256, 128),
}
# Growth of the cost. Few channels, so that four million pixels fit into memory.
PIXEL_SWEEP = [Size(1, 19, 32, side) for side in (128, 256, 512, 1024, 2048)]
# Q * C, hence the number of pairs of a query and a key, is the same.
CLASS_SWEEP = [Size(4, c, 256, 128, num_queries=19 * 256 // c) for c in (2, 5, 19, 50, 150)]
SWEEPS = {"pixels": PIXEL_SWEEP, "classes": CLASS_SWEEP}
# The loop takes half a minute and several GB here, and much more with more classes.
REFERENCE_SIZES = ("cityscapes", "pascal")

FLOOR, REFERENCE, BESIDE = "floor", "reference loop", "channels_last, in turn with it"
CHANNELS_LAST, CONTIGUOUS = "channels_last", "contiguous"
PER_QUERY = "per_query"


def benchmark_loss(
    device: torch.device,
    *,
    names: Sequence[str],
    repeats: int,
    reference: bool,
    memory: bool,
) -> dict[str, list[Timing]]:
    """Time the loss.

    Args:
        device: where.
        names: of ``SIZES`` and ``SWEEPS``.
        repeats: rounds that count.
        reference: time the loop too, three times, at ``REFERENCE_SIZES``.
        memory: measure peak memory, on the CPU each in a new process.

    Returns:
        The timings by name; printed as they come.
    """
    print(describe(device))
    print(_line("", "size (B×C×D×h×w)", "what", "median", "range", "× floor", "peak memory"))
    results: dict[str, list[Timing]] = {}
    for name in names:
        results[name] = []
        for size in SWEEPS.get(name) or [SIZES[name]]:
            sweep = name in SWEEPS
            steps = loss_steps(size, device, sweep=sweep)
            seconds = alternate(steps, repeats)
            if reference and name in REFERENCE_SIZES:
                # In turn with the loss once more: memory that the loop has freed speeds up both.
                pair = {REFERENCE: _reference_step(size, device), BESIDE: steps[CHANNELS_LAST]}
                seconds |= alternate(pair, 3)
            del steps  # frees their memory
            measured = memory and not sweep
            timings = [
                Timing(
                    size,
                    what,
                    taken,
                    peak_memory(size, what, device) if measured and what != BESIDE else None,
                )
                for what, taken in seconds.items()
            ]
            floor = next(timing.median for timing in timings if timing.what == FLOOR)
            for timing in timings:
                print(
                    _line(
                        name,
                        str(size),
                        timing.what,
                        duration(timing.median),
                        f"{duration(min(timing.seconds))}–{duration(max(timing.seconds))}",
                        f"{timing.median / floor:.1f}",
                        _memory(timing),
                    )
                )
            results[name] += timings
    print(f"range: of {repeats} rounds; peak memory: beside the inputs, × the representations")
    return results


def loss_steps(size: Size, device: torch.device, *, sweep: bool) -> dict[str, Callable[[], object]]:
    """The timed steps of one size: forward and backward of the loss, and the floor."""
    representations, logits, labels = make_inputs(size, device)
    steps: dict[str, Callable[[], object]] = {
        FLOOR: lambda: _floor(representations),
        CHANNELS_LAST: _loss_step(size, representations, logits, labels),
    }
    if sweep:
        return steps
    contiguous = representations.detach().contiguous().requires_grad_()
    steps[CONTIGUOUS] = _loss_step(size, contiguous, logits, labels)
    steps[PER_QUERY] = _loss_step(size, representations, logits, labels, negatives="per_query")
    if device.type == "cuda":
        half = representations.detach().to(torch.bfloat16).requires_grad_()
        steps["bfloat16"] = _loss_step(size, half, logits, labels)
        steps["compiled"] = _loss_step(size, representations, logits, labels, compiled=True)
        steps["bfloat16 compiled"] = _loss_step(size, half, logits, labels, compiled=True)
    return steps


def make_inputs(
    size: Size, device: torch.device, *, contiguous: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Representations (channels_last by default), logits and labels; about half are hard."""
    generator = torch.Generator(device).manual_seed(0)
    batch, side = size.batch, size.side
    shape = (batch, size.channels, side, side) if contiguous else (batch, side, side, size.channels)
    representations = torch.randn(shape, device=device, generator=generator)
    if not contiguous:
        representations = representations.permute(0, 3, 1, 2)
    shape = (batch, size.classes, side, side)
    logits = torch.randn(shape, device=device, generator=generator)
    labels = torch.randint(size.classes, (batch, side, side), device=device, generator=generator)
    sure = torch.rand(labels.shape, device=device, generator=generator) < 0.5
    logits.scatter_add_(1, labels[:, None], 20.0 * sure[:, None])
    return representations.requires_grad_(), logits, labels


def _loss_step(
    size: Size,
    representations: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    compiled: bool = False,
    **arguments: Any,
) -> Callable[[], object]:
    loss: Any = ReCoLoss(
        num_queries=size.num_queries, num_negatives=size.num_negatives, **arguments
    )
    if compiled:
        loss = torch.compile(loss, fullgraph=True)

    def step() -> None:
        representations.grad = None
        loss(representations, logits, labels).backward()

    return step


def _reference_step(size: Size, device: torch.device) -> Callable[[], object]:
    inputs = make_inputs(size, device)

    def step() -> None:
        loss = reference_loss(
            *inputs, num_queries=size.num_queries, num_negatives=size.num_negatives
        )
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def _floor(representations: Tensor) -> Tensor:
    """One read of the representations, one write of their gradient."""
    representations.detach().sum()
    return torch.zeros_like(representations)


def peak_memory(size: Size, what: str, device: torch.device) -> int | None:
    """Most bytes that a step holds at a time beside its inputs; None if not measurable."""
    if device.type == "cuda":
        step = _step_called(what, size, device)
        step()  # compilation and one-time allocations of libraries
        return peak_bytes(step, device)
    # In a new process: reused memory of an earlier step would not be measured.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        peak: int | None = pool.apply(_peak_on_cpu, (size, what))
    return peak


def _peak_on_cpu(size: Size, what: str) -> int | None:
    cpu = torch.device("cpu")
    # The first call allocates memory of torch itself.
    _step_called(what, Size(1, 2, 4, 8, num_queries=4, num_negatives=4), cpu)()
    return peak_bytes(_step_called(what, size, cpu), cpu)


def _step_called(what: str, size: Size, device: torch.device) -> Callable[[], object]:
    """The step ``what`` with new inputs."""
    if what == REFERENCE:
        return _reference_step(size, device)
    representations, logits, labels = make_inputs(size, device, contiguous=what == CONTIGUOUS)
    if what == FLOOR:
        return lambda: _floor(representations)
    if "bfloat16" in what:
        representations = representations.detach().to(torch.bfloat16).requires_grad_()
    return _loss_step(
        size,
        representations,
        logits,
        labels,
        compiled="compiled" in what,
        negatives=PER_QUERY if what == PER_QUERY else "shared",
    )


def _line(*columns: str) -> str:
    return "".join(
        f"{column:<{width}}"
        for column, width in zip(columns, (12, 20, 31, 11, 23, 9, 8), strict=True)
    ).rstrip()


def _memory(timing: Timing) -> str:
    return "" if timing.peak_bytes is None else f"{timing.peak_bytes / timing.size.bytes:.2f}"


def write_loss_csv(results: Mapping[str, Sequence[Timing]], path: Path) -> None:
    """One line for each step at each size; times in milliseconds."""
    header = ["size", "what", "median_ms", "lowest_ms", "highest_ms", "times_floor", "peak_memory"]
    rows = []
    for timings in results.values():
        floors = {timing.size: timing.median for timing in timings if timing.what == FLOOR}
        for timing in timings:
            milliseconds = (timing.median, min(timing.seconds), max(timing.seconds))
            times = [f"{1e3 * seconds:.2f}" for seconds in milliseconds]
            over_floor = f"{timing.median / floors[timing.size]:.1f}"
            rows.append([str(timing.size), timing.what, *times, over_floor, _memory(timing)])
    write_table(path, header, rows)


def plot_loss(results: Mapping[str, Sequence[Timing]], title: str, path: Path) -> None:
    """Write a PNG of what was measured: time by size, and over pixels and classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    bars, pixels, classes = figure.subplots(1, 3)
    figure.suptitle(f"ReCo loss, forward and backward; {title}", fontsize=10)

    chosen = [timing for name in SIZES for timing in results.get(name, ())]
    names = [f"{timing.what} {timing.size}" for timing in chosen]
    colours = ["#999999" if timing.what == FLOOR else "#0072B2" for timing in chosen]
    bars.barh(names, [timing.median for timing in chosen], color=colours)
    bars.set_xscale("log")
    bars.set_xlabel("seconds")
    bars.invert_yaxis()
    bars.tick_params(labelsize=7)

    for axes, name, label in (
        (pixels, "pixels", "pixels, N (D = 32)"),
        (classes, "classes", "classes at a fixed number of pairs"),
    ):
        for what, colour in ((CHANNELS_LAST, "#0072B2"), (FLOOR, "#999999")):
            points = [
                (getattr(timing.size, name), timing.median)
                for timing in results.get(name, ())
                if timing.what == what
            ]
            if points:
                axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=what)
                if what == CHANNELS_LAST:
                    x, y = zip(*points, strict=True)
                    axes.loglog(x, _bound(name, x, y), "--", color="#D55E00", label=_BOUNDS[name])
        if axes.lines:
            axes.legend(fontsize=8)
        axes.set_xlabel(label)
        axes.set_ylabel("seconds")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


_BOUNDS = {"pixels": "N log N from the last", "classes": "twice the first"}


def _bound(name: str, x: Sequence[int], y: Sequence[float]) -> list[float]:
    if name == "classes":
        return [2 * y[0]] * len(y)
    return [y[-1] * n * math.log(n) / (x[-1] * math.log(x[-1])) for n in x]


def main(words: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    names = [*SIZES, *SWEEPS]
    parser.add_argument("--sizes", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--no-reference", action="store_true", help="leave the slow loop out")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    arguments = parser.parse_args(words)
    try:
        device = set_up(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    results = benchmark_loss(
        device,
        names=arguments.sizes,
        repeats=arguments.repeats,
        reference=not arguments.no_reference,
        memory=not arguments.no_memory,
    )
    write_loss_csv(results, arguments.output / "loss.csv")
    if find_spec("matplotlib") is not None:
        plot_loss(results, describe(device), arguments.output / "loss.png")
        print(f"Look at: {arguments.output / 'loss.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
