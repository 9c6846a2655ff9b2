"""Two gloo processes against one process on the joined batch, given the same sampled pixels.

The pixels are the same because rank 0 samples the numbers for all, with the generator of the one
process, and the joint table has the order of the joined batch.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from loss_batches import Batch, make_batch, seeded
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reco import IGNORE
from reco import loss as module
from reco.loss import class_means, reco_loss_with_statistics

WORLD = 2
CLASSES = 4
# Images of rank 0 and of rank 1.
SHARES = (1, 2)
TOGETHER = 100  # seconds until processes that wait for each other are given up

CASES: dict[str, dict[str, Any]] = {
    "shared": {},
    "per_query": {"negatives": "per_query"},
    "chunks": {"negatives": "per_query", "chunk": 900},
    "gradient_through_means": {"gradient_through_means": True},
    "random": {"query_sampling": "random", "key_sampling": "random"},
    "easy": {"query_sampling": "easy", "class_weights": torch.tensor([1.0, 0.0, 2.0, 3.0])},
    "channels_last": {"channels_last": True},
    "rank 0 has no valid pixel": {"without_pixels": 0},
    "rank 1 has no valid pixel": {"without_pixels": 1, "gradient_through_means": True},
    "no rank has a valid pixel": {"without_pixels": -1},
    "rank 0 lacks a class": {"without_class": 0},
    "keys from some pixels": {"keys": 0.3},
    "rank 1 lacks a class, per_query": {"without_class": 1, "negatives": "per_query"},
    "each rank has one class": {"one_class_each": True},
}


class LossResult(NamedTuple):
    value: Tensor
    gradient: Tensor
    means: Tensor
    statistics: dict[str, Tensor]


def joined_batch(arguments: dict[str, Any]) -> Batch:
    """The batch of all ranks in float64; takes the arguments that say what it lacks."""
    representations, logits, labels = make_batch(
        batch=sum(SHARES),
        classes=CLASSES,
        dtype=torch.float64,
        channels_last=arguments.pop("channels_last", False),
    )
    of_rank = [slice(0, SHARES[0]), slice(SHARES[0], None)]
    if (rank := arguments.pop("without_pixels", None)) is not None:
        labels[of_rank[rank] if rank >= 0 else slice(None)] = IGNORE
    if (rank := arguments.pop("without_class", None)) is not None:
        labels[of_rank[rank]] = labels[of_rank[rank]].where(labels[of_rank[rank]] != 1, IGNORE)
    if arguments.pop("one_class_each", False):
        for rank, images in enumerate(of_rank):
            labels[images] = labels[images].where(labels[images] == IGNORE, rank)
    return representations, logits, labels


def loss_result(batch: Batch, arguments: dict[str, Any], seed: int) -> LossResult:
    if (share := arguments.pop("keys", None)) is not None:  # chosen by what a pixel holds
        arguments["key_pixels"] = batch[1][:, 0].sin().abs() < share
    value, statistics = reco_loss_with_statistics(
        *batch, num_queries=5, num_negatives=7, generator=seeded(seed), **arguments
    )
    (gradient,) = torch.autograd.grad(value, batch[0])
    classes = batch[2].clamp(max=CLASSES)
    counts = classes.flatten().bincount(minlength=CLASSES + 1)[:CLASSES]
    if dist.is_initialized():
        dist.all_reduce(counts)
    means = class_means(batch[0].detach(), classes, counts)
    return LossResult(value.detach(), gradient, means, statistics._asdict())


def run_case(name: str, rank: int | None) -> LossResult:
    """The case on this rank's share of the images, or on all where ``rank`` is None."""
    arguments = dict(CASES[name])
    chunk = arguments.pop("chunk", module._CHUNK_NUMBERS_CPU)
    representations, logits, labels = joined_batch(arguments)
    if rank is not None:
        images = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
        representations = representations.detach()[images].requires_grad_()
        logits, labels = logits[images], labels[images]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_NUMBERS_CPU", chunk)
        # Rank 1's seed must not matter.
        return loss_result((representations, logits, labels), arguments, seed=7 if not rank else 99)


def ddp_gradient(rank: int | None) -> Tensor:
    """Gradient of a head under DDP, where rank 1 has nothing to learn from."""
    torch.manual_seed(0)
    head = nn.Conv2d(6, 6, 1, dtype=torch.float64)
    arguments: dict[str, Any] = {"without_pixels": 1}
    images, logits, labels = joined_batch(arguments)
    model: nn.Module = head
    if rank is not None:
        share = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
        images, logits, labels = images[share], logits[share], labels[share]
        model = DistributedDataParallel(head)
    value, _ = reco_loss_with_statistics(
        model(images.detach()), logits, labels, num_queries=5, num_negatives=7, generator=seeded(7)
    )
    value.backward()
    assert head.weight.grad is not None
    return head.weight.grad


def alone(**arguments: Any) -> Tensor:
    value, _ = reco_loss_with_statistics(
        *make_batch(), num_queries=5, num_negatives=7, generator=seeded(3), **arguments
    )
    return value.detach()


def work(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=TOGETHER),
    )
    results: dict[str, Any] = {name: run_case(name, rank) for name in CASES}
    results["ddp"] = ddp_gradient(rank)
    if rank == 1:  # alone: the other rank must not be waited for
        results["alone"] = alone(across_ranks=False)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = mp.start_processes(
        work, (str(folder),), nprocs=WORLD, join=False, start_method="forkserver"
    )
    assert processes is not None
    deadline = time.monotonic() + TOGETHER
    while not processes.join(timeout=1):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail("the ranks wait for each other")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_ranks_average_to_one_process_on_the_joined_batch(
    results: list[dict[str, Any]], name: str
) -> None:
    ranks: list[LossResult] = [result[name] for result in results]
    single = run_case(name, None)
    exact: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}

    value = torch.stack([rank.value for rank in ranks]).mean()
    torch.testing.assert_close(value, single.value, **exact)
    assert (single.value > 0.1) == (name != "no rank has a valid pixel")
    # DDP averages the ranks' gradients.
    gradient = torch.cat([rank.gradient for rank in ranks]) / WORLD
    torch.testing.assert_close(gradient, single.gradient, **exact)
    for rank in ranks:
        torch.testing.assert_close(rank.means, single.means, **exact)
        for key in ("relation_graph", "present", "hard_share"):
            torch.testing.assert_close(
                rank.statistics[key], single.statistics[key], equal_nan=True, **exact
            )
        assert rank.value.isfinite()
        assert rank.gradient.isfinite().all()
    # Counts of each rank's pixels add up.
    pixels = [rank.statistics["valid_pixels"] for rank in ranks]
    assert sum(pixels) == single.statistics["valid_pixels"]
    sampled = [rank.statistics["sampled_share"] * n for rank, n in zip(ranks, pixels, strict=True)]
    torch.testing.assert_close(
        sum(sampled), single.statistics["sampled_share"] * sum(pixels), rtol=1e-5, atol=1e-5
    )


def test_both_ranks_answer_for_some_queries(results: list[dict[str, Any]]) -> None:
    """Or the test above would hold for a loss that forgets a rank."""
    for result in results:
        assert result["shared"].gradient.any()
        assert 0 < result["shared"].value < 2 * run_case("shared", None).value


def test_ddp_trains_with_a_rank_that_has_no_valid_pixel(results: list[dict[str, Any]]) -> None:
    single = ddp_gradient(None)
    assert single.any()
    for result in results:
        torch.testing.assert_close(result["ddp"], single, rtol=1e-10, atol=1e-12)


def test_a_rank_may_call_the_loss_alone_if_told_so(results: list[dict[str, Any]]) -> None:
    assert torch.equal(results[1]["alone"], alone())
