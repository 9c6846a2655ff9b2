"""Label images with a trained network.

    python scripts/predict.py --checkpoint best.pt street.jpg
    python scripts/predict.py --checkpoint best.pt photos/ --output labelled --confidence
    python scripts/predict.py --checkpoint best.pt "photos/**/*.png" --network student

Writes <output>/labels/<name>.png (class indices, in the data set's palette) and
<output>/overlays/<name>.png (the image under the classes' colours), and with --confidence
<output>/confidence/<name>.png (0 to 255). Names and sub-folders are kept. A file that cannot be
read is reported, the rest goes on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.inference.files import predict_files
from reco.inference.predictor import load


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="files, folders, or globs in quotes")
    add("--checkpoint", required=True, type=Path, help="best.pt or last.pt of a run")
    add("--output", type=Path, default=Path("predictions"), help="default: predictions/")
    add("--network", choices=["auto", "student", "teacher"], default="auto")
    add("--confidence", action="store_true", help="write the confidence too")
    add("--full-size", action="store_true", help="do not bring images to the run's image_size")
    add("--batch-size", type=int, default=4, help="images at once where sizes agree (default 4)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    try:
        predictor = load(
            arguments.checkpoint,
            network=arguments.network,
            image_size=None if arguments.full_size else "config",
            device=arguments.device,
        )
        outcome = predict_files(
            predictor,
            arguments.images,
            arguments.output,
            confidence=arguments.confidence,
            batch_size=arguments.batch_size,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(outcome.summary(arguments.output))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
