"""Results of runs as Markdown: means over seeds, paired differences, and their significance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

from reco.markdown import markdown_table
from reco.optional_packages import import_extra
from reco.runs.results import ClassIoU, Result

# With fewer pairs of runs, a sign test cannot reach 5 % even where all agree.
_ENOUGH_PAIRS = 6


def results_table(rows: Sequence[Result], baseline: str | None = None) -> str:
    """Markdown: mean ± standard deviation over seeds, and paired differences to the baseline.

    A difference is taken run by run on the same seed and split; the interval behind it is
    Student's, of 95 %, over the pairs. Seconds and memory are medians over the runs. Below the
    table is a note where there are fewer than six pairs, too few for a sign test.

    Args:
        rows: of one split of the data; of several, each gets a table.
        baseline: a method.
    """
    if not rows:
        return "No run is finished yet."
    tables = []
    for split in dict.fromkeys(row.split for row in rows):
        split_rows = [row for row in rows if row.split == split]
        tables.append("\n".join(_table_of_split(split_rows, baseline)))
    groups = _groups(rows)
    pairs = [len(_pairs(groups, name, baseline)) for name in groups if name[2] != baseline]
    if baseline is not None and any(pairs):
        tables.append(
            "Differences are between the teachers, or between the students where one of the two "
            "has no teacher: the mean over pairs of runs with the same seed and split, and in "
            "brackets its 95 % confidence interval (Student's t over the pairs). "
            + _caveat(min(number for number in pairs if number))
        )
    elif min(map(len, groups.values())) < _ENOUGH_PAIRS:
        tables.append("With so few seeds, small differences cannot be told from chance.")
    return "\n\n".join(line.strip() for line in tables)


def _caveat(pairs: int) -> str:
    if pairs >= _ENOUGH_PAIRS:
        return ""
    if pairs == 1:
        return "A single pair does not show the effect of chance."
    return (
        f"With {pairs} pairs, this interval rests on the assumption that differences are normally "
        f"distributed; without it, the 5 % level takes {_ENOUGH_PAIRS} pairs of the same sign."
    )


def _table_of_split(rows: Sequence[Result], baseline: str | None) -> Iterator[str]:
    groups = _groups(rows)
    titles = ["method", "budget", "seeds", "student mIoU", "teacher mIoU", "near boundaries"]
    titles += ["rarest third", f"difference to {baseline}", "s a step", "MiB"]
    show = [True] * len(titles)
    show[1] = any(row.budget for row in rows)
    show[-3] = baseline is not None
    show[-2] = any(row.step_seconds is not None for row in rows)
    show[-1] = any(row.memory_mib is not None for row in rows)
    lines = []
    for (_, budget, method), group in groups.items():
        pairs = _pairs(groups, (rows[0].split, budget, method), baseline)
        teachers = [row.teacher_miou for row in group if row.teacher_miou is not None]
        entries = [
            method,
            budget or "-",
            str(len(group)),
            mean_and_deviation([row.student_miou for row in group]),
            mean_and_deviation(teachers),
            mean_and_deviation([row.boundary_miou for row in group]),
            mean_and_deviation([row.rare_miou for row in group]),
            _difference([_gain(*pair, "miou") for pair in pairs], len(group)),
            _median([row.step_seconds for row in group], ".2f"),
            _median([row.memory_mib for row in group], ",.0f"),
        ]
        lines.append(entries)
    yield f"mIoU in % on {rows[0].split}, {_range([row.iterations for row in rows])} iterations:"
    yield ""
    titles, *lines = (list(compress(entries, show)) for entries in (titles, *lines))
    yield markdown_table(titles, lines)


def pairs_table(
    rows: Sequence[Result], baseline: str | None, groups: Sequence[tuple[int, int]] = ()
) -> str:
    """Markdown: the difference to the baseline of each pair of runs, and their mean.

    A line for each method, seeds ascending; nothing where no run has a seed of the baseline's runs.
    The differences are in points of mIoU, over all pixels and near boundaries: between teachers, or
    between students where one of the two has no teacher. Means have the interval of
    :func:`results_table`.

    Args:
        rows: of any splits of the data.
        baseline: a method.
        groups: first and last seed of runs that belong together: a line for each, and one for the
            means over all.
    """
    found = _groups(rows)
    splits = {row.split for row in rows}
    lines = []
    for split, budget, method in found:
        pairs = _pairs(found, (split, budget, method), baseline)
        parts = (method, budget, f"on {split}" if len(splits) > 1 else "")
        name = ", ".join(part for part in parts if part)
        for first, last in groups or [(pairs[0][0].seed, pairs[-1][0].seed)] if pairs else []:
            chosen = [pair for pair in pairs if first <= pair[0].seed <= last]
            if chosen:
                seeds = ", ".join(str(run.seed) for run, _ in chosen)
                lines.append([name, seeds, *_pairs_entries(chosen, single=True)])
        if pairs and len(groups) > 1:
            lines.append([name, f"all {len(pairs)}", *_pairs_entries(pairs)])
    titles = ["method", "seeds", f"differences to {baseline}", "mean", "near boundaries", "mean"]
    return markdown_table(titles, lines) if lines else ""


def _pairs_entries(pairs: Sequence[tuple[Result, Result]], single: bool = False) -> Iterator[str]:
    for figure in ("miou", "boundary_miou"):
        differences = [_gain(*pair, figure) for pair in pairs]
        yield ", ".join(f"{difference:+.1f}" for difference in differences) if single else ""
        yield _difference(differences, len(differences))


def _gain(run: Result, other: Result, figure: str) -> float:
    """Difference in ``miou`` or ``boundary_miou`` between the same networks of two runs."""
    teachers = run.teacher_miou is not None and other.teacher_miou is not None
    name = f"{'teacher' if teachers else 'student'}_{figure}"
    return float(getattr(run, name) - getattr(other, name))


def classes_table(rows: Sequence[ClassIoU], baseline: str | None = None) -> str:
    """Markdown: IoU of each class, mean ± standard deviation over seeds, a column per method.

    Args:
        rows: of one split of the data; of several, each gets a table.
        baseline: a method; the others have in brackets the mean difference to it over runs of the
            same seed and split.
    """
    tables = []
    for split in dict.fromkeys(row.split for row in rows):
        # By class, method and budget, and seed.
        values: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
        for row in rows:
            if row.split == split and row.iou is not None:
                by_column = values.setdefault(row.class_name, {})
                by_column.setdefault((row.method, row.budget), {})[row.seed] = row.iou
        columns = list(dict.fromkeys(name for by_column in values.values() for name in by_column))
        titles = [f"{method} {budget}".rstrip() for method, budget in columns]
        lines = []
        for class_name, by_column in values.items():
            entries = [class_name]
            for method, budget in columns:
                runs = by_column.get((method, budget), {})
                others = by_column.get((baseline or "", budget), {})
                entries.append(_class_entry(runs, others if method != baseline else {}))
            lines.append(entries)
        title = f"IoU in % of each class on {split}, of the teacher or, without one, the student:"
        if baseline:
            title = f"{title[:-1]}, in brackets the mean difference to {baseline} by seed:"
        tables.append(f"{title}\n\n{markdown_table(['class', *titles], lines)}")
    return "\n\n".join(tables)


def _class_entry(runs: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Mean and deviation of runs and, behind, their difference to ``others``; both by seed."""
    entry = mean_and_deviation([*runs.values()])
    pairs = [iou - others[seed] for seed, iou in runs.items() if seed in others]
    if not pairs:
        return entry
    of = "" if len(pairs) == len(runs) == len(others) else f" of {len(pairs)}"
    return f"{entry} ({statistics.fmean(pairs):+.1f}{of})"


def _pairs(
    groups: Mapping[tuple[str, str, str], Sequence[Result]],
    name: tuple[str, str, str],
    baseline: str | None,
) -> list[tuple[Result, Result]]:
    """Runs, each with the baseline's run of the same seed and split, by seed."""
    split, budget, method = name
    if baseline is None or method == baseline:
        return []
    others = {row.seed: row for row in groups.get((split, budget, baseline), [])}
    runs = sorted(groups[name], key=lambda row: row.seed)
    return [(run, others[run.seed]) for run in runs if run.seed in others]


def _groups(rows: Sequence[Result]) -> dict[tuple[str, str, str], list[Result]]:
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.split, row.budget, row.method), []).append(row)
    return groups


def mean_and_deviation(values: Sequence[float]) -> str:
    """``45.1 ± 0.3``: mean and sample standard deviation; the mean alone of a single value."""
    if not values:
        return "-"
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def t_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean of at least two normally distributed differences.

    Student's t: it holds its 95 % for few pairs too, unlike a bootstrap over them.

    Raises:
        ImportError: scipy is missing.
    """
    pairs = len(differences)
    factor = import_extra("scipy.stats", "the interval of a mean").t.ppf(0.975, pairs - 1)
    mean = statistics.fmean(differences)
    half = float(factor) * statistics.stdev(differences) / math.sqrt(pairs)
    return mean - half, mean + half


def _difference(pairs: Sequence[float], seeds: int) -> str:
    if not pairs:
        return "-"
    text = f"{statistics.fmean(pairs):+.1f}"
    if len(pairs) > 1:
        low, high = t_interval(pairs)
        text += f" [{low:+.1f}, {high:+.1f}]"
    return text if len(pairs) == seeds else f"{text} of {len(pairs)}"


def _median(values: Sequence[float | None], form: str) -> str:
    """Of the values that are there."""
    found = [value for value in values if value is not None]
    return format(statistics.median(found), form) if found else "-"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
