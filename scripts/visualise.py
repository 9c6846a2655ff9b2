"""Draw figures of runs and checkpoints (needs the extra `plot`).

    python scripts/visualise.py curves runs/demo/a runs/demo/b
    python scripts/visualise.py compare a/best.pt b/best.pt --images 0 3 7
    python scripts/visualise.py relation best.pt
    python scripts/visualise.py course runs/demo/a
    python scripts/visualise.py queries best.pt --images 3 --network student
    python scripts/visualise.py representation best.pt --set dataset.root=/data/camvid

curves: validation mIoU and losses of run folders. compare: labels and errors of checkpoints on the
same images. relation: which classes are close (Eq. 3), over the evaluation split. course: how that
changed while a run trained. queries: hard and easy pixels, queries and negative keys.
representation: the vectors' main axes as colours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reco.pictures.gallery import KINDS, draw


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("kind", choices=list(KINDS))
    add("paths", nargs="+", type=Path, help="run folders (curves, course) or checkpoints")
    add("--output", type=Path, help="file to write; default: <kind>.png; .pdf and .svg work too")
    add("--images", nargs="+", type=int, default=[0, 1, 2], help="numbers in the split")
    add("--split", choices=["train", "val", "test"], help="default: the configuration's eval_split")
    add("--network", choices=["auto", "student", "teacher"], default="auto")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    try:
        output = draw(
            arguments.kind,
            arguments.paths,
            output=arguments.output,
            images=arguments.images,
            split=arguments.split,
            network=arguments.network,
            overrides=arguments.overrides,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Look at: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
