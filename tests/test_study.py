"""Studies: which runs they make, what they skip and resume, and the table at the end."""

from __future__ import annotations

import statistics

import pytest
from conftest import TINY

from reco import study as module
from reco.config import ConfigError
from reco.study import (
    Result,
    bootstrap_interval,
    cells,
    load_study,
    read_csv,
    results,
    results_table,
    run_study,
    write_csv,
)
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


def row(method: str, seed: int, student: float, teacher: float | None, budget: str = "") -> Result:
    return Result(method, budget, seed, 9, "val", student, teacher, 50.0, 30.0, teacher, "abc", "r")


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
    assert results(study, overrides) == []

    assert run_study(study, overrides)
    finished = results(study, overrides)
    assert len(finished) == 8
    assert {result.split for result in finished} == {"test"}
    assert read_csv(study.output_dir / "results.csv") == finished
    table = (study.output_dir / "results.md").read_text()
    assert results_table(finished, "plain") in table
    assert "8 left" not in capsys.readouterr().out

    # Once more: nothing is left to do, and the table is the same.
    monkeypatch.setattr(module, "train", None)
    assert run_study(study, overrides)
    assert (study.output_dir / "results.md").read_text() == table


def test_table_by_hand(tmp_path):
    rows = [
        row("plain", 0, 40.0, 42.0),
        row("plain", 1, 41.0, 44.0),
        row("ReCo", 0, 43.0, 45.0),
        row("ReCo", 1, 41.5, 45.0),
        row("supervised", 0, 30.0, None),
    ]
    path = tmp_path / "rows.csv"
    write_csv(rows, path)
    assert read_csv(path) == rows
    table = results_table(rows, "plain")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    deviation = statistics.stdev([42, 44])
    assert lines[2][:5] == ["plain", "-", "2", "40.5 ± 0.7", f"43.0 ± {deviation:.1f}"]
    assert lines[2][6] == "-"
    assert lines[3][6] == "+2.0 [+1.0, +3.0]"
    assert lines[4][3:5] == ["30.0", "-"]
    assert lines[4][6] == "-12.0"
    assert "cannot be told from chance" in table
    assert results_table([], None) == "No run is finished yet."


def test_bootstrap_interval_covers_what_it_should():
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 1 < low < 2.5
    assert 3.5 < high < 5
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)


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


def test_the_shipped_study_loads():
    assert len(cells(load_study("studies/demo.yaml"))) == 9
