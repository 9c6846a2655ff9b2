"""Running statistics of batch norm for evaluations, and that training is the same with them."""

from __future__ import annotations

import pytest
import torch
from test_trainer import assert_same, metrics
from torch import nn

from reco.data.loading import TrainSample
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.method.teacher import MeanTeacher
from reco.runs.checkpoint import load_checkpoint
from reco.seeding import stable_seed
from reco.training.batch_norm import averaging_statistics, copy_of_buffers
from reco.training.build import build_run
from reco.training.trainer import Trainer, train


def test_statistics_are_the_mean_over_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    network(torch.randn(4, 3, 5, 5))
    batches = [torch.randn(4, 3, 5, 5) * (i + 1) + i for i in range(5)]
    with averaging_statistics([network]), torch.no_grad():
        for batch in batches:
            network(batch)
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variance = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)  # unbiased, as torch's
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    assert network[0].momentum == 0.1
    assert network[0].num_batches_tracked == 1  # as before


def test_frozen_layers_and_those_that_nothing_reaches_keep_their_statistics():
    frozen, unused = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3)
    unused(torch.randn(4, 3, 5, 5) + 7)
    before = unused.running_mean.clone()
    with averaging_statistics([frozen, unused]):
        frozen(torch.randn(4, 3, 5, 5) + 9)
    assert torch.equal(frozen.running_mean, torch.zeros(3))
    assert torch.equal(unused.running_mean, before)
    assert unused.num_batches_tracked == 1


MODES = {
    "paper": (),
    "eval": ("method.teacher_mode=eval",),
    "averaged": ("method.teacher_mode=eval", "method.teacher_buffers=averaged"),
    "supervised": ("method.unsupervised=false", "reco.enabled=false"),
}


@pytest.mark.parametrize("mode", MODES)
def test_training_is_the_same_with_them(tiny, tmp_path, mode):
    """Validations in the middle, a stop and a resumption change nothing."""
    keys = (*MODES[mode], "train.validate_every=2", "train.checkpoint_every=2")
    train(tiny(*keys), tmp_path / "without")
    train(tiny(*keys, "train.statistics_batches=3"), tmp_path / "whole")
    stopped = Trainer(build_run(tiny(*keys, "train.statistics_batches=3")), tmp_path / "parts")
    step = stopped.train_step

    def step_and_stop(*batch):
        stopped.stop_signal = 2 if stopped.iteration == 1 else None
        return step(*batch)

    stopped.train_step = step_and_stop
    assert stopped.run().iteration == 2  # a validation is due and left for the resumption
    assert train(
        tiny(*keys, "train.statistics_batches=3"), tmp_path / "parts", resume=True
    ).finished

    without, whole, parts = (
        load_checkpoint(tmp_path / name / "last.pt") for name in ("without", "whole", "parts")
    )
    assert_same(whole, parts)
    first, second = (
        [record["validation"] for record in metrics(tmp_path / name) if "validation" in record]
        for name in ("whole", "parts")
    )
    assert len(first) == 2
    assert first == second
    assert_same(without["optimizer"], whole["optimizer"])
    for name, buffers in whole["running_statistics"].items():
        prefix = "network." if name == "teacher" else ""
        for key, running in buffers.items():
            assert torch.equal(running, without[name][prefix + key])
    for key, value in without["student"].items():
        assert torch.equal(value, whole["student"][key]) == ("running" not in key)


def test_checkpoints_hold_what_was_validated(tiny, tmp_path):
    outcome = train(tiny("train.statistics_batches=2"), tmp_path / "run")
    assert evaluate_checkpoints([tmp_path / "run" / "last.pt"], device="cpu") == outcome.table


def test_statistics_are_those_of_the_same_batches_at_each_validation(tiny, tmp_path):
    run = Trainer(build_run(tiny("train.statistics_batches=2")), tmp_path / "run")
    found = []
    for run.iteration in (0, 3):
        with run._evaluation_statistics():
            found.append(copy_of_buffers(run.parts.networks))
    assert_same(*found)
    means = (
        {key: value for key, value in buffers.items() if key.endswith("running_mean")}
        for buffers in found[0].values()
    )
    student, teacher = means
    first = next(iter(student))  # of the images themselves: the weights are still the same
    assert torch.equal(student[first], teacher[first])


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("method.strong_views=2", "reco.enabled=false"),
        ("train.accumulation_steps=2", "train.unlabelled_batch_size=4"),
        ("method.unsupervised=false", "reco.enabled=false", "train.accumulation_steps=2"),
    ],
    ids=["paper", "two views", "accumulation", "supervised"],
)
def test_statistics_are_those_of_the_views_that_the_student_is_trained_on(tiny, tmp_path, keys):
    """Part after part of a batch, all views of a part in one pass."""
    run = Trainer(build_run(tiny("train.statistics_batches=2", *keys)), tmp_path / "run")
    seen: list[torch.Tensor] = []
    hook = run.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with run._evaluation_statistics():
        hook.remove()
    seed = stable_seed("statistics", run.config.train.seed)
    parts = run.config.train.accumulation_steps
    expected = []
    for number, batch in enumerate(run.batches_of(seed, 0, 2)):
        torch.manual_seed(stable_seed(seed, number, 0))
        for part in range(parts):
            labelled, unlabelled = (
                None if each is None else TrainSample(*(t.chunk(parts)[part] for t in each))
                for each in batch
            )
            views = [run.parts.views.labelled(labelled.image, labelled.label)]
            if unlabelled is not None:
                views.append(run.parts.views.unlabelled(run.teacher, *unlabelled))
            expected.append(torch.cat([view.images for view in views]))
            for network in run.parts.networks.values():
                network(expected[-1])  # its dropout draws numbers too
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)


def test_the_teacher_in_eval_mode_takes_the_statistics_that_it_is_evaluated_with():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    teacher = MeanTeacher(network, batch_statistics=False)
    network[1].running_mean += 3
    teacher.copy_statistics(network)
    assert torch.equal(teacher.network[1].running_mean, network[1].running_mean)
    own = MeanTeacher(network)
    network[1].running_mean += 3
    own.copy_statistics(network)
    assert not torch.equal(own.network[1].running_mean, network[1].running_mean)
