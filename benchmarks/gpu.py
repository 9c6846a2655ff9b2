"""Speed, memory and numerical agreement of a device, in one command.

    python benchmarks/gpu.py --minutes 20
    python benchmarks/gpu.py --device cpu --quick

The loss and the training step (with and without ReCo, in float32 and bf16, plain and compiled) with
their memory, the share of the time that the GPU is at work, and a small training that is stopped
and resumed, whose network is then compared in bf16 and float32. On synthetic scenes, without a
download. Writes <output>/gpu.json and <output>/gpu.md, which also name the parts that failed or
were left out for lack of time.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from loss import SIZES, Size, loss_steps, peak_memory
from step import benchmark_step
from timing import alternate, describe, make_parser, set_up
from torch.profiler import profile

from reco.config import load_config
from reco.data.loading import EvalDataset
from reco.inference.probabilities import predict_probabilities
from reco.markdown import markdown_table
from reco.precision import autocast
from reco.runs.checkpoint import TrainedRun, load_checkpoint
from reco.runs.results import read_metrics
from reco.training.build import build_run
from reco.training.profiling import profiler_activities
from reco.training.trainer import Trainer, train
from reco.writing import write_text_whole

_CONFIG = "demo.yaml"
# The step of `cityscapes_5shot.yaml`, on synthetic scenes enlarged to its size.
_STEP = [
    "dataset.image_size=[512, 1024]",
    "dataset.crop_size=[512, 512]",
    "model.backbone=resnet101",
    "model.channels=256",
    "model.representation_dim=256",
    "reco.num_queries=256",
    "reco.num_negatives=512",
    "train.labelled_batch_size=2",
    "train.unlabelled_batch_size=2",
    "train.workers=4",
]
_TRAINING = ["train.iterations=400", "train.validate_every=400", "train.checkpoint_every=200"]
_SMALL = [
    "dataset.crop_size=[32, 32]",
    "dataset.labelled_images=3",
    "model.backbone=mobilenet_v3_large",
    "model.channels=8",
    "model.representation_dim=8",
    "train.labelled_batch_size=2",
    "train.unlabelled_batch_size=2",
    "train.workers=0",
]
_SMALL_TRAINING = ["train.iterations=4", "train.validate_every=4", "train.checkpoint_every=2"]
_SMALL_LOSS = Size(1, 3, 4, 8, num_queries=4, num_negatives=4)


class Row(NamedTuple):
    """One figure."""

    part: str
    what: str
    value: float | str
    unit: str = ""


class Plan(NamedTuple):
    """Sizes of the measurements."""

    device: torch.device
    repeats: int
    loss: Size
    step: Sequence[str]  # overrides of the configuration
    training: Sequence[str]
    images: int  # number of images to compare precisions


def measure_loss(plan: Plan) -> list[Row]:
    """Forward and backward of the loss and of the floor, and its memory on a GPU."""
    part = f"loss {plan.loss}"
    seconds = alternate(loss_steps(plan.loss, plan.device, sweep=False), plan.repeats)
    rows = [
        Row(part, what, 1e3 * statistics.median(taken), "ms") for what, taken in seconds.items()
    ]
    if plan.device.type == "cuda":
        for what in seconds:
            peak = peak_memory(plan.loss, what, plan.device)
            if peak is not None:
                rows.append(Row(part, f"{what}, memory beside the inputs", peak / 2**20, "MiB"))
    return rows


def measure_step(plan: Plan) -> list[Row]:
    """The step of each variant with what it consists of, and its memory on a GPU."""
    rows = []
    for timing in benchmark_step(
        _CONFIG,
        plan.step,
        device=plan.device,
        repeats=plan.repeats,
        compiled=plan.device.type == "cuda",
    ):
        part = f"step: {timing.variant}"
        rows.append(Row(part, timing.what, 1e3 * timing.median, "ms"))
        if timing.peak_bytes is not None:
            peak = timing.peak_bytes / 2**20
            rows.append(Row(part, f"{timing.what}, memory beside what is held", peak, "MiB"))
    return rows


def measure_busy(plan: Plan) -> list[Row]:
    """The share of the time, data loading included, in which the GPU is at work."""
    if plan.device.type != "cuda":
        return [Row("GPU at work", "share of the time", "no GPU")]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(_CONFIG, [*plan.step, f"train.device={plan.device}"])
        trainer = Trainer(build_run(config), Path(folder))
        batches = trainer.batches()
        for batch in islice(batches, 5):  # warm-up
            trainer.train_step(*batch)
        torch.cuda.synchronize(plan.device)
        start = time.perf_counter()
        with profile(activities=profiler_activities(plan.device)) as finished:
            for batch in islice(batches, plan.repeats):
                trainer.train_step(*batch)
            torch.cuda.synchronize(plan.device)
        wall = time.perf_counter() - start
        batches.close()
    at_work = sum(event.self_device_time_total for event in finished.key_averages()) / 1e6
    return [Row("GPU at work", "share of the time", 100 * at_work / wall, "%")]


def measure_training(plan: Plan) -> list[Row]:
    """A training, the same one resumed from its middle, and its network in two precisions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, resumed = Path(temporary) / "run", Path(temporary) / "resumed"
        config = load_config(_CONFIG, [*plan.training, f"train.device={plan.device}"])
        start = time.perf_counter()
        train(config, folder)
        seconds = time.perf_counter() - start
        shutil.copytree(folder, resumed)
        (resumed / "previous.pt").replace(resumed / "last.pt")
        train(config, resumed, resume=True)
        ends = [load_checkpoint(path / "last.pt")["student"] for path in (folder, resumed)]
        differences = [
            float((ends[0][name].double() - ends[1][name].double()).abs().max()) for name in ends[0]
        ]
        validation = read_metrics(folder)[-1]["validation"]
        part = f"training of {config.train.iterations} iterations"
        return [
            Row(part, "from start to end", seconds, "s"),
            Row(part, "mIoU of the teacher", 100 * validation["teacher"]["mean_iou"], "%"),
            Row(part, "largest difference of a weight when resumed", max(differences)),
            *_agreement(plan, folder / "last.pt"),
        ]


@torch.no_grad()
def _agreement(plan: Plan, checkpoint: Path) -> list[Row]:
    """Pixels that bf16 and float32 label alike."""
    run = TrainedRun.read(checkpoint)
    reader, network = run.reader(), run.network().to(plan.device)
    dataset = EvalDataset(reader, reader.ids("val")[: plan.images], run.config.dataset.image_size)
    same = pixels = 0
    for number in range(len(dataset)):
        image = dataset[number].image[None].to(plan.device)
        exact = predict_probabilities(network, image).argmax(1)
        with autocast("bf16", plan.device):
            rounded = predict_probabilities(network, image).argmax(1)
        same += int((exact == rounded).sum())
        pixels += exact.numel()
    return [Row("bf16 and float32", "pixels with the same label", 100 * same / pixels, "%")]


PARTS: dict[str, Callable[[Plan], list[Row]]] = {
    "loss": measure_loss,
    "step": measure_step,
    "GPU at work": measure_busy,
    "training": measure_training,
}


def measure_all(plan: Plan, minutes: float) -> list[Row]:
    """All parts that begin within ``minutes``; one that fails becomes a row with its error."""
    end = time.monotonic() + 60 * minutes
    rows = []
    for name, measure in PARTS.items():
        if time.monotonic() > end:
            rows.append(Row(name, "not measured", f"{minutes:g} minutes were over"))
            continue
        try:
            rows += measure(plan)
        except Exception as error:  # becomes a row of the table
            reason = (str(error) or type(error).__name__).splitlines()[0]
            rows.append(Row(name, "failed", f"{type(error).__name__}: {reason}"))
    return rows


def to_markdown(title: str, rows: Sequence[Row]) -> str:
    """A table under the device's name."""
    lines = [
        (part, what, value if isinstance(value, str) else f"{value:.4g}", unit)
        for part, what, value, unit in rows
    ]
    return f"# {title}\n\n{markdown_table(Row._fields, lines)}\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=20, help="no part begins later (default 20)")
    add("--quick", action="store_true", help="tiny sizes, to see that it works")
    arguments = parser.parse_args(words)
    try:
        device = set_up(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    plan = (
        Plan(device, 1, _SMALL_LOSS, _SMALL, [*_SMALL, *_SMALL_TRAINING], images=2)
        if arguments.quick
        else Plan(device, arguments.repeats, SIZES["cityscapes"], _STEP, _TRAINING, images=100)
    )
    rows = measure_all(plan, arguments.minutes)
    found = {
        "device": describe(device),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "quick": arguments.quick,
        "rows": [row._asdict() for row in rows],
    }
    table = to_markdown(describe(device), rows)
    write_text_whole(arguments.output / "gpu.json", json.dumps(found, indent=1) + "\n")
    write_text_whole(arguments.output / "gpu.md", table)
    print(table)
    return 1 if any(row.what == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
