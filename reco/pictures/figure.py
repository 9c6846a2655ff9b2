"""The command ``reco plot``: from run folders and checkpoints to a figure on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reco.pictures import plots
from reco.pictures.analysis import RunAnalysis
from reco.pictures.images import plot_comparison, plot_queries, plot_representation
from reco.runs.checkpoint import Network
from reco.runs.results import read_metrics, read_relation_graphs
from reco.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("curves", "compare", "relation", "course", "queries", "representation")


def write_figure(
    kind: str,
    paths: Sequence[Path],
    *,
    output: Path | None = None,
    images: Sequence[int] = (0, 1, 2),
    split: str | None = None,
    network: Network = "auto",
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> Path:
    """Plot one figure and write it.

    Args:
        kind: one of :data:`KINDS`.
        paths: run folders for ``curves`` and ``course``, checkpoints for all others; one, except
            for ``curves`` and ``compare``.
        output: the file; its ending decides the format. ``<kind>.png`` by default.
        images: numbers of images in the split. ``queries`` and ``representation`` take the first,
            ``curves``, ``course`` and ``relation`` none.
        split: ``dataset.eval_split`` by default.
        network: as :func:`reco.load` takes it.
        overrides: ``key=value`` over the checkpoints' configurations.
        device: of the networks; ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The file.

    Raises:
        ImportError: matplotlib or scipy is missing.
        ValueError, OSError: paths or images that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if len(paths) > 1 and kind not in ("curves", "compare"):
        raise ValueError(f"{kind}: {len(paths)} paths given: this figure is of one")
    if kind == "curves":
        runs = map(read_metrics, paths)
        figure = plots.curves(dict(zip(_short_names(paths), runs, strict=True)))
    elif kind == "course":
        figure = plots.relation_course(*read_relation_graphs(paths[0]))
    else:
        analyses = [
            RunAnalysis(path, overrides=overrides, network=network, split=split, device=device)
            for path in paths
        ]
        figure = _plot_networks(kind, analyses, images)
    output = output or Path(kind)
    output = output if output.suffix else output.with_suffix(".png")
    write_whole(output, lambda to: figure.savefig(to, dpi=150))
    return output


def _plot_networks(kind: str, analyses: Sequence[RunAnalysis], images: Sequence[int]) -> Figure:
    """A figure of trained networks; of the first one, except for ``compare``."""
    first = analyses[0]
    if kind == "relation":
        return plots.relation(*first.relation_graph())
    for analysis in analyses:
        analysis.check_images(images)
        if analysis.ids != first.ids:
            raise ValueError(f"{analysis.path}: other images than {first.path}")
    spec, image = first.reader.spec, images[0]
    if kind == "compare":
        names = _short_names([analysis.path for analysis in analyses])
        predictions = [[analysis.predict(i) for i in images] for analysis in analyses]
        return plot_comparison(dict(zip(names, predictions, strict=True)), spec)
    if kind == "queries":
        return plot_queries(first.predict(image), first.sample_pixels(image), spec)
    return plot_representation(first.predict(image), first.representation_colours(image), spec)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without what all of them begin and end with; the last part where they are one."""
    parts = [list(path.resolve().parts) for path in paths]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({part[end] for part in parts}) == 1:
            for part in parts:
                del part[end]
    return ["/".join(part) for part in parts]
