"""`reco eval` from a checkout: see `python scripts/eval.py --help`."""

import sys

from reco.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
