"""Many runs, one table: methods x budgets x seeds of one experiment.

A study file names a configuration and what its runs change::

    config: demo.yaml
    seeds: [0, 1, 2]
    set: {train.iterations: 2000}
    baseline: ClassMix
    methods:
      ClassMix: {reco.enabled: false}
      ClassMix + ReCo: {}
    budgets:
      10 images: {}

A seed is both that of the run and that of the split, so that methods are compared pair by pair.
Runs are kept in ``runs/studies/runs`` (or below another ``output_dir``) by their configuration, so
that studies share those that they have in common.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reco import figures
from reco.config import Config, ConfigError, find_config, load_config
from reco.evaluation import evaluate_checkpoints
from reco.results import Point, Result, read_points, read_results, results_table, write_csv
from reco.run_folder import run_path
from reco.trainer import train

_KEYS = {"config", "output_dir", "seeds", "set", "baseline", "methods", "budgets", "test_split"}


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
    shared: Mapping[str, Any] = field(default_factory=dict)  # keys that all runs change
    test_split: str | None = None  # evaluate the last checkpoint of each run on it too

    @property
    def results_dir(self) -> Path:
        """Where tables and pictures go; the runs are in ``output_dir/runs``."""
        return self.output_dir / self.name


class Cell(NamedTuple):
    """One run of a study."""

    method: str
    budget: str
    seed: int
    config: Config
    folder: Path


def load_study(path: str | Path, config: str | None = None) -> Study:
    """Read a study file: a path, or a name in ``configs/`` such as ``studies/demo.yaml``.

    Args:
        path: of the study file.
        config: take the runs from this configuration instead of the study's own.

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
        name=found.stem if config is None else f"{found.stem}-{Path(config).stem}",
        config=config or content["config"],
        output_dir=Path(content.get("output_dir", "runs/studies")),
        seeds=tuple(content.get("seeds", (0, 1, 2))),
        methods=content["methods"],
        budgets={str(name): keys for name, keys in content.get("budgets", {"": {}}).items()},
        baseline=baseline,
        shared=content.get("set", {}),
        test_split=content.get("test_split"),
    )


def cells(study: Study, overrides: Sequence[str] = ()) -> list[Cell]:
    """The runs of a study, seed by seed, so that an early table already compares methods."""
    result = []
    for seed in study.seeds:
        for budget, budget_keys in study.budgets.items():
            for method, method_keys in study.methods.items():
                keys = {
                    **study.shared,
                    **budget_keys,
                    **method_keys,
                    "train.seed": seed,
                    "dataset.split_seed": seed,
                    "output_dir": str(study.output_dir / "runs"),
                }
                sets = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
                config = load_config(study.config, [*sets, *overrides])
                # Equal runs of several studies are one run, whatever a study calls them.
                folder = run_path(config, Path(study.config).stem)
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
    unfinished = [cell for cell in cells(study, overrides) if not read_cell(cell, study)]
    todo = list({cell.folder: cell for cell in unfinished}.values())
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
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_stop_after, args=(parent,), daemon=True).start()
    config = cell.config
    if device:
        config = replace(config, train=replace(config.train, device=device))
    outcome = train(config, cell.folder, resume=cell.folder.exists())
    if outcome.finished and test_split:
        evaluate_checkpoints([cell.folder / "last.pt"], split=test_split, device=device or "auto")


def _stop_after(parent: multiprocessing.process.BaseProcess) -> None:
    """When the study itself is killed, its runs write a checkpoint and stop.

    Else they would go on beside those of the study's next start, in the same folders.
    """
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def read_cell(cell: Cell, study: Study) -> list[Result]:
    """The figures of a run, a row for each split; none while it is not finished."""
    return read_results(
        cell.folder,
        cell.config.train.iterations,
        study.test_split,
        method=cell.method,
        budget=cell.budget,
        seed=cell.seed,
        run=cell.folder.relative_to(study.output_dir).as_posix(),
    )


def write_results(study: Study, overrides: Sequence[str] = ()) -> None:
    """Write tables, CSV files and, with matplotlib, pictures of what is finished."""
    rows, points = [], []
    for cell in cells(study, overrides):
        of_cell = read_cell(cell, study)
        rows += of_cell
        if of_cell:
            identity = {"method": cell.method, "budget": cell.budget, "seed": cell.seed}
            points += read_points(cell.folder, **identity)
    folder = study.results_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(rows, Result, folder / "results.csv")
    write_csv(points, Point, folder / "curves.csv")
    text = f"# {study.name}\n\n{results_table(rows, study.baseline)}\n"
    if rows and find_spec("matplotlib") is not None:
        figures.study_results(rows).savefig(folder / "results.png", dpi=150)
        figures.study_curves(points).savefig(folder / "curves.png", dpi=150)
        text += "\n![mIoU of each run](results.png)\n\n![over the iterations](curves.png)\n"
    (folder / "results.md").write_text(text, encoding="utf-8")


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
        finished = read_cell(cell, study)
        state = "to do"
        if finished:
            state = f"{finished[0].miou:.1f} %"
        elif cell in now_running:
            state = "running"
        left += not finished
        lines.append(f"  {cell.method:<24} {cell.budget:<12} seed {cell.seed}  {state}")
    if seconds:
        minutes = statistics.fmean(seconds) * left / places / 60
        lines.append(f"  {left} left, about {minutes:.0f} minutes")
    return "\n".join(["", *lines])
