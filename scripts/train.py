"""`reco train` from a checkout: see `python scripts/train.py --help`."""

import sys

from reco.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
