"""What reading costs: decoders, the cache of decoded images, and folders of very many files.

    python benchmarks/loading.py
    python benchmarks/loading.py --images photos/ --repeats 15
    python benchmarks/loading.py --files 1000000 --set model.backbone=resnet18

Decoders are compared on drawn scenes saved as JPEG and PNG, or on the images of a folder; the cache
on samples of these. ``--files`` makes as many unlabelled images (hard links to one) and measures
the way to the first batch of `folder.yaml` instead.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from timing import alternate, make_parser
from torch.utils.benchmark import timer
from torchvision.io import ImageReadMode, decode_image

from reco.config import DatasetConfig, load_config
from reco.data.datasets.synthetic import SyntheticReader
from reco.data.finding.patterns import IMAGE_ENDINGS, walk
from reco.data.loading import TrainStream
from reco.data.reading.images import RGB, read_pixels
from reco.paths import user_path
from reco.training.build import build_run
from reco.training.log_figures import resident_bytes
from reco.training.trainer import Trainer
from reco.writing import write_table

Row = tuple[str, str, float, str]
_NUM_IMAGES = 16
_FOLDERS = 100  # of the very many files


def decoders(paths: Sequence[Path], repeats: int) -> list[Row]:
    """Milliseconds an image of Pillow, which the project takes, and of torchvision."""
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    for ending in sorted({path.suffix.lower() for path in paths}):
        chosen = [path for path in paths if path.suffix.lower() == ending]
        what = f"{ending}, {len(chosen)} images"
        steps[what, "Pillow"] = partial(_read_all, chosen, partial(read_pixels, format=RGB))
        torchvision = partial(decode_image, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        steps[what, "torchvision"] = partial(_read_all, chosen, torchvision)
    return [
        (what, how, 1000 * median(seconds) / int(what.split()[1]), "ms an image")
        for (what, how), seconds in alternate(steps, repeats).items()
    ]


def _read_all(paths: Sequence[Path], read: Callable[[str], object]) -> None:
    for path in paths:
        read(str(path))


def cache(paths: Sequence[Path], repeats: int) -> list[Row]:
    """Milliseconds a training sample, with and without ``dataset.cache``."""

    class Files(SyntheticReader):
        def image(self, id: str) -> Image.Image:
            return Image.fromarray(read_pixels(paths[int(id)], RGB))

        def label(self, id: str) -> Image.Image:
            width, height = self.image(id).size
            return Image.fromarray(np.zeros((height, width), np.uint8))

    ids = [str(number) for number in range(len(paths))]
    streams = {
        name: TrainStream(
            Files(),
            ids,
            DatasetConfig("synthetic", crop_size=(160, 160), scale_range=(0.5, 1.5), cache=cached),
            stream="labelled",
            seed=0,
        )
        for name, cached in (("as they come", False), ("dataset.cache", True))
    }

    def epoch(stream: TrainStream) -> None:
        for number in range(len(ids)):
            stream[number]

    steps = {name: partial(epoch, stream) for name, stream in streams.items()}
    return [
        ("labelled sample of 160x160", name, 1000 * median(seconds) / len(ids), "ms")
        for name, seconds in alternate(steps, repeats).items()
    ]


def many_files(number: int, folder: Path, overrides: Sequence[str]) -> list[Row]:
    """Seconds, memory and size of the checkpoint on the way to a first step."""
    make_files(number, folder)
    fixed = [f"dataset.root={folder}", "model.weights=none", "dataset.crop_size=[64, 64]"]
    fixed += ["train.workers=0", "train.iterations=1", f"output_dir={folder}/runs"]
    config = load_config("folder.yaml", [*fixed, *overrides])
    before, start = resident_bytes("VmRSS"), timer()
    trainer = Trainer(build_run(config), folder / "runs" / "run")
    next(trainer.batches())
    seconds = timer() - start
    memory = resident_bytes("VmRSS") - before
    trainer.run()
    what = f"{number:,} unlabelled files"
    size = (folder / "runs" / "run" / "last.pt").stat().st_size
    return [
        (what, "to the first batch", seconds, "s"),
        (what, "memory there, network included", memory / 2**20, "MiB"),
        (what, "checkpoint", size / 1e6, "MB"),
    ]


def make_files(number: int, folder: Path) -> None:
    """Fourteen labelled images, and ``number`` unlabelled ones in a hundred folders."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels = noise.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.jpg")
            Image.fromarray(pixels[..., 0] % 2).save(folder / "labels" / split / f"{index}.png")
    first = folder / "images" / "train" / "0.jpg"
    links = 60_000  # a file system allows no more to one file
    for index in range(number):
        path = folder / "unlabelled" / f"{index % _FOLDERS:03}" / f"{index:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % links == 0:
            path.write_bytes(first.read_bytes())
            source = path
        else:
            os.link(source, path)


def scenes(folder: Path) -> list[Path]:
    """Drawn scenes as JPEG and PNG files."""
    reader, paths = SyntheticReader(), []
    for id in reader.ids("train")[:_NUM_IMAGES]:
        image = reader.image(id).resize((480, 360))
        for ending in (".jpg", ".png"):
            paths.append(folder / f"{id}{ending}")
            image.save(paths[-1], quality=95)
    return paths


def measure(arguments: Namespace, folder: Path) -> list[Row]:
    """All rows that the command asks for."""
    if arguments.files:
        return many_files(arguments.files, folder, arguments.set)
    if arguments.images:
        names = [arguments.images / name for name in walk(arguments.images, [""])]
        paths = [path for path in names if path.suffix.lower() in IMAGE_ENDINGS]
    else:
        paths = scenes(folder)
    if not paths:
        raise SystemExit(f"error: {arguments.images}: no images there")
    rows = decoders(paths, arguments.repeats)
    return rows + cache(paths, arguments.repeats)


def main(words: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--images", type=user_path, help="a folder of images; default: drawn scenes")
    add("--files", type=int, default=0, help="measure a folder of so many unlabelled files instead")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of folder.yaml")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    for what, how, value, unit in rows:
        print(f"{what}, {how}: {value:.2f} {unit}")
    header = ("what", "how", "value", "unit")
    write_table(
        arguments.output / "loading.csv", header, [(*r[:2], round(r[2], 3), r[3]) for r in rows]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
