"""How far the figures of a run hang on batch norm's running statistics, and which to take.

    python benchmarks/batch_norm.py runs/camvid_cpu/0123abcd-s0 --estimates 5

Estimates the statistics of each network anew, several times on other training batches each time, in
these ways, and evaluates the networks with them:

    last batches     exponential average with the momentum of the run, as training leaves it
    training views   mean over --batches batches of what the student is trained on
    plain crops      mean over --batches batches of what the teacher labels

Writes <output>/batch_norm.csv, a row an evaluation.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from timing import make_parser, set_up
from torch import nn
from trained import RUN_HEADER, describe_run, open_run

from reco.data.loading import EvalDataset, eval_loader
from reco.inference.evaluate_networks import evaluate
from reco.method.augmentation import to_unit
from reco.paths import user_path
from reco.seeding import stable_seed
from reco.studies.tables import mean_and_deviation
from reco.training.batch_norm import averaging_statistics
from reco.training.trainer import Trainer
from reco.writing import write_table

WAYS = ("last batches", "training views", "plain crops")
_HEADER = (
    *RUN_HEADER,
    *("network", "statistics", "batches", "estimate", "split", "miou", "boundary_miou"),
)


def estimate(trainer: Trainer, way: str, batches: int, number: int) -> None:
    """Estimate the running statistics of a run's networks.

    Args:
        trainer: of the run; its networks change.
        way: of :data:`WAYS`.
        batches: to take the mean over; for ``last batches``, to run through.
        number: of the estimate; another one is over other batches.
    """
    student, teacher = trainer.student, trainer.teacher
    networks = trainer.parts.networks
    labeller = copy.deepcopy(teacher)  # it gathers statistics of what it labels
    averaging = nullcontext() if way == "last batches" else averaging_statistics(networks.values())
    seed = stable_seed("benchmark of batch norm", trainer.config.train.seed, number)
    with averaging, torch.no_grad():
        for batch, (labelled, unlabelled) in enumerate(trainer.batches_of(seed, 0, batches)):
            torch.manual_seed(stable_seed(seed, batch))
            view, crops = trainer.student_images(labelled, unlabelled, labeller), labelled.image
            if unlabelled is not None:
                plain = to_unit(unlabelled.image)
                crops = torch.cat([crops, unlabelled.image])
            crops = to_unit(crops).contiguous(memory_format=torch.channels_last)
            student(crops if way == "plain crops" else view)
            if teacher is not None:
                teacher.network(view if way == "training views" else plain)


def measure(
    folder: Path, split: str, ways: Sequence[str], batches: int, estimates: int, device: str
) -> list[Sequence[object]]:
    """Rows of the table for a run."""
    trainer = open_run(folder, device)
    config = trainer.config
    networks: dict[tuple[str, str, int], nn.Module] = {}
    for way in ways:
        for number in range(estimates):
            estimate(trainer, way, batches, number)
            for name, network in trainer.parts.networks.items():
                networks[name, way, number] = copy.deepcopy(network)
    data = EvalDataset(
        trainer.parts.reader, trainer.parts.reader.ids(split), config.dataset.image_size
    )
    results = evaluate(
        {repr(key): network for key, network in networks.items()},
        eval_loader(data, workers=config.train.workers),
        trainer.parts.reader.spec.num_classes,
        device=trainer.device,
    )
    rows: list[Sequence[object]] = []
    for name, way, number in networks:
        result = results[repr((name, way, number))]
        figures = [100 * each.mean_iou() for each in (result.confusion, result.boundary)]
        what = (*describe_run(folder, config), name, way, batches, number, split)
        rows.append([*what, *(f"{figure:.2f}" for figure in figures)])
    for name in trainer.parts.networks:
        for way in ways:
            of_way = [float(str(row[8])) for row in rows if row[3:5] == [name, way]]
            print(f"{folder.name} {name}, {way}: {mean_and_deviation(of_way)}")
    return rows


def main(words: Sequence[str] | None = None) -> int:
    """Measure the runs of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, help="folders of runs")
    parser.add_argument("--split", default="val", help="to evaluate on (default val)")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="default: all"
    )
    parser.add_argument("--batches", type=int, default=30, help="of an estimate (default 30)")
    parser.add_argument("--estimates", type=int, default=5, help="of each way (default 5)")
    arguments = parser.parse_args(words)
    device = str(set_up(arguments.device))
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[object]] = []
    for folder in arguments.runs:
        how = (arguments.split, arguments.ways, arguments.batches, arguments.estimates)
        rows += measure(folder, *how, device)
        write_table(arguments.output / "batch_norm.csv", _HEADER, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
