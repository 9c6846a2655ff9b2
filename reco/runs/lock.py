"""The lock of a run's folder: one process trains in it at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from reco.printing import say
from reco.runs.folder import ANOTHER_RUN, ELSEWHERE
from reco.writing import writing


@contextlib.contextmanager
def exclusive_use(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Wait until no other process trains in ``folder``, and keep others waiting.

    That may be a job that was killed and started again, or another study that shares the run. The
    first rank holds the lock; without ``flock`` in the system there is none. Where no run was made
    in the end, as with a wrong path to the data, nothing stays: neither the lock's file nor the
    folders that were made for it.

    Raises:
        FileExistsError: another process trains there, and not ``wait``.
    """
    if os.name != "posix" or os.environ.get("RANK", "0") != "0":
        yield
        return
    import fcntl

    path = folder.parent / f".{folder.name}.lock"
    file, made = _lock(path, folder, wait)
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if not folder.exists() and _is_at(path, file):
                    path.unlink()
                    for above in made:
                        above.rmdir()  # up to the first one that holds something
            # Closing is not enough: workers of the data loader have the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)


def _lock(path: Path, folder: Path, wait: bool) -> tuple[IO[str], list[Path]]:
    """The file of a lock, locked, and the folders that were made for it, the deepest first."""
    import fcntl

    made: list[Path] = []
    waiting = False
    while True:
        made = [above for above in path.parents if not above.exists()] or made
        with contextlib.ExitStack() as closing:
            with writing(folder, ELSEWHERE):
                file = closing.enter_context(_open_lock(path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise FileExistsError(
                        f"{folder}: another process trains this run: --resume waits until it ends "
                        f"and goes on from there; or choose {ANOTHER_RUN}"
                    ) from None
                if not waiting:
                    say(f"{folder}: another process trains here; waiting until it ends")
                waiting = True
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held the lock may have removed its file, and others lock a new one by now.
            if _is_at(path, file):
                closing.pop_all()
                return file, made


def _open_lock(path: Path) -> IO[str]:
    """Open the file of a lock; its folder is made, again where another process removes it."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w")
    path.parent.mkdir(parents=True, exist_ok=True)  # raises what stands in the way
    return path.open("w")


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open file is the one that ``path`` names now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
