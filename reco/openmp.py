"""How OpenMP's threads wait for each other: by spinning on a quiet machine, asleep on a busy one.

Spinning takes the cores from other processes and from the threads they wait for; asleep, they need
time to wake up. docs/performance.md has the figures. The library reads
the environment once, when torch is imported, so nothing here imports torch.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# Variables that set how threads wait: the standard's, GNU's and LLVM's.
_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_STATISTICS = Path("/proc/stat")
_BUSY = 0.25  # share of the processors' time
_SECONDS = 0.1


def let_threads_sleep_if_busy() -> None:
    """:func:`let_threads_sleep`, where other processes use the cores; too late with torch there."""
    if "torch" not in sys.modules and busy_share() > _BUSY:
        let_threads_sleep()


def let_threads_sleep() -> None:
    """Let threads sleep in this process and those it starts, unless the environment says how."""
    if not any(name in os.environ for name in _SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def busy_share(seconds: float = _SECONDS) -> float:
    """Share in [0, 1] of the processors' time that is used, measured over ``seconds``.

    Read from ``/proc/stat``; 0 where the system has none.
    """
    if not _STATISTICS.is_file():
        return 0.0
    used, total = _used_and_total()
    time.sleep(seconds)
    used_then, total_then = _used_and_total()
    return (used_then - used) / max(1, total_then - total)


def _used_and_total() -> tuple[int, int]:
    """Ticks of all processors since the start: user nice system idle iowait irq softirq steal."""
    ticks = [int(word) for word in _STATISTICS.read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
