"""What a run was made with: commit, versions, device and threads."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from reco import __version__


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of the run."""
    has_gpu = torch.cuda.is_available()
    return {
        "commit": _commit(),
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if has_gpu else _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The name of the processor, or of its architecture where the system does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found is not None:
            return found[1]
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the checkout that this package runs from, ``unknown`` for an installed one.

    An installed package may lie below another repository, whose commit is not the package's.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
