"""Whole runs: their files, exact resumption, and failures."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TINY
from make_data import make_folder

from reco import cli, distributed
from reco.config import ConfigError, config_name, load_config
from reco.data.splits import Split
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.loss import ReCoStatistics
from reco.method.objective import Losses, StepStatistics
from reco.runs.checkpoint import load_checkpoint
from reco.runs.folder import run_path
from reco.runs.lock import exclusive_use
from reco.studies.study import load_study, study_runs
from reco.training.build import build_objective, build_run
from reco.training.log_figures import Meter, RelationMeter, reco_summary
from reco.training.trainer import (
    NonFiniteLossError,
    Trainer,
    TrainingOutcome,
    learning_rate,
    train,
)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(records: list[dict]) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second", "memory_mib")}
        for record in records
    ]


def assert_same(first: object, second: object, where: str = "checkpoint") -> None:
    """Equal to the last bit, tensors included."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert first == second, where


def test_a_run_leaves_all_one_needs(tiny, tmp_path):
    config = tiny()
    folder = run_path(config, "demo")
    assert folder == tmp_path / "runs" / "demo" / f"{config.hash()}-s0"
    outcome = train(config, folder)
    assert outcome.finished
    assert load_config(folder / "config.yaml") == config
    split = Split.from_dict(json.loads((folder / "split.json").read_text()))
    assert len(split.labelled) == 3
    assert len(split.unlabelled) == 9
    records = metrics(folder)
    assert [r["iteration"] for r in records] == [1, 2, 3, 4, 4]
    for record in records[:4]:
        terms = record["supervised"] + record["unsupervised"] + record["reco"]
        assert record["total"] == pytest.approx(terms, rel=1e-5)
        assert 0 < record["eta"] <= 1
        assert 0 < record["pseudo_accuracy"] < 1
        assert 0 < record["hard_share"] <= 1
        assert record["learning_rate"] == learning_rate(config, record["iteration"] - 1)
    assert set(records[4]["validation"]) == {"student", "teacher"}
    assert outcome.panel == folder / "panels" / "000004.png"
    assert outcome.panel.stat().st_size > 1000
    for word in ("teacher", "rider", "mIoU", str(outcome.panel), "reco eval", "last.pt"):
        assert word in outcome.summary()
    last, previous = (load_checkpoint(folder / f"{name}.pt") for name in ("last", "previous"))
    assert (last["iteration"], previous["iteration"]) == (4, 2)
    assert last["split"] == split.summary_dict()
    assert not {"labelled", "unlabelled"} & last["split"].keys()  # may be millions
    assert load_checkpoint(folder / "best.pt")["chosen_on"] == "val"
    assert "chosen_on" not in last


def test_learning_rate_decays_to_its_floor():
    config = load_config("demo.yaml", ["train.iterations=1000", "train.learning_rate=1e-2"])
    assert learning_rate(config, 0) == 1e-2
    assert learning_rate(config, 500) == pytest.approx(1e-2 * 0.5**0.9)
    assert learning_rate(config, 1000) == 1e-6


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_and_resuming_changes_nothing(tiny, tmp_path, workers):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(), whole)
    config = tiny(f"train.workers={workers}")
    interrupted = Trainer(build_run(config), parts)
    step = interrupted.train_step

    def step_and_interrupt(*batch):
        if interrupted.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*batch)

    interrupted.train_step = step_and_interrupt
    outcome = interrupted.run()
    assert not outcome.finished
    assert outcome.iteration == 3  # the step that was under way is completed
    assert "--resume" in outcome.summary()
    assert train(config, parts, resume=True).finished
    first, second = (load_checkpoint(folder / "last.pt") for folder in (whole, parts))
    first.pop("config"), second.pop("config")  # the number of workers is in there
    assert_same(first, second)
    assert without_speed(metrics(whole)) == without_speed(metrics(parts))


def test_signals_are_given_back(tiny, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(tiny("train.iterations=1"), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_used_folder_is_refused(tiny, tmp_path):
    train(tiny("train.iterations=1"), tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        train(tiny("train.iterations=1"), tmp_path / "run")


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, log_every):
    """Found at the next logging step, or before the next checkpoint, and named."""
    folder = tmp_path / "run"
    broken = Trainer(build_run(tiny(f"train.log_every={log_every}")), folder)
    compute = broken.parts.objective.forward

    def forward(*arguments):
        losses, statistics = compute(*arguments)
        if broken.iteration == 2:
            losses = losses._replace(total=losses.total * math.nan, reco=losses.reco * math.nan)
        return losses, statistics

    broken.parts.objective.forward = forward
    with pytest.raises(NonFiniteLossError, match=r"not finite: total, .*reco,.*learning_rate"):
        broken.run()
    assert load_checkpoint(folder / "last.pt")["iteration"] == 2


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path):
    run = Trainer(build_run(tiny()), tmp_path / "run")
    step = run.train_step

    def step_and_break(*batch):
        result = step(*batch)
        if run.iteration == 3:
            with torch.no_grad():
                next(run.student.parameters()).fill_(math.inf)
        return result

    run.train_step = step_and_break
    with pytest.raises(NonFiniteLossError, match="weights not finite at iteration 4"):
        run.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] == 2


@pytest.mark.parametrize(
    "method",
    [
        ("method.unsupervised=false", "reco.enabled=false"),
        ("method.unsupervised=false",),
        ("reco.enabled=false", "method.mix=cutout"),
        (
            *("method.mix=cutmix", "method.cutmix_probability=0.5"),
            *("method.cutmix_area=[0.02, 0.4]", "method.cutmix_aspect=[0.3, 3.3]"),
        ),
        ("method.mix=cutmix", "reco.negatives=per_query", "reco.key_sampling=random"),
        ("method.mix=none", "method.teacher_mode=eval", "reco.gradient_through_means=true"),
        ("dataset.labelled_images=all", "dataset.partial_labels=0.25"),
        ("train.precision=bf16",),
        ("method.unsupervised_loss=threshold", "method.unsupervised_threshold=0.1"),
        ("train.optimizer=adamw", "train.encoder_learning_rate_factor=0.1"),
    ],
)
def test_every_method_trains(tiny, tmp_path, method):
    config = tiny("train.iterations=2", *method)
    train(config, tmp_path / "run")
    record = metrics(tmp_path / "run")[1]
    assert record["supervised"] > 0
    assert (record["unsupervised"] > 0) == config.method.unsupervised
    assert (record["reco"] > 0) == config.reco.enabled
    if config.dataset.partial_labels:
        assert 0.01 < record["known_pixels"] < 0.6


def test_the_objective_knows_whether_labels_are_partial(tiny):
    assert not build_objective(tiny()).partial_labels
    partial = tiny("dataset.labelled_images=all", "dataset.partial_labels=pixel")
    assert build_objective(partial).partial_labels


def test_teacher_stands_still_where_the_scaler_skips_the_step(tiny, tmp_path):
    """fp16 overflows in the second of three steps: nothing but the batch norm statistics moves."""
    config = tiny("train.iterations=3", "train.precision=fp16")
    run = Trainer(build_run(config), tmp_path / "run")
    run.autocast = torch.autocast("cpu", enabled=False)  # slow there, and not what is tested
    run.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    compute = run.parts.objective.forward

    def forward(*arguments):
        losses, statistics = compute(*arguments)
        if run.iteration == 1:
            losses = losses._replace(total=losses.total * math.inf)
        return losses, statistics

    def weights():
        of_both = (*run.student.parameters(), *run.teacher.network.parameters())
        return [parameter.detach().clone() for parameter in of_both]

    run.parts.objective.forward = forward
    states = [weights()]
    for batch in run.batches():
        run.train_step(*batch)
        run.iteration += 1
        states.append(weights())
    same = [all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in pairwise(states)]
    assert same == [False, True, False]
    assert run.teacher.updates == 2
    assert run.scaler.get_scale() == 2.0


def test_eval_prints_what_the_last_validation_printed(tiny, tmp_path):
    folder = tmp_path / "run"
    outcome = train(tiny(), folder)
    table = evaluate_checkpoints([folder / "last.pt"], device="cpu")
    assert table == outcome.table
    written = json.loads((folder / "last-val.json").read_text())
    logged = metrics(folder)[-1]["validation"]
    for name in ("student", "teacher"):
        assert written["networks"][name]["matrix"] == logged[name]["matrix"]
        assert written["networks"][name]["mean_iou"] == logged[name]["mean_iou"]
    assert len((folder / "last-val.csv").read_text().splitlines()) == 1 + 2 * 11
    assert written["deviations"] == {}


def test_nothing_left_as_unlabelled_is_an_error(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.labelled_images = 12.*method\.unsupervised"):
        train(tiny("dataset.labelled_images=12"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"train\.device = 'gpu'"):
        train(tiny("train.device=gpu"), tmp_path / "run")


def test_statistics_over_all_ranks_need_cuda(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("auto", "cpu"):
        config = tiny("train.sync_batchnorm=true", f"train.device={device}")
        with pytest.raises(ConfigError, match=rf"train.sync_batchnorm = true.*{device} means cpu"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_are_divided_among_ranks(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ConfigError, match=r"labelled_batch_size = 2: .* the 3 processes"):
        Trainer(build_run(tiny()), tmp_path / "run")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"1 for each of 2 processes, but method\.mix = classmix"):
        Trainer(build_run(tiny()), tmp_path / "run")


def test_meter_leaves_out_what_has_nothing_to_say():
    meter = Meter(torch.device("cpu"))
    nan = torch.tensor(math.nan)
    for value in (1.0, 3.0):
        losses = Losses(*[torch.tensor(value)] * 4)
        eta = torch.tensor(0.5) if value == 1 else nan
        meter.add([(losses, StepStatistics(eta, *[nan] * 7))])
    means, not_finite, steps, _ = meter.read()
    assert (means["total"], means["eta"], steps, not_finite) == (2.0, 0.5, 2, [])
    assert math.isnan(means["above_weak"])


def test_relation_meter_averages_each_pair_over_the_steps_that_had_it():
    meter, nothing = RelationMeter(), torch.zeros(())
    assert meter.read() is None
    for cosine, present in ((0.25, [True, True, False]), (0.75, [True, True, True])):
        # All classes are present, in the second case one of them without keys.
        has_keys = torch.tensor(present)
        graph = torch.full((3, 3), cosine).where(has_keys[:, None] & has_keys, torch.nan)
        statistics = ReCoStatistics(graph, torch.ones(3, dtype=torch.bool), *[nothing] * 6)
        meter.add(statistics)
        assert reco_summary(statistics)["relation_mean"] == reco_summary(statistics)["relation_max"]
        assert reco_summary(statistics)["relation_mean"] == cosine
    assert meter.read() == [[0.5, 0.5, 0.75], [0.5, 0.5, 0.75], [0.75, 0.75, 0.75]]
    graph = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    meter.add(ReCoStatistics(graph, torch.tensor([True, False]), *[nothing] * 6))
    assert meter.read() == [[1.0, None], [None, None]]


def test_tensorboard_and_plots_of_a_run_on_request(tiny, tmp_path, monkeypatch):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    config = tiny("train.iterations=2", "train.validate_every=2")
    (tmp_path / "my.yaml").write_text(config.to_yaml())
    assert cli.main(["train", "--config", str(tmp_path / "my.yaml"), "--tensorboard"]) == 0
    run = run_path(config, "my")
    for kind in ("curves", "course"):
        assert cli.main(["plot", kind, str(run), "--output", str(tmp_path / f"{kind}.png")]) == 0
        assert (tmp_path / f"{kind}.png").is_file()
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"total", "reco", "validation/teacher/mean_iou"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("total")] == [1, 2]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"missing: pip install tensorboard$"):
        train(tiny(), tmp_path / "other", tensorboard=True)
    assert not (tmp_path / "other").exists()


def test_a_run_is_one_process_at_a_time(tmp_path):
    """The second waits until the first is at its end."""
    folder = tmp_path / "runs" / "abc-s0"
    context = multiprocessing.get_context("fork")
    order = context.SimpleQueue()

    def second():
        with exclusive_use(folder):
            order.put("second")

    with exclusive_use(folder):
        process = context.Process(target=second)
        process.start()
        process.join(timeout=0.3)
        order.put("first")
    process.join()
    assert [order.get(), order.get()] == ["first", "second"]
    assert not (tmp_path / "runs").exists()  # neither of them made a run


def test_the_configuration_of_a_run_has_its_name(tiny, tmp_path, monkeypatch):
    """A run's config.yaml is the same run, which is not to be trained again under another name."""
    config = tiny("train.iterations=1", f"output_dir={tmp_path}")
    folder = run_path(config, "cells")
    train(config, folder)
    file = folder / "config.yaml"
    assert config_name([file]) == "cells"
    assert run_path(load_config(file), config_name([file])) == folder
    monkeypatch.chdir(folder)
    assert config_name(["config.yaml"]) == "cells"
    assert config_name([f"../{folder.name}/config.yaml"]) == "cells"
    (tmp_path / "again.yaml").write_text(f"config: {file}\nmethods: {{a: {{}}}}\nseeds: [1]")
    (run,) = study_runs(load_study(tmp_path / "again.yaml"))
    assert run.folder.parent.name == "cells"  # as `reco train` calls it
    (folder / "split.json").unlink()
    assert config_name(["config.yaml"]) == "config"


def test_a_run_on_other_data_in_the_same_folder_is_told_of(tmp_path):
    """Two imports, say, whose configurations are both called data.yaml."""
    words = [word for word in TINY if not word.startswith("dataset")]
    one, other = (make_folder(tmp_path / name, train=4, val=1) for name in ("one", "other"))
    options = [*words, "dataset.class_names=[a, b, c]", "train.iterations=1"]
    options += ["dataset.crop_size=[32, 32]", "model.weights=none"]

    def start(root):
        return train(load_config("folder.yaml", [*options, f"dataset.root={root}"]), tmp_path / "r")

    start(one)
    with pytest.raises(
        FileExistsError, match=r"holds a run of this conf\w+: go on with it by --res"
    ):
        start(one)
    with pytest.raises(
        FileExistsError, match=rf"on the data in {one}: choose another --set output"
    ):
        start(other)
    make_folder(one, train=5, val=1)
    with pytest.raises(FileExistsError, match=rf", on other training images in {one}: choose ano"):
        start(one)


def test_without_resume_a_run_in_use_is_an_error_at_once(tiny, tmp_path):
    with (
        exclusive_use(tmp_path / "run"),
        pytest.raises(FileExistsError, match=r"run: another process trains this run: --resume wai"),
    ):
        train(tiny(), tmp_path / "run")
    assert train(tiny("train.iterations=1"), tmp_path / "run").finished


def test_a_training_that_never_began_leaves_nothing(tmp_path, capsys):
    data, runs = f"dataset.root={tmp_path / 'nowhere'}", tmp_path / "all" / "runs"
    words = ["train", "--config", "camvid_cpu.yaml", "--set", data, f"output_dir={runs}"]
    assert cli.main(words) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    runs.mkdir(parents=True)  # the user's own folders stay, and so does what lies in them
    assert cli.main(words) == 1
    assert list(runs.iterdir()) == []
    (runs / "camvid_cpu" / "other").mkdir(parents=True)
    assert cli.main(words) == 1
    assert [path.name for path in (runs / "camvid_cpu").iterdir()] == ["other"]


def test_the_lock_of_a_run_holds_although_its_file_is_removed(tmp_path, capsys):
    """Those who waited for a file that is gone by then wait for the new one."""
    folder = tmp_path / "runs" / "abc-s0"
    inside, most, errors = [], [], []

    def train_and_fail():
        try:
            for _ in range(30):
                with exclusive_use(folder):
                    inside.append(None)
                    time.sleep(0.0005)
                    most.append(len(inside))
                    inside.pop()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=train_and_fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1] * 120
    assert "another process trains here" in capsys.readouterr().out
    assert not list(tmp_path.rglob(".*.lock"))
    folder.mkdir(parents=True)
    with exclusive_use(folder):
        pass
    assert [path.name for path in folder.parent.glob(".*")] == [".abc-s0.lock"]


def test_the_next_command_is_quoted_for_the_shell():
    outcome = TrainingOutcome(Path("my runs/a"), 4, True, "table", None)
    assert "reco eval --checkpoint 'my runs/a/last.pt'" in outcome.summary()
