"""The control for ReCo: a cross-entropy on the same queries."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from reco import IGNORE
from reco.config import ConfigError
from reco.loss import ReCoLoss, ReCoOptions
from reco.method.second_head import SampledCrossEntropy
from reco.runs.checkpoint import load_checkpoint
from reco.training.trainer import train

OPTIONS = ReCoOptions(num_queries=2000, num_negatives=4, strong_threshold=0.6)
FEW = ReCoOptions(num_queries=5, num_negatives=4, strong_threshold=0.6)


def batch():
    generator = torch.Generator().manual_seed(1)
    representations = torch.randn(2, 4, 5, 6, generator=generator)
    logits = 2 * torch.randn(2, 4, 5, 6, generator=generator)
    labels = torch.randint(3, (2, 5, 6), generator=generator)  # class 3 is absent
    labels[0, 0] = IGNORE
    valid = torch.rand(2, 5, 6, generator=generator) < 0.8
    return representations.requires_grad_(), logits, labels, valid


def test_it_is_the_mean_over_classes_of_the_mean_over_their_hard_pixels():
    representations, logits, labels, valid = batch()
    torch.manual_seed(0)
    loss, statistics = SampledCrossEntropy(OPTIONS).with_statistics(
        representations, logits, labels, valid=valid
    )
    confidence = logits.softmax(1).gather(1, labels.clamp(max=3)[:, None])[:, 0]
    means = []
    for label in range(3):
        hard = (labels == label) & valid & (confidence <= 0.6)
        pixels = representations.permute(0, 2, 3, 1)[hard]
        means.append(F.cross_entropy(pixels, torch.full((len(pixels),), label)))
    assert loss.item() == pytest.approx(torch.stack(means).mean().item(), rel=0.03)
    assert statistics.present.tolist() == [True, True, True, False]
    (gradient,) = torch.autograd.grad(loss, representations)
    touched = gradient.abs().sum(1) > 0
    assert not touched[~(valid & (labels != IGNORE))].any()


def test_its_queries_are_those_of_reco():
    representations, logits, labels, valid = batch()
    touched = []
    for loss in (ReCoLoss(FEW), SampledCrossEntropy(FEW)):
        torch.manual_seed(7)
        value, _ = loss.with_statistics(representations, logits, labels, valid=valid)
        (gradient,) = torch.autograd.grad(value, representations)
        touched.append(gradient.abs().sum(1) > 0)
    assert touched[0].sum() > 5
    assert torch.equal(*touched)


def test_nothing_to_learn_is_zero_and_connected():
    representations, logits, labels, _ = batch()
    loss, _ = SampledCrossEntropy(OPTIONS).with_statistics(
        representations, logits, labels, valid=torch.zeros_like(labels, dtype=torch.bool)
    )
    assert loss == 0
    loss.backward()
    assert not representations.grad.any()


def test_a_run_trains_with_it(tiny, tmp_path):
    config = tiny("train.iterations=2", "reco.loss=cross_entropy")
    assert train(config, tmp_path / "run").finished
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["reco"] > 0
    weights = load_checkpoint(tmp_path / "run" / "last.pt")["student"]
    last = [key for key in weights if key.startswith("representation.")][-1]
    assert len(weights[last]) == 11  # an output for each class


def test_it_has_no_keys(tiny):
    with pytest.raises(ConfigError, match=r"reco\.keys_from = 'right_labels'.*has no keys"):
        tiny("reco.loss=cross_entropy", "reco.keys_from=right_labels")
