"""Studies: which runs they make, what they skip and resume, and the table at the end."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import TINY

from reco import cli
from reco.config import CONFIG_FOLDER, ConfigError, config_name, load_config
from reco.data.datasets import synthetic
from reco.runs.folder import run_path
from reco.runs.results import ClassIoU, Point, Result, read_csv
from reco.studies import runner
from reco.studies.progress import Progress
from reco.studies.runner import run_study
from reco.studies.study import load_study, study_runs
from reco.studies.tables import results_table
from reco.training.build import build_run
from reco.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
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
    finished = Progress(study, study_runs(study, overrides)).finished
    return [row for rows in finished.values() for row in rows]


def test_runs_pair_methods_on_seed_and_split(study):
    found = study_runs(study, ["train.iterations=7"])
    assert len(found) == 8
    assert len({run.folder for run in found}) == 8
    for run in found:
        assert run.config.train.seed == run.config.dataset.split_seed == run.seed
        assert run.config.dataset.labelled_images == int(run.budget)
        assert run.config.reco.enabled == (run.method == "with ReCo")
        assert run.config.train.iterations == 7


class Command:
    """A command that runs in this process; a list of exit codes says which end early, and how."""

    codes: ClassVar[list[int]] = []
    started: ClassVar[list[list[str]]] = []

    def __init__(self, words, log):
        self.started.append(words)
        self.returncode = self.codes.pop(0) if self.codes else 0
        if self.returncode:
            log.write_text("a warning\nerror: out of luck\n")
        else:
            self.returncode = cli.main(words[1:])

    def poll(self):
        return self.returncode


@pytest.fixture
def here(monkeypatch):
    """Runs of studies stay in this process."""
    monkeypatch.setattr(Command, "codes", [])
    monkeypatch.setattr(Command, "started", [])
    monkeypatch.setattr(runner, "start_command", Command)
    monkeypatch.setattr(runner.time, "sleep", lambda _: None)
    return Command


def test_configurations_are_found_beside_the_study(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "st"
    folder.mkdir()
    (folder / "my own.yaml").write_text("base: demo.yaml\ntrain: {iterations: 7}")
    (folder / "scheme.yaml").write_text("method: {mix: cutmix}")
    text = "config: {}\nseeds: [0]\nmethods:\n  a: {{base: {}}}\n"
    study = folder / "my study.yaml"
    study.write_text(text.format("my own.yaml", "scheme.yaml"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "st/my study.yaml", "--commands"]) == 0
    words = shlex.split(capsys.readouterr().out)
    train = cli.command_parser().parse_args(words[1:])
    assert train.config == ["st/my own.yaml"]
    config = load_config(train.config, train.overrides)
    assert (config.train.iterations, config.method.mix) == (7, "cutmix")

    study.write_text(text.format("own.yaml", "scheme.yaml"))
    with pytest.raises(ConfigError, match=r"my study\.yaml: config = 'own\.yaml': no such file in"):
        load_study(study)
    study.write_text(text.format("my own.yaml", "shceme.yaml"))
    with pytest.raises(ConfigError, match=r"methods: a: base = .*did you mean 'scheme\.yaml'"):
        load_study(study)


def test_a_study_may_be_called_as_its_configuration(tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text("config: demo.yaml\nseeds: [0]\nmethods: {a: }\n")
    study = load_study(path)
    assert study.config == "demo.yaml"
    assert study_runs(study)[0].config.dataset.name == "synthetic"


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(study, tiny, here, capsys):
    overrides = [o for o in TINY if not o.startswith("dataset.labelled_images")]
    tiny()  # for its small data set
    study = replace(study, budgets={"3": {"dataset.labelled_images": 3}})
    study_file = study.path.read_text().replace("  4: {dataset.labelled_images: 4}\n", "")
    study.path.write_text(study_file)

    # The third run was stopped half-way once.
    third = study_runs(study, overrides)[2]
    stopped = Trainer(build_run(third.config), third.folder)
    step = stopped.train_step

    def step_and_stop(*batch):
        stopped.stop_signal = 2
        return step(*batch)

    stopped.train_step = step_and_stop
    assert not stopped.run().finished
    assert finished_rows(study, overrides) == []

    # The second one fails, and the others go on. A run is two commands: training and evaluation.
    here.codes[:] = [0, 0, 1]
    assert not run_study(study, overrides)
    out = capsys.readouterr().out
    assert "stopped at 1" in out
    assert "with ReCo, 3, seed 0 failed: error: out of luck" in out
    assert re.search(r"with ReCo  3 +failed ", out)  # in the table too
    assert [words[1] for words in here.started].count("train") == 4
    assert len(finished_rows(study, overrides)) == 6
    text = (study.results_dir / "results.md").read_text()
    assert "3 of 4 runs finished, 1 failed" in text
    assert "- with ReCo, 3, seed 0 failed: error: out of luck" in text

    here.started.clear()
    assert run_study(study, overrides)
    assert [words[1] for words in here.started] == ["train", "eval"]
    finished = finished_rows(study, overrides)
    assert len(finished) == 8
    assert {result.split for result in finished} == {"val", "test"}
    assert read_csv(study.results_dir / "results.csv", Result) == finished
    points = read_csv(study.results_dir / "curves.csv", Point)
    assert {point.iteration for point in points} == {4}
    assert len(points) == 4
    by_class = read_csv(study.results_dir / "classes.csv", ClassIoU)
    assert len(by_class) == 8 * len({row.class_name for row in by_class})
    table = (study.results_dir / "results.md").read_text()
    assert results_table(finished, "plain") in table
    assert "4 of 4 runs finished" in table
    assert "failed" not in table

    # Once more: nothing is left to do, and the table is the same; so it is where it is collected.
    here.started.clear()
    assert run_study(study, overrides)
    assert here.started == []
    assert (study.results_dir / "results.md").read_text() == table
    (study.results_dir / "results.md").unlink()
    assert cli.main(["study", str(study.path), "--collect", "--set", *overrides]) == 0
    assert (study.results_dir / "results.md").read_text() == table


def test_commands_make_the_same_runs(study, capsys):
    """The commands of a queue train the study's configurations in the folders that it reads."""
    overrides = ["model.weights=/data/with space", "dataset.scale_range=[0.5, 2.0]"]
    assert cli.main(["study", str(study.path), "--commands", "--set", *overrides]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, run in zip(lines, study_runs(study, overrides), strict=True):
        training, evaluation = (shlex.split(command)[1:] for command in line.split(" && "))
        arguments = cli.command_parser().parse_args(training)
        assert arguments.resume is True
        assert load_config(arguments.config, arguments.overrides) == run.config
        assert run_path(run.config, config_name(arguments.config)) == run.folder
        arguments = cli.command_parser().parse_args(evaluation)
        assert (arguments.checkpoint, arguments.split) == ([run.folder / "last.pt"], "test")


@pytest.mark.skipif(os.name == "nt", reason="bash and sed of a cluster")
def test_the_line_for_a_slurm_array_starts_the_run_of_its_number(study, capfd, tmp_path):
    """As docs/experiments.md shows it, with the words that the shell hands to ``reco``."""
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"SLURM array by `([^`]+)`", page)
    words = ["study", str(study.path), "--commands", "--set", "model.weights=/data/with space"]
    assert cli.main(words) == 0
    shown = capfd.readouterr().out
    (tmp_path / "runs.txt").write_text(shown)
    reco = tmp_path / "reco"
    reco.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    reco.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": "3"}
    subprocess.run(["bash", "-c", line], env=environment, cwd=tmp_path, check=True)
    training, evaluation = shown.splitlines()[2].split(" && ")
    expected = [*shlex.split(training)[1:], *shlex.split(evaluation)[1:]]
    assert capfd.readouterr().out.splitlines() == expected


def test_ctrl_c_stops_every_run_once(study, monkeypatch):
    """Each gets the signal from the study, and the study returns False."""
    jobs = []

    class Running:
        returncode = None

        def __init__(self, words, log):
            self.words, self.terminated, self.waited = words, 0, 0
            jobs.append(self)

        def poll(self):
            raise KeyboardInterrupt

        def terminate(self):
            self.terminated += 1

        def wait(self):
            self.waited += 1

    monkeypatch.setattr(runner, "start_command", Running)
    monkeypatch.setattr(runner.time, "sleep", lambda _: None)
    assert not run_study(study, devices=["cpu", "cpu"])
    assert [(job.terminated, job.waited) for job in jobs] == [(1, 1), (1, 1)]
    assert all("train.device=cpu" in job.words for job in jobs)


def test_nothing_starts_that_would_fail_later(study, here, tmp_path):
    for overrides, devices, error in (
        (["dataset.name=camvid", f"dataset.root={tmp_path}/none"], [], FileNotFoundError),
        ([], ["cpu", "gpu"], ValueError),
        (["train.device=gpu"], [], ValueError),
    ):
        with pytest.raises(error):
            run_study(study, overrides, devices)
    listed = {"dataset.labelled_images": "all", "dataset.labelled_ids": "/nowhere.txt"}
    with pytest.raises(FileNotFoundError):
        run_study(replace(study, budgets={"x": listed}))
    for count, message in (
        (10**6, "plain, x, seed 0: .*labelled_images = 1000000: expected all, or 1 to"),
        (synthetic.SCENES["train"], "plain, x, seed 0: .*none is left as unlabelled"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_study(replace(study, budgets={"x": {"dataset.labelled_images": count}}))
    assert here.started == []


@pytest.mark.slow
def test_a_run_that_fails_says_why(study, tmp_path, monkeypatch):
    """In a new process, which Ctrl-C in the terminal does not reach."""
    monkeypatch.setattr(runner, "check_data", lambda *_: None)
    overrides = ["dataset.name=camvid", f"dataset.root={tmp_path}/none"]
    one = replace(study, seeds=(0,), methods={"plain": {}}, budgets={"": {}})
    assert not run_study(one, overrides)
    summary, reason = (one.results_dir / "results.md").read_text().splitlines()[-2:]
    assert summary == "0 of 1 runs finished, 1 failed"
    assert reason.startswith(f"- plain, seed 0 failed: error: {tmp_path}/none: no such folder")
    assert reason.endswith(".log)")


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_a_command_has_a_process_group_of_its_own(tmp_path):
    process = runner.start_command(["reco", "--help"], tmp_path / "log")
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert process.wait() == 0
    assert "COMMAND" in (tmp_path / "log").read_text()


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
        ("config: demo.yaml\nmethods: {a: {}, a: {}}", "the key 'a' is there twice"),
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
        ("{a: , b: {}}", [], "«a, seed 0» and «b, seed 0» are the same run"),
        ("{a: }", ["train.seed=1"], r"train\.seed = 1: the seeds .* here \[0, 1, 2\]"),
        ("{a: {train.seed: 4}}", [], r"train\.seed = 4: the seeds of a study are its key seeds"),
        ("{a: }", ["output_dir=x"], "output_dir = 'x'.*--output-dir"),
    ],
)
def test_runs_that_cannot_be_are_named(tmp_path, changes, overrides, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"config: demo.yaml\nmethods: {changes}")
    overrides = [*overrides, "dataset.split_seed=0"]
    with pytest.raises(ConfigError, match=message):
        study_runs(load_study(path), overrides)


def test_what_a_study_needs_is_named_before_it_starts(study, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"tables of a study needs scipy: pip install scipy$"):
        run_study(study)
    assert here.started == []


def test_changes_may_be_written_section_by_section(tmp_path):
    path = tmp_path / "sections.yaml"
    path.write_text(
        "config: demo.yaml\nbaseline: 1\nset: {train: {iterations: 77}}\n"
        "methods: {1: {train: {learning_rate: 0.1}}, off: {train.learning_rate: 0.2}}"
    )
    assert load_study(path).baseline == "1"
    found = study_runs(load_study(path))
    assert [run.method for run in found[:2]] == ["1", "False"]
    assert [run.config.train.learning_rate for run in found[:2]] == [0.1, 0.2]
    assert {run.config.train.iterations for run in found} == {77}


@pytest.mark.parametrize(
    "path", sorted((CONFIG_FOLDER / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_studies_load(path, monkeypatch):
    runs = study_runs(load_study(path))
    assert runs
    monkeypatch.chdir(path.parent)  # where some have the name of their configuration
    assert study_runs(load_study(path.name)) == runs


def test_studies_share_equal_runs():
    claim = load_study("studies/camvid_5shot.yaml")
    ablation = load_study("studies/ablation.yaml")
    folders = [{run.folder for run in study_runs(each)} for each in (claim, ablation)]
    shared = folders[0] & folders[1]
    assert shared
    assert claim.results_dir != ablation.results_dir
    on_cpu = load_study("studies/ablation.yaml", "camvid_cpu.yaml")
    assert study_runs(on_cpu)[0].config.dataset.crop_size == (160, 160)
    assert on_cpu.results_dir == ablation.output_dir / "ablation-camvid_cpu"
