"""``python -m reco.cli``: the command ``reco`` where its script is not on the path."""

import sys

from reco.cli import main

if __name__ == "__main__":
    sys.exit(main())
