"""Figures of runs by hand: rows, points, tables, and the documents that hold them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reco.runs.results import (
    ClassIoU,
    Point,
    Result,
    closest_share,
    last_iteration,
    rare_mean_iou,
    read_classes,
    read_csv,
    read_points,
    read_results,
    relation_to_confusion,
)
from reco.studies.tables import classes_table, pairs_table, results_table, t_interval
from reco.writing import write_table


def row(
    method: str, seed: int, student: float, teacher: float | None, split: str = "val"
) -> Result:
    figures = (student, teacher, 30.0, teacher, 20.0)
    cost = (1.5, 0.25 + seed, 1000 + seed, "CPU, 1 thread")
    return Result(method, "", seed, 1200, split, *figures, *cost, "abc", "r")


ROWS = [
    row("plain", 0, 40.0, 42.0),
    row("plain", 1, 41.0, 44.0),
    row("ReCo", 0, 43.0, 45.0),
    row("ReCo", 1, 41.5, 45.0),
    row("supervised", 0, 30.0, None),
]


def entries(table: str) -> list[list[str]]:
    return [[entry.strip() for entry in line.split("|")[1:-1]] for line in table.splitlines()]


def test_pairs_by_hand():
    rows = [
        row("plain", 2, 40.0, 42.0),
        row("ReCo", 2, 43.0, 45.0)._replace(teacher_boundary_miou=41.5),
        row("ReCo", 1, 41.5, 45.5),
        row("plain", 1, 41.0, 44.0),
        row("ReCo", 7, 41.0, 42.0),
        row("plain", 7, 41.0, 44.0),
        row("ReCo", 9, 0.0, 0.0),  # has no pair
        row("supervised", 1, 40.5, None)._replace(student_boundary_miou=29.0),
    ]
    title, _, reco, supervised = entries(pairs_table(rows, "plain"))
    assert title[2] == "differences to plain"
    assert reco[:3] == ["ReCo", "1, 2, 7", "+1.5, +3.0, -2.0"]
    assert reco[3].startswith("+0.8 [")
    assert reco[4] == "+1.5, -0.5, -2.0"
    # Without a teacher they are between the students: 40.5 and 29.0, to plain's 41.0 and 30.0.
    assert supervised == ["supervised", "1", "-0.5", "-0.5", "-1.0", "-1.0"]
    _, _, one, two, both, *_ = entries(pairs_table(rows, "plain", [(1, 2), (3, 9)]))
    assert (one[1:3], two[1:4]) == (["1, 2", "+1.5, +3.0"], ["7", "-2.0", "-2.0"])
    assert both[1:4] == ["all 3", "", reco[3]]
    test = [*rows, row("plain", 1, 1.0, 2.0, "test"), row("ReCo", 1, 1.0, 3.0, "test")]
    names = [line[0] for line in entries(pairs_table(test, "plain"))]
    assert names[2:] == ["ReCo, on val", "supervised, on val", "ReCo, on test"]
    assert pairs_table(rows, None) == pairs_table(rows, "another") == ""


def test_table_by_hand(tmp_path):
    table = results_table(ROWS, "plain")
    lines = entries(table)
    deviation = statistics.stdev([42, 44])
    assert table.startswith("mIoU in % on val, 1,200 iterations:")
    assert lines[4][:4] == ["plain", "2", "40.5 ± 0.7", f"43.0 ± {deviation:.1f}"]
    assert lines[2][-3:] == ["difference to plain", "s a step", "MiB"]
    assert lines[4][-3:] == ["-", "0.75", "1,000"]
    assert lines[5][-3] == "+2.0 [-10.7, +14.7]"
    assert lines[6][2:4] == ["30.0", "-"]
    assert lines[6][-3] == "-10.0"  # between the students
    free = results_table([row._replace(step_seconds=None, memory_mib=None) for row in ROWS])
    assert free.splitlines()[2].endswith("rarest third |")
    more = results_table([*ROWS, row("ReCo", 2, 44.0, 46.0)], "plain")
    assert "| +2.0 [-10.7, +14.7] of 2 |" in more
    both = results_table(ROWS[:4], "plain")
    assert "With 2 pairs, this interval rests on the assumption" in both
    enough = [row(m, seed, 40.0 + seed, 41.0 + seed) for m in ("plain", "a|b") for seed in range(6)]
    assert "assumption" not in results_table(enough, "plain")
    assert r"| a\|b |" in results_table(enough, "plain")
    assert "A single pair does not show the effect of chance." in table
    assert "With so few seeds" in results_table(ROWS)
    assert results_table([]) == "No run is finished yet."
    two = results_table([*ROWS, row("plain", 0, 1.0, 1.0, "test")], "plain")
    assert table.split("\n\nDifferences")[0] in two
    assert "on test" in two


def test_classes_by_hand():
    rows = [
        ClassIoU(method, "", seed, "val", name, iou, 9, "r")
        for method, seed, name, iou in [
            ("plain", 0, "road", 90.0),
            ("plain", 1, "road", 92.0),
            ("plain", 0, "sky", None),
            ("ReCo", 0, "road", 95.0),
            ("ReCo", 0, "sky", 0.0),
        ]
    ]
    title, _, head, _, road, sky = classes_table(rows).splitlines()
    assert title == "IoU in % of each class on val, of the teacher or, without one, the student:"
    assert head == "| class | plain | ReCo |"
    assert road == "| road | 91.0 ± 1.4 | 95.0 |"
    assert sky == "| sky | - | 0.0 |"
    title, _, head, _, road, sky = classes_table(rows, "plain").splitlines()
    assert title.endswith("student, in brackets the mean difference to plain by seed:")
    assert road == "| road | 91.0 ± 1.4 | 95.0 (+5.0 of 1) |"  # to the run of the same seed alone
    assert sky == "| sky | - | 0.0 |"


def test_rows_survive_the_file(tmp_path):
    path = tmp_path / "rows.csv"
    write_table(path, Result._fields, ROWS)
    assert read_csv(path, Result) == ROWS
    points = [Point("a", "", 0, 100, 40.0, 30.0, 20.0, None, 80.0, None, 90.0, "r")]
    write_table(path, Point._fields, points)
    assert read_csv(path, Point) == points
    with pytest.raises(ValueError, match=r"rows.csv: has the columns method.*: expected method"):
        read_csv(path, Result)


def test_the_interval_is_students():
    differences = [1.0, 2.0, 3.0, 4.0, 7.0]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert t_interval(differences) == pytest.approx(tuple(expected))
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("pairs", [3, 6])
def test_the_interval_of_few_pairs_holds_the_true_mean_in_95_of_100_studies(pairs):
    """A bootstrap of 3 pairs does so in about 74, of 6 in about 87."""
    studies = np.random.default_rng(0).normal(1.0, 3.0, (2000, pairs))
    intervals = [t_interval(study) for study in studies.tolist()]
    assert 0.935 < statistics.fmean(low < 1 < high for low, high in intervals) < 0.965


# Rows are the truth: 100, 10, 0, 4 and 6 pixels of five classes.
MATRIX = [[90, 10, 0, 0, 0], [5, 5, 0, 0, 0], [0] * 5, [1, 1, 0, 2, 0], [0, 0, 0, 3, 3]]


def test_what_is_confused():
    figures = {"matrix": MATRIX, "iou": [0.85, 0.24, None, 0.28, 0.5]}
    assert rare_mean_iou(figures) == 28.0  # one of the four present, the one with four pixels
    assert closest_share(MATRIX) == 1.0
    assert closest_share([[1, 2, 1, 1], [0] * 4, [0] * 4, [0] * 4]) == 0.75
    assert closest_share([[1, 0], [0, 1]]) is None


def test_rank_correlation_is_over_the_pairs_that_were_seen():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    matrix = generator.integers(0, 4, (6, 6)) + np.diag(np.full(6, 50))
    graph = generator.normal(size=(6, 6))
    shares = matrix / matrix.sum(1, keepdims=True)
    pairs = [(i, j) for i in range(6) for j in range(i) if (i, j) != (5, 2)]
    expected = stats.spearmanr(
        [graph[p] for p in pairs], [(shares[i, j] + shares[j, i]) / 2 for i, j in pairs]
    ).statistic
    rows = graph.tolist()
    rows[5][2] = None
    assert relation_to_confusion(rows, matrix.tolist()) == pytest.approx(expected, abs=1e-3)
    assert relation_to_confusion(None, matrix.tolist()) is None
    assert relation_to_confusion([[1.0, 0.5], [0.5, 1.0]], [[1, 1], [1, 1]]) is None


@pytest.fixture
def run(tmp_path) -> Path:
    """Two validations; ``last.pt`` is evaluated on test as well."""
    figures = {
        "mean_iou": 0.5,
        "boundary_mean_iou": 0.25,
        "iou": [0.85, 0.24, None, 0.28, 0.5],
        "matrix": MATRIX,
    }
    better = {**figures, "mean_iou": 0.75}
    validation = {"student": figures, "teacher": better}
    lines = [
        {"iteration": 10, "eta": None, "pseudo_accuracy": 0.5, "seconds": 60.0, "memory_mib": 7},
        {"iteration": 20, "eta": 0.5, "pseudo_accuracy": 0.75, "seconds": 30.0, "memory_mib": 5},
        {"iteration": 20, "split": "val", "validation": validation},
        {"iteration": 30, "split": "val", "validation": {"student": figures}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"iteration": 40, "et')
    (tmp_path / "environment.json").write_text('{"commit": "abc", "device": "CPU", "threads": 2}')
    names = {"images_per_class": dict.fromkeys(["road", "car", "sky", "pole", "sign"], 1)}
    (tmp_path / "split.json").write_text(json.dumps(names))
    tested = {"iteration": 30, "deviations": {}, "networks": {"student": better}}
    (tmp_path / "last-test.json").write_text(json.dumps(tested))
    return tmp_path


def test_a_runs_figures_are_read(run):
    identity = {"method": "m", "budget": "b", "seed": 3, "run": "r"}
    assert read_results(run, 40, None, **identity) == []
    assert read_results(run, 30, "train", **identity) == []
    assert read_results(run / "elsewhere", 30, None, **identity) == []
    tested = json.loads((run / "last-test.json").read_text())
    for other in ({"networks": {"teacher": {}}}, {"iteration": 20}, {"deviations": {"flip": True}}):
        (run / "last-train.json").write_text(json.dumps({**tested, **other}))
        assert read_results(run, 30, "train", **identity) == []
    val, test = read_results(run, 30, "test", **identity)
    figures, cost = (50.0, None, 25.0, None, 28.0), (1.5, 4.5, 7, "CPU, 2 threads")
    assert val == Result("m", "b", 3, 30, "val", *figures, *cost, "abc", "r")
    assert test == val._replace(split="test", student_miou=75.0)
    first, second = read_points(run, **identity)
    assert first == Point("m", "b", 3, 20, 75.0, 25.0, 28.0, 50.0, 75.0, None, 100.0, "r")
    assert (second.iteration, second.miou) == (30, 50.0)
    assert read_classes(run, 40, "test", **identity) == []
    classes = read_classes(run, 30, "test", **identity)
    assert len(classes) == 10
    assert classes[0] == ClassIoU("m", "b", 3, "val", "road", 85.0, 30, "r")
    assert [c.iou for c in classes[5:]] == [85.0, 24.0, None, 28.0, 50.0]
    assert {c.split for c in classes[5:]} == {"test"}
    assert last_iteration(run) == 30  # the last line is cut off
    assert last_iteration(run / "elsewhere") == 0
