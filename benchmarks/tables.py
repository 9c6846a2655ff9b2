"""Check that the tables of documents are those of their CSV files, and these those of the runs.

    python benchmarks/tables.py README.md docs/*results.md
    python benchmarks/tables.py README.md docs/*results.md --write
    python benchmarks/tables.py --runs runs/studies docs/demo_runs.csv

The first command compares, the second makes the tables anew, and the third follows CSV files to
the metrics.jsonl of each run. Exit code 1 if something differs.

In Markdown a table stands between two comments and is generated. The baseline and the split of the
data are optional. The second form gives the difference of each pair of runs; `pairs=0-5,6-11` does
so for two groups of seeds and for all. The third form gives means of columns over the rows that
agree in others, of all rows or those that `where` chooses:

    <!-- table docs/demo_runs.csv baseline=ClassMix split=val -->
    …
    <!-- end of table -->
    <!-- table docs/demo_runs.csv baseline=ClassMix split=val pairs -->
    …
    <!-- end of table -->
    <!-- table docs/camvid_teacher.csv by=method,statistics mean=accuracy,iou where=class:all -->
    …
    <!-- end of table -->
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reco.markdown import markdown_table
from reco.paths import user_path
from reco.runs.results import (
    ClassIoU,
    Point,
    Result,
    read_classes,
    read_csv,
    read_points,
    read_results,
)
from reco.studies.tables import classes_table, mean_and_deviation, pairs_table, results_table

_ROOT = Path(__file__).resolve().parent.parent
_TABLE = re.compile(
    r"(?P<start><!-- table (?P<path>\S+?)(?: baseline=(?P<baseline>.+?)"
    r"(?: split=(?P<split>\w+))?(?P<pairs> pairs(?:=(?P<groups>\d+-\d+(?:,\d+-\d+)*))?)?)?"
    r"(?: by=(?P<by>[\w,]+) mean=(?P<mean>[\w,]+)(?: where=(?P<where>.+?))?)? -->\n)"
    r".*?(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def refresh(text: str, root: Path) -> str:
    """``text`` with every marked table made anew.

    Args:
        text: Markdown.
        root: folder that the tables' paths start from.

    Raises:
        FileNotFoundError: a CSV file that is not there.
        ValueError: no marked table.
    """

    def make(found: re.Match[str]) -> str:
        path = root / found["path"]
        if found["by"]:
            table = means(path, found["by"].split(","), found["mean"].split(","), found["where"])
        elif found["pairs"]:
            groups = re.findall(r"(\d+)-(\d+)", found["groups"] or "")
            rows = _results(path, found["split"])
            table = pairs_table(rows, found["baseline"], [(int(a), int(b)) for a, b in groups])
            if not table:
                raise ValueError(f"{path}: no pairs of runs with baseline={found['baseline']}")
        else:
            table = render(path, found["baseline"], found["split"])
        return f"{found['start']}\n{table}\n\n{found['end']}"

    fresh, tables = _TABLE.subn(make, text)
    if not tables:
        raise ValueError("no table to make: expected `<!-- table FILE.csv -->` before each")
    if tables != text.count("<!-- table "):
        raise ValueError("a table that cannot be made: expected the forms that --help shows")
    return fresh


def render(path: Path, baseline: str | None, split: str | None = None) -> str:
    """A CSV file as Markdown: means over seeds for runs, as it is for any other.

    Args:
        path: the file.
        baseline: a method of a file of runs, for differences to it.
        split: of a file of results, the one to show; all by default.
    """
    header, *lines = _read(path)
    if tuple(header) == Result._fields:
        return results_table(_results(path, split), baseline)
    if tuple(header) == ClassIoU._fields:
        return classes_table(read_csv(path, ClassIoU), baseline)
    return markdown_table(header, lines)


def _results(path: Path, split: str | None) -> list[Result]:
    return [row for row in read_csv(path, Result) if split in (None, row.split)]


def means(path: Path, by: Sequence[str], mean: Sequence[str], where: str | None = None) -> str:
    """Means of a CSV file's columns as Markdown, a line for the rows that agree in ``by``.

    Args:
        path: the file.
        by: columns whose values say which rows belong together, in the order of the file.
        mean: columns of numbers; "nan" and nothing do not count.
        where: ``column:value`` of the rows that count; all by default.

    Raises:
        ValueError: a column that is not there, or no row that counts.
    """
    header, *lines = _read(path)
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    chosen, _, value = (where or "").partition(":")
    for column in (*by, *mean, *([chosen] if chosen else [])):
        if column not in header:
            raise ValueError(f"{path}: no column {column!r}, expected one of {', '.join(header)}")
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if not chosen or row[chosen] == value:
            groups.setdefault(tuple(row[key] for key in by), []).append(row)
    if not groups:
        raise ValueError(f"{path}: where={where}: no such row")
    return markdown_table(
        [column.replace("_", " ") for column in (*by, "rows", *mean)],
        [
            [*key, str(len(of))]
            + [
                mean_and_deviation([float(row[name]) for row in of if row[name] not in ("", "nan")])
                for name in mean
            ]
            for key, of in groups.items()
        ],
    )


def trace(path: Path, runs: Path) -> list[str]:
    """Compare a CSV file of runs with the runs themselves.

    Args:
        path: the file: results, IoU by class, or curves of a study.
        runs: folder that the rows' ``run`` starts from.

    Returns:
        What differs or is not there, a line each.

    Raises:
        ValueError: another file.
    """
    header = tuple(_read(path)[0])
    kinds: dict[tuple[str, ...], Any] = {k._fields: k for k in (Result, ClassIoU, Point)}
    kind = kinds.get(header)
    if kind is None:
        raise ValueError(f"{path}: expected results.csv, classes.csv or curves.csv of a study")
    rows = read_csv(path, kind)
    return [
        f"{path}: {row.method} seed {row.seed}: {row} differs from {runs / row.run}"
        for row in rows
        if row not in _rows_of_run(row, runs)
    ]


def _rows_of_run(row: Result | ClassIoU | Point, runs: Path) -> Sequence[Result | ClassIoU | Point]:
    folder = runs / row.run
    keys = ("method", "budget", "seed", "run")
    identity: dict[str, Any] = {key: getattr(row, key) for key in keys}
    if isinstance(row, Point):
        return read_points(folder, **identity) if folder.is_dir() else []
    read = read_results if isinstance(row, Result) else read_classes
    rows = read(folder, row.iterations, None, **identity)
    if row.split in {found.split for found in rows}:
        return rows
    return read(folder, row.iterations, row.split, **identity)


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="*", type=user_path, help="Markdown files")
    parser.add_argument("--write", action="store_true", help="bring the documents up to date")
    parser.add_argument(
        "--runs",
        nargs="+",
        type=user_path,
        default=[],
        metavar=("FOLDER", "CSV"),
        help="folder of the studies, and CSV files to follow to the runs in it",
    )
    arguments = parser.parse_args(words)
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
    print("\n".join(differences or ["all tables agree"]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
