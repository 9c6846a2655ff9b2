"""Timings taken in turn in one process, so that a busy machine is unfair to nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def alternate(
    steps: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each step, ``repeats`` times in turn after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, step in steps.items():
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            if round_ > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait for the device, if it works on its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """The machine in a line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
