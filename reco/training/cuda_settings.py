"""How torch computes on a CUDA device while a run trains; its settings are restored afterwards.

TF32: convolutions may use it, as torch lets them, and matrix products do not: the class means of
ReCo, its similarities and the relation graph are matrix products, and stay float32.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def training_backends(*, deterministic: bool) -> Generator[None, None, None]:
    """Let cuDNN search for its fastest convolutions in this context: crops are of one size.

    Args:
        deterministic: the same bits every time, on one device and version of torch, by slower
            kernels and without the search; an operator that has no deterministic one raises
            ``RuntimeError`` with its name. Enter it before the first matrix product on the device:
            cuBLAS reads ``CUBLAS_WORKSPACE_CONFIG`` once.
    """
    before = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(deterministic or before)
        torch.set_float32_matmul_precision("highest")
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=not deterministic,
            deterministic=deterministic,
            allow_tf32=torch.backends.cudnn.allow_tf32,
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def validation_backends() -> Generator[None, None, None]:
    """Neither search nor compile for new image sizes in this context."""
    cudnn = torch.backends.cudnn
    flags = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=False,
        deterministic=cudnn.deterministic,
        allow_tf32=cudnn.allow_tf32,
    )
    with flags, torch.compiler.set_stance("force_eager"):
        yield
