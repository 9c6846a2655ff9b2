"""Checkpoints: whole or not at all, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import traceback

import numpy as np
import pytest
import torch
from torch import nn

from reco.runs import checkpoint as module
from reco.runs.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_latest,
    load_state,
    save_checkpoint,
    save_latest,
)


def content(iteration: int) -> dict:
    return {"student": {"weight": torch.full((3,), float(iteration))}, "iteration": iteration}


def test_latest_keeps_the_one_before(tmp_path):
    for iteration in (1, 2, 3):
        save_latest(content(iteration), tmp_path)
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 3
    assert load_checkpoint(tmp_path / "previous.pt")["iteration"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_truncated_last_falls_back_with_a_warning(tmp_path):
    for iteration in (1, 2):
        save_latest(content(iteration), tmp_path)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"last\.pt.*going on from .*previous\.pt"):
        assert load_latest(tmp_path)["iteration"] == 1
    (tmp_path / "previous.pt").unlink()
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        load_latest(tmp_path)


def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save_latest(content(1), tmp_path)

    def fill_the_disk(state, file):
        file.write(b"half a checkpo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_latest(content(2), tmp_path)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(content(2), tmp_path / "last.pt")
    monkeypatch.undo()
    assert load_latest(tmp_path)["iteration"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_kill_between_the_renames_leaves_a_checkpoint(tmp_path, monkeypatch):
    save_latest(content(1), tmp_path)
    (tmp_path / "last.pt").replace(tmp_path / "previous.pt")  # killed right after this
    with pytest.warns(UserWarning, match="no such file"):
        assert load_latest(tmp_path)["iteration"] == 1


class Attack:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_files_that_are_not_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, code, scalar, other, future = (tmp_path / f"{name}.pt" for name in "abcde")
    text.write_text("hello")
    code.write_bytes(pickle.dumps(Attack(), protocol=2))
    torch.save({"format": module.FORMAT, "student": {}, "score": np.float64(0.5)}, scalar)
    torch.save({"weight": torch.ones(1)}, other)
    torch.save({"format": module.FORMAT + 1, "student": {}}, future)
    for path, message in [
        (text, "not a readable checkpoint: truncated, or another kind of file$"),
        (code, rf"not a readable checkpoint: it holds {os.name}\.mkdir, which is not loaded"),
        (scalar, r"not a readable checkpoint: it holds numpy\..*scalar, which is not loaded"),
        (other, "not a checkpoint of a reco run"),
        (future, "this version reads format"),
        (tmp_path / "none.pt", "no such file"),
    ]:
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)
        # Torch's advice to load such files unsafely must not be shown, in a traceback either.
        assert "Re-running" not in "".join(traceback.format_exception(error.value))
    assert not (tmp_path / "executed").exists()


def test_state_of_another_network_is_refused():
    network = nn.Linear(3, 2)
    with pytest.raises(
        CheckpointError, match=r"best\.pt.*missing bias.*unexpected scale.*\(5, 3\)"
    ):
        load_state(network, {"weight": torch.ones(5, 3), "scale": torch.ones(1)}, "best.pt")
    load_state(network, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "best.pt")
    assert (network.weight == 1).all()
