"""Time and memory. Steps are timed in turn, so that load of the machine affects all alike."""

from __future__ import annotations

import platform
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.benchmark import select_unit, timer

from reco import distributed
from reco.paths import user_path
from reco.training.log_figures import resident_bytes

Name = TypeVar("Name", bound=Hashable)


def make_parser(description: str | None) -> ArgumentParser:
    """The options that the benchmarks share."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--repeats", type=int, default=15, help="rounds that count (default 15)")
    add(
        "--output",
        type=user_path,
        default=Path("runs/benchmark"),
        help="folder of tables and picture",
    )
    return parser


def set_up(name: str) -> torch.device:
    """The device of ``--device``, made current: ``timer`` waits for the current one."""
    device = distributed.find_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def alternate(steps: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, list[float]]:
    """Seconds of each step, ``repeats`` times in turn after one round that does not count.

    ``torch.utils.benchmark.Timer`` would measure one after the other, so only its clock is taken,
    which waits for the GPU.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, step in steps.items():
            start = timer()
            step()
            if round_ > 0:
                seconds[name].append(timer() - start)
    return seconds


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes that a step holds at a time beyond what is held before it; None if unknown.

    On the CPU that is resident memory, on Linux alone. What an earlier step gave back to the
    allocator may be used again unseen.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if platform.system() != "Linux":
        return None
    before = resident_bytes("VmRSS")
    # From here on the high-water mark is that of the step.
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return resident_bytes("VmHWM") - before


def describe(device: torch.device) -> str:
    """The machine in a line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    unit, size = select_unit(seconds)
    return f"{seconds / size:.1f} {unit}"
