"""Check that the tables of documents are those of their CSV files, and these those of the runs.

    python benchmarks/tables.py README.md docs/results.md
    python benchmarks/tables.py README.md docs/results.md --write
    python benchmarks/tables.py --runs runs/studies docs/demo_runs.csv docs/demo_study.csv

The first command compares, the second makes the tables anew, and the third follows CSV files to
the metrics.jsonl of each run. Exit code 1 if something differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from documents import refresh, trace

_ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="*", type=Path, help="Markdown files")
    parser.add_argument("--write", action="store_true", help="bring the documents up to date")
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[],
        metavar=("FOLDER", "CSV"),
        help="folder of the studies, and CSV files to follow to the runs in it",
    )
    arguments = parser.parse_args()
    if len(arguments.runs) == 1:
        parser.error(f"--runs {arguments.runs[0]}: expected a folder and at least one CSV file")
    differences = []
    try:
        for document in arguments.documents:
            text = document.read_text(encoding="utf-8")
            try:
                fresh = refresh(text, _ROOT)
            except ValueError as error:
                raise ValueError(f"{document}: {error}") from error
            if arguments.write:
                document.write_text(fresh, encoding="utf-8")
            elif fresh != text:
                differences.append(f"{document}: a table is not that of its CSV file; use --write")
        for path in arguments.runs[1:]:
            differences += trace(path, arguments.runs[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(differences or ["all tables are as they should be"]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
