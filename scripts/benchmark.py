"""Measure how fast things are, each in turn with what it is compared to.

    python scripts/benchmark.py loss
    python scripts/benchmark.py loss --device cuda --output benchmark
    python scripts/benchmark.py loss --sizes cityscapes pixels --no-literal

`loss` times ReCoLoss, forward and backward, beside the floor (one read of the representations,
one write of their gradient) and, once, beside a Python loop over classes and queries. It prints a
table and writes <output>/loss.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco import distributed
from reco.benchmark_loss import SIZES, SWEEPS, benchmark_loss, plot_loss, write_loss_csv
from reco.timing import describe


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    loss = commands.add_parser("loss", help="the ReCo loss alone")
    add = loss.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    names = [*SIZES, *SWEEPS]
    add("--sizes", nargs="+", choices=names, default=names, help="which (default: all)")
    add("--repeats", type=int, default=15, help="rounds that count (default 15)")
    add("--no-literal", action="store_true", help="leave the slow Python loop out")
    add("--no-memory", action="store_true", help="do not measure peak memory")
    add("--output", type=Path, default=Path("benchmark"), help="folder of the picture")

    arguments = parser.parse_args()
    try:
        device = distributed.set_up(arguments.device)
        results = benchmark_loss(
            device,
            names=arguments.sizes,
            repeats=arguments.repeats,
            literal=not arguments.no_literal,
            memory=not arguments.no_memory,
            report=lambda line: print(line, flush=True),
        )
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_loss_csv(results, arguments.output / "loss.csv")
        plot_loss(results, describe(device), arguments.output / "loss.png")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"picture: {arguments.output / 'loss.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
