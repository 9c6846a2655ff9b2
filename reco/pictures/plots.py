"""Figures of numbers: curves of runs, results of studies, relation graphs (extra ``plot``).

Every function returns a ``matplotlib.figure.Figure``, which ``savefig`` writes. The colours are
Okabe and Ito's, which colour-blind people tell apart.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reco.optional_packages import import_extra
from reco.runs.results import Graph, Point, Records, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Figures of metrics.jsonl, and their titles.
_CURVES = {
    "supervised": "supervised loss",
    "unsupervised": "unsupervised loss",
    "reco": "ReCo loss",
    "pseudo_accuracy": "accuracy of the pseudo-labels",
    "eta": "η: share of confident pixels",
    "relation_mean": "relation graph: mean cosine of two classes",
    "hard_share": "share of hard pixels",
}
# The same of the points of a study.
_STUDY_CURVES = {
    "miou": "mIoU (%)",
    "boundary_miou": "mIoU near boundaries (%)",
    "rare_miou": "mIoU of the rarest third of the classes (%)",
    "pseudo_accuracy": "accuracy of the pseudo-labels (%)",
    "eta": "η (%)",
    "relation_to_confusion": "rank correlation of relation graph and confusion",
}
_MOST_GRAPHS = 8  # of a run's validations that fit a page


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window and to no global list.

    Raises:
        ImportError: matplotlib is missing.
    """
    with _ignore_unknown_backend():
        module = import_extra("matplotlib.figure", "a figure")
    figure: Figure = module.Figure(figsize=(width, height), layout="constrained")
    return figure


@contextlib.contextmanager
def _ignore_unknown_backend() -> Iterator[None]:
    """Let matplotlib be imported although it does not know ``MPLBACKEND``.

    Figures that are only saved need no backend.
    """
    backend = os.environ.get("MPLBACKEND")
    if backend is None or "matplotlib" in sys.modules:
        yield
        return
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        os.environ["MPLBACKEND"] = backend
    import matplotlib

    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend


def curves(runs: Mapping[str, Records]) -> Figure:
    """Training curves of several runs, by name: validation mIoU first, then what they logged."""
    logged = [record for records in runs.values() for record in records]
    keys = [key for key in _CURVES if any(record.get(key) for record in logged)]
    titles = ["validation mIoU (%)", *(_CURVES[key] for key in keys)]
    figure, (validation, *others) = _axes_over_iterations(titles, 10, 2.9)
    for colour, (name, records) in zip(itertools.cycle(_COLOURS), runs.items()):
        for network, style in (("teacher", ".-"), ("student", ".--")):
            points = [
                (record["iteration"], 100 * record["validation"][network]["mean_iou"])
                for record in records
                if (record.get("validation") or {}).get(network, {}).get("mean_iou") is not None
            ]
            if points:
                label = f"{name} {network}"
                validation.plot(*zip(*points, strict=True), style, color=colour, label=label)
        for axes, key in zip(others, keys, strict=True):
            points = [(r["iteration"], r[key]) for r in records if r.get(key) is not None]
            if any(value for _, value in points):  # a loss that is switched off is 0 throughout
                axes.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1)
    if validation.lines:
        validation.legend(fontsize=7)
    return figure


def study_curves(points: Sequence[Point]) -> Figure:
    """Mean over seeds at each validation, by method and budget, with the range of the seeds."""
    keys = [k for k in _STUDY_CURVES if any(getattr(point, k) is not None for point in points)]
    figure, all_axes = _axes_over_iterations([_STUDY_CURVES[key] for key in keys], 12, 3.2)
    names = list(dict.fromkeys((point.budget, point.method) for point in points))
    for axes, key in zip(all_axes, keys, strict=True):
        for colour, name in zip(itertools.cycle(_COLOURS), names):
            by_iteration: dict[int, list[float]] = {}
            for point in points:
                value = getattr(point, key)
                if (point.budget, point.method) == name and value is not None:
                    by_iteration.setdefault(point.iteration, []).append(value)
            if not by_iteration:
                continue
            iterations, values = zip(*sorted(by_iteration.items()), strict=True)
            label = " ".join(filter(None, name))
            axes.plot(iterations, [*map(np.mean, values)], ".-", color=colour, label=label)
            lowest, highest = [*map(min, values)], [*map(max, values)]
            axes.fill_between(iterations, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    all_axes[0].legend(fontsize=7)
    return figure


def study_results(rows: Sequence[Result]) -> Figure:
    """mIoU of the runs of a study: a dot each, a line from mean - to mean + standard deviation."""
    splits = list(dict.fromkeys(row.split for row in rows))
    names = list(dict.fromkeys((row.budget, row.method) for row in rows))
    figure = new_figure(5 * len(splits) + 2, 1.4 + 0.35 * len(names))
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        for place, name in enumerate(names):
            values = [r.miou for r in rows if (r.budget, r.method) == name and r.split == split]
            axes.scatter(values, [place] * len(values), color=_COLOURS[0], s=18, zorder=2)
            if len(values) > 1:
                deviation = np.std(values, ddof=1)
                axes.errorbar(np.mean(values), place, xerr=deviation, fmt="|", color=_COLOURS[1])
        axes.set_yticks(range(len(names)), [" ".join(filter(None, name)) for name in names])
        axes.invert_yaxis()
        axes.grid(alpha=0.3, axis="x")
        axes.set_xlabel(f"mIoU (%) on {split}")
    return figure


def relation(
    graph: npt.NDArray[np.floating[Any]], class_names: Sequence[str], num_images: int
) -> Figure:
    """The relation graph as a heat map, classes in the order of the dendrogram beside it.

    Args:
        graph: ``(C, C)`` cosines of the classes that are there, at least two.
        class_names: C names.
        num_images: that the graph was taken over, for the title.

    Raises:
        ValueError: fewer than two classes.
    """
    count = len(class_names)
    if count < 2:
        raise ValueError(f"a relation graph of {count} classes: expected at least two")
    joined = average_linkage(graph)
    figure = new_figure(3.5 + 0.62 * count, 2 + 0.36 * count)
    heat, tree = figure.subplots(1, 2, width_ratios=(2, 1))
    ordered, names = _in_order(graph, class_names, joined["leaves"])
    lowest = min(0.0, float(ordered.min()))
    picture = heat.imshow(ordered, cmap="cividis", vmin=lowest, vmax=1)
    heat.set_xticks(range(count), names, rotation=90, fontsize=8)
    heat.set_yticks(range(count), names, fontsize=8)
    if count <= 21:
        for row, column in itertools.product(range(count), range(count)):
            value = round(float(ordered[row, column]), 1) + 0.0  # no "-0.0"
            colour = "black" if value - lowest > 0.6 * (1 - lowest) else "white"
            heat.text(column, row, f"{value:.1f}", ha="center", va="center", size=6, color=colour)
    figure.colorbar(picture, ax=heat, shrink=0.7, label="cosine of class means")
    # scipy gives distances, and puts leaf i at 5 + 10 i.
    for distances, places in zip(joined["dcoord"], joined["icoord"], strict=True):
        tree.plot(1 - np.array(distances), (np.array(places) - 5) / 10, color=_COLOURS[0])
    tree.set_yticks(range(count), names, fontsize=8)
    tree.yaxis.tick_right()
    tree.invert_yaxis()
    tree.set_xlabel("mean cosine at which groups join", fontsize=8)
    tree.spines[["top", "left", "right"]].set_visible(False)
    figure.suptitle(f"relation graph, {num_images} images", fontsize=10)
    return figure


def relation_course(graphs: Mapping[int, Graph], class_names: Sequence[str]) -> Figure:
    """The relation graph at several iterations, in one order and on one scale of colours.

    Args:
        graphs: by iteration, ``(C, C)`` cosines; ``None`` (white) for pairs not seen. Of
            many, the first, the last and some between are shown.
        class_names: C names.
    """
    every = -(-len(graphs) // _MOST_GRAPHS)
    shown = [*list(graphs)[:-1:every], list(graphs)[-1]]
    arrays = [np.array(graphs[iteration], dtype=np.float64) for iteration in shown]
    last = np.nan_to_num(arrays[-1])
    order = average_linkage(last)["leaves"] if len(class_names) > 1 else [0]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.1 * columns + 2, 3.1 * rows + 1)
    all_axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    lowest = min(0.0, *(float(np.nanmin(graph)) for graph in arrays))
    for axes, iteration, graph in zip(
        _first_axes(all_axes, len(shown)), shown, arrays, strict=True
    ):
        ordered, names = _in_order(graph, class_names, order)
        picture = axes.imshow(ordered, cmap="cividis", vmin=lowest, vmax=1)
        axes.set_title(f"iteration {iteration}", fontsize=10)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(picture, ax=figure.axes, shrink=0.7, label="cosine of class means")
    return figure


def average_linkage(similarity: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Join the two groups of highest mean similarity until one is left.

    Args:
        similarity: ``(C, C)`` cosines, symmetric, C > 1.

    Returns:
        The result of :func:`scipy.cluster.hierarchy.dendrogram` for the distances 1 - cosine.

    Raises:
        ImportError: scipy is missing.
    """
    hierarchy = import_extra("scipy.cluster.hierarchy", "the order of a relation graph")
    distances = (1 - similarity[np.triu_indices(len(similarity), 1)]).clip(min=0)
    tree: dict[str, Any] = hierarchy.dendrogram(
        hierarchy.linkage(distances, "average"), no_plot=True
    )
    return tree


def _in_order(
    graph: npt.NDArray[np.floating[Any]], class_names: Sequence[str], order: Sequence[int]
) -> tuple[npt.NDArray[np.floating[Any]], list[str]]:
    return graph[np.ix_(order, order)], [class_names[i] for i in order]


def _axes_over_iterations(
    titles: Sequence[str], width: float, height: float
) -> tuple[Figure, list[Any]]:
    """A figure with axes for each title, two in a row; ``width`` of a row, ``height`` of each."""
    rows = -(-len(titles) // 2)
    figure = new_figure(width, height * rows)
    all_axes = _first_axes(figure.subplots(rows, 2, squeeze=False), len(titles))
    for axes, title in zip(all_axes, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.grid(alpha=0.3)
    return figure, all_axes


def _first_axes(all_axes: npt.NDArray[Any], count: int) -> list[Any]:
    """The first ones, row by row; the others are removed."""
    for axes in all_axes.flat[count:]:
        axes.remove()
    return list(all_axes.flat[:count])
