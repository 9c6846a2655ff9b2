"""Where the time of a training step goes: the phases that the code names by ``record_function``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from reco.printing import say
from reco.writing import write_text_whole, write_whole

# In the order of a step. The names are those of `record_function` in trainer, views and objective.
PHASES = (
    "data",
    "teacher",
    "augmentation",
    "student",
    "cross-entropy",
    "ReCo",
    "statistics",
    "backward",
    "optimiser",
)
_STEPS = 10


class StepProfiler(profile):
    """Profiles steps 6 to 15 of a run; writes ``profile.json`` and ``trace.json`` to its folder.

    A context for the steps; ``step()`` is to be called after each.

    Args:
        folder: of the run.
        device: of the run. On a GPU the times are those of its kernels.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        super().__init__(
            activities=profiler_activities(device),
            schedule=schedule(wait=4, warmup=1, active=_STEPS, repeat=1),
            on_trace_ready=self._write,
        )

    def _write(self, finished: profile) -> None:
        seconds = phase_seconds(finished, self.device, _STEPS)
        text = json.dumps(seconds, indent=1) + "\n"
        write_text_whole(self.folder / "profile.json", text)
        write_whole(self.folder / "trace.json", lambda to: finished.export_chrome_trace(str(to)))
        say(format_phases(seconds))
        say(f"timeline for chrome://tracing: {self.folder / 'trace.json'}")


def profiler_activities(device: torch.device) -> list[ProfilerActivity]:
    """What to profile on ``device``."""
    on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *on_gpu]


def phase_seconds(finished: profile, device: torch.device, steps: int) -> dict[str, float]:
    """Mean seconds of each phase in a step; phases that the run does not have are left out."""
    totals = {
        event.key: event.device_time_total if device.type == "cuda" else event.cpu_time_total
        for event in finished.key_averages()
        if event.key in PHASES
    }
    return {phase: totals[phase] / 1e6 / steps for phase in PHASES if phase in totals}


def format_phases(seconds: dict[str, float]) -> str:
    """A line for each phase: milliseconds of a step, and its share."""
    total = sum(seconds.values())
    return "\n".join(
        f"  {phase:<14} {1e3 * value:9.1f} ms {100 * value / total:5.1f} %"
        for phase, value in seconds.items()
    )
