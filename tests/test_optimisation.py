"""Optimisers and learning rates against their updates written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reco.config import ConfigError, load_config
from reco.models.network import SegmentationNetwork
from reco.training.optimisation import build_optimizer, set_learning_rate


def small_network(**arguments):
    torch.manual_seed(0)
    return SegmentationNetwork(
        3, backbone="resnet18", weights="none", channels=8, representation_dim=4, **arguments
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_by_hand_with_a_slower_encoder(optimizer):
    config = load_config(
        "demo.yaml",
        [
            f"train.optimizer={optimizer}",
            *("train.encoder_learning_rate_factor=0.025", "train.weight_decay=0.1"),
            *("train.learning_rate=0.01", "train.iterations=5"),
        ],
    )
    network = small_network()
    # A weight and a bias of the encoder, a weight of the rest.
    names = ("encoder.network.conv1.weight", "encoder.network.bn1.bias", "classifier.1.weight")
    parameters = {name: dict(network.named_parameters())[name] for name in names}
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    first = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    second = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    built = build_optimizer(network, config.train)
    for t in range(4):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_learning_rate(built, config, t)
        built.step()
        for name, w in expected.items():
            g = parameters[name].grad
            lr = 0.01 * (1 - t / 5) ** 0.9 * (0.025 if name.startswith("encoder") else 1)
            if optimizer == "sgd":
                g = g + 0.1 * w
                first[name] = 0.9 * first[name] + g
                expected[name] = w - lr * (g + 0.9 * first[name])
            else:
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                mean = first[name] / (1 - 0.9 ** (t + 1))
                square = second[name] / (1 - 0.999 ** (t + 1))
                expected[name] = w - lr * 0.1 * w - lr * mean / (square.sqrt() + 1e-8)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), expected[name], msg=name)


def test_a_frozen_encoder_is_in_no_group():
    train = load_config("demo.yaml", ["train.encoder_learning_rate_factor=0.1"]).train
    (group,) = build_optimizer(small_network(freeze=True), train).param_groups
    assert all(parameter.requires_grad for parameter in group["params"])
    assert group["factor"] == 1


def test_a_network_without_a_known_encoder():
    train = load_config("demo.yaml", ["train.encoder_learning_rate_factor=0.1"]).train
    with pytest.raises(ConfigError, match=r"encoder_learning_rate_factor = 0\.1: .* Linear is no"):
        build_optimizer(nn.Linear(2, 2), train)


def test_the_optimiser_of_an_older_checkpoint():
    config = load_config("demo.yaml", ["train.learning_rate=0.01"])
    network = nn.Linear(2, 2)
    older = torch.optim.SGD(network.parameters(), lr=1, momentum=0.9, nesterov=True)
    built = build_optimizer(network, config.train)
    built.load_state_dict(older.state_dict())
    set_learning_rate(built, config, 0)
    assert [group["lr"] for group in built.param_groups] == [0.01]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_kernels_go_by_the_device_and_not_by_the_checkpoint(optimizer):
    name = f"train.optimizer={optimizer}"
    fused, foreach = (
        build_optimizer(small_network(), load_config("demo.yaml", [name, precision]).train)
        for precision in ("train.precision=fp32", "train.precision=fp16")
    )
    for loaded in (False, True):
        if loaded:
            states = fused.state_dict(), foreach.state_dict()
            foreach.load_state_dict(states[0])
            fused.load_state_dict(states[1])
        assert (fused.param_groups[0]["fused"], fused.param_groups[0]["foreach"]) == (True, False)
        # One that a scaler skips after an overflow must not be called at all.
        assert (foreach.param_groups[0]["fused"], foreach.param_groups[0]["foreach"]) == (
            False,
            True,
        )
        for built in (fused, foreach):
            for number, parameter in enumerate(built.param_groups[0]["params"]):
                seed = torch.Generator().manual_seed(number)
                parameter.grad = torch.randn(parameter.shape, generator=seed)
            built.step()
        for a, b in zip(*(o.param_groups[0]["params"] for o in (fused, foreach)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0 if optimizer == "sgd" else 1e-6)
