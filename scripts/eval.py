"""Evaluate one or several checkpoints; each brings its configuration.

    python scripts/eval.py --checkpoint runs/demo/…/best.pt
    python scripts/eval.py --checkpoint a/best.pt b/best.pt --split test --network teacher
    python scripts/eval.py --checkpoint best.pt --scales 0.75 1 1.25 --flip
    python scripts/eval.py --checkpoint best.pt --window 512 512 --original-size
    python scripts/eval.py --checkpoint best.pt --set dataset.root=/where/the/data/are/now

Prints IoU per class and the usual means, and writes <checkpoint>-<split>.json and .csv beside
each checkpoint. Without options the protocol is that of training's own validation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.inference.evaluate import evaluate_checkpoints
from reco.inference.probabilities import BOUNDARY_WIDTH, InferenceMode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, nargs="+", type=Path, help="best.pt or last.pt of a run")
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    add("--network", choices=["student", "teacher", "both"], default="both")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change keys of the configuration, e.g. dataset.root=/data/camvid",
    )
    add("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window of this size")
    add("--overlap", type=float, default=0.5, help="share of the window (default 0.5)")
    add("--blend", choices=["hann", "linear", "uniform"], default="hann")
    add("--scales", nargs="+", type=float, default=[1.0], help="average over these scales")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--original-size", action="store_true", help="compare at the size of the label files")
    add("--boundary-width", type=int, default=BOUNDARY_WIDTH, help="pixels (default 3)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    try:
        table = evaluate_checkpoints(
            arguments.checkpoint,
            split=arguments.split,
            overrides=arguments.overrides,
            which=arguments.network,
            mode=InferenceMode(
                window=tuple(arguments.window) if arguments.window else None,
                overlap=arguments.overlap,
                blend=arguments.blend,
                scales=tuple(arguments.scales),
                flip=arguments.flip,
            ),
            original_size=arguments.original_size,
            boundary_width=arguments.boundary_width,
            device=arguments.device,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
