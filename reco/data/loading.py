"""Training and evaluation samples, and the loaders that batch them.

Shapes: image (3, h, w) uint8; label and truth (h, w) uint8, 0 .. C-1 or IGNORE; inside (h, w) bool.
Batches are the same with B in front. Tensors stay uint8 until they are on the device.

A training sample is known by its number in the whole run, iteration * batch size + position: the
number says which image it is and seeds its crop, so neither the number of workers nor a restart
changes anything.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import signal
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from reco import IGNORE
from reco.data.datasets.reader import Reader
from reco.data.partial import partial_labels
from reco.data.reading.images import Pixels, image_tensor
from reco.data.transforms import RandomScaleCrop, resize_pair
from reco.seeding import stable_seed

if TYPE_CHECKING:
    from reco.config import DatasetConfig

logger = logging.getLogger(__name__)

Workers = int | Literal["auto"]
"""Processes of a loader, 0 for none; ``"auto"``: :func:`num_workers`."""

_Sample = TypeVar("_Sample", covariant=True)

# Images evaluated together where they all have one size.
_EVAL_BATCH = 4
_SECONDS_AFTER_SIGTERM = 20  # that a process lives which reads images


class TrainSample(NamedTuple):
    """One training crop, or a batch of them."""

    image: Tensor  # (3, h, w) uint8
    label: Tensor  # (h, w) uint8: the labels that training may use, IGNORE elsewhere
    inside: Tensor  # (h, w) bool: False where the crop reaches beyond its image
    truth: Tensor  # (h, w) uint8: the labels that were at hand, to judge pseudo-labels by


class EvalSample(NamedTuple):
    """One image to evaluate, or a batch of them."""

    image: Tensor  # (3, H, W) uint8
    label: Tensor  # (H, W) uint8
    index: int  # type: ignore[assignment]  # position in ids; a tensor (B,) in a batch


class TrainStream(Dataset[TrainSample]):
    """The endless stream of labelled, or of unlabelled, training crops.

    Every epoch goes through all ids, each in another order.

    Args:
        reader: the data set.
        ids: of the images.
        config: sizes, scale range, partial labels, ``skip_unreadable``; with ``cache`` an image is
            read and resized once in each process that reads, and stays in memory.
        stream: ``"labelled"`` crops are randomly scaled and carry their labels. ``"unlabelled"``
            ones are not (the teacher sees them plain, the student's view is scaled on the device)
            and carry no labels, but for the few that partial labels leave. Their masks are read
            for these alone: no truth is at hand else, unless it comes with the image.
        seed: of the run.

    Raises:
        ValueError: no ids.
    """

    def __init__(
        self,
        reader: Reader,
        ids: Sequence[str],
        config: DatasetConfig,
        *,
        stream: Literal["labelled", "unlabelled"],
        seed: int,
    ) -> None:
        if not ids:
            raise ValueError(f"the {stream} stream has no images, expected at least one")
        self._reader = reader
        self._ids = list(ids)
        self._config = config
        self._stream = stream
        self._seed = seed
        scale_range = config.scale_range if stream == "labelled" else (1.0, 1.0)
        self._crop = RandomScaleCrop(scale_range, config.crop_size)
        self._without_labels = frozenset(reader.unlabelled_ids())
        self._skip_unreadable = config.skip_unreadable and stream == "unlabelled"
        self._epoch, self._order = -1, self._ids
        self._cache: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def __getitem__(self, number: int) -> TrainSample:
        """Sample ``number`` of the run."""
        image, label, truth = self._read(number)
        inside = torch.ones_like(label, dtype=torch.bool)
        # Not torch.manual_seed: that would seed the accelerators too, which nothing restores.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                stable_seed("crop", self._seed, self._stream, number)
            )
            return TrainSample(*self._crop(image, label, inside, truth))

    def _read(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, usable labels and truth of a sample, all of them whole.

        With ``skip_unreadable`` the next image of the epoch steps in for one that cannot be read.
        """
        epoch, position = divmod(number, len(self._ids))
        order = self._epoch_order(epoch)
        for ahead in range(len(order)):
            id = order[(position + ahead) % len(order)]
            if id in self._cache:
                return self._cache[id]
            try:
                with _naming(id):
                    image = self._reader.image(id)
            except (ValueError, OSError) as error:
                if not self._skip_unreadable:
                    raise
                logger.warning("skipped (dataset.skip_unreadable): %s", error)
                continue
            with _naming(id):
                sample = self._with_labels(id, image)
            if self._config.cache:
                self._cache[id] = sample
            return sample
        raise ValueError(f"none of the {len(order)} {self._stream} images can be read")

    def _with_labels(self, id: str, image: Image.Image | Pixels) -> tuple[Tensor, Tensor, Tensor]:
        budget = self._config.partial_labels
        reading = (
            self._stream == "labelled" or budget is not None or self._reader.label_comes_with_image
        )
        label = None
        if reading and id not in self._without_labels:
            label = self._reader.label(id)
        pixels, truth = _to_tensors(image, label, self._config.image_size)
        if budget is not None:
            usable = partial_labels(truth, budget, seed=self._config.split_seed, id=id)
        elif self._stream == "labelled":
            usable = truth
        else:
            usable = torch.full_like(truth, IGNORE)
        return pixels, usable, truth

    def _epoch_order(self, epoch: int) -> list[str]:
        """The ids in the order of this epoch."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(
                stable_seed("order", self._seed, self._stream, epoch)
            )
            order = torch.randperm(len(self._ids), generator=generator).tolist()
            self._epoch, self._order = epoch, [self._ids[i] for i in order]
        return self._order


class EvalDataset(Dataset[EvalSample]):
    """Whole images with their labels, in the order of ``ids``.

    Args:
        reader: the data set.
        ids: of images that have labels.
        image_size: (height, width) of every sample; ``None``: as the files come.
        original_labels: leave the labels at the size of their files.
    """

    def __init__(
        self,
        reader: Reader,
        ids: Sequence[str],
        image_size: tuple[int, int] | None,
        *,
        original_labels: bool = False,
    ) -> None:
        self._reader = reader
        self._ids = list(ids)
        self._image_size = image_size
        self._original_labels = original_labels
        self.one_size = image_size is not None and not original_labels

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> EvalSample:
        """Image and labels of ``ids[index]``."""
        id = self._ids[index]
        with _naming(id):
            image, label = self._reader.image(id), self._reader.label(id)
            pixels, labels = _to_tensors(image, label, self._image_size)
            if self._original_labels:
                labels = torch.from_numpy(np.array(label))
        return EvalSample(pixels, labels, index)


def train_loader(
    dataset: TrainStream,
    batch_size: int,
    *,
    start_iteration: int,
    iterations: int,
    workers: Workers,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Loader[TrainSample]:
    """Batches of iterations ``start_iteration`` .. ``iterations - 1``.

    Args:
        dataset: the stream.
        batch_size: images a step over all ranks, a multiple of ``world_size``.
        start_iteration: the first iteration to deliver.
        iterations: where the run ends.
        workers: processes that read ahead; 0 reads in this one, ``"auto"`` goes by the cores.
        rank: this process takes the rank-th part of every batch: side by side, the ranks' batches
            are the batch of a single process.
        world_size: number of ranks.
        pin_memory: page-locked batches, for copying to a GPU without waiting.
    """
    workers = num_workers(workers)
    numbers = _SampleNumbers(batch_size, start_iteration, iterations, rank, world_size)
    return Loader(
        dataset,
        batch_sampler=numbers,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
        # A starting loader takes a random number; from this generator, not from the run's.
        generator=torch.Generator(),
    )


def eval_loader(
    dataset: EvalDataset,
    *,
    workers: Workers,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Loader[EvalSample]:
    """This rank's share of the images, each image on one rank only and in order.

    One image a batch, unless all are brought to one size. The workers end with the iteration.

    Args:
        dataset: the images.
        workers: as for :func:`train_loader`, and so are the other arguments.
        rank: this process takes images ``rank``, ``rank + world_size``, and so on.
        world_size: number of ranks.
        pin_memory: page-locked batches.
    """
    return Loader(
        dataset,
        batch_size=_EVAL_BATCH if dataset.one_size else 1,
        sampler=range(rank, len(dataset), world_size),
        num_workers=num_workers(workers),
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),
    )


def num_workers(workers: Workers) -> int:
    """How many processes a loader starts.

    ``"auto"`` is a quarter of the cores that this process may use, shared with the other processes
    that ``torchrun`` started on the machine: a step reads by two loaders, and the rest of the cores
    is for the step itself. It is 1 at least and 8 at most.
    """
    if workers != "auto":
        return workers
    has_affinity = hasattr(os, "sched_getaffinity")  # where the system has such a thing
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(8, max(1, cores // (4 * ranks)))


class Loader(DataLoader[_Sample]):
    """A loader that raises the reader's errors, and explains the death of its processes."""

    def __iter__(self) -> Batches[_Sample]:  # type: ignore[override]
        with _explained(self.num_workers):
            return Batches(super().__iter__(), self.num_workers)


class Batches(Iterator[_Sample]):
    """One pass of a loader. Its processes end when it is finished, fails, is closed or collected.

    torch ends them when its own iterator is collected. After an error that is too late: it is in a
    cycle with the traceback, its queues go first, and the processes never hear of the end.
    """

    def __init__(self, batches: Iterator[_Sample], workers: int) -> None:
        self._batches, self._workers = batches, workers
        _passes.add(self)

    def __next__(self) -> _Sample:
        try:
            with _explained(self._workers):
                return next(self._batches)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; there are no batches after it."""
        if self._workers:
            with contextlib.suppress(RuntimeError):  # the death of one of them
                self._batches._shutdown_workers()  # type: ignore[attr-defined]

    __del__ = close


_passes: weakref.WeakSet[Batches[Any]] = weakref.WeakSet()


@atexit.register
def _close_passes() -> None:
    """At the end of the program, of passes that an uncaught error's traceback holds."""
    for each in list(_passes):
        each.close()


@contextlib.contextmanager
def _naming(id: str) -> Iterator[None]:
    """Turn every error of a reader into one that names the image."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except MemoryError as error:
        raise MemoryError(f"{id}: not enough memory to read it") from error
    except Exception as error:  # a user's reader may raise anything
        raise ValueError(f"{id}: cannot be read: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def deaths_explained(workers: Workers) -> Iterator[None]:
    """Explain torch's error for the death of a loader's process, which it raises anywhere."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise _explanation(error, workers) from error
        raise


@contextlib.contextmanager
def _explained(workers: int) -> Iterator[None]:
    """Turn a loader's error into the reader's, or into an explanation of a process's death."""
    try:
        yield
    except Exception as error:
        if not workers:
            raise
        raise _explanation(error, workers) from error


# How torch wraps the error of a worker: the type's name, the traceback, and its last line.
_CAUGHT = re.compile(
    r"Caught (\w+) in [^\n]*\.\nOriginal .*\n(?:[\w.]*\.)?\1(?:: (.*?))?\s*", re.DOTALL
)
_SHARED_MEMORY = re.compile(r"bus error|shared memory|\bshm\b|No space left", re.IGNORECASE)


def _explanation(error: Exception, workers: Workers) -> Exception:
    caught = _CAUGHT.fullmatch(str(error))
    message = str(error) if caught is None else caught[2] or caught[1]
    first_line = message.splitlines()[0] if message else type(error).__name__
    if caught is not None and caught[1] != type(error).__name__:
        return ValueError(message)  # of a type that torch could not make anew
    by_torch = caught is None or not isinstance(error, ValueError | OSError | MemoryError)
    if by_torch and _SHARED_MEMORY.search(message):
        problem = (
            "/dev/shm is full, through which the processes that read images hand them over (a "
            "container gets more by docker run --shm-size=8g)"
        )
    elif by_torch and "DataLoader worker" in message:
        problem = "a process that reads images has died, most often because memory ran out"
    elif by_torch and isinstance(error, OSError | AssertionError | RuntimeError):
        problem = "the processes that read images have failed"
    elif caught is None:
        return error
    else:
        return type(error)(message)
    reason = first_line.rstrip(" .")
    return ChildProcessError(
        f"{problem}: {reason}. train.workers=0, instead of {workers}, does without them"
    )


def _leave_signals_to_the_parent(_: int) -> None:
    """Signals may reach all processes of a run, but it is the run that decides when to stop.

    Ctrl-C and a closed terminal do so, and SIGTERM under a scheduler or ``timeout``. SIGTERM also
    ends a process that reads and that nobody waits for: this one it ends some seconds later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))


class _SampleNumbers(Sampler[list[int]]):
    """For every iteration the numbers of this rank's samples."""

    def __init__(
        self, batch_size: int, start_iteration: int, iterations: int, rank: int, world_size: int
    ) -> None:
        assert batch_size % world_size == 0, (batch_size, world_size)
        self._batch_size = batch_size
        self._iterations = range(start_iteration, iterations)
        share = batch_size // world_size
        self._positions = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in self._iterations:
            yield [iteration * self._batch_size + position for position in self._positions]


def _to_tensors(
    image: Image.Image | Pixels, label: Image.Image | None, size: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """``(3, H, W)`` and ``(H, W)`` uint8 at ``size``; all IGNORE where there is no label."""
    pixels = image_tensor(image)
    if label is None:
        labels = torch.full(pixels.shape[1:], IGNORE, dtype=torch.uint8)
    else:
        labels = torch.from_numpy(np.array(label))
    if size is not None and size != tuple(labels.shape):
        return resize_pair(pixels, labels, size)
    return pixels, labels
