"""Run a study: methods x label budgets x seeds, skipping what is finished.

    python scripts/study.py studies/demo.yaml
    python scripts/study.py my_study.yaml --set dataset.root=/data/camvid train.iterations=4000
    python scripts/study.py my_study.yaml --devices cuda:0 cuda:1
    python scripts/study.py studies/ablation.yaml --config camvid_cpu.yaml
    python scripts/study.py studies/ablation.yaml --config cityscapes_5shot.yaml --test-split none

Finished runs are skipped, stopped ones are resumed: Ctrl-C, then the same command, goes on where
it was. runs/studies/<study>/ holds results.md, results.csv, classes.csv, curves.csv and, with
matplotlib, pictures; they grow with every run that ends. logs/ has what each run printed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from reco.studies.runner import run_study
from reco.studies.study import load_study


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="a YAML file: a path, or a name in configs/")
    parser.add_argument("--config", help="take the runs from this one instead of the study's own")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change keys of the configuration of all runs",
    )
    parser.add_argument(
        "--devices", nargs="+", default=[], help="one run at a time on each, e.g. cuda:0 cuda:1"
    )
    parser.add_argument("--output-dir", type=Path, help="instead of the study's (runs/studies)")
    parser.add_argument(
        "--test-split",
        choices=["train", "val", "test", "none"],
        help="evaluate finished runs on this instead of the study's own; none: on no further split",
    )
    arguments = parser.parse_args()
    try:
        study = load_study(arguments.study, arguments.config)
        if arguments.output_dir is not None:
            study = replace(study, output_dir=arguments.output_dir)
        if arguments.test_split is not None:
            none = arguments.test_split == "none"
            study = replace(study, test_split=None if none else arguments.test_split)
        finished = run_study(study, arguments.overrides, arguments.devices)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((study.results_dir / "results.md").read_text(encoding="utf-8"))
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
