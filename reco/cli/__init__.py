"""The command ``reco``: for each subcommand, a function that adds its options and returns its work.

``python scripts/train.py …`` and ``scripts/eval.py`` are ``reco train …`` and ``reco eval …``. What
a command needs is imported when it runs, so that ``reco --help`` answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reco.openmp import let_threads_sleep, let_threads_sleep_if_busy
from reco.paths import user_path

if TYPE_CHECKING:
    from reco.inference.probabilities import InferenceMode

Work = Callable[[Namespace], int]

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command. Errors of the user or the machine are one line on stderr and exit code 1.

    Ctrl-C is exit code 130.

    Args:
        words: the command and its options; by default those of the command line.
    """
    arguments = command_parser().parse_args(words)
    let_threads_sleep_if_busy()
    log = logging.getLogger("reco")
    if not log.handlers:
        log.addHandler(_ToStderr())
        # Of several processes only the first one logs more than warnings.
        log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if sys.stderr is None:  # closed, as for a program without a terminal
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape what the terminal cannot encode; stderr does so by default.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.work(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError for mistakes in the code too: those need their traceback.
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        reason = f"out of memory: {[*str(error).splitlines(), ''][0]}"
        print(f"error: {reason.removesuffix(': ')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return code


class _ToStderr(logging.Handler):
    """What the package logs, such as which weights were loaded, as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def command_parser() -> ArgumentParser:
    """The parser of all commands; parsed arguments hold the command's function as ``work``."""
    parser = _Parser(
        prog="reco",
        description="Semantic segmentation from a handful of labelled images (ReCo, ICLR 2022).",
        epilog="`reco COMMAND --help` shows examples and all options of a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, describe in COMMANDS.items():
        text = cleandoc(describe.__doc__ or "")
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.set_defaults(work=describe(command))
    return parser


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
    _add_overrides(parser)
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
        if os.environ.get("RANK", "0") == "0":  # the processes have left their group by now
            print(outcome.summary())
        return 0

    return work


def evaluate(parser: ArgumentParser) -> Work:
    """Evaluate one or several checkpoints, each by the configuration stored in it.

        reco eval --checkpoint runs/demo/…/last.pt
        reco eval --checkpoint a/last.pt b/last.pt --split test --network teacher
        reco eval --checkpoint last.pt --scales 0.75 1 1.25 --flip
        reco eval --checkpoint last.pt --window 512 512 --original-size
        reco eval --checkpoint last.pt --set dataset.root=/where/the/data/are/now

    Prints IoU per class and the usual means, and writes <checkpoint>-<split>.json and .csv beside
    each checkpoint, or to the folder of --output. Without options the protocol is that of the
    validations during training. Report last.pt: best.pt was chosen by its mIoU on the evaluation
    split, where its figure is too good.
    """
    add = parser.add_argument
    add("--checkpoint", required=True, nargs="+", type=Path, help="last.pt or best.pt of a run")
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    add("--network", choices=["student", "teacher", "both"], default="both")
    _add_overrides(parser)
    _add_mode(parser)
    add("--original-size", action="store_true", help="compare at the size of the label files")
    add("--boundary-width", type=int, default=3, help="pixels (default 3)")
    add("--output", type=Path, help="folder of the files; default: beside each checkpoint")
    _add_device(parser)

    def work(arguments: Namespace) -> int:
        from reco.config import check_option
        from reco.inference.evaluate_checkpoints import evaluate_checkpoints

        check_option("--split", arguments.split, "dataset.eval_split", arguments.overrides)
        written: list[Path] = []
        table = evaluate_checkpoints(
            arguments.checkpoint,
            split=arguments.split,
            overrides=arguments.overrides,
            which=arguments.network,
            mode=_mode(arguments),
            original_size=arguments.original_size,
            boundary_width=arguments.boundary_width,
            device=arguments.device,
            output=arguments.output,
            written=written,
        )
        print(table)
        _print_written(written)
        return 0

    return work


def predict(parser: ArgumentParser) -> Work:
    """Label images with a trained network.

        reco predict --checkpoint last.pt street.jpg
        reco predict --checkpoint last.pt photos/ --output labelled --confidence
        reco predict --checkpoint last.pt "photos/**/*.png" --network student
        reco predict --checkpoint last.pt map.tif --full-size --window 512 512 --flip

    Writes <output>/labels/<name>.png (class indices, in the data set's palette) and
    <output>/overlays/<name>.png (the image under the classes' colours), and with --confidence
    <output>/confidence/<name>.png (0 to 255). Names and sub-folders are kept. A file that cannot be
    read is reported, the rest goes on, and the exit code is 1. Images of any size are labelled in
    bounded memory; the labels of a GeoTIFF are a GeoTIFF of the same place.
    """
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGES", help="files, folders, or globs in quotes")
    _add_checkpoint(parser)
    add("--output", type=Path, default=Path("predictions"), help="default: predictions/")
    _add_network(parser)
    add("--confidence", action="store_true", help="write the confidence too")
    add("--full-size", action="store_true", help="do not bring images to the run's image_size")
    _add_mode(parser)
    add("--batch-size", type=int, default=4, help="images at once where sizes agree (default 4)")
    _add_device(parser)

    def work(arguments: Namespace) -> int:
        from reco.inference.files import predict_files
        from reco.inference.predictor import load

        predictor = load(
            arguments.checkpoint,
            network=arguments.network,
            image_size=None if arguments.full_size else "config",
            device=arguments.device,
            mode=_mode(arguments),
        )
        outcome = predict_files(
            predictor,
            arguments.images,
            arguments.output,
            confidence=arguments.confidence,
            batch_size=arguments.batch_size,
        )
        print(outcome.summary(arguments.output))
        return 1 if outcome.failures else 0

    return work


def export(parser: ArgumentParser) -> Work:
    """Write a checkpoint's network in forms that run without this project.

        reco export --checkpoint last.pt
        reco export --checkpoint last.pt --format pt2 onnx --images photos/*.jpg
        reco export --checkpoint last.pt --format onnx --input float --output shipped/

    Each file is read again and compared with the checkpoint, on your images or on random ones.
    `hub` is a folder in Hugging Face's layout, which --checkpoint takes too. A model card lies
    beside the files.
    The exit code is 1 where fewer than 99.9 % of pixels keep their label.
    """
    add = parser.add_argument
    _add_checkpoint(parser)
    add("--output", type=Path, help="folder; default: beside the checkpoint")
    add(
        "--format",
        nargs="+",
        choices=["pt2", "onnx", "state_dict", "hub"],
        default=["pt2", "state_dict"],
        dest="formats",
        help="default: pt2 state_dict",
    )
    _add_network(parser)
    add(
        "--input",
        choices=["uint8", "float", "normalised"],
        default="uint8",
        help="what the exported network takes: 0..255 (default), 0..1, or normalised by you",
    )
    add("--images", nargs="+", type=Path, default=[], help="images to compare on")

    def work(arguments: Namespace) -> int:
        from reco.inference.export import export_checkpoint

        written: list[Path] = []
        results = export_checkpoint(
            arguments.checkpoint,
            arguments.output,
            formats=arguments.formats,
            network=arguments.network,
            input=arguments.input,
            images=arguments.images,
            written=written,
        )
        for result in results:
            print(result.summary())
        _print_written(written)
        return 1 if any(result.agreement < 0.999 for result in results) else 0

    return work


def prepare(parser: ArgumentParser) -> Work:
    """Check a data set, copy it resized, convert Pascal's masks, show a split, or import one.

        reco prepare cityscapes --root /data/cityscapes
        reco prepare cityscapes --root /data/cityscapes --resize-to /ssd/cityscapes
        reco prepare pascal --root /data/pascal --download --convert-sbd
        reco prepare camvid --root /data/camvid --config camvid_5shot.yaml \\
            --set dataset.split_seed=1 --split split.json
        reco prepare camvid --root /data/camvid --picture partial_labels.png
        reco prepare folder --config crack.yaml
        reco prepare import labelme photos --to data

    Without further options it checks: everything that is wrong is listed, with file names, and the
    exit code is 1. For `folder` it writes a picture of a few images under their masks, with the
    legend (--masks-picture, by default runs/<configuration>_masks.png): check it before you train.
    --resize-to copies at the configuration's dataset.image_size; train on the copy by
    dataset.root=/ssd/cityscapes. Called again after an interruption, it continues.

    `import` converts the annotations of another tool to a folder that is ready to train on.
    """
    options = ArgumentParser(add_help=False)
    add = options.add_argument
    add("--root", help="its folder; default: the configuration's dataset.root")
    add("--config", help="default: configs/<dataset>.yaml; `folder` needs yours for its classes")
    _add_overrides(options)
    add("--resize-to", type=Path, metavar="FOLDER", help="make a resized copy there")
    add("--download", action="store_true", help="fetch VOC 2012 and SBD (pascal, 3 GB)")
    add("--convert-sbd", action="store_true", help="SBD's .mat files to PNG (pascal; needs scipy)")
    add("--split", type=Path, metavar="FILE", help="print the labelled split and write it there")
    add(
        "--picture", type=Path, metavar="FILE", help="write a picture of one image's partial labels"
    )
    add(
        "--masks-picture",
        type=Path,
        metavar="FILE",
        help="write a picture of images under their masks",
    )
    kinds = parser.add_subparsers(
        metavar="DATASET",
        required=True,
        dest="dataset",
        help="camvid, cityscapes, pascal, sun, folder, or import; `reco prepare folder --help` "
        "and `reco prepare import --help` show the options",
    )
    for name in ("camvid", "cityscapes", "pascal", "sun", "folder"):
        kinds.add_parser(name, parents=[options], description=f"See `{parser.prog} --help`.")
    annotations = kinds.add_parser("import", description=cleandoc(import_annotations.__doc__ or ""))
    annotations.formatter_class = RawDescriptionHelpFormatter
    annotations.set_defaults(work=import_annotations(annotations))

    return _prepare


def _prepare(arguments: Namespace) -> int:
    """``reco prepare`` without ``import``."""
    from reco.config import check_option, load_config
    from reco.data import open_dataset
    from reco.data.check import check_dataset
    from reco.data.prepare import resize_dataset
    from reco.data.reader import FileReader
    from reco.data.sbd import convert_sbd, download_pascal
    from reco.data.splits import make_split
    from reco.files import write_text_whole, write_whole
    from reco.panels import paint_budgets, paint_masks

    if arguments.dataset != "pascal" and (arguments.download or arguments.convert_sbd):
        raise ValueError("--download and --convert-sbd are for pascal")
    check_option("--root", arguments.root, "dataset.root", arguments.overrides)
    root = [f"dataset.root={arguments.root}"] if arguments.root else []
    name = arguments.config or f"{arguments.dataset}.yaml"
    whole = load_config(name, [*root, *arguments.overrides])
    config = whole.dataset
    if config.name != arguments.dataset:
        raise ValueError(f"{name} is for {config.name}, expected {arguments.dataset}")
    if arguments.download:
        download_pascal(Path(config.root or ""))
    if arguments.convert_sbd:
        print(f"{convert_sbd(Path(config.root or ''))} masks written")
    reader = open_dataset(config)
    assert isinstance(reader, FileReader)
    if arguments.resize_to:
        if config.image_size is None:
            raise ValueError("dataset.image_size = null: images as they come, nothing to resize")
        written = resize_dataset(reader, arguments.resize_to, config.image_size)
        print(f"{written} images written to {arguments.resize_to}")
    if arguments.split:
        split = make_split(reader, config)
        write_text_whole(arguments.split, split.to_json())
        print(f"{split.summary()}, written to {arguments.split}")
    if arguments.picture:
        write_whole(arguments.picture, paint_budgets(reader, config).save)
    if arguments.resize_to or arguments.split or arguments.picture:
        return 0
    found = check_dataset(reader, config.eval_split)
    print(found.format())
    show = arguments.masks_picture
    if show is None and config.name == "folder":
        show = Path(whole.output_dir) / f"{Path(name).stem}_masks.png"
    if show is not None and (picture := paint_masks(reader)) is not None:
        write_whole(show, picture.save)
        print(f"Look at: {show}")
    return 1 if found.problems else 0


def import_annotations(parser: ArgumentParser) -> Work:
    """Convert the annotations of another tool to a folder that is ready to train on.

        reco prepare import labelme photos --to data
        reco prepare import coco instances.json --images photos --to data
        reco prepare import cvat export/ --to data --unlabelled more_photos
        reco prepare import instances stage1_train --to data --classes background nucleus

    The folder holds links to the images, index masks and data.yaml: `reco train --config
    data/data.yaml` trains on it. Images without annotations become unlabelled ones. A summary
    lists areas that overlap, reach beyond their image, or could not be imported.
    """
    add = parser.add_argument
    add("format", choices=["coco", "labelme", "cvat", "instances", "roboflow"])
    add("source", type=Path, help="file or folder, as the tool wrote it")
    add("--to", type=Path, required=True, metavar="FOLDER", help="the new folder")
    add("--images", type=Path, metavar="FOLDER", help="where the images are, if not with SOURCE")
    add("--unlabelled", type=Path, nargs="+", default=[], metavar="FOLDER", help="further images")
    add("--classes", nargs="+", metavar="NAME", help="these, in this order; others become void")
    add("--void", nargs="+", default=["__ignore__"], metavar="NAME", help="names that mean void")
    add(
        "--uncovered",
        choices=["background", "void"],
        default="background",
        help="what pixels are that no area covers (default background)",
    )
    add(
        "--empty",
        choices=["background", "unlabelled"],
        default="background",
        help="what an annotated image without any area is (default background)",
    )
    add(
        "--val-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of the labelled images for validation, where the source names none (default 0.2)",
    )
    add("--copy", action="store_true", help="copy the images instead of linking them")

    def work(arguments: Namespace) -> int:
        from reco.data.importers import ImportOptions, import_dataset

        options = ImportOptions(
            class_names=tuple(arguments.classes) if arguments.classes else None,
            void_names=tuple(arguments.void),
            uncovered=arguments.uncovered,
            empty=arguments.empty,
            images=arguments.images,
            unlabelled=tuple(arguments.unlabelled),
            val_share=arguments.val_share,
            copy=arguments.copy,
        )
        summary = import_dataset(arguments.format, arguments.source, arguments.to, options)
        print(summary.format())
        return 0

    return work


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
    then the same command, goes on where it was. runs/studies/<study>/ holds results.md,
    results.csv, classes.csv, curves.csv and, with matplotlib, pictures; they grow with every run
    that ends. logs/ has what each run printed.
    """
    add = parser.add_argument
    add("study", help="a YAML file: a path, or a name in configs/")
    add("--config", help="configuration of the runs, instead of the study's")
    _add_overrides(parser)
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
        import shlex
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
                print(" && ".join(map(shlex.join, run_commands(run, chosen))))
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
    _add_images(parser)
    _add_device(parser)
    _add_overrides(parser)

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
    _add_images(parser)
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    _add_network(parser)
    _add_device(parser)
    _add_overrides(parser)

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
    add("checkpoints", nargs="+", type=Path, help="last.pt or best.pt of runs with a teacher")
    _add_overrides(parser)
    _add_device(parser)
    add("--output", type=Path, help="write the table here too, as CSV")

    def work(arguments: Namespace) -> int:
        from reco.files import write_table
        from reco.studies.pseudo_labels import LabelStatistics, label_statistics

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
    add("checkpoints", nargs="+", type=Path, help="last.pt or best.pt of runs")
    _add_overrides(parser)
    add("--batches", type=int, default=8, help="batches to measure (default 8)")
    add("--output", type=Path, help="write the table here too, as CSV")

    def work(arguments: Namespace) -> int:
        from reco.files import write_table
        from reco.studies.gradients import TermGradient, term_gradients

        lines: list[tuple[object, ...]] = []
        for path in arguments.checkpoints:
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


COMMANDS: dict[str, Callable[[ArgumentParser], Work]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "prepare": prepare,
    "study": study,
    "report": report,
    "plot": plot,
    "pseudo-labels": pseudo_labels,
    "gradients": gradients,
}


class _Parser(ArgumentParser):
    """Fills in ``~`` and ``$VARIABLES`` in every option of ``type=Path``; so do its sub-parsers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, _path)


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: expected {error}") from error


def _add_overrides(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change keys of the configuration, e.g. train.seed=1 dataset.root=/data/camvid",
    )


def _add_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="last.pt or best.pt of a run"
    )


def _add_network(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        choices=["auto", "student", "teacher"],
        default="auto",
        help="auto: the teacher, or the student of a supervised run",
    )


def _add_mode(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window of this size")
    add("--overlap", type=float, help="share of the window (default 0.5)")
    add("--blend", choices=["hann", "uniform"], help="of windows (default hann)")
    add("--scales", nargs="+", type=float, default=[1.0], help="average over these scales")
    add("--flip", action="store_true", help="average with the mirror image")


def _print_written(paths: Sequence[Path]) -> None:
    """One line with the files that a command wrote, unless there are none."""
    if paths:
        print(f"written: {', '.join(map(str, paths))}")


def _mode(arguments: Namespace) -> InferenceMode:
    from reco.inference.probabilities import InferenceMode

    windows = {"overlap": arguments.overlap, "blend": arguments.blend}
    windows = {name: value for name, value in windows.items() if value is not None}
    if windows and not arguments.window:
        raise ValueError(f"--{next(iter(windows))} is for sliding windows: expected --window too")
    return InferenceMode(
        window=tuple(arguments.window) if arguments.window else None,
        scales=tuple(arguments.scales),
        flip=arguments.flip,
        **windows,
    )


def _add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_images(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--images", nargs="+", type=int, default=[0, 1, 2], help="numbers in the split"
    )


if __name__ == "__main__":
    sys.exit(main())
