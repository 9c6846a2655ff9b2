"""Time and memory. Timings are taken in turn in one process: a busy machine is unfair to nobody."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


def alternate(
    steps: Mapping[Name, Callable[[], object]], repeats: int, device: torch.device
) -> dict[Name, list[float]]:
    """Seconds of each step, ``repeats`` times in turn after one round that does not count."""
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
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


def held_bytes(device: torch.device) -> int | None:
    """Memory held now: the most allocated so far on a GPU, resident on Linux, else None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmRSS") if platform.system() == "Linux" else None


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes that a step holds at a time beyond what is held before it; None if unknown.

    On the CPU that is resident memory, on Linux alone. What an earlier step gave back to the
    allocator may be used again unseen.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    if platform.system() != "Linux":
        return None
    before = _status_bytes("VmRSS")
    # From here on the high-water mark is that of the step.
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")


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
