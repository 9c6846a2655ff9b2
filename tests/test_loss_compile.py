"""The loss under torch.compile, and what only a GPU can show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from loss_batches import Batch, make_batch
from torch import Tensor

from reco import IGNORE
from reco.loss import ReCoLoss, reco_loss_with_statistics

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batches_of_all_kinds(device: str = "cpu") -> Iterator[Batch]:
    """20 batches of one shape: all classes, some, one, none, with hard pixels and without."""
    for step in range(20):
        representations, logits, labels = make_batch(
            label_size=(14, 18), ignored=step / 19, channels_last=True, seed=step
        )
        if step % 4 == 1:
            labels[labels != IGNORE] = 1
        if step % 4 == 2:
            labels[labels != IGNORE] %= 2
        if step % 4 == 3:
            logits = 1000 * logits  # hardly a hard pixel
        yield (
            representations.detach().to(device).requires_grad_(),
            logits.to(device),
            labels.to(device),
        )


def step_of(loss: Callable[..., Any], batch: Batch, seed: int) -> tuple[Tensor, ...]:
    """Value, gradient and statistics, if ``loss`` gives them."""
    torch.manual_seed(seed)
    result = loss(*batch)
    value, statistics = (result, ()) if isinstance(result, Tensor) else result
    (gradient,) = torch.autograd.grad(value, batch[0])
    return value, gradient, *statistics


def assert_compiles_once(loss: Callable[..., Any], **compile_arguments: Any) -> None:
    """One graph without a break, no second compilation, and eager's numbers."""
    compiled = torch.compile(loss, fullgraph=True, **compile_arguments)
    values = []
    for seed, batch in enumerate(batches_of_all_kinds()):
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            compiled_step = step_of(compiled, batch, seed)
        eager_step = step_of(loss, batch, seed)
        torch.testing.assert_close(compiled_step, eager_step, rtol=1e-5, atol=1e-6, equal_nan=True)
        values.append(compiled_step[0].item())
    assert values[-1] == 0  # all ignored
    assert len(set(values)) > 10


@pytest.mark.slow
@needs_compiler
def test_one_graph_in_machine_code_whatever_the_labels() -> None:
    with torch._inductor.config.patch(fallback_random=True):  # the random numbers of eager mode
        assert_compiles_once(ReCoLoss(num_queries=8, num_negatives=9))


def test_one_graph_with_every_argument_and_statistics() -> None:
    loss = ReCoLoss(
        num_queries=8,
        num_negatives=9,
        negatives="per_query",
        gradient_through_means=True,
        negative_classes=[0, 2],
        class_weights=[1.0, 2.0, 3.0, 4.0],
    )
    # The graph alone: inductor's machine code for it would take as long again.
    assert_compiles_once(loss.with_statistics, backend="aot_eager")


def test_one_graph_of_a_function_that_sets_options() -> None:
    def loss(*batch: Tensor) -> Tensor:
        return reco_loss_with_statistics(*batch, num_queries=8, num_negatives=9)[0]

    batch = make_batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step_of(compiled, batch, 0), step_of(loss, batch, 0))


def test_a_label_out_of_range_is_counted_when_compiled() -> None:
    loss = ReCoLoss(num_queries=8, num_negatives=9)
    representations, logits, labels = make_batch()
    wrong = labels.clone()
    wrong[0, 0, :4] = torch.tensor([4, -1, 254, 1000])
    labels[0, 0, :4] = IGNORE
    compiled = torch.compile(loss.with_statistics, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    value, statistics = compiled(representations, logits, wrong)
    torch.manual_seed(0)
    expected, _ = loss.with_statistics(representations, logits, labels)
    assert statistics.labels_out_of_range.item() == 4
    assert torch.equal(value, expected)


# --- on a GPU -----------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_waits_for_the_gpu(channels_last: bool, dtype: torch.dtype, negatives: str) -> None:
    loss = ReCoLoss(
        negatives=negatives,  # type: ignore[arg-type]
        negative_classes=range(100),
        class_weights=torch.rand(150),
        gradient_through_means=dtype == torch.float32,
    ).cuda()
    batch = make_batch(classes=150, label_size=(28, 36), channels_last=channels_last)
    representations = batch[0].detach().to("cuda", dtype).requires_grad_()
    logits, labels = batch[1].cuda(), batch[2].cuda()
    valid = torch.ones_like(labels, dtype=torch.bool)
    try:
        torch.cuda.set_sync_debug_mode("error")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value, _ = loss.with_statistics(representations, logits, labels, valid=valid)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert value.dtype == torch.float32
    assert representations.grad is not None
    assert representations.grad.isfinite().all()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_gpu_and_cpu_agree_on_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, channels_last: bool
) -> None:
    from reco import loss as module

    uniform = torch.rand
    generators = {device: torch.Generator().manual_seed(0) for device in ("cpu", "cuda")}

    def same_numbers(shape: Any, *, device: torch.device, dtype: Any, generator: Any) -> Tensor:
        return uniform(shape, dtype=dtype, generator=generators[device.type]).to(device)

    monkeypatch.setattr(module.torch, "rand", same_numbers)
    batch = make_batch(channels=64, channels_last=channels_last)
    results = []
    for device in ("cpu", "cuda"):
        # Chunks of one size on either device, or the numbers go to other queries.
        monkeypatch.setattr(module, "_CHUNK_NUMBERS", module._CHUNK_NUMBERS_CPU)
        moved = batch[0].detach().to(device).requires_grad_(), *(t.to(device) for t in batch[1:])
        value, gradient = step_of(ReCoLoss(), moved, 0)
        results.append((value.cpu(), gradient.cpu()))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@needs_gpu
def test_one_graph_on_the_gpu() -> None:
    loss = ReCoLoss(num_queries=8, num_negatives=9).cuda()
    compiled = torch.compile(loss, fullgraph=True)
    for seed, batch in enumerate(batches_of_all_kinds("cuda")):
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            value, gradient = step_of(compiled, batch, seed)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_samples_anew_at_every_replay() -> None:
    loss = ReCoLoss(num_queries=8, num_negatives=9).cuda()
    batch = next(batches_of_all_kinds("cuda"))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            loss(*batch).backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(*batch)
        (gradient,) = torch.autograd.grad(value, batch[0])
    values = []
    for _ in range(4):
        graph.replay()
        values.append(value.item())
        assert gradient.isfinite().all()
    assert len(set(values)) == 4
    batch[2].fill_(IGNORE)
    graph.replay()
    assert value.item() == 0
