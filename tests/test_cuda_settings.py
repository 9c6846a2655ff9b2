"""Settings of torch's backends in training and validation, and that they are restored."""

from __future__ import annotations

import json
import os

import pytest
import torch
from conftest import Network
from torch import nn

from reco.inference import probabilities
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.runs.checkpoint import load_checkpoint
from reco.training.build import build_run
from reco.training.cuda_settings import training_backends, validation_backends
from reco.training.trainer import Trainer, train

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

    class Network(nn.Linear):  # torch 2.6 leaves its own modules uncompiled
        def forward(self, images):
            return super().forward(images) + 1

    network = Network(2, 2)
    network.compile(backend=backend)
    network(torch.zeros(1, 2))
    assert len(calls) == 1
    with validation_backends():
        network(torch.zeros(2, 3, 2))  # another graph
    assert len(calls) == 1
    network(torch.zeros(2, 3, 2))
    assert len(calls) == 2


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


def test_a_compiled_run_is_resumed_and_equals_one_that_is_not(tiny, tmp_path, monkeypatch):
    compile_network, compiled = nn.Module.compile, []

    def without_inductor(network: nn.Module) -> None:
        compiled.append(network)
        compile_network(network, backend="eager")

    def trainer(folder: str, *, resume: bool = False) -> Trainer:
        torch.manual_seed(0)
        config = tiny(*options, f"train.compile={str(folder == 'compiled').lower()}")
        parts = build_run(config, network=Network(11))
        return Trainer(parts, tmp_path / folder, resume=resume)

    monkeypatch.setattr(nn.Module, "compile", without_inductor)
    options = ("train.iterations=2", "train.validate_every=2", "train.checkpoint_every=1")
    stopped = trainer("compiled")
    stopped.stop_signal = 2
    assert stopped.run().iteration == 1
    assert len(compiled) == 2  # student and teacher
    assert trainer("compiled", resume=True).run().finished
    assert trainer("eager").run().finished
    states = [load_checkpoint(tmp_path / name / "last.pt") for name in ("compiled", "eager")]
    for network in ("student", "teacher"):
        torch.testing.assert_close(*(state[network] for state in states))


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_validation_and_evaluation_compute_as_the_run_does(
    precision, expected, tiny, tmp_path, monkeypatch
):
    logits_of, seen = probabilities.logits_of, []

    def note(output):
        logits = logits_of(output)
        seen.append(logits.dtype)
        return logits

    monkeypatch.setattr(probabilities, "logits_of", note)
    train(tiny("train.iterations=1", f"train.precision={precision}"), tmp_path)
    validated = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["validation"]
    assert set(seen) == {expected}
    seen.clear()
    evaluate_checkpoints([tmp_path / "last.pt"], device="cpu")
    assert set(seen) == {expected}
    evaluated = json.loads((tmp_path / "last-val.json").read_text())["networks"]
    assert evaluated["teacher"]["matrix"] == validated["teacher"]["matrix"]
