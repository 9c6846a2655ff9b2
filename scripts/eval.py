"""`reco eval` from a checkout: `python scripts/eval.py --help` says how."""

import sys

from reco.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
