"""``reco report`` and ``reco plot``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from reco.cli.options import Work, add_device, add_images, add_network, add_overrides


def report(parser: ArgumentParser) -> Work:
    """Write one self-contained page about a run: report.html (needs matplotlib and scipy).

        reco report runs/demo/*-s0
        reco report runs/camvid/… --set dataset.root=/data/camvid --images 0 7 31

    Results per class, training curves, predictions, the relation graph, what ReCo samples, split
    and configuration. Nothing on the page is loaded from elsewhere.
    """
    add = parser.add_argument
    add("run", type=Path, help="folder of a run")
    add("--output", type=Path, help="default: report.html in the run's folder")
    add("--checkpoint", default="last.pt", help="file of the folder to show (default last.pt)")
    add_images(parser)
    add_device(parser)
    add_overrides(parser)

    def work(arguments: Namespace) -> int:
        from reco.pictures.report import write_report

        output = write_report(
            arguments.run,
            output=arguments.output,
            checkpoint=arguments.checkpoint,
            overrides=arguments.overrides,
            images=arguments.images,
            device=arguments.device,
        )
        print(f"Open in a browser: {output}")
        return 0

    return work


def plot(parser: ArgumentParser) -> Work:
    """Plot figures of runs and checkpoints (needs matplotlib and scipy).

        reco plot curves runs/demo/a runs/demo/b
        reco plot compare a/last.pt b/last.pt --images 0 3 7
        reco plot relation last.pt
        reco plot course runs/demo/a
        reco plot queries last.pt --images 3 --network student
        reco plot representation last.pt --set dataset.root=/data/camvid

    curves: validation mIoU and losses of run folders. compare: labels and errors of checkpoints on
    the same images. relation: which classes are close (Eq. 3), over the evaluation split. course:
    how that changed while a run trained. queries: hard and easy pixels, queries and negative keys.
    representation: the vectors' main axes as colours.
    """
    add = parser.add_argument
    add(
        "kind",
        choices=["curves", "compare", "relation", "course", "queries", "representation"],
    )
    add("paths", nargs="+", type=Path, help="run folders (curves, course) or checkpoints")
    add("--output", type=Path, help="file to write; default: <kind>.png; .pdf and .svg work too")
    add_images(parser)
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    add_network(parser)
    add_device(parser)
    add_overrides(parser)

    def work(arguments: Namespace) -> int:
        from reco.config import check_option
        from reco.pictures.figure import write_figure

        check_option("--split", arguments.split, "dataset.eval_split", arguments.overrides)
        output = write_figure(
            arguments.kind,
            arguments.paths,
            output=arguments.output,
            images=arguments.images,
            split=arguments.split,
            network=arguments.network,
            overrides=arguments.overrides,
            device=arguments.device,
        )
        print(f"Look at: {output}")
        return 0

    return work
