"""Wrappers of torch.distributed, each a no-op on one process. Imports torch only."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def is_active() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes, 1 without torch.distributed."""
    return dist.get_world_size() if is_active() else 1


def rank() -> int:
    """This process's number, 0 without torch.distributed."""
    return dist.get_rank() if is_active() else 0


def find_device(device: str, *, key: str = "device") -> torch.device:
    """The device that a name means; joins no process group.

    Args:
        device: ``"auto"`` (CUDA where there is one), or a torch device string.
        key: what the user gave it as.

    Raises:
        ValueError: ``device`` is not one that this machine has.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given = f"{key} = {device!r}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{given}: expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{given}: torch finds no CUDA device here; use cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{given}: expected cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if chosen.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=chosen).cpu()
        except Exception as error:  # the type depends on the kind of device
            raise ValueError(
                f"{given}: torch cannot compute there on this machine; expected auto, cpu, cuda "
                "or cuda:N"
            ) from error
    return chosen


def set_up(device: str) -> torch.device:
    """Join the process group if ``torchrun`` started this process; return the device to use.

    Args:
        device: as for :func:`find_device`.

    Raises:
        ValueError: ``device`` is not one that this machine has, or there is no group to join.
    """
    chosen = find_device(device, key="train.device")
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if chosen.type == "cuda" and launched:
        if ":" in device:
            raise ValueError(
                f"train.device = {device!r}: under torchrun each process has the GPU of its number "
                "on the machine; expected auto or cuda"
            )
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK = {chosen.index}: torchrun started more processes than this machine "
                f"has GPUs ({torch.cuda.device_count()})"
            )
        torch.cuda.set_device(chosen)
    if launched and not in_group():
        try:
            _join("nccl" if chosen.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                "RANK and WORLD_SIZE are set, but the process group cannot be joined "
                f"({str(error).splitlines()[0]}); start with torchrun, or unset RANK to train on "
                "one process"
            ) from error
    return chosen


def _join(backend: str) -> None:
    """Join the process group through the store that the environment names.

    ``torchrun`` keeps one store for all attempts of a job, and in it the addresses of processes
    that have died since, at which restarted processes would wait for each other. So the keys have a
    prefix for each attempt. Agents on several nodes count their attempts and may not agree on the
    number; docs/several_gpus.md has the remedy.
    """
    from torch.distributed import distributed_c10d
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed_c10d.PrefixStore(f"attempt {attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def in_group() -> bool:
    """Whether this process is in a process group, also as its only member."""
    return dist.is_available() and dist.is_initialized()


def tear_down() -> None:
    """Leave the process group, if this process is in one."""
    if in_group():
        dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks whose gradient is summed over ranks too.

    As ``torch.distributed.nn.functional.all_reduce``, which newer torch deprecates in favour of a
    private module, and which cannot be compiled.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Elementwise sum of the ranks' tensors (same shape everywhere); differentiable."""
    if not is_active():
        return tensor
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


def gather_over_ranks(tensor: Tensor) -> Tensor:
    """``(W, *tensor.shape)``: the ranks' tensors (same shape everywhere), by rank. No gradient."""
    if not is_active():
        return tensor.detach()[None]
    tensors = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(tensors, tensor.detach().contiguous())
    return torch.stack(tensors)


def from_first_rank(tensor: Tensor) -> Tensor:
    """Rank 0's values of ``tensor`` on every rank."""
    if is_active():
        dist.broadcast(tensor, src=0)
    return tensor


def data_parallel(module: nn.Module) -> nn.Module:
    """``module`` with gradients averaged over ranks; buffers are each rank's until averaged."""
    # Newer versions of torch have a new name for the switch, and warn of the old one.
    names = inspect.signature(DistributedDataParallel).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    off: Any = {switch: False}
    return DistributedDataParallel(module, **off)


def averaging_gradients(module: nn.Module, *, now: bool) -> AbstractContextManager[Any]:
    """Backward passes inside average gradients over ranks, or with ``now=False`` leave that to a
    later one: the parts of a batch.
    """
    if now or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    waiting: AbstractContextManager[Any] = module.no_sync()
    return waiting


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Make batch norm's running statistics the ranks' mean; other buffers are constants."""
    if not is_active():
        return
    buffers = [
        buffer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        for buffer in layer.buffers()
        if buffer.is_floating_point()
    ]
    if not buffers:
        return
    together = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(together)
    parts = torch.split(together / world_size(), [buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set on some rank; waits for all of them."""
    if not is_active():
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)) > 0)
