"""How much two trainings at once slow each other down, by how OpenMP's threads wait for work.

    python benchmarks/busy.py
    python benchmarks/busy.py --settings GOMP_SPINCOUNT=300000 OMP_WAIT_POLICY=PASSIVE --rounds 5

Each round trains once alone and twice at once with every setting in turn. Seconds of a step are
medians over log intervals, and then over rounds; the first interval does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from reco.files import write_table
from reco.paths import user_path

_LOG_EVERY = 2
# What GNU's OpenMP does by itself, and what the commands set.
_SETTINGS = ["GOMP_SPINCOUNT=300000", "OMP_WAIT_POLICY=PASSIVE"]


def step_seconds(setting: str, runs: int, words: Sequence[str]) -> float:
    """Seconds of a step while ``runs`` trainings are at work, of which the slower counts."""
    name, _, value = setting.partition("=")
    with tempfile.TemporaryDirectory() as folder:
        common = [f"output_dir={folder}", f"train.log_every={_LOG_EVERY}", *words]
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "reco.cli", "train", "--config", "demo.yaml", "--set"),
                    *(*common, f"train.seed={seed}"),
                ],
                env={**os.environ, name: value},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for seed in range(runs)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise ValueError(f"{setting}: a training ended with exit code {max(codes)}")
        return max(_median_step(path) for path in Path(folder).glob("*/*/metrics.jsonl"))


def _median_step(metrics: Path) -> float:
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    seconds = [record["seconds"] / _LOG_EVERY for record in records if "seconds" in record]
    return float(median(seconds[1:]))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--settings", nargs="+", default=_SETTINGS, metavar="NAME=VALUE", help="of the environment")
    add("--rounds", type=int, default=3, help="default 3")
    add("--iterations", type=int, default=14, help="of each training (default 14)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of demo.yaml")
    add("--output", type=user_path, default=Path("runs/benchmark"), help="folder of busy.csv")
    arguments = parser.parse_args(words)
    overrides = [
        f"train.iterations={arguments.iterations}",
        f"train.validate_every={arguments.iterations}",
        *arguments.set,
    ]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for setting in arguments.settings:
            for runs in (1, 2):
                seconds = step_seconds(setting, runs, overrides)
                found.setdefault((setting, runs), []).append(seconds)
    lines = []
    for setting in arguments.settings:
        alone, both = (median(found[setting, runs]) for runs in (1, 2))
        lines.append((setting, round(alone, 4), round(both, 4), round(both / alone, 2)))
        print(f"{setting}: {alone:.3f} s a step alone, {both:.3f} s of two: {both / alone:.2f}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    header = ("setting", "seconds_alone", "seconds_of_two", "ratio")
    write_table(arguments.output / "busy.csv", header, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
