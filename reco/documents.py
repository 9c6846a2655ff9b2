"""Tables in documents that are made of CSV files, and CSV files that are made of runs.

In Markdown a table stands between two comments, with a baseline or without::

    <!-- table docs/demo_runs.csv baseline=ClassMix -->
    …
    <!-- end of table -->

Nothing between them is written by hand, so every number can be followed to its run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from reco.results import Result, read_csv, read_results, results_table

_TABLE = re.compile(
    r"(?P<start><!-- table (?P<path>\S+?)(?: baseline=(?P<baseline>.+?))? -->\n)"
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
    """
    return _TABLE.sub(
        lambda found: (
            f"{found['start']}\n{render(root / found['path'], found['baseline'])}\n\n{found['end']}"
        ),
        text,
    )


def render(path: Path, baseline: str | None) -> str:
    """A CSV file as Markdown: means over seeds for runs, as it is for any other."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if tuple(header) == Result._fields:
        return results_table(read_csv(path, Result), baseline)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def trace(path: Path, runs: Path) -> list[str]:
    """Compare a CSV file of runs with the runs themselves.

    Args:
        path: the file.
        runs: folder that the rows' ``run`` starts from.

    Returns:
        What differs or is not there, a line each.
    """
    return [
        f"{path}: {row.method} seed {row.seed} on {row.split}: {found or 'no finished run'}"
        for row in read_csv(path, Result)
        if row not in (found := _rows_of_run(row, runs))
    ]


def _rows_of_run(row: Result, runs: Path) -> Sequence[Result]:
    folder = runs / row.run
    identity = {"method": row.method, "budget": row.budget, "seed": row.seed, "run": row.run}
    rows = read_results(folder, row.iterations, None, **identity)
    if row.split in {found.split for found in rows}:
        return rows
    return read_results(folder, row.iterations, row.split, **identity)
