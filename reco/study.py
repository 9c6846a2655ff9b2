"""Many runs, one table: methods x budgets x seeds of one experiment.

A study file names a configuration and what its runs change::

    config: demo.yaml
    output_dir: runs/studies/demo
    seeds: [0, 1, 2]
    baseline: ClassMix
    methods:
      ClassMix: {reco.enabled: false}
      ClassMix + ReCo: {}
    budgets:
      10 images: {}

A seed is both that of the run and that of the split, so that methods are compared pair by pair.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import multiprocessing.context
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reco.config import Config, ConfigError, find_config, load_config
from reco.evaluation import evaluate_checkpoints
from reco.run_folder import run_path
from reco.trainer import train

_KEYS = {"config", "output_dir", "seeds", "baseline", "methods", "budgets", "test_split"}


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    name: str
    config: str
    output_dir: Path
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Any]]
    budgets: Mapping[str, Mapping[str, Any]]
    baseline: str | None = None
    test_split: str | None = None  # evaluate the last checkpoint of each run on it


class Cell(NamedTuple):
    """One run of a study."""

    method: str
    budget: str
    seed: int
    config: Config
    folder: Path


class Result(NamedTuple):
    """The figures of a finished run, in %: a row of ``results.csv``."""

    method: str
    budget: str
    seed: int
    iterations: int
    split: str
    student_miou: float
    teacher_miou: float | None  # None for a supervised run, as below
    best_miou: float
    student_boundary_miou: float
    teacher_boundary_miou: float | None
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


def load_study(path: str | Path) -> Study:
    """Read a study file: a path, or a name in ``configs/`` such as ``studies/demo.yaml``.

    Raises:
        ConfigError: a key that is missing or unknown, or a baseline that is no method.
    """
    found = find_config(path)
    content = yaml.safe_load(found.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"config", "methods"} <= set(content):
        raise ConfigError(f"{found}: expected at least the keys config and methods")
    unknown = set(content) - _KEYS
    if unknown:
        raise ConfigError(
            f"{found}: {sorted(unknown)[0]}: unknown key; there are {', '.join(sorted(_KEYS))}"
        )
    baseline = content.get("baseline")
    if baseline is not None and baseline not in content["methods"]:
        raise ConfigError(f"{found}: baseline = {baseline!r}: expected one of the methods")
    return Study(
        name=found.stem,
        config=content["config"],
        output_dir=Path(content.get("output_dir", f"runs/studies/{found.stem}")),
        seeds=tuple(content.get("seeds", (0, 1, 2))),
        methods=content["methods"],
        budgets={str(name): keys for name, keys in content.get("budgets", {"": {}}).items()},
        baseline=baseline,
        test_split=content.get("test_split"),
    )


def cells(study: Study, overrides: Sequence[str] = ()) -> list[Cell]:
    """The runs of a study, seed by seed, so that an early table already compares methods."""
    result = []
    for seed in study.seeds:
        for budget, budget_keys in study.budgets.items():
            for method, method_keys in study.methods.items():
                keys = {
                    **budget_keys,
                    **method_keys,
                    "train.seed": seed,
                    "dataset.split_seed": seed,
                    "output_dir": str(study.output_dir / "runs"),
                }
                sets = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
                config = load_config(study.config, [*sets, *overrides])
                name = "-".join(part for part in (method, budget) if part)
                folder = run_path(config, "".join(c if c.isalnum() else "_" for c in name))
                result.append(Cell(method, budget, seed, config, folder))
    return result


def run_study(study: Study, overrides: Sequence[str] = (), devices: Sequence[str] = ()) -> bool:
    """Run what is not finished, resume what was stopped, and write the results as they come.

    Args:
        study: what to run.
        overrides: ``key=value`` for all runs, such as ``dataset.root=…``.
        devices: one run at a time on each, e.g. ``cuda:0 cuda:1``; by default one at a time on
            whatever ``train.device`` says.

    Returns:
        Whether every run is finished.
    """
    todo = [cell for cell in cells(study, overrides) if read_result(cell, study) is None]
    free = list(devices) or [""]
    running: dict[str, tuple[Cell, multiprocessing.context.SpawnProcess, float]] = {}
    seconds: list[float] = []
    context = multiprocessing.get_context("spawn")
    failed = 0
    write_results(study, overrides)
    try:
        while todo or running:
            while todo and free:
                cell, device = todo.pop(0), free.pop(0)
                process = context.Process(target=_train_cell, args=(cell, device, study.test_split))
                process.start()
                running[device] = (cell, process, time.monotonic())
                print(_status(study, overrides, running, seconds, len(free) + len(running)))
            for device, (_, process, start) in list(running.items()):
                process.join(timeout=1.0)
                if process.exitcode is not None:
                    failed += process.exitcode != 0
                    seconds.append(time.monotonic() - start)
                    free.append(device)
                    del running[device]
                    write_results(study, overrides)
    except KeyboardInterrupt:
        print("stopping: each run writes a checkpoint; the same command goes on from there")
    finally:
        for _, process, _ in running.values():
            process.join()
        write_results(study, overrides)
    return not failed and not todo


def _train_cell(cell: Cell, device: str, test_split: str | None) -> None:
    """One run, in a process of its own."""
    config = cell.config
    if device:
        config = replace(config, train=replace(config.train, device=device))
    outcome = train(config, cell.folder, resume=cell.folder.exists())
    if outcome.finished and test_split:
        evaluate_checkpoints([cell.folder / "last.pt"], split=test_split, device=device or "auto")


def read_result(cell: Cell, study: Study) -> Result | None:
    """The figures of a run, or ``None`` while it is not finished."""
    metrics = cell.folder / "metrics.jsonl"
    if not metrics.is_file():
        return None
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    validations = [record for record in records if "validation" in record]
    if not validations or validations[-1]["iteration"] != cell.config.train.iterations:
        return None
    figures, split = validations[-1]["validation"], validations[-1]["split"]
    if study.test_split:
        tested = cell.folder / f"last-{study.test_split}.json"
        if not tested.is_file():
            return None
        figures = json.loads(tested.read_text(encoding="utf-8"))["networks"]
        split = study.test_split
    environment = json.loads((cell.folder / "environment.json").read_text(encoding="utf-8"))
    main = "teacher" if "teacher" in figures else "student"

    def percent(network: str, key: str) -> float | None:
        return round(100 * figures[network][key], 2) if network in figures else None

    student, near = percent("student", "mean_iou"), percent("student", "boundary_mean_iou")
    assert student is not None
    assert near is not None
    return Result(
        method=cell.method,
        budget=cell.budget,
        seed=cell.seed,
        iterations=cell.config.train.iterations,
        split=split,
        student_miou=student,
        teacher_miou=percent("teacher", "mean_iou"),
        best_miou=round(100 * max(v["validation"][main]["mean_iou"] for v in validations), 2),
        student_boundary_miou=near,
        teacher_boundary_miou=percent("teacher", "boundary_mean_iou"),
        commit=environment["commit"],
        run=cell.folder.relative_to(study.output_dir).as_posix(),
    )


def results(study: Study, overrides: Sequence[str] = ()) -> list[Result]:
    """Figures of the finished runs."""
    found = (read_result(cell, study) for cell in cells(study, overrides))
    return [result for result in found if result is not None]


def write_results(study: Study, overrides: Sequence[str] = ()) -> None:
    """Write ``results.csv`` and ``results.md`` of what is finished."""
    finished = results(study, overrides)
    study.output_dir.mkdir(parents=True, exist_ok=True)
    write_csv(finished, study.output_dir / "results.csv")
    text = f"# {study.name}\n\n{results_table(finished, study.baseline)}\n"
    (study.output_dir / "results.md").write_text(text, encoding="utf-8")


def write_csv(rows: Sequence[Result], path: Path) -> None:
    """One line for each run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Result._fields)
        writer.writerows(rows)


def read_csv(path: Path) -> list[Result]:
    """What :func:`write_csv` wrote."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with path.open(newline="", encoding="utf-8") as file:
        return [
            Result(
                **{
                    **row,
                    "seed": int(row["seed"]),
                    "iterations": int(row["iterations"]),
                    **{key: number(row[key]) for key in row if key.endswith("miou")},
                }  # type: ignore[arg-type]
            )
            for row in csv.DictReader(file)
        ]


def results_table(rows: Sequence[Result], baseline: str | None) -> str:
    """Markdown: mean ± standard deviation over seeds, and paired differences to the baseline.

    A difference is taken run by run on the same seed and split; the interval behind it is a 95 %
    bootstrap over the pairs. Fewer than five pairs cannot tell methods apart for sure, and the
    table says so.
    """
    if not rows:
        return "No run is finished yet."
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.budget, row.method), []).append(row)
    lines = [
        "| method | budget | seeds | student mIoU | teacher mIoU | near boundaries | "
        f"difference to {baseline or 'baseline'} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    fewest = min(len(group) for group in groups.values())
    for (budget, method), group in groups.items():
        pairs = [
            row.miou - other.miou
            for row in group
            for other in groups.get((budget, baseline or ""), [])
            if row.seed == other.seed and method != baseline
        ]
        teachers = [row.teacher_miou for row in group if row.teacher_miou is not None]
        cells_ = [
            method,
            budget or "-",
            str(len(group)),
            mean_and_deviation([row.student_miou for row in group]),
            mean_and_deviation(teachers) if teachers else "-",
            mean_and_deviation([row.boundary_miou for row in group]),
            _difference(pairs),
        ]
        lines.append("| " + " | ".join(cells_) + " |")
    if fewest < 5:
        lines += [
            "",
            f"With {fewest} seeds in a cell, small differences cannot be told from chance.",
        ]
    return "\n".join(lines)


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


def _difference(pairs: Sequence[float]) -> str:
    if not pairs:
        return "-"
    text = f"{statistics.fmean(pairs):+.1f}"
    if len(pairs) > 1:
        low, high = bootstrap_interval(pairs)
        text += f" [{low:+.1f}, {high:+.1f}]"
    return text


def _status(
    study: Study,
    overrides: Sequence[str],
    running: Mapping[str, tuple[Cell, Any, float]],
    seconds: Sequence[float],
    places: int,
) -> str:
    """A line for each run: finished with its mIoU, running, or to do; and the time left."""
    lines, left = [], 0
    now_running = [cell for cell, _, _ in running.values()]
    for cell in cells(study, overrides):
        result = read_result(cell, study)
        state = "to do"
        if result is not None:
            state = f"{result.miou:.1f} %"
        elif cell in now_running:
            state = "running"
        left += result is None
        lines.append(f"  {cell.method:<24} {cell.budget:<12} seed {cell.seed}  {state}")
    if seconds:
        minutes = statistics.fmean(seconds) * left / places / 60
        lines.append(f"  {left} left, about {minutes:.0f} minutes")
    return "\n".join(["", *lines])
