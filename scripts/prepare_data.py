"""Check an unpacked data set, make a resized copy, fetch and convert Pascal's masks, show a split.

    python scripts/prepare_data.py cityscapes --root /data/cityscapes
    python scripts/prepare_data.py cityscapes --root /data/cityscapes --resize-to /ssd/cityscapes
    python scripts/prepare_data.py pascal --root /data/pascal --download --convert-sbd
    python scripts/prepare_data.py camvid --root /data/camvid --config camvid_5shot.yaml \\
        --set dataset.split_seed=1 --split split.json
    python scripts/prepare_data.py camvid --root /data/camvid --picture partial_labels.png
    python scripts/prepare_data.py folder --config crack.yaml

Without further options it checks: everything that is wrong is listed, with file names, and the
exit code is 1. --resize-to copies at the configuration's dataset.image_size; train on the copy by
dataset.root=/ssd/cityscapes. Interrupted, it goes on when called again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from reco.config import Config, load_config
from reco.data import open_dataset
from reco.data.check import check_dataset
from reco.data.prepare import resize_dataset
from reco.data.reader import FileReader
from reco.data.sbd import convert_sbd, download_pascal
from reco.data.splits import make_split
from reco.files import write_text_whole
from reco.panels import draw_budgets


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", choices=["camvid", "cityscapes", "pascal", "sun", "folder"])
    add("--root", help="its folder; default: the configuration's dataset.root")
    add("--config", help="default: configs/<dataset>.yaml; `folder` needs yours for its classes")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    add("--resize-to", type=Path, metavar="FOLDER", help="make a resized copy there")
    add("--download", action="store_true", help="fetch VOC 2012 and SBD (pascal, 3 GB)")
    add("--convert-sbd", action="store_true", help="SBD's .mat files to PNG (pascal; needs scipy)")
    add("--split", type=Path, metavar="FILE", help="print the labelled split and write it there")
    add("--picture", type=Path, metavar="FILE", help="draw the partial labels of one image")
    arguments = parser.parse_args()
    if arguments.dataset != "pascal" and (arguments.download or arguments.convert_sbd):
        parser.error("--download and --convert-sbd are for pascal")
    try:
        root = [f"dataset.root={arguments.root}"] if arguments.root else []
        name = arguments.config or f"{arguments.dataset}.yaml"
        config = load_config(name, [*root, *arguments.overrides])
        if config.dataset.name != arguments.dataset:
            parser.error(f"{arguments.config} is for {config.dataset.name}")
        return _prepare(config, arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _prepare(config: Config, arguments: argparse.Namespace) -> int:
    root = Path(config.dataset.root or "")
    if arguments.download:
        download_pascal(root)
    if arguments.convert_sbd:
        print(f"{convert_sbd(root)} masks written")
    reader = open_dataset(config.dataset)
    assert isinstance(reader, FileReader)
    if arguments.resize_to:
        if config.dataset.image_size is None:
            raise ValueError("dataset.image_size = null: images as they come, nothing to resize")
        written = resize_dataset(reader, arguments.resize_to, config.dataset.image_size)
        print(f"{written} images written to {arguments.resize_to}")
    if arguments.split:
        split = make_split(reader, config.dataset).to_dict()
        text = json.dumps(split, indent=1) + "\n"
        write_text_whole(arguments.split, text)
        print(f"{len(split['labelled'])} labelled, {len(split['unlabelled'])} unlabelled images")
        for name, images in split["images_per_class"].items():
            print(f"{images:>6} with {name}")
        for note in split["notes"]:
            print(f"note: {note}")
        print(f"hash {split['hash']}, written to {arguments.split}")
    if arguments.picture:
        draw_budgets(reader, config.dataset).save(arguments.picture)
    if not (arguments.resize_to or arguments.split or arguments.picture):
        report = check_dataset(reader)
        print(report.format())
        return 1 if report.problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
