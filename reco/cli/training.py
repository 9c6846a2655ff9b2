"""``reco train``."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from reco.cli.options import Work, add_overrides
from reco.printing import shell_line


def train(parser: ArgumentParser) -> Work:
    """Train a network.

        reco train --config demo.yaml
        reco train --config camvid_5shot.yaml --set dataset.root=/data/camvid train.seed=1
        reco train --config camvid_5shot.yaml --resume
        reco train --resume runs/camvid_5shot/0123abcd-s0 --set train.workers=0
        reco train --config camvid_5shot.yaml --resume --extend-to 80000
        reco train --config camvid_5shot.yaml my.yaml --show
        torchrun --nproc_per_node=2 --max-restarts=3 scripts/train.py --config pascal_200.yaml \\
            --resume

    The run's folder, runs/<config>/<hash>-s<seed>/, holds its configuration, split, metrics.jsonl,
    panels and checkpoints; the hash is that of all keys that change a number. Ctrl-C leaves a
    checkpoint, from which --resume continues; --resume also starts a run that does not exist yet.
    """
    add = parser.add_argument
    add(
        "--config",
        nargs="+",
        metavar="FILE",
        help="YAML files, later ones over earlier ones: paths, or names in configs/",
    )
    add_overrides(parser)
    add("--show", action="store_true", help="print where each value comes from, and stop")
    add(
        "--resume",
        nargs="?",
        const=True,
        type=Path,
        metavar="FOLDER",
        help="continue the run of --config, or start it; with a run's FOLDER (or its last.pt) "
        "continue that one, with the configuration stored there unless --config is given",
    )
    add(
        "--extend-to",
        type=int,
        metavar="ITERATIONS",
        help="continue a run, finished or not, to more iterations than in its configuration",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="log for TensorBoard too, in the run's folder (extra tensorboard)",
    )
    add("--profile", action="store_true", help="print the time of each phase of steps 6 to 15")

    def work(arguments: Namespace) -> int:
        from reco.config import check_option, config_name, explain_config, load_config
        from reco.runs.folder import read_run_config, resumed_folder, run_path
        from reco.training.trainer import NonFiniteLossError
        from reco.training.trainer import train as train_run

        check_option("--extend-to", arguments.extend_to, "train.iterations", arguments.overrides)
        folder = resumed_folder(arguments.resume) if isinstance(arguments.resume, Path) else None
        if not arguments.config and (arguments.show or folder is None):
            raise ValueError("--config is missing; only --resume FOLDER does without it")
        if arguments.show:
            print(explain_config(arguments.config, arguments.overrides))
            return 0
        if folder is not None and not arguments.config:
            config = read_run_config(folder, arguments.overrides)
        else:
            config = load_config(arguments.config, arguments.overrides)
            folder = folder or run_path(config, config_name(arguments.config))
        try:
            outcome = train_run(
                config,
                folder,
                resume=arguments.resume is not None,
                extend_to=arguments.extend_to,
                tensorboard=arguments.tensorboard,
                profile=arguments.profile,
            )
        except NonFiniteLossError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            if config.dataset.name != "folder" or not _is_of_a_file(error, config.dataset.root):
                raise
            check = ["reco", "prepare", "folder", "--config"]
            check += arguments.config or [str(folder / "config.yaml")]
            if data := [text for text in arguments.overrides if text.startswith("dataset.")]:
                check += ["--set", *data]
            raise ValueError(f"{error}. `{shell_line(check)}` lists all such files") from error
        if os.environ.get("RANK", "0") == "0":  # the processes have left their group by now
            print(outcome.summary())
        return 0 if outcome.finished else 130

    return work


def _is_of_a_file(error: ValueError, root: str | None) -> bool:
    """Whether an error is about a file of the data set, whose path comes first then."""
    beginnings = (str(error)[: end.start()] for end in re.finditer("[: ]", str(error)))
    return any(
        Path(root or "") in Path(text).parents and os.path.isfile(text) for text in beginnings
    )
