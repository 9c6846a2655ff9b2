"""``reco prepare`` and ``reco prepare import``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from inspect import cleandoc
from pathlib import Path

from reco.cli.options import Work, add_overrides


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
    exit code is 1. It is stricter than `reco train`, which only notes that pictures are both for
    training and for evaluation. For `folder` it writes a picture of a few images under their
    masks, with the legend (--masks-picture, by default runs/<configuration>_masks.png): check it
    before you train. --resize-to copies at the configuration's dataset.image_size; train on the
    copy by dataset.root=/ssd/cityscapes. Called again, it continues after an interruption, and
    makes those files again whose originals have changed.

    `import` converts the annotations of another tool to a folder that is ready to train on.
    """
    options = ArgumentParser(add_help=False)
    add = options.add_argument
    add("--root", help="its folder; default: the configuration's dataset.root")
    add(
        "--config",
        nargs="+",
        metavar="FILE",
        help="as for `reco train`; default: configs/<dataset>.yaml; `folder` needs yours for its "
        "classes",
    )
    add_overrides(options)
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
    from reco.config import check_option, config_name, load_config
    from reco.data import open_dataset
    from reco.data.checks.check_dataset import check_dataset
    from reco.data.datasets.reader import FileReader
    from reco.data.datasets.sbd import convert_sbd, download_pascal
    from reco.data.prepare import resize_dataset
    from reco.data.splits import make_split
    from reco.panels import paint_budgets, paint_masks
    from reco.printing import counted
    from reco.writing import write_text_whole, write_whole

    if arguments.dataset != "pascal" and (arguments.download or arguments.convert_sbd):
        raise ValueError("--download and --convert-sbd are for pascal")
    check_option("--root", arguments.root, "dataset.root", arguments.overrides)
    root = [f"dataset.root={arguments.root}"] if arguments.root else []
    files = arguments.config or [f"{arguments.dataset}.yaml"]
    whole = load_config(files, [*root, *arguments.overrides])
    config = whole.dataset
    if config.name != arguments.dataset:
        raise ValueError(f"{', '.join(files)}: for {config.name}, expected {arguments.dataset}")
    if arguments.download:
        download_pascal(Path(config.root or ""))
    if arguments.convert_sbd:
        print(f"{counted(convert_sbd(Path(config.root or '')), 'mask')} written")
    reader = open_dataset(config)
    assert isinstance(reader, FileReader)
    if arguments.resize_to:
        if config.image_size is None:
            raise ValueError("dataset.image_size = null: images as they come, nothing to resize")
        written = resize_dataset(reader, arguments.resize_to, config.image_size)
        print(f"{counted(written, 'image')} written to {arguments.resize_to}")
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
        show = Path(whole.output_dir) / f"{config_name(files)}_masks.png"
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
