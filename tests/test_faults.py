"""What may happen to a run: it is killed at any moment, or meets an image that is broken."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY
from make_data import make_camvid
from test_trainer import assert_same

from reco.config import Config, load_config
from reco.data import open_dataset, synthetic
from reco.data.loading import TrainStream
from reco.data.splits import make_split
from reco.runs.checkpoint import load_checkpoint
from reco.runs.results import read_metrics
from reco.training.trainer import train

OVERRIDES = (
    *TINY,
    "train.iterations=40",
    "train.checkpoint_every=2",
    "train.validate_every=20",
    "train.panel_images=0",
)


def run(folder: Path) -> None:
    torch.set_num_threads(1)
    synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
    train(load_config("demo.yaml", OVERRIDES), folder, resume=folder.exists())


def iterations_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"total"') if metrics.exists() else 0


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_as_if_undisturbed(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reco.training.trainer", "test_trainer"])

    def start(folder: Path):
        process = context.Process(target=run, args=(folder,))
        process.start()
        return process

    undisturbed = start(tmp_path / "whole")
    undisturbed.join()
    assert undisturbed.exitcode == 0

    folder, chance = tmp_path / "killed", random.Random(0)
    for _ in range(10):
        process, before = start(folder), iterations_logged(folder)
        while process.is_alive() and not before < iterations_logged(folder) < 40:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))  # somewhere in a step, or in writing a checkpoint
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = start(folder)
    last.join()
    assert last.exitcode == 0
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    assert_same(first, second)


def test_killed_before_the_first_checkpoint_starts_anew(tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("half a fi")
    (folder / "metrics.jsonl").write_text('{"iteration": 1}\n{"itera')
    assert train(tiny("train.iterations=2"), folder, resume=True).finished
    assert (folder / "metrics.jsonl").read_text().count('"total"') == 2


@pytest.fixture
def photographs(tmp_path) -> Config:
    """A short run on image files, that logs, validates and saves seldom."""
    torch.set_num_threads(1)
    return load_config(
        "camvid_5shot.yaml",
        [
            *TINY,
            f"dataset.root={make_camvid(tmp_path / 'camvid')}",
            "dataset.image_size=null",
            "model.weights=none",
            "train.log_every=3",
            "train.validate_every=3",
            "train.checkpoint_every=100",
            "train.workers=1",
        ],
    )


def assert_nothing_lost(config: Config, image: Path, folder: Path, iteration: int) -> None:
    """A run that meets ``image`` broken keeps its iterations, and goes on when it is whole."""
    assert train(config, folder / "whole").finished
    content = image.read_bytes()
    image.write_bytes(content[:300])
    with pytest.raises(ValueError, match=f"{image.name}: cannot be read"):
        train(config, folder / "broken")
    assert load_checkpoint(folder / "broken" / "last.pt")["iteration"] == iteration
    assert read_metrics(folder / "broken")[-1]["iteration"] == iteration
    image.write_bytes(content)
    assert train(config, folder / "broken", resume=True).finished
    first, second = (load_checkpoint(folder / name / "last.pt") for name in ("whole", "broken"))
    assert_same({**first, "best": 0}, {**second, "best": 0})


def test_a_broken_training_image_costs_no_iterations(photographs, tmp_path):
    dataset = photographs.dataset
    reader = open_dataset(dataset)
    unlabelled = make_split(reader, dataset).unlabelled
    assert len(unlabelled) == 5
    stream = TrainStream(reader, unlabelled, dataset, stream="unlabelled", seed=0)
    last_of_epoch = stream._epoch_order(0)[-1]  # the fifth, which the third batch of two holds
    (image,) = (tmp_path / "camvid").glob(f"train/{Path(last_of_epoch).name}.png")
    assert_nothing_lost(photographs, image, tmp_path, 2)


def test_a_broken_validation_image_costs_no_iterations(photographs, tmp_path):
    image = sorted((tmp_path / "camvid" / "val").glob("*.png"))[-1]
    assert_nothing_lost(photographs, image, tmp_path, 3)


def test_at_the_end_a_broken_validation_image_leaves_the_validation_to_do(photographs, tmp_path):
    config = replace(photographs, train=replace(photographs.train, validate_every=100))
    image = sorted((tmp_path / "camvid" / "val").glob("*.png"))[-1]
    content = image.read_bytes()
    image.write_bytes(content[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        train(config, tmp_path / "run")
    image.write_bytes(content)
    assert "mIoU" in train(config, tmp_path / "run", resume=True).table
