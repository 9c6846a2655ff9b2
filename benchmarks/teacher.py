"""How right a teacher's pseudo-labels are, by the statistics that its batch norm labels with.

    python benchmarks/teacher.py runs/camvid_cpu/0123abcd-s0 --batches 60

Labels the crops of training batches with the teacher of a run, in these ways:

    its batch            those of the batch itself (method.teacher_mode: train, the paper's)
    with labelled crops  those of the batch and the labelled crops beside it
    four batches         those of four batches at once
    own running          the running statistics that the teacher has gathered
    student's running    those of the student (method.teacher_mode: eval)

Writes <output>/teacher.csv, a row for each run, way and class, and one for "all" classes, in %:

    accuracy          share of the class's true pixels that are labelled so
    iou               of the class; the mean for "all"
    above_weak        share of the pixels labelled so whose confidence is above reco.weak_threshold
    right_above_weak  share of these that are right

The masks of the unlabelled images are read for it. Labels are made in float32. After a training
with teacher_mode "eval" the teacher's own running statistics are the student's.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import make_parser, set_up
from torch import Tensor
from trained import RUN_HEADER, describe_run, open_run

from reco import IGNORE
from reco.data.loading import TrainSample
from reco.method.augmentation import to_unit
from reco.method.teacher import MeanTeacher
from reco.metrics import ConfusionMatrix
from reco.paths import user_path
from reco.seeding import stable_seed
from reco.training.trainer import Trainer
from reco.writing import write_table

_HEADER = (
    *RUN_HEADER,
    *("statistics", "class", "accuracy", "iou", "above_weak", "right_above_weak"),
)
_WAYS = ("its batch", "with labelled crops", "four batches", "own running", "student's running")
_TOGETHER = 4  # batches


class Labellers:
    """Label batches in each way, and count what is right.

    Args:
        trainer: of a run with a teacher.
    """

    def __init__(self, trainer: Trainer) -> None:
        assert trainer.teacher is not None
        self.by_batch = copy.deepcopy(trainer.teacher)
        self.by_batch.batch_statistics = True
        self.by_batch.train()
        self.by_own = self._by_running(trainer.teacher)
        self.by_student = self._by_running(trainer.teacher)
        self.by_student.copy_statistics(trainer.student)
        self.weak_threshold = trainer.config.reco.weak_threshold
        size, device = trainer.parts.reader.spec.num_classes, trainer.device
        self.counts = {  # of all pixels, and of those above the weak threshold
            way: (ConfusionMatrix(size, device), ConfusionMatrix(size, device)) for way in _WAYS
        }
        self._waiting: list[TrainSample] = []

    @staticmethod
    def _by_running(teacher: MeanTeacher) -> MeanTeacher:
        labeller = copy.deepcopy(teacher)
        labeller.batch_statistics = labeller.average_buffers = False
        return labeller.train()

    def add(self, labelled: TrainSample, unlabelled: TrainSample) -> None:
        """Label the unlabelled crops of a batch."""
        images, count = to_unit(unlabelled.image), len(unlabelled.image)
        label = self.by_batch.pseudo_label
        self._count("its batch", label(images), unlabelled)
        labels, confidence = label(torch.cat([images, to_unit(labelled.image)]))
        self._count("with labelled crops", (labels[:count], confidence[:count]), unlabelled)
        self._waiting.append(unlabelled)
        if len(self._waiting) == _TOGETHER:
            many = TrainSample(*map(torch.cat, zip(*self._waiting, strict=True)))
            self._count("four batches", label(to_unit(many.image)), many)
            self._waiting.clear()
        self._count("own running", self.by_own.pseudo_label(images), unlabelled)
        self._count("student's running", self.by_student.pseudo_label(images), unlabelled)

    def _count(self, way: str, found: tuple[Tensor, Tensor], crops: TrainSample) -> None:
        labels, confidence = found
        everywhere, sure = self.counts[way]
        truth = crops.truth.long().masked_fill(~crops.inside, IGNORE)
        everywhere.update(labels, truth)
        sure.update(labels, truth, confidence > self.weak_threshold)

    def rows(self, class_names: Sequence[str]) -> list[tuple[str, ...]]:
        """Way, class and figures in %."""
        rows: list[tuple[str, ...]] = []
        for way, (everywhere, sure) in self.counts.items():
            all_, above = (each.matrix.cpu().double() for each in (everywhere, sure))
            accuracy, iou = everywhere.class_accuracy().cpu(), everywhere.iou().cpu()
            shares = above.sum(0) / all_.sum(0), above.diag() / above.sum(0)
            per_class = torch.stack([accuracy, iou, *shares], 1).tolist()
            overall = [
                everywhere.pixel_accuracy(),
                everywhere.mean_iou(),
                float(above.sum() / all_.sum()),
                float(above.trace() / above.sum()),
            ]
            for name, figures in zip(("all", *class_names), (overall, *per_class), strict=True):
                rows.append((way, name, *(f"{100 * figure:.2f}" for figure in figures)))
        return rows


@torch.no_grad()
def measure(folder: Path, batches: int, device: str) -> list[tuple[object, ...]]:
    """Rows of the table for a run."""
    trainer = open_run(folder, device)
    if trainer.teacher is None:
        raise ValueError(f"{folder}: a supervised run has no teacher, expected another run")
    reader = trainer.parts.reader
    reader.label_comes_with_image = True  # type: ignore[misc]  # so that unlabelled crops have truth
    labellers = Labellers(trainer)
    seed = stable_seed("benchmark of the teacher", trainer.config.train.seed)
    for labelled, unlabelled in trainer.batches_of(seed, 0, batches):
        assert unlabelled is not None
        labellers.add(labelled, unlabelled)
    run = describe_run(folder, trainer.config)
    return [(*run, *row) for row in labellers.rows(reader.spec.class_names)]


def main(words: Sequence[str] | None = None) -> int:
    """Measure the runs of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, help="folders of runs")
    parser.add_argument("--batches", type=int, default=60, help="to label (default 60)")
    arguments = parser.parse_args(words)
    if arguments.batches % _TOGETHER:
        parser.error(f"--batches {arguments.batches}: expected a multiple of {_TOGETHER}")
    device = set_up(arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[object, ...]] = []
    for folder in arguments.runs:
        found = measure(folder, arguments.batches, str(device))
        rows += found
        for *_, way, name, accuracy, iou, _, right in found:
            if name == "all":
                print(f"{folder.name}, {way}: {accuracy} % right, mIoU {iou}, above δ_w {right}")
        write_table(arguments.output / "teacher.csv", _HEADER, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
