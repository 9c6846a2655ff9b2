"""Labelling files: from paths on the command line to pictures on disk."""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from tqdm import tqdm

from reco.data.checks.pages import images_with_pages
from reco.data.finding.patterns import IMAGE_ENDINGS, each_once, is_hidden, walk
from reco.data.reading.images import ValueRange, image_size, to_rgb
from reco.data.reading.large_images import LargeImage, georeference
from reco.data.reading.value_range import find_value_range, value_range_text
from reco.inference.background import Background
from reco.inference.predictor import Prediction, Predictor
from reco.inference.tiles import num_tiles
from reco.panels import overlay
from reco.printing import counted, say
from reco.writing import WriteError, write_whole, writing

# Folders of the results, below the output folder.
_KINDS = ("labels", "overlays", "confidence")
# Files of more pixels are labelled in parts, and their overlays have at most so many on a side.
_LARGE = 2**25
_OVERLAY = 4096
# Of PNG, 0 to 9: half the time of the usual 6, for files a few percent larger.
_COMPRESSION = 3
# Errors of writing that are due to the name of the file, not to the disk.
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR}


class FilesOutcome(NamedTuple):
    """Which files were labelled, passed over, or failed."""

    predicted: int
    passed_over: int  # files of a folder or glob that are no images, or results of an earlier call
    failures: list[str]  # one message for each file that could not be labelled
    value_range: ValueRange | None = None  # found in the files, where the run has none
    notes: Sequence[str] = ()

    def summary(self, output: Path) -> str:
        """A few lines of text, one where nothing was labelled."""
        if not self.predicted:
            return f"no image labelled: {len(self.failures)} failed"
        text = f"{counted(self.predicted, 'image')} labelled; results are in {output}"
        if self.value_range is not None:
            values = value_range_text(self.value_range)
            text += f"\nblack and white are the values {values}, found over all files of this call"
        if self.passed_over:
            text += f"\n{counted(self.passed_over, 'other file')} passed over"
        text += "".join(f"\n{note}" for note in self.notes)
        if self.failures:
            text += f"\n{counted(len(self.failures), 'image')} failed"
        return text


class ImageFile(NamedTuple):
    """An image and the name, with folders and without ending, of its results."""

    path: Path
    name: Path


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    output: Path,
    *,
    confidence: bool = False,
    batch_size: int = 4,
) -> FilesOutcome:
    """Label images and write the results, which keep the images' names and folders.

    ``labels/<name>.png`` holds class indices in the data set's palette, ``overlays/<name>.png`` the
    image under the classes' colours, ``confidence/<name>.png`` the confidence, 0 to 255 for 0 to 1.
    Files are written in the background, while the network labels the next images. A file that
    cannot be read, labelled or given its results' name is reported, and the rest goes on. Files of
    more than 33 megapixels are labelled in parts, one at a time, and their overlays are smaller. Of
    a GeoTIFF file, labels and confidence become ``.tif`` files that lie where it does.

    Args:
        predictor: from :func:`reco.load`.
        inputs: files, folders (with all below them) and globs such as ``"photos/**/*.jpg"``, of
            either.
        output: folder of the results. What its folders ``labels``, ``overlays`` and ``confidence``
            hold is not taken as input, unless it is named file by file.
        confidence: write the confidence too.
        batch_size: images that the network labels at once where their input size is the same.

    Raises:
        ValueError: nothing to do, two images whose results would have one name, or a file in
            ``labels`` that may be a mask of the user's.
        WriteError: the disk is full, or ``output`` is read-only.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: expected at least 1")
    images, passed_over, failures = find_images(inputs, exclude=output)
    _refuse_to_overwrite(images, output)
    if any(found.path.is_file() for found in images):
        with writing(output, "choose another --output"):
            output.mkdir(parents=True, exist_ok=True)
    predicted = 0
    for failure in failures:
        _report(failure)
    found_range = None
    if predictor.image_format.value_range is None:  # find one range for all files
        paths = [found.path for found in images if found.path.is_file()]
        with contextlib.suppress(ValueError):  # no file has a value: each is named when it is read
            found_range = find_value_range(paths, predictor.image_format.channels)
        predictor = copy(predictor)
        predictor.image_format = predictor.image_format._replace(value_range=found_range)
    large: list[ImageFile] = []
    others: list[ImageFile] = []
    for found in images:
        is_large = predictor.image_size is None and _is_large(found.path)
        (large if is_large else others).append(found)
    with tqdm(total=len(images), unit="image") as bar:

        def ended(found: ImageFile, result: Callable[[], object]) -> None:
            nonlocal predicted
            with _reporting(found, failures):
                result()
                predicted += 1
            bar.update()

        with Background(ended) as background:
            for batch in _batches(predictor, others, batch_size, failures, bar):
                for (found, array), result in zip(batch, _predict(predictor, batch), strict=True):
                    work = partial(_write, predictor, array, result, output, found, confidence)
                    background.submit(found, work)
        for found in large:
            ended(found, partial(_label_large, predictor, found, output, confidence))
    notes = images_with_pages((path for path, _ in images), predictor.image_format.channels)
    return FilesOutcome(predicted, passed_over, failures, found_range, notes)


def find_images(
    inputs: Sequence[str | Path], *, exclude: Path | None = None
) -> tuple[list[ImageFile], int, list[str]]:
    """Images of files, folders and globs, in order.

    A file that is named is taken whatever its ending; a name that is not there is kept, so that
    reading it reports it. Hidden files and folders are passed over as in a data set, and a folder
    that links lead to as well counts once.

    Args:
        inputs: see :func:`predict_files`.
        exclude: output folder whose results are no images to label.

    Returns:
        The images, how many other files were passed over, and which folders cannot be listed.

    Raises:
        ValueError: no images, results alone in what an input names, or two images whose results
            would have one name.
    """
    listed: dict[Path, Path] = {}  # image -> name with ending
    passed_over = 0
    unlisted: list[str] = []
    folders = [Path(os.path.realpath(exclude / kind)) for kind in _KINDS] if exclude else []
    for given in inputs:
        text, path = str(given), Path(given)
        if os.path.isdir(path):
            base, candidates = path, _files_below(path, unlisted)
        elif not os.path.exists(path) and _has_wildcard(text):
            base, candidates = _fixed_part(text), _files_of_glob(text, unlisted)
        else:
            listed.setdefault(path, Path(path.name))
            continue
        images = [p for p in candidates if _is_image(p)]
        taken = [p for p in images if not _lies_in(p, folders)]
        if images and not taken:
            raise ValueError(
                f"{given}: all of its images are where results in {exclude} go "
                f"({', '.join(_KINDS)}): expected another output folder"
            )
        passed_over += len(candidates) - len(taken)
        for image in taken:
            listed.setdefault(image, image.relative_to(base))
    if not listed:
        shown = ", ".join([*map(str, inputs), *unlisted])
        others = f", only {counted(passed_over, 'other file')}" if passed_over else ""
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise ValueError(f"no images in {shown}{others}; expected {endings}")
    return _name(listed), passed_over, unlisted


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def _lies_in(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of ``folders``, which are without links."""
    return bool(folders) and not set(Path(os.path.realpath(path)).parents).isdisjoint(folders)


def _files_below(folder: Path, unlisted: list[str]) -> list[Path]:
    def note(error: OSError) -> None:
        unlisted.append(_cannot_be_listed(error))

    names = each_once(folder, walk(folder, [""], onerror=note))
    return sorted(folder / name for name in names)


def _cannot_be_listed(error: OSError) -> str:
    return f"{error.filename}: cannot be listed: {error.strerror}"


def _files_of_glob(text: str, unlisted: list[str]) -> list[Path]:
    """The files that a glob means, with ``**`` those that its folder would have as an input.

    A folder that fits is taken with all below it, as if the shell had put its name in place.

    Raises:
        ValueError: none.
    """
    unlisted += (before := _unlisted_by_glob(text))
    fitting = [Path(name) for name in glob.glob(text, recursive=True)]
    found = [path for path in fitting if not path.is_dir()]
    if "**" not in text:
        for folder in fitting:
            found += _files_below(folder, unlisted) if folder.is_dir() else []
    else:
        base = _fixed_part(text)
        names = each_once(base, (path.relative_to(base).as_posix() for path in found))
        found = [base / name for name in names if not _in_hidden(Path(name).parent, text)]
    if not found and not before:
        raise ValueError(f"{text}: no file has such a name")
    return sorted(found)


def _unlisted_by_glob(text: str) -> list[str]:
    """Folders that a glob would look into and cannot, which ``glob`` passes over in silence."""
    lines: dict[str, None] = {}
    parts = Path(text).parts
    ends = {n + (part == "**") for n, part in enumerate(parts) if _has_wildcard(part)}
    for end in sorted(ends):
        for folder in glob.glob(str(Path(*parts[:end])), recursive=True):
            if os.path.isdir(folder) and not _in_hidden(Path(folder), text):
                try:
                    os.scandir(folder).close()
                except OSError as error:
                    lines[_cannot_be_listed(error)] = None
    return list(lines)


def _in_hidden(folder: Path, text: str) -> bool:
    """Whether a folder is hidden, or in one that is, and the glob does not name that."""
    return any(is_hidden(part) and part not in Path(text).parts for part in folder.parts)


def _has_wildcard(text: str) -> bool:
    return any(character in text for character in "*?[")


def _fixed_part(pattern: str) -> Path:
    """The folders of a glob in front of its first wildcard."""
    return Path(*itertools.takewhile(lambda part: not _has_wildcard(part), Path(pattern).parts))


def _name(listed: dict[Path, Path]) -> list[ImageFile]:
    """Names of the results: without ending, unless that would make two alike."""
    stems = [name.with_suffix("") for name in listed.values()]
    times = Counter(stems)
    found = [
        ImageFile(path, stem if times[stem] == 1 else name)
        for (path, name), stem in zip(listed.items(), stems, strict=True)
    ]
    first: dict[Path, Path] = {}
    for path, name in found:
        if name in first:
            raise ValueError(
                f"{first[name]} and {path}: the results of both would be {name}.png; label them "
                "in two calls, each with another output folder"
            )
        first[name] = path
    return found


def _refuse_to_overwrite(images: Sequence[ImageFile], output: Path) -> None:
    """Raise where labels would replace a file that an earlier call need not have written.

    With the folder of a data set as output, ``labels`` may hold the user's own masks.
    """
    for _, name in images:
        overlay_of = _target(output / "overlays", name)
        for file in (_target(output / "labels", name, ending) for ending in (".png", ".tif")):
            if file.is_file() and not overlay_of.exists():
                raise ValueError(
                    f"{file}: is there already, and not from reco predict, which would have left "
                    f"{overlay_of}: choose another output folder, or remove the file"
                )


def _batches(
    predictor: Predictor,
    images: Sequence[ImageFile],
    batch_size: int,
    failures: list[str],
    bar: tqdm[Any],
) -> Iterator[list[tuple[ImageFile, npt.NDArray[np.uint8]]]]:
    """Read images, and group neighbours of one input size; failures are noted."""
    batch: list[tuple[ImageFile, npt.NDArray[np.uint8]]] = []
    for found in images:
        read: list[npt.NDArray[np.uint8]] = []
        with _reporting(found, failures):
            read.append(predictor.to_array(found.path))
        if not read:
            bar.update()
            continue
        (array,) = read
        full = len(batch) == batch_size
        if batch and (full or predictor.input_size(batch[0][1]) != predictor.input_size(array)):
            yield batch
            batch = []
        batch.append((found, array))
    if batch:
        yield batch


def _is_large(path: Path) -> bool:
    try:
        _, (height, width) = image_size(path)
    except ValueError:  # reported when it is read
        return False
    return height * width > _LARGE


def _label_large(predictor: Predictor, found: ImageFile, output: Path, confidence: bool) -> None:
    """Label a file part by part; only the file, labels and confidence are held as a whole."""
    image = LargeImage(found.path, predictor.image_format)
    labels = np.empty(image.size, dtype=np.uint8)
    levels = np.empty(image.size if confidence else (0, 0), dtype=np.uint8)
    tiles = predictor.tiles(image)
    for tile in tqdm(tiles, found.path.name, num_tiles(image.size), unit="tile", leave=False):
        labels[tile.rows, tile.columns] = tile.labels.cpu().numpy()
        if confidence:
            levels[tile.rows, tile.columns] = _levels(tile.confidence.cpu().numpy())
    step = -(-max(image.size) // _OVERLAY)
    small = image.reduced(step)
    del image
    picture = overlay(small, labels[::step, ::step], predictor.spec.palette)
    _save_picture(Image.fromarray(picture), output / "overlays", found.name)
    _save(predictor, found, output, labels, levels if confidence else None)


def _predict(
    predictor: Predictor, batch: Sequence[tuple[ImageFile, npt.NDArray[np.uint8]]]
) -> Sequence[Prediction | Exception]:
    """The prediction of each image, or the error.

    A batch that fails, such as one too large for the memory, is tried again image by image.
    """
    try:
        return predictor.predict_batch([array for _, array in batch])
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(batch) == 1:
            return [error]
    return [result for item in batch for result in _predict(predictor, [item])]


@contextlib.contextmanager
def _reporting(found: ImageFile, failures: list[str]) -> Iterator[None]:
    """Report an error of one file; raise errors that concern all, such as a full disk."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
        if isinstance(error, WriteError) and error.errno not in _NAME_ERRORS:
            raise
        reason = str(error) or type(error).__name__
        named = isinstance(error, WriteError) or str(found.path) in reason
        failures.append(reason if named else f"{found.path}: cannot be labelled: {reason}")
        _report(failures[-1])


def _report(failure: str) -> None:
    say(f"error: {failure}", error=True)


def _write(
    predictor: Predictor,
    image: npt.NDArray[np.uint8],
    prediction: Prediction | Exception,
    output: Path,
    found: ImageFile,
    confidence: bool,
) -> None:
    """Write the results of one image, or raise its error."""
    if isinstance(prediction, Exception):
        raise prediction
    levels = _levels(prediction.confidence) if confidence else None
    picture = overlay(to_rgb(image), prediction.labels, predictor.spec.palette)
    _save_picture(Image.fromarray(picture), output / "overlays", found.name)
    _save(predictor, found, output, prediction.labels, levels)  # last: labels have their overlay


def _levels(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    levels: npt.NDArray[np.uint8] = (255 * confidence).round().astype(np.uint8)
    return levels


def _save(
    predictor: Predictor,
    found: ImageFile,
    output: Path,
    labels: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.uint8] | None,
) -> None:
    """Write labels and, unless ``None``, confidence in 0..255."""
    tags = georeference(found.path)
    picture = Image.fromarray(labels)
    picture.putpalette([value for colour in predictor.spec.palette for value in colour])
    _save_picture(picture, output / "labels", found.name, tags)
    if levels is not None:
        _save_picture(Image.fromarray(levels), output / "confidence", found.name, tags)


def _target(folder: Path, name: Path, ending: str = ".png") -> Path:
    """The file for an image's result of one kind."""
    return folder / name.parent / f"{name.name}{ending}"


def _save_picture(
    picture: Image.Image, folder: Path, name: Path, tags: Mapping[int, Any] | None = None
) -> None:
    """As PNG, or with a georeference as TIFF."""
    target = _target(folder, name, ".tif" if tags else ".png")
    if not tags:
        write_whole(target, partial(picture.save, compress_level=_COMPRESSION))
        return
    directory = ImageFileDirectory_v2()
    for code, value in tags.items():
        directory[code] = value
    write_whole(
        target,
        lambda to: picture.save(to, tiffinfo=directory, compression="tiff_adobe_deflate"),
    )
