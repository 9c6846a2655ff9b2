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
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reco.checkpoint import load_checkpoint
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
        budgets=content.get("budgets", {"": {}}),
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
    running: dict[str, tuple[Cell, multiprocessing.process.BaseProcess, float]] = {}
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
        config = _on_device(config, device)
    resume = (cell.folder / "last.pt").exists() or (cell.folder / "previous.pt").exists()
    outcome = train(config, cell.folder, resume=resume)
    if outcome.finished and test_split:
        evaluate_checkpoints([cell.folder / "last.pt"], split=test_split, device=device or "auto")


def _on_device(config: Config, device: str) -> Config:
    from dataclasses import replace

    return replace(config, train=replace(config.train, device=device))


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
