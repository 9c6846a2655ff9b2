"""Counting the operators of torch."""

from __future__ import annotations

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """How often each operator is called, views and those on the CPU too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":  # not those of fake tensors and profilers
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
