"""Figures of the steps between two lines of the log, read from the device once."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reco import distributed
from reco.loss import ReCoStatistics
from reco.method.objective import Losses, StepStatistics


class Meter:
    """Means of losses and statistics since the last reading, kept on the device until then."""

    _NAMES = (*Losses._fields, *(name for name in StepStatistics._fields if name != "reco"))

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(self._NAMES), device=device)
        self.counts = torch.zeros(len(self._NAMES), device=device)
        self.finite = torch.ones(len(Losses._fields), dtype=torch.bool, device=device)
        self.steps = 0
        self.since = time.perf_counter()

    def add(self, results: Sequence[tuple[Losses, StepStatistics]]) -> None:
        """Take in one step, the parts of its batch, without waiting for the device."""
        for losses, statistics in results:
            scalars = statistics._replace(reco=None)[:-1]
            values = torch.stack([*losses, *scalars]).detach()
            self.finite &= values[: len(losses)].isfinite()
            self.sums += values.nan_to_num()
            self.counts += ~values.isnan()  # a statistic that a step does not have is NaN
        self.steps += 1

    def restart_clock(self) -> None:
        """Leave the time so far out, such as that of a validation."""
        self.since = time.perf_counter()

    def read(self) -> tuple[dict[str, float], list[str], int, float]:
        """Means by name, names of the losses that were not finite, steps, seconds; resets."""
        # Over all ranks, so that all of them stop for a loss that is not finite on one.
        sums, counts, broken = (
            distributed.sum_over_ranks(values)
            for values in (self.sums, self.counts, (~self.finite).float())
        )
        means = dict(zip(self._NAMES, (sums / counts).tolist(), strict=True))
        not_finite = [n for n, b in zip(Losses._fields, broken.tolist(), strict=True) if b]
        steps, seconds = self.steps, time.perf_counter() - self.since
        self.sums.zero_()
        self.counts.zero_()
        self.finite.fill_(True)
        self.steps = 0
        self.restart_clock()
        return means, not_finite, steps, seconds


class RelationMeter:
    """Mean relation graph (Eq. 3) since the last reading; each pair over the steps that had it."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None  # (C, C), as is the next
        self.counts: Tensor | None = None
        self.last: ReCoStatistics | None = None  # of the last batch

    def add(self, statistics: ReCoStatistics | None) -> None:
        """Take in a batch, or a part of one, without waiting for the device."""
        self.last = statistics
        if statistics is None:
            return
        pairs = ~statistics.relation_graph.isnan()
        graph = torch.where(pairs, statistics.relation_graph, 0.0)
        self.sums = graph if self.sums is None else self.sums + graph
        self.counts = pairs.float() if self.counts is None else self.counts + pairs

    def read(self) -> list[list[float | None]] | None:
        """The graph, ``None`` for pairs that no step had; ``None`` without any; resets."""
        if self.sums is None or self.counts is None:
            return None
        rows = (self.sums / self.counts).tolist()
        self.sums = self.counts = None
        return [
            [None if math.isnan(cosine) else round(cosine, 4) for cosine in row] for row in rows
        ]


def reco_summary(statistics: ReCoStatistics | None) -> dict[str, float]:
    """ReCo's statistics of one step in a few numbers."""
    if statistics is None:
        return {}
    graph, present = statistics.relation_graph, statistics.present
    pairs = ~(graph.isnan() | torch.eye(len(graph), dtype=torch.bool, device=graph.device))
    return {
        "classes_present": int(present.sum()),
        "hard_share": float(statistics.hard_share.nanmean()),
        "sampled_share": float(statistics.sampled_share),
        "positive_similarity": float(statistics.positive_similarity),
        "negative_similarity": float(statistics.negative_similarity),
        "relation_mean": float(graph[pairs].mean()),
        "relation_max": float(torch.where(pairs, graph, -1.0).max()),
    }


def held_bytes(device: torch.device) -> int | None:
    """Memory held now: the most allocated so far on a GPU, resident on Linux, else None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_bytes("VmRSS") if platform.system() == "Linux" else None


def resident_bytes(field: str) -> int:
    """This process's memory on Linux: ``VmRSS`` now, ``VmHWM`` at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")
