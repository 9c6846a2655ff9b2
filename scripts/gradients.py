"""How strongly does each term of the loss pull at a network, and do the terms agree?

    python scripts/gradients.py runs/demo/*/last.pt
    python scripts/gradients.py last.pt --set dataset.root=/data/camvid --batches 16

For the supervised, the unsupervised and the ReCo term: the length of its gradient over the
parameters that both heads share, and its cosine to those of the first two; medians over batches.
A ReCo term a hundred times longer or shorter than the others wants another reco.weight.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.files import write_table
from reco.studies.gradients import TermGradient, term_gradients


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, help="last.pt or best.pt of runs")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    add("--batches", type=int, default=8, help="batches to look at (default 8)")
    add("--output", type=Path, help="write the table here too, as CSV")
    arguments = parser.parse_args()
    lines: list[tuple[object, ...]] = []
    try:
        for path in arguments.checkpoints:
            found = term_gradients(path, overrides=arguments.overrides, batches=arguments.batches)
            print(path)
            print("".join(f"{name:>24}" for name in TermGradient._fields))
            for row in found:
                print("".join(f"{'-' if cell is None else cell:>24}" for cell in row))
            lines += [(path.parent.name, *row) for row in found]
        if arguments.output:
            write_table(arguments.output, ("run", *TermGradient._fields), lines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
