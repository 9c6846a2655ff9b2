"""From run folders and checkpoints to the figures of :mod:`reco.pictures.plots` on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reco.files import write_whole
from reco.pictures import plots as figures
from reco.pictures.analysis import Subject
from reco.runs.checkpoint import Network
from reco.runs.results import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Images over which the relation graph is taken; more change it little.
_RELATION_IMAGES = 40


class Request(NamedTuple):
    """What to draw from."""

    paths: Sequence[Path]
    images: Sequence[int]
    split: str | None
    network: Network
    overrides: Sequence[str]

    def subjects(self) -> list[Subject]:
        """The checkpoints.

        Raises:
            ValueError: an image number that the split does not have.
        """
        found = [
            Subject(path, overrides=self.overrides, network=self.network, split=self.split)
            for path in self.paths
        ]
        for subject in found:
            for image in self.images:
                if not 0 <= image < len(subject.ids):
                    raise ValueError(
                        f"--images {image}: expected 0 .. {len(subject.ids) - 1}, "
                        f"the images of the split of {subject.path}"
                    )
            if subject.ids != found[0].ids:
                raise ValueError(f"{subject.path}: other images than {found[0].path}")
        return found

    def subject(self) -> Subject:
        """The one checkpoint.

        Raises:
            ValueError: there are several.
        """
        if len(self.paths) > 1:
            raise ValueError(f"{len(self.paths)} checkpoints given: this figure is of one")
        return self.subjects()[0]


def draw(
    kind: str,
    paths: Sequence[Path],
    *,
    output: Path | None = None,
    images: Sequence[int] = (0, 1, 2),
    split: str | None = None,
    network: Network = "auto",
    overrides: Sequence[str] = (),
) -> Path:
    """Draw one figure and write it.

    Args:
        kind: one of :data:`KINDS`.
        paths: run folders for ``curves`` and ``course``, checkpoints for all others.
        output: the file; its ending decides the format. ``<kind>.png`` by default.
        images: numbers of images in the split. ``queries`` and ``representation`` take the first,
            ``curves``, ``course`` and ``relation`` none.
        split: ``dataset.eval_split`` by default.
        network: as :func:`reco.load` takes it.
        overrides: ``key=value`` over the checkpoints' configurations.

    Returns:
        The file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError, OSError: paths or images that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    figure = KINDS[kind](Request(paths, images, split, network, overrides))
    output = output or Path(kind)
    output = output if output.suffix else output.with_suffix(".png")
    write_whole(output, lambda to: figure.savefig(to, dpi=150))
    return output


def relation_of(subject: Subject) -> Figure:
    """The relation graph of a checkpoint over its split."""
    indices = range(0, len(subject.ids), -(-len(subject.ids) // _RELATION_IMAGES))
    graph, present = subject.relation_graph(indices)
    names = [
        name for name, there in zip(subject.reader.spec.class_names, present, strict=True) if there
    ]
    return figures.relation(
        graph[present][:, present].numpy(), names, title=f"relation graph, {len(indices)} images"
    )


def _curves(request: Request) -> Figure:
    names = _short_names(request.paths)
    runs = [read_metrics(path) for path in request.paths]
    return figures.curves(dict(zip(names, runs, strict=True)))


def _compare(request: Request) -> Figure:
    subjects = request.subjects()
    names = _short_names(request.paths)
    looks = {
        name: [subject.look(image) for image in request.images]
        for name, subject in zip(names, subjects, strict=True)
    }
    return figures.comparison(looks, subjects[0].reader.spec)


def _relation(request: Request) -> Figure:
    return relation_of(request._replace(images=()).subject())


def _course(request: Request) -> Figure:
    if len(request.paths) > 1:
        raise ValueError(f"{len(request.paths)} runs given: this figure is of one")
    return relation_course_of(request.paths[0])


def relation_course_of(folder: Path) -> Figure:
    """How the relation graph of a run changed from validation to validation.

    Raises:
        ValueError: the run logged none: it has no ReCo, or was not validated yet.
    """
    graphs = {
        record["iteration"]: record["relation_graph"]
        for record in read_metrics(folder)
        if "relation_graph" in record
    }
    if not graphs:
        raise ValueError(
            f"{folder}: no relation graph was logged; a run with reco.enabled=true logs it at "
            "each validation"
        )
    # Some of many validations: the first, the last, and as many between as fit a page.
    every = -(-len(graphs) // 8)
    chosen = [*list(graphs)[:-1:every], list(graphs)[-1]]
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    names = list(split["images_per_class"])
    return figures.relation_course({when: graphs[when] for when in chosen}, names)


def _queries(request: Request) -> Figure:
    subject, image = request.subject(), request.images[0]
    return figures.queries(subject.look(image), subject.draw(image), subject.reader.spec)


def _representation(request: Request) -> Figure:
    subject, image = request.subject(), request.images[0]
    colours = subject.representation_colours(image)
    return figures.representation(subject.look(image), colours, subject.reader.spec)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without what all of them begin and end with; the last part where they are one."""
    parts = [list(path.resolve().parts) for path in paths]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({part[end] for part in parts}) == 1:
            for part in parts:
                del part[end]
    return ["/".join(part) for part in parts]


KINDS: dict[str, Callable[[Request], Figure]] = {
    "curves": _curves,
    "compare": _compare,
    "relation": _relation,
    "course": _course,
    "queries": _queries,
    "representation": _representation,
}
