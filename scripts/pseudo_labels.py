"""What does ReCo get of each class: how much of a cell, which pseudo-labels, how surely, how right?

    python scripts/pseudo_labels.py runs/demo/*/last.pt
    python scripts/pseudo_labels.py last.pt --set dataset.root=/data/camvid --output supply.csv

For each class on the run's unlabelled images: its share of the true pixels; what it fills of the
4 x 4 pixels that one output of the network speaks for, where that carries its label (of thin
classes, little: a larger image_size helps); its share of the pseudo-labels, which part of these is
above the weak threshold, so that ReCo may take it, and how often that is right. Several checkpoints
are counted together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.files import write_table
from reco.studies.pseudo_labels import Supply, survey


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, help="last.pt or best.pt of runs with a teacher")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--output", type=Path, help="write the table here too, as CSV")
    arguments = parser.parse_args()
    try:
        supplies = survey(
            arguments.checkpoints, overrides=arguments.overrides, device=arguments.device
        )
        if arguments.output:
            write_table(arguments.output, Supply._fields, supplies)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'in %':<20}" + "".join(f"{name:>15}" for name in Supply._fields[1:]))
    for name, *shares in supplies:
        print(f"{name:<20}" + "".join(f"{'-' if s is None else s:>15}" for s in shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
