"""``reco eval``, ``reco predict`` and ``reco export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from reco.cli.options import (
    Work,
    add_checkpoint,
    add_device,
    add_mode,
    add_network,
    add_overrides,
    inference_mode,
    print_written,
)


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
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        type=Path,
        help="last.pt or best.pt of a run, or its folder",
    )
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    add("--network", choices=["student", "teacher", "both"], default="both")
    add_overrides(parser)
    add_mode(parser)
    add("--original-size", action="store_true", help="compare at the size of the label files")
    add("--boundary-width", type=int, default=3, help="pixels (default 3)")
    add("--output", type=Path, help="folder of the files; default: beside each checkpoint")
    add_device(parser)

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
            mode=inference_mode(arguments),
            original_size=arguments.original_size,
            boundary_width=arguments.boundary_width,
            device=arguments.device,
            output=arguments.output,
            written=written,
        )
        print(table)
        print_written(written)
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
    add_checkpoint(parser)
    add("--output", type=Path, default=Path("predictions"), help="default: predictions/")
    add_network(parser)
    add("--confidence", action="store_true", help="write the confidence too")
    add("--full-size", action="store_true", help="do not bring images to the run's image_size")
    add_mode(parser)
    add("--batch-size", type=int, default=4, help="images at once where sizes agree (default 4)")
    add_device(parser)

    def work(arguments: Namespace) -> int:
        from reco.inference.predict_files import predict_files
        from reco.inference.predictor import load

        predictor = load(
            arguments.checkpoint,
            network=arguments.network,
            image_size=None if arguments.full_size else "config",
            device=arguments.device,
            mode=inference_mode(arguments),
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
    `hub` is a folder in Hugging Face's layout, which `reco predict` takes as a checkpoint too. A
    model card lies beside the files. --input is of pt2 and onnx; the others take 0..1.
    The exit code is 1 where fewer than 99.9 % of pixels keep their label.
    """
    add = parser.add_argument
    add_checkpoint(parser)
    add("--output", type=Path, help="folder; default: beside the checkpoint")
    add(
        "--format",
        nargs="+",
        choices=["pt2", "onnx", "state_dict", "hub"],
        default=["pt2", "state_dict"],
        dest="formats",
        help="default: pt2 state_dict",
    )
    add_network(parser)
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
        print_written(written)
        return 1 if any(result.agreement < 0.999 for result in results) else 0

    return work
