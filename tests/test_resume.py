"""Which run is resumed, how a run is extended, and which keys change no number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from make_data import make_camvid, save_mask
from PIL import Image, ImageOps
from test_trainer import assert_same, metrics, without_speed

from reco import cli
from reco.config import ConfigError, load_config
from reco.runs.checkpoint import load_checkpoint, save_checkpoint
from reco.runs.folder import run_path
from reco.runs.results import last_iteration, read_points
from reco.training.build import build_run
from reco.training.trainer import Trainer, TrainingOutcome, learning_rate, train

STATE = ("student", "teacher", "optimizer", "iteration", "split")


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = (load_checkpoint(folder / "last.pt") for folder in (first, second))
    for key in STATE:
        assert_same(one[key], two[key], key)


@pytest.fixture
def command(tiny, tmp_path, capsys):
    """``reco train`` with options; ``tiny.yaml`` is a configuration. Code and output."""
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny().to_yaml())

    def run(*options: str) -> tuple[int, str]:
        words = [str(config) if word == "tiny.yaml" else word for word in options]
        code = cli.main(["train", *words])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_what_is_not_the_experiment_changes_no_number(tiny, tmp_path):
    train(tiny(), tmp_path / "plain")
    others = {
        "often": ("train.validate_every=1", "train.checkpoint_every=1"),
        "seldom": ("train.validate_every=100", "train.checkpoint_every=100", "train.log_every=3"),
        "else": ("train.workers=1", "train.panel_images=0", "dataset.skip_unreadable=true"),
        "cached": ("dataset.cache=true",),
    }
    for name, overrides in others.items():
        config = tiny(*overrides, "train.device=cpu")
        assert config.hash() == tiny().hash()
        train(config, tmp_path / name)
        assert_same_weights(tmp_path / "plain", tmp_path / name)


def test_resume_starts_a_run_that_is_not_there(command, tiny, tmp_path):
    folder = run_path(tiny(), "tiny")
    code, out = command("--config", "tiny.yaml", "--resume")
    assert code == 0
    assert f"{folder}: no checkpoint, starting the run" in out
    assert load_checkpoint(folder / "last.pt")["iteration"] == 4
    code, out = command("--config", "tiny.yaml", "--resume")
    assert code == 0
    assert "was finished already, at iteration 4" in out
    assert "starting the run" not in out


def test_resume_goes_on_with_other_settings_that_change_no_number(command, tiny, tmp_path):
    train(tiny(), tmp_path / "whole")
    folder = run_path(tiny(), "tiny")
    stopped = Trainer(build_run(tiny("train.workers=1")), folder)
    stopped.stop_signal = 2
    assert stopped.run().iteration == 1
    code, out = command("--config", "tiny.yaml", "--resume", "--set", "train.workers=0")
    assert code == 0, out
    assert_same_weights(tmp_path / "whole", folder)


@pytest.mark.parametrize("named", ["", "last.pt"])
def test_resume_needs_no_configuration_beside_a_folder(command, tiny, tmp_path, named):
    folder = tmp_path / "moved"
    stopped = Trainer(build_run(tiny("reco.temperature=0.3")), folder)
    stopped.stop_signal = 2
    stopped.run()
    code, out = command("--resume", str(folder / named), "--set", "train.log_every=2")
    assert code == 0, out
    assert load_checkpoint(folder / "last.pt")["iteration"] == 4


def test_a_refusal_names_key_values_and_remedy(command, tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny("reco.temperature=0.3"), folder)
    before = (folder / "metrics.jsonl").read_text()
    code, out = command("--config", "tiny.yaml", "--resume", str(folder))
    assert code == 1
    assert "reco.temperature: 0.3 -> 0.5" in out
    assert f"`--resume {folder}` without --config" in out
    code, out = command("--resume", str(folder), "--set", "train.iterations=9", "train.seed=1")
    assert code == 1
    assert "train.iterations: 4 -> 9" in out
    assert "train.seed: 0 -> 1" in out
    assert "--extend-to 9" in out
    assert (folder / "metrics.jsonl").read_text() == before
    for path in (tmp_path / "nowhere", folder / "best.pt", tmp_path / "tiny.yaml"):
        code, out = command("--config", "tiny.yaml", "--resume", str(path))
        assert code == 1
        assert f"--resume {path}: expected the folder of a run, or the last.pt in it" in out
    for options in (["--resume"], ["--resume", str(folder), "--show"]):
        code, out = command(*options)
        assert code == 1
        assert "--config is missing; only --resume FOLDER does without it" in out


def test_another_split_is_refused(tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny("train.iterations=1"), str(folder))
    checkpoint = load_checkpoint(folder / "last.pt")
    checkpoint["split"]["hash"] = "another"
    save_checkpoint(checkpoint, folder / "last.pt")
    split = json.loads((folder / "split.json").read_text())
    new, split["unlabelled"][0] = split["unlabelled"][0], "gone.jpg"
    (folder / "split.json").write_text(json.dumps(split))
    message = (
        f"other images .split another, now .*; no longer unlabelled: gone.jpg; newly unl.*: {new}"
    )
    with pytest.raises(ConfigError, match=message):
        train(tiny("train.iterations=1"), folder, resume=True)
    (folder / "split.json").unlink()
    with pytest.raises(ConfigError, match=r"now \w+\). Restore the files or masks, or train anew"):
        train(tiny("train.iterations=1"), folder, resume=True)


def test_other_data_of_the_same_names_are_refused_and_a_repaired_file_is_told(
    tiny, tmp_path, monkeypatch, capsys
):
    """A folder says where the data are now; its images have the names of those trained on."""
    photographs = make_camvid(tmp_path / "photographs")
    others = shutil.copytree(photographs, tmp_path / "others")
    for path in (others / "train").glob("*.png"):
        ImageOps.invert(Image.open(path)).save(path)
    monkeypatch.chdir(tmp_path)

    def extend(folder: str) -> TrainingOutcome:
        config = tiny("dataset.name=camvid", f"dataset.root={folder}")
        return train(config, tmp_path / "run", extend_to=6)

    train(tiny("dataset.name=camvid", "dataset.root=photographs"), tmp_path / "run")
    # The root is absolute in the checkpoint, for commands in other folders.
    config = load_checkpoint(tmp_path / "run" / "last.pt")["config"]
    assert config["dataset"]["root"] == str(photographs)
    with pytest.raises(ConfigError, match=r"none of the labelled images and masks is the same"):
        extend("others")
    labelled = json.loads((tmp_path / "run" / "split.json").read_text())["labelled"]
    assert len(labelled) == 3
    mask = photographs / "trainannot" / f"{labelled[1]}.png"
    values = np.array(Image.open(mask))
    values[0] = 11  # void
    save_mask(mask, values)
    capsys.readouterr()
    assert extend("photographs").finished
    assert f"labelled images changed: {labelled[1]}\n" in capsys.readouterr().out


def test_extending_is_a_step_of_its_own(command, tiny, tmp_path):
    folder = run_path(tiny(), "tiny")
    assert command("--config", "tiny.yaml", "--resume")[0] == 0
    first = without_speed(metrics(folder))
    code, out = command("--config", "tiny.yaml", "--resume", "--extend-to", "6")
    assert code == 0, out
    # The files have the new length, and the folder is the same.
    assert load_config(folder / "config.yaml").train.iterations == 6
    assert "made longer, from 4 to 6 iterations" in (folder / "config.yaml").read_text()
    assert load_checkpoint(folder / "last.pt")["config"]["train"]["iterations"] == 6
    records = without_speed(metrics(folder))
    assert records[:5] == first
    assert records[5] == {"iteration": 4, "extended": {"from": 4, "to": 6}}
    assert [record["iteration"] for record in records[6:]] == [5, 6, 6]
    longer = tiny("train.iterations=6")
    assert records[6]["learning_rate"] == learning_rate(longer, 4)
    # The same command goes on, or has nothing to do; the one without it says what would work.
    for options in (["--config", "tiny.yaml", "--extend-to", "6"], ["--resume", str(folder)]):
        code, out = command(*options)
        assert code == 0, out
        assert "was finished already, at iteration 6" in out
    assert without_speed(metrics(folder)) == records
    code, out = command("--config", "tiny.yaml", "--resume")
    assert code == 1
    assert "train.iterations: 6 -> 4" in out
    assert "--extend-to 6" in out
    code, out = command("--config", "tiny.yaml", "--extend-to", "5")
    assert code == 1
    assert "has train.iterations = 6: expected at least as many" in out
    # Readers of the log pass over the note.
    assert last_iteration(folder) == 6
    points = read_points(folder, method="m", budget="b", seed=0, run="r")
    assert [point.iteration for point in points] == [4, 6]
    assert all(point.eta is not None for point in points)


def test_extending_may_be_killed_anywhere(tiny, tmp_path, monkeypatch):
    """Between note and checkpoint too: the same command gives the same result."""
    from reco.training import trainer

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        train(tiny(), folder)
    train(tiny(), undisturbed, extend_to=6)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_latest", kill)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), killed, extend_to=6)
    monkeypatch.undo()
    monkeypatch.setattr("reco.data.datasets.synthetic.SCENES", {"train": 12, "val": 2, "test": 2})
    train(tiny(), killed, extend_to=6)
    assert without_speed(metrics(killed)) == without_speed(metrics(undisturbed))
    assert_same_weights(undisturbed, killed)


def test_nothing_to_extend(command, tiny):
    code, out = command("--config", "tiny.yaml", "--extend-to", "6")
    assert code == 1
    assert "holds no checkpoint to go on from; --set train.iterations=6 trains" in out
    assert not run_path(tiny(), "tiny").exists()


def test_starting_names_runs_that_may_have_been_meant(command, tiny, tmp_path):
    shorter, older = run_path(tiny(), "tiny"), tmp_path / "runs" / "tiny" / "8a58f955-s0"
    for folder, overrides in ((shorter, []), (older, ["train.iterations=5"])):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(tiny(*overrides, "train.workers=3").to_yaml())
    (tmp_path / "runs" / "tiny" / "broken").mkdir()
    (tmp_path / "runs" / "tiny" / "broken" / "config.yaml").write_text("train: {iterations")
    code, out = command("--config", "tiny.yaml", "--resume", "--set", "train.iterations=5")
    assert code == 0
    assert f"note: {older} is the same run; `--resume {older}` goes on" in out
    assert f"`--resume {shorter} --extend-to 5` goes on with it" in out


def test_a_run_of_an_earlier_version_is_resumed_by_its_folder(command, tiny, tmp_path):
    """Its folder has the hash of another scheme, and its configuration other keys."""
    folder = tmp_path / "runs" / "demo" / "8a58f955-s0"
    stopped = Trainer(build_run(tiny()), folder)
    stopped.stop_signal = 2
    stopped.run()
    checkpoint = load_checkpoint(folder / "last.pt")
    written = yaml.safe_load((folder / "config.yaml").read_text())
    for config in (checkpoint["config"], written):
        del config["dataset"]["extra_images"]
        config["reco"]["true_labels"] = False  # a key that has gone since
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    torch.save(checkpoint, folder / "last.pt")
    code, out = command("--resume", str(folder))
    assert code == 0, out
    assert load_checkpoint(folder / "last.pt")["iteration"] == 4
