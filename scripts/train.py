"""`reco train` from a checkout: `python scripts/train.py --help` says how."""

import sys

from reco.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
