"""Measure how fast things are, each in turn with what it is compared to.

    python benchmarks/benchmark.py loss
    python benchmarks/benchmark.py loss --device cuda --output benchmark
    python benchmarks/benchmark.py loss --sizes cityscapes pixels --no-literal
    python benchmarks/benchmark.py step --config demo.yaml
    python benchmarks/benchmark.py step --config cityscapes_5shot.yaml --device cuda --compile

`loss` times ReCoLoss, forward and backward, beside the floor (one read of the representations,
one write of their gradient) and beside a Python loop over classes and queries. `step` times a
training step with and without ReCo, with and without data loading, beside the passes through the
networks alone, and says where the time goes. Tables go to <output>/loss.csv and step.csv, a picture
to <output>/loss.png (extra plot).
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from loss import SIZES, SWEEPS, benchmark_loss, plot_loss, write_loss_csv
from step import benchmark_step, write_step_csv

from reco import distributed
from reco.training.timing import describe


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    loss = commands.add_parser("loss", help="the ReCo loss alone")
    names = [*SIZES, *SWEEPS]
    loss.add_argument("--sizes", nargs="+", choices=names, default=names, help="default: all")
    loss.add_argument("--no-literal", action="store_true", help="leave the slow Python loop out")
    loss.add_argument("--no-memory", action="store_true", help="do not measure peak memory")

    step = commands.add_parser("step", help="a training step")
    step.add_argument("--config", required=True, help="as for scripts/train.py")
    step.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    step.add_argument("--compile", action="store_true", help="time compiled networks too")

    for command in (loss, step):
        add = command.add_argument
        add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        add("--repeats", type=int, default=15, help="rounds that count (default 15)")
        add(
            "--output",
            type=Path,
            default=Path("runs/benchmark"),
            help="folder of tables and picture",
        )

    arguments = parser.parse_args()
    try:
        (_loss if arguments.command == "loss" else _step)(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _loss(arguments: argparse.Namespace) -> None:
    device = distributed.set_up(arguments.device)
    results = benchmark_loss(
        device,
        names=arguments.sizes,
        repeats=arguments.repeats,
        literal=not arguments.no_literal,
        memory=not arguments.no_memory,
        report=_report,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_loss_csv(results, arguments.output / "loss.csv")
    if find_spec("matplotlib") is not None:
        plot_loss(results, describe(device), arguments.output / "loss.png")
        print(f"Look at: {arguments.output / 'loss.png'}")


def _step(arguments: argparse.Namespace) -> None:
    timings = benchmark_step(
        arguments.config,
        arguments.set,
        device=distributed.set_up(arguments.device),
        repeats=arguments.repeats,
        compiled=arguments.compile,
        report=_report,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_step_csv(timings, arguments.output / "step.csv")


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
