"""Running statistics of batch norm that are exact means over many batches.

By default they are an exponential average that forgets all but the last ten or so batches, each of
a few small crops: at the end of a run two networks of nearly equal weights can differ by several
points of mIoU through them alone. Wu & Johnson, "Rethinking Batch in BatchNorm",
arXiv 2105.07576, Section 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Buffers = dict[str, dict[str, Tensor]]  # by name of the network and of the buffer


@contextlib.contextmanager
def averaging_statistics(networks: Iterable[nn.Module]) -> Iterator[None]:
    """In this context running statistics are the mean over all forward passes since its start.

    As ``torch.optim.swa_utils.update_bn``, but layers in eval mode (a frozen encoder) and those
    that no pass reaches keep their statistics, which ``update_bn`` clears.

    Args:
        networks: in the mode that they are to be run in.
    """
    layers = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    ]
    before = []
    for layer in layers:
        tracked = layer.num_batches_tracked
        assert tracked is not None  # there where running statistics are
        before.append((layer.momentum, tracked.clone()))
        layer.momentum = None  # the mean over `num_batches_tracked` batches
        tracked.zero_()
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum = momentum
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.copy_(count)


def copy_of_buffers(networks: Mapping[str, nn.Module]) -> Buffers:
    """All buffers of networks; batch norm's running statistics are the only ones that change."""
    return {
        name: {key: buffer.clone() for key, buffer in network.named_buffers()}
        for name, network in networks.items()
    }


@torch.no_grad()
def restore_buffers(networks: Mapping[str, nn.Module], buffers: Buffers) -> None:
    """Give networks the values of :func:`copy_of_buffers`."""
    for name, network in networks.items():
        for key, buffer in network.named_buffers():
            buffer.copy_(buffers[name][key])
