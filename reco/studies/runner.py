"""Running a study: a process for each run, a table of where they are, results as they come.

What a run prints goes to a log of its own, so that the terminal shows the study: the table at each
change, and below it a bar over the iterations of all runs with the time to go.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from reco import distributed
from reco.files import write_text_whole, write_whole
from reco.inference.evaluate import evaluate_checkpoints
from reco.pictures import plots as figures
from reco.runs.results import (
    ClassIoU,
    Point,
    Result,
    last_iteration,
    read_classes,
    read_points,
    read_results,
    write_csv,
)
from reco.studies.study import Cell, Study, cells, check_data
from reco.studies.tables import results_table
from reco.training.trainer import train


class Job(NamedTuple):
    """A run in a process of its own."""

    cell: Cell
    process: multiprocessing.context.SpawnProcess
    device: str
    log_start: int  # bytes that the run's log had before


@dataclass
class Progress:
    """Where the runs of a study are."""

    study: Study
    cells: Sequence[Cell]
    running: list[Job] = field(default_factory=list)
    # By the folder of the run:
    finished: dict[Path, list[Result]] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)  # why

    def __post_init__(self) -> None:
        for cell in self.cells:
            self.look(cell)

    def look(self, cell: Cell) -> None:
        """Note a run as finished if it is; to be called when nothing writes to it."""
        rows = read_cell(cell, self.study)
        if rows:
            self.finished[cell.folder] = rows

    def unfinished(self) -> list[Cell]:
        """The runs that are not at their end, running and failed ones included."""
        return [cell for cell in self.cells if cell.folder not in self.finished]

    def iterations(self) -> int:
        """Iterations done, over all runs."""
        return sum(last_iteration(cell.folder) for cell in self.cells)

    def log_path(self, cell: Cell) -> Path:
        """What the process of a run prints."""
        name = f"{cell.folder.parent.name}-{cell.folder.name}.log"
        return self.study.results_dir / "logs" / name

    def table(self) -> str:
        """A row for each method and budget, a column for each seed, and a summary."""
        states = {(cell.method, cell.budget, cell.seed): self._state(cell) for cell in self.cells}
        titles = [f"seed {seed}" for seed in self.study.seeds]
        names = {
            (method, budget): f"{method}  {budget}".rstrip()
            for budget in self.study.budgets
            for method in self.study.methods
        }
        first = max(map(len, names.values()))
        rows = [f"{'':<{first}}  " + "".join(f"{title:>16}" for title in titles)]
        for (method, budget), name in names.items():
            row = "".join(f"{states[method, budget, seed]:>16}" for seed in self.study.seeds)
            rows.append(f"{name:<{first}}  {row}")
        return "\n".join(["", *rows, self.summary()])

    def _state(self, cell: Cell) -> str:
        if cell.folder in self.finished:
            return f"{self.finished[cell.folder][0].miou:.1f} %"
        if cell.folder in self.failed:
            return "failed"
        if any(job.cell.folder == cell.folder for job in self.running):
            return "running"
        done = last_iteration(cell.folder)
        return f"stopped at {done:,}" if done else "to do"

    def summary(self) -> str:
        """How many runs are finished, running and left, and which failed and why."""
        left = self.unfinished()
        waiting = len(left) - len(self.running) - len(self.failed)
        counts = {"running": len(self.running), "to do": waiting, "failed": len(self.failed)}
        parts = [f"{number} {state}" for state, number in counts.items() if number]
        done = len(self.cells) - len(left)
        lines = [", ".join([f"{done} of {len(self.cells)} runs finished", *parts])]
        for cell in left:
            if cell.folder in self.failed:
                lines.append(f"- {cell.title} failed: {self.failed[cell.folder]}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write tables, CSV files and, with matplotlib, pictures of what is finished."""
        rows, classes, points = [], [], []
        for cell in self.cells:
            if cell.folder in self.finished:
                rows += self.finished[cell.folder]
                identity = _identity(cell, self.study)
                end = (cell.config.train.iterations, self.study.test_split)
                classes += read_classes(cell.folder, *end, **identity)
                points += read_points(cell.folder, **identity)
        folder = self.study.results_dir
        write_csv(rows, Result, folder / "results.csv")
        write_csv(classes, ClassIoU, folder / "classes.csv")
        write_csv(points, Point, folder / "curves.csv")
        text = f"# {self.study.name}\n\n{results_table(rows, self.study.baseline)}\n"
        if rows and find_spec("matplotlib") is not None:
            for name, figure in (
                ("results", figures.study_results(rows)),
                ("curves", figures.study_curves(points)),
            ):
                write_whole(folder / f"{name}.png", partial(figure.savefig, dpi=150))
            text += "\n![mIoU of each run](results.png)\n\n![over the iterations](curves.png)\n"
        write_text_whole(folder / "results.md", f"{text}\n{self.summary()}\n")


def run_study(study: Study, overrides: Sequence[str] = (), devices: Sequence[str] = ()) -> bool:
    """Run what is not finished, resume what was stopped, and write the results as they come.

    A run that fails is told with its reason, and the others go on. Ctrl-C stops all runs with a
    checkpoint, and so does the end of this process, whatever ended it.

    Args:
        study: what to run.
        overrides: ``key=value`` for all runs, such as ``dataset.root=…``.
        devices: one run at a time on each, e.g. ``cuda:0 cuda:1``; by default one at a time on
            whatever ``train.device`` says.

    Returns:
        Whether every run is finished.

    Raises:
        ConfigError, ValueError, FileNotFoundError: configurations, data or devices that would stop
            a run, before the first one starts.
    """
    progress = Progress(study, cells(study, overrides))
    todo = progress.unfinished()
    check_data(todo, study.test_split)
    for device in devices or {cell.config.train.device for cell in todo}:
        distributed.set_up(device)  # raises where there is no such device
    free = list(devices) or [""]
    context = multiprocessing.get_context("spawn")
    progress.write()
    try:
        with _bar(progress) as bar:
            while todo or progress.running:
                if todo and free:
                    while todo and free:
                        progress.running.append(_start(todo.pop(0), free.pop(0), progress, context))
                    tqdm.write(progress.table())
                for job in list(progress.running):
                    job.process.join(timeout=1.0)
                    if job.process.exitcode is not None:
                        _end(job, progress)
                        free.append(job.device)
                step = progress.iterations() - bar.n
                bar.initial += min(step, 0)  # a run that was killed goes back to its checkpoint
                bar.update(step)
    except KeyboardInterrupt:
        print("stopping: each run writes a checkpoint; the same command goes on from there")
    finally:
        _stop(progress)
        progress.write()
    return not progress.unfinished()


def read_cell(cell: Cell, study: Study) -> list[Result]:
    """The figures of a run, a row for each split; none while it is not finished."""
    end = (cell.config.train.iterations, study.test_split)
    return read_results(cell.folder, *end, **_identity(cell, study))


def _identity(cell: Cell, study: Study) -> dict[str, Any]:
    """What a row of results says of its run."""
    run = cell.folder.relative_to(study.output_dir).as_posix()
    return {"method": cell.method, "budget": cell.budget, "seed": cell.seed, "run": run}


def _bar(progress: Progress) -> tqdm[Any]:
    """Iterations of all runs; a terminal sees them move, a log gets a line a minute."""
    interval = 0.5 if sys.stderr.isatty() else 60
    return tqdm(
        total=sum(cell.config.train.iterations for cell in progress.cells),
        initial=progress.iterations(),
        desc=progress.study.name,
        unit="it",
        smoothing=0,
        mininterval=interval,
        maxinterval=max(interval, 10),
    )


def _start(
    cell: Cell, device: str, progress: Progress, context: multiprocessing.context.SpawnContext
) -> Job:
    log = progress.log_path(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    arguments = (cell, device, progress.study.test_split, log)
    process = context.Process(target=_in_child, args=arguments)
    log_start = log.stat().st_size
    process.start()
    return Job(cell, process, device, log_start)


def _end(job: Job, progress: Progress) -> None:
    """Note how a run ended, and write what there is."""
    progress.running.remove(job)
    progress.look(job.cell)
    if job.process.exitcode and job.cell.folder not in progress.finished:
        log = progress.log_path(job.cell)
        printed = log.read_bytes()[job.log_start :].decode("utf-8", errors="replace").split("\n")
        lines = [line for line in printed if line.strip()]
        reason = lines[-1] if lines else f"exit code {job.process.exitcode}"
        progress.failed[job.cell.folder] = f"{reason} (all of it: {log})"
    progress.write()


def _stop(progress: Progress) -> None:
    """Let the runs write a checkpoint and wait for them."""
    for job in progress.running:
        if os.name == "posix":  # elsewhere it would end them at once, and Ctrl-C reached them
            job.process.terminate()
    for job in progress.running:
        job.process.join()
        progress.look(job.cell)
    progress.running.clear()


def _in_child(cell: Cell, device: str, test_split: str | None, log: Path) -> None:
    """One run, in a process that prints to a log and stops when the study does."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the study alone, which passes it on once
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_stop_after, args=(parent,), daemon=True).start()
    try:
        train_cell(cell, device, test_split)
    except Exception as error:
        traceback.print_exc()
        first, *_ = [*str(error).splitlines(), ""]
        sys.exit(f"{type(error).__name__}: {first}")  # the log's last line


def train_cell(cell: Cell, device: str, test_split: str | None) -> None:
    """Train a run to its end and evaluate it, unless somebody else is at it: then after them."""
    config = cell.config
    if device:
        config = replace(config, train=replace(config.train, device=device))
    with _sole_use(cell.folder):
        outcome = train(config, cell.folder, resume=cell.folder.exists())
        if outcome.finished and test_split:
            last = cell.folder / "last.pt"
            evaluate_checkpoints([last], split=test_split, device=config.train.device)


def _stop_after(parent: multiprocessing.process.BaseProcess) -> None:
    """When the study itself is killed, its runs write a checkpoint and stop.

    Else they would go on beside those of the study's next start, in the same folders.
    """
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in ``folder``, and keep others waiting.

    It may be a run of a study that was killed a moment ago, or of another one that shares it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        if os.name != "posix":
            yield
            return
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Not by closing alone: workers of the data loader have the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)
