"""Optimiser and learning rate of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reco.config import Config, ConfigError, TrainConfig
from reco.models.network import SegmentationNetwork

LEARNING_RATE_FLOOR = 1e-6
ADAMW_BETAS = (0.9, 0.999)


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, as in the paper, or AdamW.

    Where the encoder's learning rate differs, its parameters are a separate group.

    Args:
        network: the student; for a factor of the encoder, a ``SegmentationNetwork``.
        config: of the run.

    Raises:
        ConfigError: a factor for the encoder of a network that is no ``SegmentationNetwork``.
    """
    factor = config.encoder_learning_rate_factor
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "factor": 1.0}]
    if factor != 1:
        if not isinstance(network, SegmentationNetwork):
            raise ConfigError(
                f"train.encoder_learning_rate_factor = {factor}: expected 1, since "
                f"{type(network).__name__} is no SegmentationNetwork, so its encoder is unknown"
            )
        parts = network.parameter_groups()
        groups = [
            {"params": parts["encoder"], "factor": factor},
            {"params": parts["decoder"], "factor": 1.0},
        ]
        groups = [group for group in groups if group["params"]]  # none of a frozen encoder
    # On a CPU one pass over the memory is three times as fast. But the scaler of fp16 would call a
    # fused optimiser after an overflow too (optimizer_step).
    fused = config.precision != "fp16" and next(network.parameters()).device.type == "cpu"
    kernels = {"fused": fused, "foreach": not fused}
    common: dict[str, Any] = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        **kernels,
    }
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=ADAMW_BETAS, **common)
    else:
        optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=True, **common)

    def keep_kernels(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Those of a checkpoint may be for another device."""
        return {**state, "param_groups": [{**group, **kernels} for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(keep_kernels)
    return optimizer


def learning_rate(config: Config, iteration: int) -> float:
    """Polynomial decay to a floor: ``max(lr · (1 - t/T)^0.9, 1e-6)``."""
    left = 1 - iteration / config.train.iterations
    decayed: float = config.train.learning_rate * left**0.9
    return max(decayed, LEARNING_RATE_FLOOR)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: Config, iteration: int) -> None:
    """Give each group its factor times :func:`learning_rate`."""
    for group in optimizer.param_groups:
        # Checkpoints of earlier versions have no factor.
        group["lr"] = group.setdefault("factor", 1.0) * learning_rate(config, iteration)


def optimizer_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """An optimiser step, unless a gradient overflowed in fp16; whether it was made.

    The scaler does not say so, but it calls the optimiser only then (one with ``fused=True`` would
    always be called). Asking the scale it chose next would wait for the device.
    """
    stepped = False

    def note(*_: object) -> None:
        nonlocal stepped
        stepped = True

    hook = optimizer.register_step_post_hook(note)
    try:
        scaler.step(optimizer)
    finally:
        hook.remove()
    scaler.update()
    return stepped
