"""Write one self-contained page about a run: report.html (needs the extra `plot`).

    python scripts/report.py runs/demo/8a58f955-s0
    python scripts/report.py runs/camvid/… --set dataset.root=/data/camvid --images 0 7 31

Results per class, training curves, predictions, the relation graph, what ReCo draws, split and
configuration. Nothing on the page is loaded from elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.pictures.report import write_report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run")
    add("--output", type=Path, help="default: report.html in the run's folder")
    add("--checkpoint", default="best.pt", help="file of the folder to show (default best.pt)")
    add("--images", nargs="+", type=int, default=[0, 1, 2], help="numbers in the split")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    try:
        output = write_report(
            arguments.run,
            output=arguments.output,
            checkpoint=arguments.checkpoint,
            overrides=arguments.overrides,
            images=arguments.images,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Open in a browser: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
