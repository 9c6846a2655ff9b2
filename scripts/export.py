"""Write a checkpoint's network in forms that run without this project.

    python scripts/export.py --checkpoint best.pt
    python scripts/export.py --checkpoint best.pt --format pt2 onnx --images photos/*.jpg
    python scripts/export.py --checkpoint best.pt --format onnx --input float --output shipped/

Each file is read again and compared with the checkpoint, on your images or on random ones.
The exit code is 1 where fewer than 99.9 % of pixels keep their label.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.inference.export import export_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="best.pt or last.pt of a run")
    add("--output", type=Path, help="folder; default: beside the checkpoint")
    add(
        "--format",
        nargs="+",
        choices=["pt2", "onnx", "state_dict"],
        default=["pt2", "state_dict"],
        dest="formats",
        help="default: pt2 state_dict",
    )
    add("--network", choices=["auto", "student", "teacher"], default="auto")
    add(
        "--input",
        choices=["uint8", "float", "normalised"],
        default="uint8",
        help="what the exported network takes: 0..255 (default), 0..1, or normalised by you",
    )
    add("--images", nargs="+", default=[], help="images to compare on")
    arguments = parser.parse_args()
    try:
        results = export_checkpoint(
            arguments.checkpoint,
            arguments.output,
            formats=arguments.formats,
            network=arguments.network,
            input=arguments.input,
            images=arguments.images,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for result in results:
        print(result.summary())
    return 1 if any(result.agreement < 0.999 for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
