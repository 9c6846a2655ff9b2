"""How much two trainings at once slow each other down, by the waiting policy of OpenMP's threads.

    python benchmarks/busy.py
    python benchmarks/busy.py --settings GOMP_SPINCOUNT=10000 OMP_WAIT_POLICY=PASSIVE --rounds 5

Each round measures one training alone and two at once with every setting in turn. The second one
starts after the first step of the first. ``default`` leaves the environment as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from reco.paths import user_path
from reco.writing import write_table

_SPINNING = "GOMP_SPINCOUNT=300000"  # the default of GNU's OpenMP
_SETTINGS = ["default", _SPINNING, "OMP_WAIT_POLICY=PASSIVE"]
_START_SECONDS = 120  # a training without a step by then is measured too


def step_seconds(settings: Sequence[str], seconds: float, words: Sequence[str]) -> list[float]:
    """Seconds of a step of trainings at once, one for each setting; infinite without a step."""
    with tempfile.TemporaryDirectory() as temporary:
        logs: list[Path] = []
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number, setting in enumerate(settings):
                folder = Path(temporary) / str(number)
                processes.append(_start(setting, folder, words))
                logs.append(_first_step(processes[-1], folder))
            before = [_steps(log) for log in logs]
            time.sleep(seconds)
            made = [_steps(log) - steps for log, steps in zip(logs, before, strict=True)]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return [seconds / steps if steps else float("inf") for steps in made]


def _start(setting: str, folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    name, _, value = setting.partition("=")
    waiting = {} if setting == "default" else {name: value}
    command = [sys.executable, "-m", "reco.cli", "train", "--config", "demo.yaml", "--set"]
    command += ["train.workers=0", "train.log_every=1", f"output_dir={folder}", *words]
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, env={**os.environ, **waiting}, stdout=silent, stderr=silent)


def _first_step(process: subprocess.Popen[bytes], folder: Path) -> Path:
    """The metrics of a training, once it has made a step or its time to start is over."""
    end = time.monotonic() + _START_SECONDS
    while True:
        log = next(folder.glob("*/*/metrics.jsonl"), folder / "none")
        if _steps(log) or time.monotonic() > end:
            return log
        if process.poll() is not None:
            raise ValueError(f"a training ended with exit code {process.returncode}")
        time.sleep(0.1)


def _steps(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--settings", nargs="+", default=_SETTINGS, metavar="NAME=VALUE", help="of the environment")
    add("--rounds", type=int, default=3, help="default 3")
    add("--seconds", type=float, default=15, help="of each measurement (default 15)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of demo.yaml")
    add("--output", type=user_path, default=Path("runs/benchmark"), help="folder of busy.csv")
    arguments = parser.parse_args(words)
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for setting in arguments.settings:
            for runs in (1, 2):
                seconds = step_seconds([setting] * runs, arguments.seconds, arguments.set)
                found.setdefault((setting, runs), []).append(max(seconds))
                each = " and ".join(f"{value:.3f}" for value in seconds)
                print(f"{setting}, {runs} at once: {each} s a step", flush=True)
    alone = {setting: median(found[setting, 1]) for setting in arguments.settings}
    fastest = min(alone.values())
    lines = []
    for setting in arguments.settings:
        both = median(found[setting, 2])
        cost, ratio = alone[setting] / fastest - 1, both / fastest
        lines.append((setting, round(alone[setting], 4), round(both, 4), round(ratio, 2)))
        print(
            f"{setting}: {alone[setting]:.3f} s a step alone ({cost:.0%} over the fastest), "
            f"the slower of two {both:.3f} s: {ratio:.2f} times the fastest alone"
        )
    header = ("setting", "seconds_alone", "seconds_of_slower_of_two", "ratio_to_fastest_alone")
    write_table(arguments.output / "busy.csv", header, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
