"""Studies: which runs they make, what they skip and resume, and the table at the end."""

from __future__ import annotations

import multiprocessing
import signal
import time

import pytest
from conftest import TINY

from reco import study as module
from reco.config import CONFIG_FOLDER, ConfigError
from reco.results import Point, Result, read_csv, results_table
from reco.study import cells, load_study, read_cell, run_study
from reco.trainer import Trainer

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


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(study, tiny, monkeypatch, capsys):
    overrides = [o for o in TINY if not o.startswith("dataset.labelled_images")]
    tiny()  # for its small data set; runs then stay in this process, which knows it

    class Here:
        """A process that is this one."""

        exitcode: int | None = None

        def __init__(self, target, args):
            self.run = lambda: target(*args)

        def start(self):
            self.run()
            self.exitcode = 0

        def join(self, timeout=None):
            pass

    context = type("Context", (), {"Process": Here})
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: context)

    # The third run was stopped half-way once, and two were finished.
    third = cells(study, overrides)[2]
    stopped = Trainer(third.config, third.folder)
    step = stopped.train_step

    def step_and_stop(*batch):
        stopped.stop_signal = 2
        return step(*batch)

    stopped.train_step = step_and_stop
    assert not stopped.run().finished
    assert finished_rows(study, overrides) == []

    assert run_study(study, overrides)
    finished = finished_rows(study, overrides)
    assert len(finished) == 16
    assert {result.split for result in finished} == {"val", "test"}
    assert read_csv(study.results_dir / "results.csv", Result) == finished
    points = read_csv(study.results_dir / "curves.csv", Point)
    assert {point.iteration for point in points} == {4}
    assert len(points) == 8
    table = (study.results_dir / "results.md").read_text()
    assert results_table(finished, "plain") in table
    assert "8 left" not in capsys.readouterr().out

    # Once more: nothing is left to do, and the table is the same.
    monkeypatch.setattr(module, "train", None)
    assert run_study(study, overrides)
    assert (study.results_dir / "results.md").read_text() == table


def test_a_run_stops_when_the_study_is_killed():
    """A run gets SIGTERM, on which the trainer writes a checkpoint, once its parent ends."""
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=time.sleep, args=(0.1,))
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(parent.exitcode))
    try:
        parent.start()
        module._stop_after(parent)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: demo.yaml", "config and methods"),
        ("config: demo.yaml\nmethods: {a: {}}\nseed: [1]", "seed: unknown key"),
        ("config: demo.yaml\nmethods: {a: {}}\nbaseline: b", "baseline = 'b'"),
    ],
)
def test_wrong_studies_are_named(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_study(path)


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
    assert cells(on_cpu)[0].config.dataset.image_size == (180, 240)
    assert on_cpu.results_dir == ablation.output_dir / "ablation-camvid_cpu"
