"""What finished runs say: a row for each, points over the iterations, tables with differences.

Everything is read from a run's ``metrics.jsonl``, ``environment.json`` and evaluations, or from the
CSV files that were made of them; nothing is computed anew.
"""

from __future__ import annotations

import contextlib
import csv
import json
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

Records = list[dict[str, Any]]
# Mean IoU without the frequent classes: over this share of the classes, the rarest by pixels.
_RARE_SHARE = 1 / 3
# The end of a metrics.jsonl that surely holds a whole line.
_TAIL_BYTES = 2**18
# With fewer pairs of runs, a sign test cannot reach 5 % even where all agree.
_ENOUGH_PAIRS = 6


class Result(NamedTuple):
    """The final figures of a run on one split; all but counts and minutes in %."""

    method: str
    budget: str
    seed: int
    iterations: int
    split: str
    student_miou: float
    teacher_miou: float | None  # None for a supervised run, as the next but one
    student_boundary_miou: float
    teacher_boundary_miou: float | None
    rare_miou: float  # over the rarest third of the classes, of the network one would use
    minutes: float | None  # of training, without validation
    commit: str
    run: str  # folder, below the study's

    @property
    def miou(self) -> float:
        """What one would use: the teacher's, the student's without one."""
        return self.student_miou if self.teacher_miou is None else self.teacher_miou

    @property
    def boundary_miou(self) -> float:
        """The same near boundaries."""
        teacher = self.teacher_boundary_miou
        return self.student_boundary_miou if teacher is None else teacher


class Point(NamedTuple):
    """A run at one of its validations, of the network one would use; in %."""

    method: str
    budget: str
    seed: int
    iteration: int
    miou: float
    boundary_miou: float
    rare_miou: float
    eta: float | None  # None without unlabelled images, as the next
    pseudo_accuracy: float | None
    relation_to_confusion: float | None  # rank correlation in [-1, 1]; None without ReCo
    top_share: float | None  # of a class's confused pixels, those with its two closest classes


Row = TypeVar("Row", Result, Point)


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
    folder: Path, iterations: int, test_split: str | None, **identity: Any
) -> list[Result]:
    """The final figures of a run: on the split of its validations and, if asked for, another.

    Args:
        folder: of the run.
        iterations: at which the run is finished.
        test_split: an evaluation of ``last.pt`` on it belongs to a finished run.
        **identity: ``method``, ``budget``, ``seed`` and ``run`` of the :class:`Result`.

    Returns:
        A row for each split; none while the run is not finished.
    """
    if not (folder / "metrics.jsonl").is_file():
        return []
    records = read_metrics(folder)
    validations = [record for record in records if "validation" in record]
    if not validations or validations[-1]["iteration"] != iterations:
        return []
    evaluations = {validations[-1]["split"]: validations[-1]["validation"]}
    if test_split:
        tested = folder / f"last-{test_split}.json"
        if not tested.is_file():
            return []
        evaluation = json.loads(tested.read_text(encoding="utf-8"))
        networks = evaluation["networks"]
        if (
            networks.keys() != validations[-1]["validation"].keys()
            or evaluation["iteration"] != iterations
            or evaluation.get("deviations") != {}
        ):
            return []  # an earlier checkpoint, or somebody evaluated it in another way since
        evaluations[test_split] = networks
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
            commit=environment["commit"],
            **identity,
        )
        for split, figures in evaluations.items()
    ]


def read_points(folder: Path, **identity: Any) -> list[Point]:
    """The course of a run, from its validations and the line logged before each.

    Args:
        folder: of the run.
        **identity: ``method``, ``budget`` and ``seed`` of the :class:`Point`.
    """
    points: list[Point] = []
    logged: dict[str, Any] = {}
    for record in read_metrics(folder):
        if "validation" not in record:
            logged = record
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
                top_share=_percent(closest_share(figures["matrix"])),
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


def relation_to_confusion(
    graph: Sequence[Sequence[float | None]] | None, matrix: Sequence[Sequence[int]]
) -> float | None:
    """Spearman's rank correlation over the pairs of classes: cosine (Eq. 3) against confusion.

    Args:
        graph: ``(C, C)`` cosines, ``None`` for pairs never seen together; or nothing at all.
        matrix: ``(C, C)`` pixels, row the truth, column the prediction.

    Returns:
        The correlation in [-1, 1]; ``None`` without a graph or with fewer than three pairs.
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
    first, second = (_ranks(np.array(values)) for values in zip(*pairs, strict=True))
    return round(float(np.corrcoef(first, second)[0, 1]), 3)


def closest_share(matrix: Sequence[Sequence[int]]) -> float:
    """Of the wrong pixels of a class, the share that goes to two others; mean over classes.

    The paper's reason for active key sampling: a pixel is confused with few classes.
    """
    wrong = np.array(matrix, dtype=np.float64)
    np.fill_diagonal(wrong, 0)
    wrong = wrong[wrong.sum(1) > 0]
    if not len(wrong):
        return float("nan")
    top = np.sort(wrong, axis=1)[:, -2:].sum(1)
    return float((top / wrong.sum(1)).mean())


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0, the mean one for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts + 1) / 2)[inverse])


def write_csv(rows: Sequence[Result] | Sequence[Point], kind: type[Row], path: Path) -> None:
    """One line for each row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(kind._fields)
        writer.writerows(rows)


def read_csv(path: Path, kind: type[Row]) -> list[Row]:
    """What :func:`write_csv` wrote.

    Raises:
        ValueError: another table than of ``kind``.
    """
    types = get_type_hints(kind)

    def parse(field: str, text: str) -> Any:
        if types[field] in (int, str):
            return types[field](text)
        return float(text) if text else None

    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != kind._fields:
            raise ValueError(
                f"{path}: has the columns {', '.join(table.fieldnames or ())}: expected "
                f"{', '.join(kind._fields)}"
            )
        return [kind(**{field: parse(field, text) for field, text in row.items()}) for row in table]


def results_table(rows: Sequence[Result], baseline: str | None = None) -> str:
    """Markdown: mean ± standard deviation over seeds, and paired differences to the baseline.

    A difference is taken run by run on the same seed and split; the interval behind it is a 95 %
    bootstrap over the pairs. Fewer than six pairs cannot tell methods apart for sure, and the text
    below the table says so.

    Args:
        rows: of one split of the data; of several, each gets a table.
        baseline: a method.
    """
    if not rows:
        return "No run is finished yet."
    tables = []
    for split in dict.fromkeys(row.split for row in rows):
        of_split = [row for row in rows if row.split == split]
        tables.append("\n".join(_table_of_split(of_split, baseline)))
    groups = _groups(rows)
    pairs = [len(_pairs(groups, name, baseline)) for name in groups if name[2] != baseline]
    if baseline is not None and any(pairs):
        tables.append(
            "Differences: mean over pairs of runs with the same seed and split, in brackets the "
            "95 % percentile bootstrap over the pairs. "
            + _caveat(min(number for number in pairs if number))
        )
    elif min(map(len, groups.values())) < _ENOUGH_PAIRS:
        tables.append("With so few seeds, small differences cannot be told from chance.")
    return "\n\n".join(line.strip() for line in tables)


def _caveat(pairs: int) -> str:
    """What a number of pairs cannot tell."""
    if pairs >= _ENOUGH_PAIRS:
        return ""
    if pairs == 1:
        return "A single pair tells nothing of chance."
    return (
        f"With {pairs} pairs that is too narrow: of two equal methods one wins all {pairs} in 1 of "
        f"{2 ** (pairs - 1)} studies. It takes {_ENOUGH_PAIRS} pairs that agree to be sure at 5 %."
    )


def _table_of_split(rows: Sequence[Result], baseline: str | None) -> Iterator[str]:
    groups = _groups(rows)
    titles = ["method", "budget", "seeds", "student mIoU", "teacher mIoU", "near boundaries"]
    titles += ["rarest third", f"difference to {baseline}" if baseline else "difference"]
    show = [True] * len(titles)
    show[1] = any(row.budget for row in rows)
    show[-1] = baseline is not None
    lines = []
    for (_, budget, method), group in groups.items():
        pairs = _pairs(groups, (rows[0].split, budget, method), baseline)
        teachers = [row.teacher_miou for row in group if row.teacher_miou is not None]
        cells = [
            method,
            budget or "-",
            str(len(group)),
            mean_and_deviation([row.student_miou for row in group]),
            mean_and_deviation(teachers) if teachers else "-",
            mean_and_deviation([row.boundary_miou for row in group]),
            mean_and_deviation([row.rare_miou for row in group]),
            _difference(pairs, len(group)),
        ]
        lines.append(cells)
    yield f"mIoU in % on {rows[0].split}, {_range([row.iterations for row in rows])} iterations:"
    yield ""
    for cells in (titles, ["---"] * len(titles), *lines):
        shown = [cell.replace("|", r"\|") for cell, keep in zip(cells, show, strict=True) if keep]
        yield "| " + " | ".join(shown) + " |"


def _pairs(
    groups: Mapping[tuple[str, str, str], Sequence[Result]],
    name: tuple[str, str, str],
    baseline: str | None,
) -> list[float]:
    """Differences in mIoU to the baseline's run of the same seed and split."""
    split, budget, method = name
    if baseline is None or method == baseline:
        return []
    others = {row.seed: row.miou for row in groups.get((split, budget, baseline), [])}
    return [row.miou - others[row.seed] for row in groups[name] if row.seed in others]


def _groups(rows: Sequence[Result]) -> dict[tuple[str, str, str], list[Result]]:
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.split, row.budget, row.method), []).append(row)
    return groups


def mean_and_deviation(values: Sequence[float]) -> str:
    """``45.1 ± 0.3``: mean and sample standard deviation; the mean alone of a single value."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def bootstrap_interval(differences: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean under resampling; the same for the same numbers."""
    chance = random.Random(0)
    means = sorted(
        statistics.fmean(chance.choices(differences, k=len(differences))) for _ in range(draws)
    )
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def _difference(pairs: Sequence[float], seeds: int) -> str:
    if not pairs:
        return "-"
    text = f"{statistics.fmean(pairs):+.1f}"
    if len(pairs) > 1:
        low, high = bootstrap_interval(pairs)
        text += f" [{low:+.1f}, {high:+.1f}]"
    return text if len(pairs) == seeds else f"{text} of {len(pairs)}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _main(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    """Figures of the network one would use."""
    main: Mapping[str, Any] = figures.get("teacher", figures["student"])
    return main


def _of_teacher(figures: Mapping[str, Any], key: str) -> float | None:
    return _percent(figures["teacher"][key]) if "teacher" in figures else None


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _percent_or_none(share: float | None) -> float | None:
    return None if share is None else _percent(share)
