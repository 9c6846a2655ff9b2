"""Images a second of `reco predict`, with files read and written, and of the network alone.

    python benchmarks/predict.py
    python benchmarks/predict.py --checkpoint last.pt --images photos/ --device cuda

Without a checkpoint it is an untrained network of `demo.yaml`, and without images 200 JPEG files of
synthetic scenes. Both label the same images in turn, in batches of four.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from timing import alternate, describe, make_parser, set_up

from reco.config import load_config
from reco.data.datasets.synthetic import SyntheticReader
from reco.inference.predict_files import find_images, predict_files
from reco.inference.predictor import Predictor, load
from reco.inference.probabilities import predict_probabilities
from reco.paths import user_path
from reco.runs.build_networks import build_network
from reco.writing import write_table

_BATCH = 4
_NUM_IMAGES = 200


def write_scenes(folder: Path, number: int) -> Path:
    """``number`` JPEG files of synthetic scenes."""
    reader = SyntheticReader()
    for id in reader.ids("train")[:number]:
        reader.image(id).save(folder / f"{id.replace('/', '_')}.jpg", quality=95)
    return folder


def untrained(config_name: str, device: torch.device) -> Predictor:
    """The untrained network of a configuration."""
    config, spec = load_config(config_name), SyntheticReader().spec
    network = build_network(config, spec.num_classes, pretrained=False)
    return Predictor(network, spec, image_size=config.dataset.image_size, device=device)


def measure(predictor: Predictor, images: Path, repeats: int) -> dict[str, float]:
    """Images a second of the command's work and of the network alone."""
    found, _, _ = find_images([images])
    inputs = [predictor.to_input(each.path) for each in found]
    batches = [torch.stack(inputs[at : at + _BATCH]) for at in range(0, len(inputs), _BATCH)]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            predict_probabilities(predictor.network, batch.to(predictor.device), predictor.mode)

    def files(output: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            predict_files(predictor, [images], output, batch_size=_BATCH)
        shutil.rmtree(output)

    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Callable[[], object]] = {
            "predict": partial(files, Path(folder) / "output"),
            "network": bare,
        }
        seconds = alternate(steps, repeats)
    return {name: len(found) / median(taken) for name, taken in seconds.items()}


def main(words: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=user_path, help="default: an untrained network of --config")
    add("--config", default="demo.yaml", help="default demo.yaml")
    add(
        "--images", type=user_path, help="a folder of one size of images; default: synthetic scenes"
    )
    add("--number", type=int, default=_NUM_IMAGES, help="of synthetic scenes (default 200)")
    parser.set_defaults(repeats=5)
    arguments = parser.parse_args(words)
    device = set_up(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        images = arguments.images or write_scenes(Path(folder), arguments.number)
        predictor = (
            load(arguments.checkpoint, device=arguments.device)
            if arguments.checkpoint
            else untrained(arguments.config, device)
        )
        speeds = measure(predictor, images, arguments.repeats)
    share = speeds["predict"] / speeds["network"]
    print(describe(device))
    print(", ".join(f"{name} {speed:.1f} images/s" for name, speed in speeds.items()))
    print(f"predict is at {share:.0%} of the network alone")
    rows = [(name, round(speed, 2)) for name, speed in speeds.items()]
    write_table(arguments.output / "predict.csv", ("what", "images_per_second"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
