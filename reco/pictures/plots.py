"""Figures for people, drawn with matplotlib (extra ``plot``).

Every function returns a ``matplotlib.figure.Figure``, which ``savefig`` writes. Colours of our own
are Okabe and Ito's, which colour-blind people tell apart; classes keep their data set's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reco.data.spec import DatasetSpec
from reco.panels import Pixels, colourise, error_map
from reco.pictures.analysis import Draw, Look
from reco.runs.results import Point, Records, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HARD, _EASY, _UNUSED = (213, 94, 0), (86, 180, 233), (90, 90, 90)
_MOST_POINTS = 64  # of each class in a picture of queries
# What of metrics.jsonl is drawn, and how it is called.
_CURVES = {
    "supervised": "supervised loss",
    "unsupervised": "unsupervised loss",
    "reco": "ReCo loss",
    "pseudo_accuracy": "accuracy of the pseudo-labels",
    "eta": "η: share of confident pixels",
    "relation_mean": "relation graph: mean cosine of two classes",
    "hard_share": "share of hard pixels",
}


def curves(runs: Mapping[str, Records]) -> Figure:
    """Training curves of several runs, by name: validation mIoU first, then what they logged."""
    shown = [
        (key, title)
        for key, title in _CURVES.items()
        if any(record.get(key) for records in runs.values() for record in records)
    ]
    count = 1 + len(shown)
    rows = -(-count // 2)
    figure = _figure(10, 2.9 * rows)
    all_axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes in all_axes[count:]:
        axes.remove()
    for colour, (name, records) in zip(itertools.cycle(_COLOURS), runs.items()):
        for network, style in (("teacher", "-"), ("student", "--")):
            points = [
                (r["iteration"], 100 * r["validation"][network]["mean_iou"])
                for r in records
                if (r.get("validation") or {}).get(network, {}).get("mean_iou") is not None
            ]
            if points:
                label = f"{name} {network}"
                all_axes[0].plot(
                    *zip(*points, strict=True), style, color=colour, label=label, marker="."
                )
        for axes, (key, _) in zip(all_axes[1:], shown, strict=False):
            points = [(r["iteration"], r[key]) for r in records if r.get(key) is not None]
            if any(value for _, value in points):  # a loss that is switched off is 0 throughout
                axes.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1)
    for axes, title in zip(
        all_axes, ["validation mIoU (%)", *(title for _, title in shown)], strict=False
    ):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_xlabel("iteration", fontsize=8)
    if all_axes[0].get_legend_handles_labels()[0]:
        all_axes[0].legend(fontsize=7)
    return figure


def study_results(rows: Sequence[Result]) -> Figure:
    """mIoU of the runs of a study: a dot each, a line from mean - to mean + standard deviation."""
    splits = list(dict.fromkeys(row.split for row in rows))
    names = list(dict.fromkeys((row.budget, row.method) for row in rows))
    figure = _figure(5 * len(splits) + 2, 1.4 + 0.35 * len(names))
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        for place, name in enumerate(names):
            values = [r.miou for r in rows if (r.budget, r.method) == name and r.split == split]
            axes.scatter(values, [place] * len(values), color=_COLOURS[0], s=18, zorder=2)
            if len(values) > 1:
                deviation = np.std(values, ddof=1)
                axes.errorbar(np.mean(values), place, xerr=deviation, fmt="|", color=_COLOURS[1])
        axes.set_yticks(range(len(names)), [" ".join(part for part in n if part) for n in names])
        axes.invert_yaxis()
        axes.grid(alpha=0.3, axis="x")
        axes.set_xlabel(f"mIoU (%) on {split}")
    return figure


def study_curves(points: Sequence[Point]) -> Figure:
    """Mean over seeds at each validation, by method and budget, with the range of the seeds."""
    titles = {
        "miou": "mIoU (%)",
        "boundary_miou": "mIoU near boundaries (%)",
        "rare_miou": "mIoU of the rarest third of the classes (%)",
        "pseudo_accuracy": "accuracy of the pseudo-labels (%)",
        "eta": "η (%)",
        "relation_to_confusion": "rank correlation of relation graph and confusion",
    }
    shown = [key for key in titles if any(getattr(point, key) is not None for point in points)]
    figure = _figure(12, 3.2 * -(-len(shown) // 2))
    all_axes = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flatten()
    for axes in all_axes[len(shown) :]:
        axes.remove()
    names = list(dict.fromkeys((point.budget, point.method) for point in points))
    for axes, key in zip(all_axes, shown, strict=False):
        for colour, name in zip(itertools.cycle(_COLOURS), names):
            of_name = [p for p in points if (p.budget, p.method) == name]
            by_iteration: dict[int, list[float]] = {}
            for point in of_name:
                if (value := getattr(point, key)) is not None:
                    by_iteration.setdefault(point.iteration, []).append(value)
            if not by_iteration:
                continue
            places, values = zip(*sorted(by_iteration.items()), strict=True)
            label = " ".join(part for part in name if part)
            axes.plot(places, [np.mean(v) for v in values], ".-", color=colour, label=label)
            low, high = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(titles[key], fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.grid(alpha=0.3)
    all_axes[0].legend(fontsize=7)
    return figure


def relation(
    graph: npt.NDArray[np.floating[Any]], class_names: Sequence[str], *, title: str = ""
) -> Figure:
    """The relation graph as a heat map, classes in the order of the dendrogram beside it.

    Args:
        graph: ``(C, C)`` cosines of the classes that are there, at least two.
        class_names: C names.
        title: a line above.

    Raises:
        ValueError: fewer than two classes.
    """
    count = len(class_names)
    if count < 2:
        raise ValueError(f"a relation graph of {count} classes: expected at least two")
    merges, order = average_linkage(graph)
    figure = _figure(3.5 + 0.62 * count, 2 + 0.36 * count)
    heat, tree = figure.subplots(1, 2, width_ratios=(2, 1))
    names = [class_names[i] for i in order]
    ordered = graph[np.ix_(order, order)]
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
    places = {leaf: (1.0, float(position)) for position, leaf in enumerate(order)}
    for number, (first, second, similarity) in enumerate(merges):
        (x1, y1), (x2, y2) = places[first], places[second]
        tree.plot([x1, similarity, similarity, x2], [y1, y1, y2, y2], color=_COLOURS[0])
        places[count + number] = (similarity, (y1 + y2) / 2)
    tree.set_yticks(range(count), names, fontsize=8)
    tree.yaxis.tick_right()
    tree.invert_yaxis()
    tree.set_xlabel("mean cosine at which groups join", fontsize=8)
    for side in ("top", "left", "right"):
        tree.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def relation_course(
    graphs: Mapping[int, Sequence[Sequence[float | None]]], class_names: Sequence[str]
) -> Figure:
    """The relation graph at several iterations, in one order and on one scale of colours.

    Args:
        graphs: by iteration, ``(C, C)`` cosines; ``None`` (drawn white) for pairs not seen.
        class_names: C names.
    """
    arrays = {when: np.array(graph, dtype=np.float64) for when, graph in graphs.items()}
    last = np.nan_to_num(list(arrays.values())[-1])
    _, order = average_linkage(last) if len(class_names) > 1 else ([], [0])
    names = [class_names[i] for i in order]
    columns = min(4, len(arrays))
    rows = -(-len(arrays) // columns)
    figure = _figure(3.1 * columns + 2, 3.1 * rows + 1)
    all_axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes in all_axes[len(arrays) :]:
        axes.remove()
    lowest = min(0.0, *(float(np.nanmin(graph)) for graph in arrays.values()))
    for axes, (when, graph) in zip(all_axes, arrays.items(), strict=False):
        ordered = graph[np.ix_(order, order)]
        picture = axes.imshow(ordered, cmap="cividis", vmin=lowest, vmax=1)
        axes.set_title(f"iteration {when}", fontsize=10)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(picture, ax=figure.axes, shrink=0.7, label="cosine of class means")
    return figure


def average_linkage(
    similarity: npt.NDArray[np.floating[Any]],
) -> tuple[list[tuple[int, int, float]], list[int]]:
    """Join the two groups of highest mean similarity until one is left.

    Args:
        similarity: ``(C, C)``, symmetric.

    Returns:
        The C - 1 joins as (group, group, mean similarity), where join i makes group C + i, and the
        leaves in an order in which joined groups are neighbours.
    """
    groups = {i: [i] for i in range(len(similarity))}
    merges: list[tuple[int, int, float]] = []
    while len(groups) > 1:
        first, second = max(
            itertools.combinations(groups, 2),
            key=lambda pair: similarity[np.ix_(groups[pair[0]], groups[pair[1]])].mean(),
        )
        mean = float(similarity[np.ix_(groups[first], groups[second])].mean())
        groups[len(similarity) + len(merges)] = groups.pop(first) + groups.pop(second)
        merges.append((first, second, mean))
    (order,) = groups.values()
    return merges, order


def comparison(looks: Mapping[str, Sequence[Look]], spec: DatasetSpec) -> Figure:
    """Several networks on the same images: truth, then each one's labels and errors.

    Args:
        looks: by name of the network; the same images in the same order for all.
        spec: names and colours.
    """
    rows = []
    for together in zip(*looks.values(), strict=True):
        truth = together[0].truth
        row = [("image", together[0].image), ("truth", colourise(truth, spec.palette))]
        for name, look in zip(looks, together, strict=True):
            row.append((name, colourise(look.prediction, spec.palette)))
            row.append(("errors", error_map(truth, look.prediction)))
        rows.append(row)
    figure = _grid(rows)
    _legend(figure, spec)
    return figure


def queries(look: Look, draw: Draw, spec: DatasetSpec) -> Figure:
    """Hard and easy pixels (Fig. 2 of the paper), sampled queries, and one class's negative keys.

    The class is the one with most hard pixels; at most 64 points of a class are shown.
    """
    table = np.array([_EASY, _HARD, _UNUSED], dtype=np.uint8)
    kinds = np.where(draw.classes == spec.num_classes, 2, draw.hard.astype(int))
    sizes = {c: int((draw.hard & (draw.classes == c)).sum()) for c in draw.queries}
    owner = max(sizes, key=lambda c: sizes[c]) if sizes else None
    of_owner = "" if owner is None else f" of {spec.class_names[owner]} (dots: its queries)"
    figure = _grid(
        [
            [("image", look.image), ("truth", colourise(look.truth, spec.palette))],
            [
                ("hard (orange), easy (blue)", table[kinds]),
                ("sampled queries, by class", look.image),
            ],
            [("confidence", look.confidence), (f"negative keys{of_owner}", look.image)],
        ]
    )
    axes = figure.axes
    for label, points in draw.queries.items():
        _scatter(axes[3], points, spec.palette[label])
    if owner is not None:
        negatives = draw.negatives[owner][:_MOST_POINTS]
        x, y = negatives.T
        axes[5].scatter(x, y, s=10, marker="x", color="#D55E00", linewidths=1)
        _scatter(axes[5], draw.queries[owner], spec.palette[owner])
    _legend(figure, spec)
    return figure


def representation(look: Look, colours: Pixels, spec: DatasetSpec) -> Figure:
    """Image, truth, prediction, and the representations by their three main axes as RGB."""
    figure = _grid(
        [
            [("image", look.image), ("truth", colourise(look.truth, spec.palette))],
            [
                ("prediction", colourise(look.prediction, spec.palette)),
                ("representations (PCA)", colours),
            ],
        ]
    )
    _legend(figure, spec)
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure that belongs to no window and to no global list."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def _grid(rows: Sequence[Sequence[tuple[str, npt.NDArray[Any]]]]) -> Figure:
    """Titled pictures in rows; a picture without colours is a share, dark 0 to bright 1."""
    height, width = rows[0][0][1].shape[:2]
    columns = len(rows[0])
    cell = min(4.5, 16 / columns)
    figure = _figure(cell * columns, (cell * height / width + 0.25) * len(rows) + 0.6)
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (title, picture) in zip(
        all_axes.flatten(), itertools.chain.from_iterable(rows), strict=True
    ):
        axes.imshow(picture, interpolation="nearest", cmap="cividis", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9 if columns < 5 else 7)
        axes.set_axis_off()
    return figure


def _scatter(axes: Any, points: npt.NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    x, y = points[:_MOST_POINTS].T
    axes.scatter(x, y, s=18, color=_share(colour), edgecolors="white", linewidths=0.5)


def _legend(figure: Figure, spec: DatasetSpec) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=_share(colour), edgecolor="black", linewidth=0.5, label=name)
        for name, colour in zip(spec.class_names, spec.palette, strict=True)
    ]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(patches), 8), fontsize=7
    )


def _share(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
