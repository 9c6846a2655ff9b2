"""Annotation files of other tools, converted once to a folder that is ready to train on.

``import_dataset`` reads a source with the importer of its format, one small file each, and writes
images, index masks and ``data.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reco.data.importers.coco import read_coco
from reco.data.importers.cvat import read_cvat
from reco.data.importers.instances import read_instances
from reco.data.importers.labelme import read_labelme
from reco.data.importers.roboflow import read_roboflow
from reco.data.importers.source import Annotations, ImportOptions
from reco.data.importers.write import Summary, write_folder

__all__ = ["FORMATS", "ImportOptions", "import_dataset"]

FORMATS: dict[str, Callable[[Path, ImportOptions], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "instances": read_instances,
    "roboflow": read_roboflow,
}


def import_dataset(
    format: str, source: Path, target: Path, options: ImportOptions | None = None
) -> Summary:
    """Write the annotations of ``source`` as a folder with ``data.yaml``.

    Args:
        format: ``coco``, ``labelme``, ``cvat``, ``instances`` or ``roboflow``.
        source: file or folder, as the tool wrote it.
        target: the new folder; it has to be empty or not there.
        options: see :class:`ImportOptions`.

    Raises:
        ValueError: an unknown format, a source that is not of the format, or nothing to import.
        FileExistsError: ``target`` is not empty.
        FileNotFoundError: ``source`` is not there.
        ImportError: the format needs a package that is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    options = options or ImportOptions()
    return write_folder(FORMATS[format](source, options), target, options)
