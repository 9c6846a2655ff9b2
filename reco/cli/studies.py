"""``reco study``, ``reco pseudo-labels`` and ``reco gradients``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from reco.cli.options import Work, add_device, add_overrides
from reco.openmp import let_threads_sleep
from reco.paths import checkpoint_file
from reco.printing import shell_line


def study(parser: ArgumentParser) -> Work:
    """Run a study (needs scipy): methods x label budgets x seeds, skipping what is finished.

        reco study studies/demo.yaml
        reco study my_study.yaml --set dataset.root=/data/camvid train.iterations=4000
        reco study my_study.yaml --devices cuda:0 cuda:1
        reco study studies/ablation.yaml --config camvid_cpu.yaml
        reco study studies/ablation.yaml --config cityscapes_5shot.yaml --test-split none
        reco study my_study.yaml --commands > runs.txt      # for a queue: one line a run
        reco study my_study.yaml --collect                  # tables of what is finished by now

    Each run is a `reco train` command. Finished runs are skipped, stopped ones are resumed: Ctrl-C,
    then the same command, goes on where it was. runs/studies/<study>/ (with --config:
    <study>-<configuration>/) holds results.md, results.csv, classes.csv, curves.csv and, with
    matplotlib, pictures; they grow with every run that ends. logs/ has what each run printed.
    """
    add = parser.add_argument
    add("study", help="a YAML file: a path, or a name in configs/")
    add("--config", help="configuration of the runs, instead of the study's")
    add_overrides(parser)
    add("--devices", nargs="+", default=[], help="one run at a time on each, e.g. cuda:0 cuda:1")
    add("--output-dir", type=Path, help="instead of the study's (runs/studies)")
    add(
        "--test-split",
        choices=["train", "val", "test", "none"],
        help="split to evaluate finished runs on, instead of the study's; none: no further split",
    )

    add("--commands", action="store_true", help="print the runs' commands instead, a line a run")
    add("--collect", action="store_true", help="run nothing: tables of what is there")

    def work(arguments: Namespace) -> int:
        from dataclasses import replace

        from reco.config import check_option
        from reco.studies.progress import Progress
        from reco.studies.runner import run_commands, run_study
        from reco.studies.study import load_study, study_runs

        if len(arguments.devices) > 1:
            let_threads_sleep()  # one run would take the cores from the other
        for device in arguments.devices:
            check_option("--devices", device, "train.device", arguments.overrides)
        chosen = load_study(arguments.study, arguments.config)
        if arguments.output_dir is not None:
            chosen = replace(chosen, output_dir=arguments.output_dir)
        if arguments.test_split is not None:
            none = arguments.test_split == "none"
            chosen = replace(chosen, test_split=None if none else arguments.test_split)
        if arguments.commands:
            for run in study_runs(chosen, arguments.overrides):
                print(" && ".join(map(shell_line, run_commands(run, chosen))))
            return 0
        if arguments.collect:
            progress = Progress(chosen, study_runs(chosen, arguments.overrides))
            progress.write()
            finished = not progress.unfinished()
        else:
            finished = run_study(chosen, arguments.overrides, arguments.devices)
        print((chosen.results_dir / "results.md").read_text(encoding="utf-8"))
        return 0 if finished else 1

    return work


def pseudo_labels(parser: ArgumentParser) -> Work:
    """Measure the labels that ReCo gets of each class, and how many of them are right.

        reco pseudo-labels runs/demo/*/last.pt
        reco pseudo-labels last.pt --set dataset.root=/data/camvid --output supply.csv

    For each class on the run's unlabelled images: its share of the true pixels; the share that it
    fills of the 4 x 4 pixels below an output cell of its label (little for thin classes: a larger
    image_size helps); its share of the pseudo-labels, the part of these above the weak threshold,
    which ReCo may sample, and how often that part is right.
    Several checkpoints are counted together.
    """
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=Path,
        help="last.pt or best.pt of runs with a teacher, or their folders",
    )
    add_overrides(parser)
    add_device(parser)
    add("--output", type=Path, help="write the table here too, as CSV")

    def work(arguments: Namespace) -> int:
        from reco.studies.pseudo_label_statistics import LabelStatistics, label_statistics
        from reco.writing import write_table

        statistics = label_statistics(
            arguments.checkpoints, overrides=arguments.overrides, device=arguments.device
        )
        if arguments.output:
            write_table(arguments.output, LabelStatistics._fields, statistics)
        print(f"{'in %':<20}" + "".join(f"{name:>15}" for name in LabelStatistics._fields[1:]))
        for name, *shares in statistics:
            print(f"{name:<20}" + "".join(f"{'-' if s is None else s:>15}" for s in shares))
        return 0

    return work


def gradients(parser: ArgumentParser) -> Work:
    """Measure the gradients of the terms of the loss, and whether they agree.

        reco gradients runs/demo/*/last.pt
        reco gradients last.pt --set dataset.root=/data/camvid --batches 16

    For the supervised, the unsupervised and the ReCo term: the length of its gradient over the
    parameters that both heads share, and its cosine to those of the first two; medians over
    batches. If the gradient of ReCo is a hundred times longer or shorter than the others, change
    reco.weight.
    """
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, help="last.pt or best.pt of runs, or their folders")
    add_overrides(parser)
    add("--batches", type=int, default=8, help="batches to measure (default 8)")
    add("--output", type=Path, help="write the table here too, as CSV")

    def work(arguments: Namespace) -> int:
        from reco.studies.gradients import TermGradient, term_gradients
        from reco.writing import write_table

        lines: list[tuple[object, ...]] = []
        for path in map(checkpoint_file, arguments.checkpoints):
            found = term_gradients(path, overrides=arguments.overrides, batches=arguments.batches)
            print(path)
            print("".join(f"{name:>24}" for name in TermGradient._fields))
            for row in found:
                print("".join(f"{'-' if value is None else value:>24}" for value in row))
            lines += [(path.parent.name, *row) for row in found]
        if arguments.output:
            write_table(arguments.output, ("run", *TermGradient._fields), lines)
        return 0

    return work
