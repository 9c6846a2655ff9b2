"""Running a study: a separate process for each run.

``reco study S.yaml --commands`` prints the commands for a queue; this runner starts them, one per
device. The output of a run goes to a log; the terminal shows the table at each change, and below it
a bar over the iterations of all runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from reco import distributed
from reco.config import load_config
from reco.printing import say
from reco.studies.progress import Progress
from reco.studies.study import Study, StudyRun, check_data, study_runs


class Job(NamedTuple):
    """The process of a run, and the commands that follow if it succeeds."""

    run: StudyRun
    device: str
    process: subprocess.Popen[bytes]
    following: list[list[str]]
    log: Path
    log_start: int  # bytes that the log had before


def run_commands(run: StudyRun, study: Study, device: str = "") -> list[list[str]]:
    """Words of the commands that start or resume a run and evaluate it.

    Args:
        run: of the study.
        study: names the configuration that all runs start from.
        device: to train on; that of the configuration where it is empty.
    """
    overrides = run.config.overrides_over(load_config(study.config))
    on_device = [f"train.device={device}"] if device else []
    train = ["reco", "train", "--config", study.config, "--resume", "--set"]
    commands = [[*train, *overrides, *on_device]]
    if study.test_split:
        last = str(run.folder / "last.pt")
        evaluation = ["reco", "eval", "--checkpoint", last, "--split", study.test_split]
        root = run.config.dataset.root  # the checkpoint may have been made with another
        evaluation += ["--set", f"dataset.root={root}"] if root else []
        commands.append([*evaluation, *(["--device", device] if device else [])])
    return commands


def run_study(study: Study, overrides: Sequence[str] = (), devices: Sequence[str] = ()) -> bool:
    """Run what is not finished, resume what was stopped, and write the results as they come.

    A run that fails is reported with its error, and the others go on. Ctrl-C stops all runs with a
    checkpoint.

    Args:
        study: what to run.
        overrides: ``key=value`` for all runs, such as ``dataset.root=…``.
        devices: one run at a time on each, e.g. ``cuda:0 cuda:1``; by default one at a time on
            ``train.device``.

    Returns:
        Whether every run is finished.

    Raises:
        ConfigError, ValueError, FileNotFoundError: configurations, data or devices that would stop
            a run, before the first one starts.
    """
    progress = Progress(study, study_runs(study, overrides))
    todo = progress.to_start()
    check_data(todo, study.test_split)
    for device in devices or {run.config.train.device for run in todo}:
        distributed.find_device(device)  # raises where there is no such device
    free, jobs = list(devices) or [""], list[Job]()
    progress.write()
    try:
        with _bar(progress) as bar:
            while todo or jobs:
                if todo and free:
                    while todo and free:
                        jobs.append(_start(todo.pop(0), free.pop(0), progress))
                    say(progress.table())
                time.sleep(1)
                for job in [job for job in jobs if job.process.poll() is not None]:
                    jobs.remove(job)
                    if job.process.returncode == 0 and job.following:
                        jobs.append(_start_next(job))
                    else:
                        _finish(job, progress)
                        free.append(job.device)
                step = progress.iterations() - bar.n
                bar.initial += min(step, 0)  # a run that was killed goes back to its checkpoint
                bar.update(step)
    except KeyboardInterrupt:
        say("stopping: each run writes a checkpoint; the same command goes on from there")
    finally:
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            job.process.wait()
            progress.running.discard(job.run.folder)
            progress.refresh(job.run)
        progress.write()
    return not progress.unfinished()


def _bar(progress: Progress) -> tqdm[Any]:
    """A progress bar over the iterations of all runs; in a log, a line a minute."""
    interval = 0.5 if sys.stderr.isatty() else 60
    return tqdm(
        total=sum(run.config.train.iterations for run in progress.runs),
        initial=progress.iterations(),
        desc=progress.study.name,
        unit="it",
        smoothing=0,
        mininterval=interval,
        maxinterval=max(interval, 10),
    )


def _start(run: StudyRun, device: str, progress: Progress) -> Job:
    log = progress.study.results_dir / "logs" / f"{run.folder.parent.name}-{run.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    progress.running.add(run.folder)
    command, *following = run_commands(run, progress.study, device)
    log_start = log.stat().st_size
    return Job(run, device, start_command(command, log), following, log, log_start)


def _start_next(job: Job) -> Job:
    command, *following = job.following
    return job._replace(process=start_command(command, job.log), following=following)


def start_command(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``reco …`` in a new process group, which the study stops on Ctrl-C."""
    words = [sys.executable, "-m", "reco.cli", *command[1:]]
    with log.open("ab") as file:
        return subprocess.Popen(
            words, stdout=file, stderr=file, start_new_session=os.name == "posix"
        )


def _finish(job: Job, progress: Progress) -> None:
    progress.running.discard(job.run.folder)
    if not progress.refresh(job.run):
        printed = job.log.read_bytes()[job.log_start :].decode("utf-8", errors="replace")
        lines = [line for line in printed.split("\n") if line.strip()]
        reason = lines[-1] if lines else f"exit code {job.process.returncode}"
        progress.failed[job.run.folder] = f"{reason} (log: {job.log})"
    progress.write()
