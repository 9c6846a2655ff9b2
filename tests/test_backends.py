"""Settings of torch's backends in training and validation, and that they are restored."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from reco.training.backends import training_backends, validation_backends
from reco.training.parts import build_run
from reco.training.trainer import Trainer

cudnn = torch.backends.cudnn


def settings() -> tuple[bool, ...]:
    return (
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision() == "highest",
    )


@pytest.mark.parametrize("deterministic", [False, True])
def test_settings_of_training_and_validation(deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with training_backends(deterministic=deterministic):
        assert settings() == (not deterministic, deterministic, deterministic, True)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
        with validation_backends():
            assert settings() == (False, deterministic, deterministic, True)
        assert cudnn.benchmark is not deterministic
    assert settings() == before


def test_settings_do_not_outlast_an_error():
    before = settings()

    def fail():
        with training_backends(deterministic=True), validation_backends():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == before


def test_validation_does_not_compile():
    calls = []

    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    network = nn.Linear(2, 2)
    network.compile(backend=backend)
    with validation_backends():
        network(torch.zeros(1, 2))
    assert not calls
    network(torch.zeros(1, 2))
    assert calls


def test_a_run_uses_them(tiny, tmp_path, monkeypatch):
    """The steps are deterministic ones, the validation differs, the end restores."""
    seen = []
    trainer = Trainer(build_run(tiny("train.deterministic=true", "train.iterations=1")), tmp_path)
    step, evaluate = trainer.train_step, trainer.validation.evaluate
    monkeypatch.setattr(
        trainer, "train_step", lambda *batch: seen.append(settings()) or step(*batch)
    )
    monkeypatch.setattr(
        trainer.validation, "evaluate", lambda *of: seen.append(settings()) or evaluate(*of)
    )
    before = settings()
    assert trainer.run().finished
    assert seen == [(False, True, True, True)] * 2
    assert settings() == before
