"""Signals that stop a run, loader processes that die, and steps that fail."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

import torch
from torch import Tensor, nn

# Ctrl-C, a scheduler or `kill`, and a terminal that is closed (which Windows does not have).
_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def on_stop_signal(note: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``note`` on signals that ask to stop; those that are ignored (``nohup``) stay ignored.

    Python handles signals in the main thread alone: in another one nothing is changed.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in _STOPPING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ensure_stderr() -> Iterator[None]:
    """A program without a terminal may have no ``sys.stderr``, which progress bars write to."""
    if sys.stderr is not None:
        yield
        return
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        yield


@contextlib.contextmanager
def defer_worker_deaths() -> Iterator[None]:
    """The death of a loader's process is not raised before the end of this context.

    torch raises it from a signal handler, wherever the program is: in the middle of an update of
    the weights, or of writing a checkpoint.
    """
    number = getattr(signal, "SIGCHLD", None)
    in_main = threading.current_thread() is threading.main_thread()
    if number is None or not in_main or signal.getsignal(number) is None:
        yield
        return
    deaths: list[int] = []
    handler = signal.signal(number, lambda number, _: deaths.append(number))
    try:
        yield
    finally:
        signal.signal(number, handler)
    if deaths and callable(handler):
        handler(number, None)


class StepRollback:
    """Undoes a step that failed, so that networks and optimiser are those after the step before.

    A step that fails before the optimiser's update has changed nothing but buffers (batch norm's
    running statistics); these are remembered. One that fails within the update cannot be undone.

    Args:
        networks: whose buffers a step changes.
        optimizer: of the step.
    """

    def __init__(self, networks: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> None:
        buffers = [buffer for network in networks for buffer in network.buffers()]
        # Grouped by dtype: a foreach call on mixed dtypes is a loop over the tensors.
        self._buffers: list[tuple[list[Tensor], list[Tensor]]] = []
        for dtype in {buffer.dtype for buffer in buffers}:
            of_dtype = [buffer for buffer in buffers if buffer.dtype == dtype]
            self._buffers.append((of_dtype, [buffer.clone() for buffer in of_dtype]))
        self._under_way = False
        self._updating = False
        optimizer.register_step_pre_hook(self._note_update)

    def _note_update(self, *_: object) -> None:
        self._updating = True

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Context of one step."""
        for buffers, before in self._buffers:
            torch._foreach_copy_(before, buffers)
        self._under_way = True
        yield
        self._under_way = self._updating = False

    @torch.no_grad()
    def undo(self) -> bool:
        """Undo a step that failed; returns whether that was possible."""
        if self._under_way and not self._updating:
            for buffers, before in self._buffers:
                torch._foreach_copy_(buffers, before)
            self._under_way = False
        return not self._under_way
