"""Results of finished runs: a row for each, also by class, and points over the iterations.

They are read from a run's ``metrics.jsonl``, ``environment.json`` and evaluations, or from the CSV
files made of these.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from reco.optional_packages import import_extra
from reco.runs.checkpoint import checkpoint_digest

Records = list[dict[str, Any]]
Images = Mapping[str, str]  # fingerprints (reco.data.fingerprint), by split
Graph = Sequence[Sequence[float | None]]  # (C, C) cosines (Eq. 3); None for pairs never seen
# Mean IoU without the frequent classes: over this share of the classes, the rarest by pixels.
_RARE_SHARE = 1 / 3
# Bytes at the end of metrics.jsonl to read: more than a line has.
_TAIL_BYTES = 2**18


class Result(NamedTuple):
    """The final figures of a run on one split: shares in %, and what they cost."""

    method: str
    budget: str
    seed: int
    iterations: int
    split: str
    student_miou: float
    teacher_miou: float | None  # None for a supervised run
    student_boundary_miou: float
    teacher_boundary_miou: float | None
    rare_miou: float  # over the rarest third of the classes, of the main network
    minutes: float | None  # of training, without validation
    step_seconds: float | None  # median over the lines of the log
    memory_mib: int | None  # largest in the log: of the process, or of the GPU
    machine: str
    commit: str
    run: str  # folder, below the study's

    @property
    def miou(self) -> float:
        """Of the main network: the teacher's or, without one, the student's."""
        return self.student_miou if self.teacher_miou is None else self.teacher_miou

    @property
    def boundary_miou(self) -> float:
        """Of the main network, near boundaries."""
        teacher = self.teacher_boundary_miou
        return self.student_boundary_miou if teacher is None else teacher


class ClassIoU(NamedTuple):
    """The IoU of a finished run's main network on one class of a split."""

    method: str
    budget: str
    seed: int
    split: str
    class_name: str
    iou: float | None  # %; None for a class that the split does not hold
    iterations: int
    run: str


class Point(NamedTuple):
    """A validation of a run's main network; in %."""

    method: str
    budget: str
    seed: int
    iteration: int
    miou: float
    boundary_miou: float
    rare_miou: float
    eta: float | None  # as the next, None without unlabelled images
    pseudo_accuracy: float | None
    relation_to_confusion: float | None  # rank correlation in [-1, 1]; None without ReCo
    top_share: float | None  # of a class's confused pixels, those with its two closest classes
    run: str


Row = TypeVar("Row", Result, ClassIoU, Point)


def read_metrics(folder: Path) -> Records:
    """The records of a run's ``metrics.jsonl``; a last line cut off by a kill is left out.

    Raises:
        FileNotFoundError: no run there, or one that has not logged yet.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a run")
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def last_iteration(folder: Path) -> int:
    """The iteration that a run has logged last; 0 where there is no run."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError):  # cut off at either end
            return int(json.loads(line)["iteration"])
    return 0


def read_results(
    folder: Path,
    iterations: int,
    test_split: str | None,
    images: Images | None = None,
    **identity: Any,
) -> list[Result]:
    """The final figures of a run: on the split of its validations and optionally another.

    Args:
        folder: of the run.
        iterations: at which the run is finished.
        test_split: an evaluation of ``last.pt`` on it belongs to a finished run.
        images: only figures of these count; by default those of any images.
        **identity: ``method``, ``budget``, ``seed`` and ``run`` of the :class:`Result`.

    Returns:
        A row for each split; none while the run is not finished.
    """
    records = records_if_any(folder)
    evaluations = _final_figures(folder, records, iterations, test_split, images)
    if not evaluations:
        return []
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    seconds = [record["seconds"] for record in records if "seconds" in record]
    return [
        Result(
            iterations=iterations,
            split=split,
            student_miou=_percent(figures["student"]["mean_iou"]),
            teacher_miou=_of_teacher(figures, "mean_iou"),
            student_boundary_miou=_percent(figures["student"]["boundary_mean_iou"]),
            teacher_boundary_miou=_of_teacher(figures, "boundary_mean_iou"),
            rare_miou=rare_mean_iou(_main(figures)),
            minutes=round(sum(seconds) / 60, 1) if seconds else None,
            step_seconds=_step_seconds(records),
            memory_mib=max((r["memory_mib"] for r in records if "memory_mib" in r), default=None),
            machine=f"{environment['device']}, {_threads(environment['threads'])}",
            commit=environment["commit"],
            **identity,
        )
        for split, figures in evaluations.items()
    ]


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _step_seconds(records: Records) -> float | None:
    """Median seconds of a step over the lines of the log; ``None`` where none has a time."""
    lines = [(record["iteration"], record["seconds"]) for record in records if "seconds" in record]
    iterations = [0, *(iteration for iteration, _ in lines)]
    steps = [after - before for before, after in itertools.pairwise(iterations)]
    found = [seconds / n for (_, seconds), n in zip(lines, steps, strict=True) if n > 0]
    return round(statistics.median(found), 3) if found else None


def read_classes(
    folder: Path,
    iterations: int,
    test_split: str | None,
    images: Images | None = None,
    **identity: Any,
) -> list[ClassIoU]:
    """The final IoU of each class on each split; arguments as for :func:`read_results`.

    Args:
        **identity: ``method``, ``budget``, ``seed`` and ``run`` of the :class:`ClassIoU`.
    """
    records = records_if_any(folder)
    evaluations = _final_figures(folder, records, iterations, test_split, images)
    if not evaluations:
        return []
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    return [
        ClassIoU(
            split=name,
            class_name=class_name,
            iou=_percent_or_none(iou),
            iterations=iterations,
            **identity,
        )
        for name, figures in evaluations.items()
        for class_name, iou in zip(split["images_per_class"], _main(figures)["iou"], strict=True)
    ]


def records_if_any(folder: Path) -> Records:
    """The records of a run's metrics; none where there is no run yet."""
    try:
        return read_metrics(folder)
    except FileNotFoundError:
        return []


def _final_figures(
    folder: Path,
    records: Records,
    iterations: int,
    test_split: str | None,
    images: Images | None,
) -> dict[str, dict[str, Any]]:
    """Figures of the networks at the end of a run, by split; none while it is not finished."""
    validations = [record for record in records if _is_validation(record, images)]
    if not validations or validations[-1]["iteration"] != iterations:
        return {}
    evaluations: dict[str, Any] = {validations[-1]["split"]: validations[-1]["validation"]}
    if test_split:
        networks = set(validations[-1]["validation"])
        tested = _evaluation(folder, test_split, iterations, networks, images)
        if tested is None:
            return {}
        evaluations[test_split] = tested
    return evaluations


def _is_validation(record: Mapping[str, Any], images: Images | None) -> bool:
    """Whether a record is a validation, of ``images`` where they are given."""
    if "validation" not in record:
        return False
    return images is None or record.get("images") == images.get(record["split"])


def _evaluation(
    folder: Path, split: str, iterations: int, networks: Set[str], images: Images | None
) -> dict[str, Any] | None:
    """Figures of an evaluation of ``last.pt`` as training's validation does it.

    ``None`` where there is none of this checkpoint, of these networks, and of ``images`` where they
    are given.
    """
    last = folder / "last.pt"
    digest = checkpoint_digest(last) if images is not None and last.is_file() else None
    for path in (folder / f"last-{split}.json", *sorted(folder.glob(f"last-{split}-*.json"))):
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        figures: dict[str, Any] = content["networks"]
        fits = (
            content.get("deviations") == {},
            content["iteration"] == iterations,
            figures.keys() == networks,
            images is None or content.get("images", {}).get("fingerprint") == images.get(split),
            digest is None or content.get("checkpoint_digest") == digest,
        )
        if all(fits):
            return figures
    return None


def other_validations(folder: Path, images: Images) -> int:
    """How many of a run's validations are of other images than these."""
    return sum(
        _is_validation(record, None) and not _is_validation(record, images)
        for record in read_metrics(folder)
    )


def read_points(folder: Path, images: Images | None = None, **identity: Any) -> list[Point]:
    """The course of a run, from its validations and the line logged before each.

    Args:
        folder: of the run.
        images: validations of these alone; by default those of any images.
        **identity: ``method``, ``budget``, ``seed`` and ``run`` of the :class:`Point`.
    """
    points: list[Point] = []
    logged: dict[str, Any] = {}
    for record in read_metrics(folder):
        if "validation" not in record:
            logged = record
        if not _is_validation(record, images):
            continue
        figures, graph = _main(record["validation"]), logged.get("relation_graph")
        points.append(
            Point(
                iteration=record["iteration"],
                miou=_percent(figures["mean_iou"]),
                boundary_miou=_percent(figures["boundary_mean_iou"]),
                rare_miou=rare_mean_iou(figures),
                eta=_percent_or_none(logged.get("eta")),
                pseudo_accuracy=_percent_or_none(logged.get("pseudo_accuracy")),
                relation_to_confusion=relation_to_confusion(graph, figures["matrix"]),
                top_share=_percent_or_none(closest_share(figures["matrix"])),
                **identity,
            )
        )
    return points


def rare_mean_iou(figures: Mapping[str, Any]) -> float:
    """Mean IoU in % over the third of the present classes with the fewest true pixels."""
    pixels = [sum(row) for row in figures["matrix"]]
    present = sorted((n, c) for c, n in enumerate(pixels) if n)
    rare = present[: max(1, round(_RARE_SHARE * len(present)))]
    return _percent(statistics.fmean(figures["iou"][c] for _, c in rare))


def confusion_shares(matrix: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """``(C, C)`` symmetric: mean share of a pair's true pixels that are taken for the other."""
    counts = np.array(matrix, dtype=np.float64)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    return np.asarray((shares + shares.T) / 2)


def read_relation_graphs(folder: Path) -> tuple[dict[int, Graph], list[str]]:
    """The relation graphs that a run logged, by iteration, and the names of the classes.

    Raises:
        FileNotFoundError: no run there.
        ValueError: it logged none: it has no ReCo, or was not validated yet.
    """
    graphs = {
        record["iteration"]: record["relation_graph"]
        for record in read_metrics(folder)
        if "relation_graph" in record
    }
    if not graphs:
        raise ValueError(
            f"{folder}: no relation graph was logged; a run with reco.enabled=true logs it at "
            "each validation"
        )
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    return graphs, list(split["images_per_class"])


def relation_to_confusion(graph: Graph | None, matrix: Sequence[Sequence[int]]) -> float | None:
    """Spearman's rank correlation over the pairs of classes: cosine (Eq. 3) against confusion.

    Args:
        graph: ``(C, C)`` cosines, ``None`` for pairs never seen together; or nothing at all.
        matrix: ``(C, C)`` pixels, row the truth, column the prediction.

    Returns:
        The correlation in [-1, 1]; ``None`` without a graph or with fewer than three pairs.

    Raises:
        ImportError: scipy is missing.
    """
    if graph is None:
        return None
    shares = confusion_shares(matrix)
    pairs = [
        (cosine, shares[i, j])
        for i, row in enumerate(graph)
        for j, cosine in enumerate(row[:i])
        if cosine is not None
    ]
    if len(pairs) < 3:
        return None
    stats = import_extra("scipy.stats", "the rank correlation of relation graph and confusion")
    return round(float(stats.spearmanr(pairs).statistic), 3)


def closest_share(matrix: Sequence[Sequence[int]]) -> float | None:
    """Of the wrong pixels of a class, the share that goes to two others; mean over classes.

    A high share is the paper's reason for active key sampling. ``None`` where no pixel is wrong.
    """
    wrong = np.array(matrix, dtype=np.float64)
    np.fill_diagonal(wrong, 0)
    wrong = wrong[wrong.sum(1) > 0]
    if not len(wrong):
        return None
    top = np.sort(wrong, axis=1)[:, -2:].sum(1)
    return float((top / wrong.sum(1)).mean())


def read_csv(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file that :func:`reco.writing.write_table` made of ``kind``.

    Raises:
        ValueError: another table than of ``kind``.
    """
    types = get_type_hints(kind)

    def parse(field: str, text: str) -> Any:
        if types[field] in (int, str):
            return types[field](text)
        number = int if types[field] == int | None else float
        return number(text) if text else None

    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != kind._fields:
            raise ValueError(
                f"{path}: has the columns {', '.join(table.fieldnames or ())}: expected "
                f"{', '.join(kind._fields)}"
            )
        return [kind(**{field: parse(field, text) for field, text in row.items()}) for row in table]


def _main(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    main: Mapping[str, Any] = figures.get("teacher", figures["student"])
    return main


def _of_teacher(figures: Mapping[str, Any], key: str) -> float | None:
    return _percent(figures["teacher"][key]) if "teacher" in figures else None


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _percent_or_none(share: float | None) -> float | None:
    return None if share is None else _percent(share)
