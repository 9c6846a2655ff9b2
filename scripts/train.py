"""Train a network.

    python scripts/train.py --config demo.yaml
    python scripts/train.py --config camvid_5shot.yaml --set dataset.root=/data/camvid train.seed=1
    python scripts/train.py --config camvid_5shot.yaml --resume
    torchrun --nproc_per_node=2 scripts/train.py --config pascal_5shot.yaml

The run's folder, runs/<config>/<hash>-s<seed>/, holds its configuration, split, metrics.jsonl,
panels and checkpoints. Ctrl-C leaves a checkpoint, and --resume goes on from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco import distributed
from reco.config import load_config
from reco.runs.folder import run_path
from reco.training.trainer import NonFiniteLossError, train


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=True, help="a YAML file: a path, or a name in configs/"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change keys of the configuration, e.g. train.seed=1 method.mix=cutmix",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="FOLDER",
        help="go on with the run of this configuration, or with the one in FOLDER",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="log for TensorBoard too, in the run's folder (extra tensorboard)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of steps 6 to 15 goes"
    )
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.overrides)
        folder = run_path(config, Path(arguments.config).stem)
        if isinstance(arguments.resume, str):
            folder = Path(arguments.resume)
        outcome = train(
            config,
            folder,
            resume=bool(arguments.resume),
            tensorboard=arguments.tensorboard,
            profile=arguments.profile,
        )
    except (ValueError, OSError, ImportError, NonFiniteLossError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if distributed.rank() == 0:
        print(outcome.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
