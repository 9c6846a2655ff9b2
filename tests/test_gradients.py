"""The gradients of the loss's terms, against those of a backward pass."""

from __future__ import annotations

import pytest
import torch

from reco import cli
from reco.studies.gradients import term_gradients
from reco.training.build import build_run
from reco.training.trainer import Trainer, train


@pytest.mark.slow
def test_lengths_are_those_of_a_backward_pass(tiny, tmp_path, monkeypatch, capsys):
    config, folder = tiny(), tmp_path / "run"
    train(config, folder)
    supervised, unsupervised, reco = term_gradients(folder / "last.pt", batches=1)
    assert supervised.cosine_to_supervised == unsupervised.cosine_to_unsupervised == 1.0
    assert supervised.cosine_to_unsupervised == unsupervised.cosine_to_supervised

    trainer = Trainer(build_run(config), tmp_path / "other")
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    trainer.student.load_state_dict(checkpoint["student"])
    trainer.teacher.load_state_dict(checkpoint["teacher"])
    labelled, unlabelled = next(trainer.batches())
    torch.manual_seed(0)
    losses, _ = trainer.losses(labelled, unlabelled)
    gradients = {}
    for row in (supervised, unsupervised, reco):
        trainer.student.zero_grad()
        getattr(losses, row.term).backward(retain_graph=True)
        gradients[row.term] = torch.cat(
            [
                parameter.grad.flatten()
                for name, parameter in trainer.student.named_parameters()
                if not name.startswith(("classifier", "representation"))
            ]
        )
        length = gradients[row.term].norm().item()
        assert row.norm == pytest.approx(length, rel=1e-3, abs=1e-3)
        assert row.norm > 0
    angle = torch.cosine_similarity(gradients["reco"], gradients["unsupervised"], dim=0)
    assert reco.cosine_to_unsupervised == pytest.approx(angle.item(), abs=1e-3)
    assert abs(angle) > 2e-3

    output = tmp_path / "gradients.csv"
    arguments = [str(folder / "last.pt"), "--batches", "1", "--output", str(output)]
    assert cli.main(["gradients", *arguments]) == 0
    assert f"{reco.norm}" in capsys.readouterr().out
    lines = output.read_text().splitlines()
    assert len(lines) == 4
    assert lines[3] == ",".join(map(str, ("run", *reco)))


@pytest.mark.slow
def test_a_term_that_is_switched_off_has_no_gradient(tiny, tmp_path):
    train(tiny("method.unsupervised=false", "reco.enabled=false"), tmp_path / "run")
    supervised, unsupervised, reco = term_gradients(tmp_path / "run" / "last.pt", batches=1)
    assert supervised.norm > 0
    assert (unsupervised.norm, reco.norm) == (0, 0)
    assert reco.cosine_to_supervised is None
