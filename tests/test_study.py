"""Studies: which runs they make, what they skip and resume, and the table at the end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from typing import ClassVar

import pytest
from conftest import TINY

from reco.config import CONFIG_FOLDER, ConfigError
from reco.data import synthetic
from reco.runs.results import ClassIoU, Point, Result, read_csv
from reco.studies import runner
from reco.studies.runner import read_cell, run_study
from reco.studies.study import cells, load_study
from reco.studies.tables import results_table
from reco.training.trainer import Trainer

STUDY = """
config: demo.yaml
output_dir: {folder}
seeds: [0, 1]
baseline: plain
test_split: test
methods:
  plain: {{reco.enabled: false}}
  with ReCo: {{}}
budgets:
  3: {{dataset.labelled_images: 3}}
  4: {{dataset.labelled_images: 4}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.format(folder=tmp_path / "study"))
    return load_study(path)


def finished_rows(study, overrides):
    return [row for cell in cells(study, overrides) for row in read_cell(cell, study)]


def test_cells_pair_methods_on_seed_and_split(study):
    found = cells(study, ["train.iterations=7"])
    assert len(found) == 8
    assert len({cell.folder for cell in found}) == 8
    for cell in found:
        assert cell.config.train.seed == cell.config.dataset.split_seed == cell.seed
        assert cell.config.dataset.labelled_images == int(cell.budget)
        assert cell.config.reco.enabled == (cell.method == "with ReCo")
        assert cell.config.train.iterations == 7


class Here:
    """A process that runs in this one; a list of exit codes says which end early, and how."""

    codes: ClassVar[list[int]] = []
    started: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, target, args):
        self.arguments = args
        self.exitcode: int | None = None
        self.terminated = False

    def start(self):
        cell, device, test_split, log = self.arguments
        Here.started.append((cell.title, device))
        code = Here.codes.pop(0) if Here.codes else 0
        if code:
            log.write_text("Traceback\nRuntimeError: out of luck\n")
        else:
            runner.train_cell(cell, device, test_split)
        self.exitcode = code

    def join(self, timeout=None):
        pass

    def terminate(self):
        self.terminated = True


@pytest.fixture
def here(monkeypatch):
    """Runs of studies stay in this process."""
    monkeypatch.setattr(Here, "codes", [])
    monkeypatch.setattr(Here, "started", [])
    context = type("Context", (), {"Process": Here})
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)
    return Here


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(study, tiny, here, monkeypatch, capsys):
    overrides = [o for o in TINY if not o.startswith("dataset.labelled_images")]
    tiny()  # for its small data set

    # The third run was stopped half-way once.
    third = cells(study, overrides)[2]
    stopped = Trainer(third.config, third.folder)
    step = stopped.train_step

    def step_and_stop(*batch):
        stopped.stop_signal = 2
        return step(*batch)

    stopped.train_step = step_and_stop
    assert not stopped.run().finished
    assert finished_rows(study, overrides) == []

    # The second one fails, and the others go on.
    here.codes[:] = [0, 1]
    assert not run_study(study, overrides)
    out = capsys.readouterr().out
    assert "stopped at 1" in out
    assert "with ReCo, 3, seed 0 failed: RuntimeError: out of luck" in out
    assert re.search(r"with ReCo  3 +failed ", out)  # in the table too
    assert len(here.started) == 8
    assert len(finished_rows(study, overrides)) == 14
    text = (study.results_dir / "results.md").read_text()
    assert "7 of 8 runs finished, 1 failed" in text
    assert "- with ReCo, 3, seed 0 failed: RuntimeError: out of luck" in text

    here.started.clear()
    assert run_study(study, overrides)
    assert here.started == [("with ReCo, 3, seed 0", "")]
    finished = finished_rows(study, overrides)
    assert len(finished) == 16
    assert {result.split for result in finished} == {"val", "test"}
    assert read_csv(study.results_dir / "results.csv", Result) == finished
    points = read_csv(study.results_dir / "curves.csv", Point)
    assert {point.iteration for point in points} == {4}
    assert len(points) == 8
    by_class = read_csv(study.results_dir / "classes.csv", ClassIoU)
    assert len(by_class) == 16 * len({row.class_name for row in by_class})
    table = (study.results_dir / "results.md").read_text()
    assert results_table(finished, "plain") in table
    assert "8 of 8 runs finished" in table
    assert "failed" not in table

    # Once more: nothing is left to do, and the table is the same.
    monkeypatch.setattr(runner, "train", None)
    assert run_study(study, overrides)
    assert (study.results_dir / "results.md").read_text() == table


def test_ctrl_c_stops_every_run_once(study, here, monkeypatch):
    """Both get the signal from the study, and the study says that it is not finished."""
    jobs = []

    class Running(Here):
        def start(self):
            jobs.append(self)

        def join(self, timeout=None):
            if timeout is not None and len(jobs) == 2:
                raise KeyboardInterrupt
            assert timeout is not None or self.terminated

    context = type("Context", (), {"Process": Running})
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)
    assert not run_study(study, devices=["cpu", "cpu"])
    assert [job.terminated for job in jobs] == [True, True]
    assert [job.arguments[1] for job in jobs] == ["cpu", "cpu"]


def test_nothing_starts_that_would_fail_later(study, here, tmp_path):
    for overrides, devices, error in (
        (["dataset.name=camvid", f"dataset.root={tmp_path}/none"], [], FileNotFoundError),
        ([], ["cpu", "gpu"], ValueError),
        (["train.device=gpu"], [], ValueError),
        (["dataset.labelled_ids=/nowhere.txt"], [], FileNotFoundError),
    ):
        with pytest.raises(error):
            run_study(study, overrides, devices)
    for count, message in (
        (10**6, "plain, x, seed 0: .*labelled_images = 1000000: expected all, or 1 to"),
        (synthetic.SCENES["train"], "plain, x, seed 0: .*none is left as unlabelled"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_study(replace(study, budgets={"x": {"dataset.labelled_images": count}}))
    assert here.started == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
def test_a_run_that_fails_says_why(study, tmp_path):
    """In a process of its own, which Ctrl-C in the terminal does not reach."""
    overrides = ["dataset.name=camvid", f"dataset.root={tmp_path}/none"]
    progress = runner.Progress(study, cells(study, overrides))
    first = progress.cells[0]
    job = runner._start(first, "", progress, multiprocessing.get_context("spawn"))
    progress.running.append(job)
    assert progress.summary() == "0 of 8 runs finished, 1 running, 7 to do"
    assert "running" in progress.table()
    os.waitid(os.P_PID, job.process.pid, os.WEXITED | os.WNOWAIT)
    assert os.getpgid(job.process.pid) == job.process.pid
    job.process.join()
    runner._end(job, progress)
    log = progress.log_path(first)
    assert "Traceback" in log.read_text()
    summary, reason = progress.summary().splitlines()
    assert summary == "0 of 8 runs finished, 7 to do, 1 failed"
    assert reason.startswith("- plain, 3, seed 0 failed: FileNotFoundError: ")
    assert f"{tmp_path}/none: no such folder" in reason
    assert reason.endswith(f"(all of it: {log})")


def test_a_run_is_one_process_at_a_time(tmp_path):
    """The second waits until the first is at its end."""
    folder = tmp_path / "runs" / "abc-s0"
    context = multiprocessing.get_context("fork")
    order = context.SimpleQueue()

    def second():
        with runner._sole_use(folder):
            order.put("second")

    with runner._sole_use(folder):
        process = context.Process(target=second)
        process.start()
        process.join(timeout=0.3)
        order.put("first")
    process.join()
    assert [order.get(), order.get()] == ["first", "second"]


def test_a_run_stops_when_the_study_is_killed():
    """A run gets SIGTERM, on which the trainer writes a checkpoint, once its parent ends."""
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=time.sleep, args=(0.1,))
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(parent.exitcode))
    try:
        parent.start()
        runner._stop_after(parent)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: demo.yaml", "config and methods"),
        ("config: demo.yaml\nmethods: {a: {}}\nseed: [1]", "seed: unknown key"),
        ("config: demo.yaml\nmethods: {a: {}}\nbaseline: b", "baseline = 'b'"),
        ("config: demo.yaml\nmethods:", "methods = None: expected a name for each"),
        ("config: demo.yaml\nmethods: [a, b]", "methods = .*: expected a name for each"),
        ("config: demo.yaml\nmethods: {a: 1}", "methods = .*: expected a name for each"),
        ("config: demo.yaml\nmethods: {a: {}}\nseeds: 3", r"seeds = 3: expected a list"),
        ("config: demo.yaml\nmethods: {a: {}}\nseeds: [0, 0]", r"seeds = .*: expected a list"),
        ("config: demo.yaml\nmethods: {a: {}}\nseeds: []", r"seeds = .*: expected a list"),
        ("config: demo.yaml\nmethods: {a: {}}\nset: 1", "set = 1: expected the keys"),
        ("config: demo.yaml\nmethods: {a: {}}\nbudgets:", "budgets = None"),
        ("config: demo.yaml\nmethods: {a: {}}\ntest_split: tset", "test_split = 'tset'"),
        ("config: 1\nmethods: {a: {}}", "config = 1: expected text"),
        ("config: demo.yaml\nmethods: {a: {}}\noutput_dir: $UNSET_HERE/x", "variable UNSET_HERE"),
        ("config: demo.yaml\nmethods: {a: {}, a: {}}", "the key 'a' stands twice"),
        ("config: demo.yaml\nmethods: {a: {}", "not a YAML file"),
    ],
)
def test_wrong_studies_are_named(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_study(path)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ("{a: , b: {reco.enabld: false}}", [], "methods: b: reco.enabld: unknown key.*enabled"),
        ("{a: , b: {}}", [], "«a, seed 0» and «b, seed 0» are one and the same run"),
        ("{a: }", ["train.seed=1"], "«a, seed 0» and «a, seed 1».*does --set"),
        ("{a: }", ["output_dir=x"], "output_dir = 'x'.*--output-dir"),
    ],
)
def test_runs_that_cannot_be_are_named(tmp_path, changes, overrides, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"config: demo.yaml\nmethods: {changes}")
    overrides = [*overrides, "dataset.split_seed=0"]
    with pytest.raises(ConfigError, match=message):
        cells(load_study(path), overrides)


def test_changes_may_be_written_section_by_section(tmp_path):
    path = tmp_path / "sections.yaml"
    path.write_text(
        "config: demo.yaml\nbaseline: 1\nset: {train: {iterations: 77}}\n"
        "methods: {1: {train: {learning_rate: 0.1}}, off: {train.learning_rate: 0.2}}"
    )
    assert load_study(path).baseline == "1"
    found = cells(load_study(path))
    assert [cell.method for cell in found[:2]] == ["1", "False"]
    assert [cell.config.train.learning_rate for cell in found[:2]] == [0.1, 0.2]
    assert {cell.config.train.iterations for cell in found} == {77}


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("ablation", 39),
        ("camvid_5shot", 12),
        ("convergence", 6),
        ("demo", 9),
        ("demo_table", 9),
        ("full_labels", 96),
        ("partial_labels", 36),
        ("pseudo_labels", 12),
    ],
)
def test_the_shipped_studies_load(name, runs):
    assert {path.stem for path in (CONFIG_FOLDER / "studies").glob("*.yaml")} >= {name}
    found = cells(load_study(f"studies/{name}.yaml"))
    assert len(found) == len({cell.folder for cell in found}) == runs


def test_every_shipped_study_is_tested():
    (mark,) = test_the_shipped_studies_load.pytestmark
    names = {name for name, _ in mark.args[1]}
    assert {path.stem for path in (CONFIG_FOLDER / "studies").glob("*.yaml")} == names


def test_studies_share_equal_runs():
    claim = load_study("studies/camvid_5shot.yaml")
    ablation = load_study("studies/ablation.yaml")
    shared = {cell.folder for cell in cells(claim)} & {cell.folder for cell in cells(ablation)}
    assert len(shared) == 9  # ClassMix alone, with ReCo, with random sampling; three seeds
    assert claim.results_dir != ablation.results_dir
    on_cpu = load_study("studies/ablation.yaml", "camvid_cpu.yaml")
    assert cells(on_cpu)[0].config.dataset.crop_size == (160, 160)
    assert on_cpu.results_dir == ablation.output_dir / "ablation-camvid_cpu"
