"""The loss against the reference loop, and what any batch, dtype or layout must give."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_batches import Batch, loss_and_rows, make_batch, seeded
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.segmentation import deeplabv3_resnet50

from reco import IGNORE
from reco import loss as module
from reco.loss import (
    ReCoLoss,
    ReCoOptions,
    ReCoStatistics,
    class_means,
    label_confidence,
    reco_loss,
    reco_loss_with_statistics,
    relation_graph,
)
from reco.loss_reference import reference_loss

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def gradient_of(value: Tensor, batch: Batch) -> Tensor:
    (gradient,) = torch.autograd.grad(value, batch[0])
    return gradient


def assert_close(value: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest number: single ones may cancel to nothing."""
    error, scale = (value - expected).detach().abs().max(), expected.detach().abs().max()
    assert error.item() <= tolerance * scale.item()


# --- the equations ------------------------------------------------------------------------------


def assert_reference(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, negatives: str = "shared", **arguments: Any
) -> None:
    options: dict[str, Any] = {"num_queries": 11, "num_negatives": 13, **arguments}
    only = options.pop("negative_classes", None)
    allowed = None if only is None else torch.tensor([c in only for c in range(batch[1].shape[1])])
    weights = options.pop("class_weights", None)
    value, _, query_rows, key_rows = loss_and_rows(
        monkeypatch,
        batch,
        negatives=negatives,
        negative_classes=allowed,
        class_weights=None if weights is None else torch.tensor(weights),
        generator=seeded(1),
        **options,
    )
    expected = reference_loss(
        *batch,
        query_rows=dict(enumerate(query_rows)),
        key_rows=dict(enumerate(key_rows)),
        negative_classes=only,
        class_weights=weights,
        **options,
    )
    tolerance = TOLERANCE[batch[0].dtype]
    assert expected.item() > 0.1
    assert value.dtype == batch[0].dtype
    assert_close(value, expected, tolerance)
    assert_close(gradient_of(value, batch), gradient_of(expected, batch), tolerance)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("key_sampling", ["active", "random"])
@pytest.mark.parametrize("query_sampling", ["hard", "easy", "random"])
def test_value_and_gradient_are_those_of_the_reference(
    monkeypatch: pytest.MonkeyPatch,
    query_sampling: str,
    key_sampling: str,
    negatives: str,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    batch = make_batch(dtype=dtype, channels_last=channels_last)
    assert_reference(
        monkeypatch, batch, negatives, query_sampling=query_sampling, key_sampling=key_sampling
    )


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0.1, "relation_temperature": 0.2, "strong_threshold": 0.5},
        {"gradient_through_means": True},
        {"negative_classes": [1, 2]},
        {"class_weights": [0.5, 0.0, 2.0, 1.0]},
        {"ignore_index": 2},
        {"num_queries": 1, "num_negatives": 1},
        {"num_queries": 130, "num_negatives": 140},  # more than there are pixels
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_each_argument_means_what_it_means_to_the_reference(
    monkeypatch: pytest.MonkeyPatch, negatives: str, arguments: dict[str, Any]
) -> None:
    batch = make_batch(dtype=torch.float64)
    if "ignore_index" in arguments:
        batch[2][batch[2] == IGNORE] = arguments["ignore_index"]
    assert_reference(monkeypatch, batch, negatives, **arguments)


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("key_sampling", ["active", "random"])
@pytest.mark.parametrize("label_size", [None, (28, 36)], ids=["cells", "pixels"])
def test_key_pixels_give_all_keys(
    monkeypatch: pytest.MonkeyPatch,
    negatives: str,
    key_sampling: str,
    label_size: tuple[int, int] | None,
) -> None:
    """Class means and negatives from a third of the pixels; one class has none and drops out."""
    batch = make_batch(dtype=torch.float64, label_size=label_size)
    key_pixels = torch.rand(batch[2].shape, generator=seeded(3)) < 0.3
    key_pixels &= batch[2] != 1
    arguments: dict[str, Any] = {"key_sampling": key_sampling, "key_pixels": key_pixels}
    assert_reference(monkeypatch, batch, negatives, **arguments)
    graph = reco_loss_with_statistics(*batch, **arguments)[1].relation_graph
    assert graph[1].isnan().all()
    assert graph[:, 1].isnan().all()
    assert graph[0, [0, 2, 3]].isfinite().all()
    everything = torch.ones_like(key_pixels)
    values = [
        reco_loss_with_statistics(*batch, generator=seeded(1), key_pixels=mask)[0]
        for mask in (None, everything)
    ]
    assert torch.equal(*values)


def test_valid_switches_pixels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(dtype=torch.float64)
    valid = torch.rand(batch[2].shape, generator=seeded(3)) < 0.5
    assert_reference(monkeypatch, batch, valid=valid)
    assert not torch.equal(
        reco_loss_with_statistics(*batch, generator=seeded(1))[0],
        reco_loss_with_statistics(*batch, valid=valid, generator=seeded(1))[0],
    )


@pytest.mark.parametrize("label_size", [(7, 9), (28, 36), (55, 71), (13, 8), (1, 1), (4, 4)])
@pytest.mark.parametrize("logit_size", [(7, 9), (28, 36), (5, 5)])
def test_labels_and_logits_of_other_sizes(
    monkeypatch: pytest.MonkeyPatch, label_size: tuple[int, int], logit_size: tuple[int, int]
) -> None:
    batch = make_batch(batch=6, dtype=torch.float64, label_size=label_size, logit_size=logit_size)
    assert_reference(monkeypatch, batch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_number_type(dtype: torch.dtype) -> None:
    representations, logits, labels = make_batch()
    expected, _ = reco_loss_with_statistics(representations, logits, labels, generator=seeded(0))
    value, _ = reco_loss_with_statistics(
        representations, logits, labels.to(dtype), generator=seeded(0)
    )
    assert torch.equal(value, expected)


def test_many_keys_are_dealt_with_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks change which pixels are sampled, and nothing else."""
    for numbers in (1, 700, 2000):
        monkeypatch.setattr(module, "_CHUNK_NUMBERS_CPU", numbers)
        for negatives in ("shared", "per_query"):
            assert_reference(monkeypatch, make_batch(dtype=torch.float64), negatives)


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("gradient_through_means", [False, True])
def test_gradcheck(
    monkeypatch: pytest.MonkeyPatch, negatives: str, gradient_through_means: bool
) -> None:
    # Keys, and means by default, are constants to the loss, so they must be to the check: only
    # the pixels of classes 0 and 1 vary, and only classes 2 and 3, without a query, give keys.
    representations, _, _ = make_batch(channels=3, size=(3, 4), dtype=torch.float64)
    labels = torch.arange(24).view(2, 3, 4) % 4
    logits = torch.zeros(2, 4, 3, 4, dtype=torch.float64)
    logits[:, 2:] = F.one_hot(labels, 4)[..., 2:].permute(0, 3, 1, 2) * 20.0
    fixed = representations.detach().clone()
    if not gradient_through_means:
        means = class_means(fixed, labels, torch.full((4,), 6))
        monkeypatch.setattr(module, "class_means", lambda *_, **__: means)

    def value(varied: Tensor) -> Tensor:
        return reco_loss_with_statistics(
            torch.where(labels[:, None] < 2, varied, fixed),
            logits,
            labels,
            num_queries=5,
            num_negatives=6,
            negatives=negatives,
            gradient_through_means=gradient_through_means,
            negative_classes=torch.tensor([False, False, True, True]),
            generator=seeded(0),
        )[0]

    if gradient_through_means:  # Eq. 3 must not change which pixels are sampled
        monkeypatch.setattr(module, "relation_graph", lambda means: torch.eye(len(means)).double())
    assert torch.autograd.gradcheck(value, (representations,))


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("gradient_through_means", [False, True])
def test_only_queries_carry_gradient_unless_means_are_asked_to(
    monkeypatch: pytest.MonkeyPatch, negatives: str, gradient_through_means: bool
) -> None:
    batch = make_batch()
    value, _, query_rows, key_rows = loss_and_rows(
        monkeypatch,
        batch,
        num_queries=5,
        num_negatives=20,
        negatives=negatives,
        gradient_through_means=gradient_through_means,
    )
    has_gradient = gradient_of(value, batch).abs().sum(1).flatten() > 0
    is_query = torch.zeros_like(has_gradient)
    is_query[query_rows.flatten()] = True
    is_key = torch.zeros_like(has_gradient)
    is_key[key_rows.flatten()] = True
    assert (is_key & ~is_query).any()
    if gradient_through_means:
        assert torch.equal(has_gradient, batch[2].flatten() != IGNORE)
    else:
        assert torch.equal(has_gradient, is_query)


def test_relation_graph_is_equation_3() -> None:
    representations, logits, labels = make_batch(classes=5, dtype=torch.float64)
    labels[labels == 3] = IGNORE  # absent
    _, statistics = reco_loss_with_statistics(representations, logits, labels)
    pixels = representations.detach().permute(0, 2, 3, 1)
    for p in range(5):
        for q in range(5):
            expected = torch.tensor(torch.nan, dtype=torch.float64)
            if 3 not in (p, q):
                mean_p, mean_q = pixels[labels == p].mean(0), pixels[labels == q].mean(0)
                expected = mean_p @ mean_q / mean_p.norm() / mean_q.norm()
            found = statistics.relation_graph[p, q]
            torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_means_over_many_pixels_keep_their_digits(channels_last: bool) -> None:
    """A plain float32 sum over half a million like numbers is wrong in the fourth digit."""
    batch = make_batch(
        batch=1, classes=2, channels=4, size=(800, 700), ignored=0, channels_last=channels_last
    )
    representations = 0.3 + 0.01 * batch[0].detach()
    labels = torch.zeros_like(batch[2])
    means = class_means(representations, labels, torch.tensor([labels.numel(), 0]))
    expected = representations.double().mean((0, 2, 3))
    torch.testing.assert_close(means[0].double(), expected, rtol=1e-5, atol=0)
    assert not means[1].any()


def test_confidence_is_the_softmax_of_the_label_however_large_the_logits() -> None:
    _, logits, labels = make_batch(ignored=0)
    expected = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(label_confidence(logits, labels), expected)
    torch.testing.assert_close(
        label_confidence(1000 * logits, labels),
        (1000 * logits).softmax(1).gather(1, labels[:, None])[:, 0],
    )


def test_a_pixel_at_the_threshold_is_hard() -> None:
    representations, _, labels = make_batch(classes=2)
    logits = torch.zeros(2, 2, 7, 9)  # every confidence is one half, exactly
    for threshold, hard in ((0.5, 1.0), (0.4999, 0.0)):
        _, statistics = reco_loss_with_statistics(
            representations, logits, labels, strong_threshold=threshold
        )
        assert statistics.hard_share.tolist() == [hard, hard]


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
def test_statistics_are_what_one_counts(monkeypatch: pytest.MonkeyPatch, negatives: str) -> None:
    representations, logits, labels = make_batch(classes=6, size=(12, 12))
    labels[labels == 2] = IGNORE  # absent
    logits[(labels == 4)[:, None].expand_as(logits)] = 0
    logits[:, 4][labels == 4] = 30.0  # no hard pixel, hence no query
    batch = representations, logits, labels
    _, statistics, query_rows, key_rows = loss_and_rows(
        monkeypatch, batch, num_queries=4, num_negatives=6, negatives=negatives
    )
    flat = labels.flatten()
    confidence = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, 6)
    pixels = F.normalize(representations.permute(0, 2, 3, 1).reshape(-1, 6), dim=1)
    sampled: set[int] = set()
    to_positive, to_negative = [], []
    for c in range(6):
        members = (flat == c).nonzero()[:, 0]
        assert bool(statistics.present[c]) == (len(members) > 0) == (c != 2)
        if c == 2:
            assert statistics.hard_share[c].isnan()
            continue
        hard = int((confidence[members, c] <= 0.97).sum())
        assert statistics.hard_share[c].item() == pytest.approx(hard / len(members))
        assert (hard == 0) == (c == 4)
        if hard:
            sampled |= set(query_rows[c].tolist()) | set(key_rows[c].flatten().tolist())
            mean = representations.permute(0, 2, 3, 1).reshape(-1, 6)[members].mean(0)
            for row, keys in zip(query_rows[c], key_rows[c], strict=True):
                to_positive.append(F.cosine_similarity(pixels[row], mean, dim=0))
                to_negative.append((pixels[keys] @ pixels[row]).mean())
    valid = int((flat != IGNORE).sum())
    assert statistics.valid_pixels.item() == valid
    assert statistics.sampled_share.item() == pytest.approx(len(sampled) / valid)
    assert statistics.labels_out_of_range.item() == 0
    torch.testing.assert_close(statistics.positive_similarity, torch.stack(to_positive).mean())
    torch.testing.assert_close(statistics.negative_similarity, torch.stack(to_negative).mean())
    assert not any(each.requires_grad for each in statistics)


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", 256),
        ("num_queries", 0),
        ("num_queries", 2.5),
        ("num_negatives", -1),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("relation_temperature", -0.5),
        ("relation_temperature", float("inf")),
        ("strong_threshold", 1.01),
        ("strong_threshold", float("nan")),
        ("query_sampling", "active"),
        ("key_sampling", "hard"),
        ("negatives", "per-query"),
        ("negative_classes", [-1]),
        ("negative_classes", []),
        ("negative_classes", [0.5]),
        ("negative_classes", [True, False]),
        ("negative_classes", 3),
        ("class_weights", [1.0, -1.0]),
        ("class_weights", [float("nan")]),
        ("class_weights", [float("inf")]),
        ("class_weights", 1.0),
    ],
)
def test_a_wrong_argument_is_named_at_construction(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"ReCoLoss: {name} = .*: expected"):
        ReCoLoss(**{name: value})


def test_function_and_module_return_the_same() -> None:
    batch = make_batch()
    value = reco_loss(*batch, num_queries=8, generator=seeded(0))
    assert torch.equal(value, ReCoLoss(num_queries=8)(*batch, generator=seeded(0)))
    both = reco_loss_with_statistics(*batch, num_queries=8, generator=seeded(0))
    assert torch.equal(value, both[0])


def test_options_come_whole_or_one_by_one() -> None:
    options = ReCoOptions(num_queries=3, temperature=1, key_sampling="random")
    assert ReCoLoss(num_queries=3, temperature=1.0, key_sampling="random").options == options
    changed = ReCoLoss(options, num_queries=4).options
    assert (changed.num_queries, changed.key_sampling) == (4, "random")
    batch = make_batch()
    whole, _ = reco_loss_with_statistics(*batch, options, generator=seeded(0))
    single, _ = reco_loss_with_statistics(
        *batch, num_queries=3, temperature=1, key_sampling="random", generator=seeded(0)
    )
    assert torch.equal(whole, single)
    for wrong, meant in (("num_querys", "num_queries"), ("ignore_idx", "ignore_index")):
        message = rf": '{wrong}' is no option \(did you mean '{meant}'\?\): expected num_queries, "
        with pytest.raises(TypeError, match=f"^ReCoLoss{message}"):
            ReCoLoss(**{wrong: 3})
        with pytest.raises(TypeError, match=f"^reco_loss{message}"):
            reco_loss(*batch, **{wrong: 3})
    with pytest.raises(TypeError, match=r"ReCoLoss: 'xyz' is no option: expected num_queries, "):
        ReCoLoss(xyz=3)


@pytest.mark.parametrize(
    ("name", "index", "wrong"),
    [
        ("representations", 0, torch.randn(2, 6, 7)),
        ("representations", 0, torch.ones(2, 6, 7, 9, dtype=torch.int64)),
        ("representations", 0, torch.randn(2, 0, 7, 9)),
        ("logits", 1, torch.randn(3, 4, 7, 9)),
        ("logits", 1, torch.ones(2, 4, 7, 9, dtype=torch.int64)),
        ("logits", 1, torch.randn(2, 7, 9)),
        ("labels", 2, torch.zeros(2, 1, 7, 9, dtype=torch.int64)),
        ("labels", 2, torch.zeros(2, 7, 9)),
        ("labels", 2, torch.zeros(2, 7, 9, dtype=torch.bool)),
        ("labels", 2, torch.zeros(1, 7, 9, dtype=torch.int64)),
    ],
)
def test_a_wrong_input_is_named(name: str, index: int, wrong: Tensor) -> None:
    inputs: list[Tensor] = list(make_batch())
    inputs[index] = wrong
    with pytest.raises(ValueError, match=f"ReCoLoss: {name} is .*: expected"):
        ReCoLoss()(*inputs)


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (2, np.zeros((2, 7, 9), np.int64), "labels is a ndarray: .*torch.as_tensor makes one"),
        (1, {"out": torch.randn(2, 4, 7, 9)}, 'logits is a dict: .* such as "out"'),
        (0, None, "representations is a NoneType: expected a torch.Tensor"),
    ],
    ids=["array", "dict", "nothing"],
)
def test_what_is_no_tensor_is_named(index: int, wrong: Any, message: str) -> None:
    inputs: list[Any] = list(make_batch())
    inputs[index] = wrong
    with pytest.raises(TypeError, match=f"^ReCoLoss: {message}"):
        ReCoLoss(class_weights=[1.0] * 4)(*inputs)


@pytest.mark.parametrize("name", ["valid", "key_pixels"])
@pytest.mark.parametrize("mask", [torch.ones(2, 7, 8).bool(), torch.ones(2, 7, 9)])
def test_a_wrong_mask_is_named(name: str, mask: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"ReCoLoss: {name} is .*: expected a bool tensor"):
        ReCoLoss()(*make_batch(), **{name: mask})


@pytest.mark.parametrize(
    "arguments", [{"class_weights": [1.0, 2.0]}, {"negative_classes": [0, 4]}], ids=str
)
def test_classes_that_the_logits_do_not_have_are_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"ReCoLoss: {name} .* 4 classes|0 to 3"):
        ReCoLoss(**arguments)(*make_batch(classes=4))


def test_class_255_is_not_ignored_without_a_word() -> None:
    representations, logits, labels = make_batch(classes=256, ignored=0)
    labels[:] = torch.randint(250, 256, labels.shape)
    with pytest.raises(ValueError, match=r"logits is .* at most 255 classes.*ignore_index=-1"):
        ReCoLoss()(representations, logits, labels)
    _, statistics = ReCoLoss(ignore_index=-1).with_statistics(representations, logits, labels)
    assert statistics.present[250:].all()
    ReCoLoss()(representations, logits[:, 1:], labels - 1)


@pytest.mark.parametrize(
    ("dtype", "value", "ignore_index"),
    [
        (torch.int64, 4, IGNORE),
        (torch.int64, -1, IGNORE),
        (torch.int64, IGNORE, -100),
        (torch.uint8, IGNORE, -1),
    ],
)
def test_a_label_out_of_range_is_named(dtype: torch.dtype, value: int, ignore_index: int) -> None:
    representations, logits, labels = make_batch(label_size=(28, 36), ignored=0)
    labels[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"labels holds \[{value}\].*{ignore_index}"):
        ReCoLoss(ignore_index=ignore_index)(representations, logits, labels.to(dtype))


# --- any batch ----------------------------------------------------------------------------------


def every_pixel_hard(logits: Tensor, labels: Tensor) -> None:
    logits.zero_()


def no_pixel_hard(logits: Tensor, labels: Tensor) -> None:
    logits.zero_().scatter_(1, labels.clamp(max=logits.shape[1] - 1)[:, None], 50.0)


def one_class_without_hard(logits: Tensor, labels: Tensor) -> None:
    logits[:, 1][labels == 1] = 50.0


def nothing_valid(logits: Tensor, labels: Tensor) -> None:
    labels.fill_(IGNORE)


def one_class(logits: Tensor, labels: Tensor) -> None:
    labels[labels != IGNORE] = 1


def two_classes(logits: Tensor, labels: Tensor) -> None:
    labels[labels != IGNORE] %= 2


def one_valid_pixel(logits: Tensor, labels: Tensor) -> None:
    labels.fill_(IGNORE)[0, 0, 0] = 1


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("query_sampling", ["hard", "easy", "random"])
@pytest.mark.parametrize("key_sampling", ["active", "random"])
@pytest.mark.parametrize(
    ("change", "is_zero"),
    [
        (every_pixel_hard, False),
        (no_pixel_hard, False),
        (one_class_without_hard, False),
        (nothing_valid, True),
        (one_class, True),
        (two_classes, False),
        (one_valid_pixel, True),
    ],
)
def test_any_batch_gives_a_finite_connected_scalar(
    change: Any, is_zero: bool, key_sampling: str, query_sampling: str, negatives: str
) -> None:
    batch = make_batch()
    change(*batch[1:])
    without_queries = {every_pixel_hard: "easy", no_pixel_hard: "hard"}.get(change)
    is_zero = is_zero or query_sampling == without_queries
    value, statistics = reco_loss_with_statistics(
        *batch,
        num_queries=200,  # more than there are pixels
        num_negatives=20,
        query_sampling=query_sampling,
        key_sampling=key_sampling,
        negatives=negatives,
        gradient_through_means=change is not two_classes,
    )
    assert value.shape == ()
    gradient = gradient_of(value, batch)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value.item() == 0) == is_zero
    assert (not gradient.any()) == is_zero
    for name, each in statistics._asdict().items():
        assert name in ("hard_share", "relation_graph") or each.isfinite().all(), name
    pairs = statistics.present[:, None] & statistics.present
    assert torch.equal(statistics.relation_graph.isfinite(), pairs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_representations_that_are_not_finite_are_not_hidden(
    value: float, layout: torch.memory_format
) -> None:
    """They leave no pair of query and key, so that the sum alone would be 0."""
    representations, logits, labels = make_batch()
    labels[0, 0, 0] = 1
    with torch.no_grad():
        representations[0, 0, 0, 0] = value
    found, _ = reco_loss_with_statistics(
        representations.to(memory_format=layout), logits, labels, num_queries=5, num_negatives=7
    )
    assert found.isnan()


@pytest.mark.parametrize("classes", [1, 2, 150, 300])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 23)])
def test_any_size_and_number_of_classes(size: tuple[int, int], classes: int) -> None:
    batch = make_batch(batch=3, classes=classes, size=size, label_size=(37, 53), ignored=0)
    value, _ = reco_loss_with_statistics(*batch, num_queries=3, num_negatives=4, ignore_index=-1)
    assert value.isfinite()
    assert gradient_of(value, batch).isfinite().all()


def test_no_class_may_give_negatives_but_the_query_s_own() -> None:
    batch = make_batch()
    batch[2][batch[2] != IGNORE] = 2
    loss = ReCoLoss(negative_classes=[2])
    assert loss(*batch).item() == 0
    assert not gradient_of(loss(*batch), batch).any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_vectors_of_length_zero_have_no_gradient(channels_last: bool) -> None:
    """A ReLU leaves such pixels. 1 / length would make them huge, and overflow float16."""
    for dtype in (torch.float32, torch.float16):
        batch = make_batch(channels_last=channels_last)
        dead = torch.rand(batch[0][:, :1].shape, generator=seeded(0)) < 0.3
        representations = batch[0].detach().masked_fill(dead, 0).to(dtype).requires_grad_()
        value = ReCoLoss()(representations, *batch[1:])
        gradient = gradient_of(value, (representations, *batch[1:]))
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1
        assert not gradient[dead.expand_as(gradient)].any()
        assert gradient.any()


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_four_million_pixels(channels_last: bool) -> None:
    batch = make_batch(
        batch=1, classes=3, channels=4, size=(2000, 2000), channels_last=channels_last
    )
    value, statistics = reco_loss_with_statistics(*batch, num_queries=8, num_negatives=8)
    assert value.isfinite()
    assert gradient_of(value, batch).isfinite().all()
    assert statistics.valid_pixels.item() == (batch[2] != IGNORE).sum()


def test_a_class_without_a_query_adds_zero_and_counts_in_the_mean() -> None:
    representations, logits, labels = make_batch(classes=3)
    every_pixel_hard(logits, labels)
    # Two such classes share class 0's pixels, so either half of the mean is the other.
    twice = torch.cat([representations, representations]).detach().requires_grad_()
    labels = torch.cat([torch.zeros_like(labels), torch.ones_like(labels)])
    logits = torch.cat([logits, logits])
    both, _ = reco_loss_with_statistics(twice, logits, labels, num_queries=2000, num_negatives=2000)
    no_pixel_hard(logits[2:], labels[2:])
    one, _ = reco_loss_with_statistics(twice, logits, labels, num_queries=2000, num_negatives=2000)
    assert one.item() == pytest.approx(both.item() / 2, rel=0.02)


# --- dtypes, layouts, repetition ----------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("negatives", ["shared", "per_query"])
def test_half_precision_inputs_are_worked_on_in_float32(
    negatives: str, dtype: torch.dtype, channels_last: bool
) -> None:
    exact = make_batch(channels=32, channels_last=channels_last)
    half = exact[0].detach().to(dtype).requires_grad_(), exact[1].to(dtype), exact[2]
    rounded = half[0].detach().float().requires_grad_(), half[1].float(), exact[2]
    values = []
    for batch in (half, rounded, exact):
        value, _ = reco_loss_with_statistics(
            *batch,
            num_queries=64,
            num_negatives=32,
            negatives=negatives,
            generator=seeded(0),
        )
        values.append((value, gradient_of(value, batch)))
    (value, gradient), (same, same_gradient), (close, _) = values
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, same)
    assert value.item() == pytest.approx(close.item(), rel=0.01)
    assert gradient.isfinite().all()
    # Every sampled pixel's terms are summed in the half type, one after the other.
    assert_close(
        gradient.float(), same_gradient, {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_inside(dtype: torch.dtype) -> None:
    batch = make_batch(channels=64)
    expected, _ = reco_loss_with_statistics(*batch, generator=seeded(0))
    with torch.autocast("cpu", dtype=dtype):
        value, statistics = reco_loss_with_statistics(*batch, generator=seeded(0))
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(value, expected)
    assert statistics.relation_graph.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_under_autocast(dtype: torch.dtype) -> None:
    _, logits, labels = make_batch(channels=8)
    head = nn.Conv2d(3, 8, 1)
    with torch.autocast("cpu", dtype=dtype):
        representations = head(torch.randn(2, 3, 7, 9))
        assert representations.dtype == dtype
        value = ReCoLoss()(representations, logits.to(dtype), labels)
    value.backward()
    assert value.dtype == torch.float32
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()
    assert head.weight.grad.any()


class Allocations(TorchDispatchMode):
    """Bytes of every new storage, largest first."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.keep: list[Any] = []  # an address must not be given twice
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.known.add(storage.data_ptr())
                    self.keep.append(storage)
                    self.sizes.append(storage.nbytes())
        self.sizes.sort(reverse=True)
        return result


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("negatives", ["shared", "per_query"])
def test_representations_are_not_copied(negatives: str, channels_last: bool) -> None:
    """The one tensor as large is their gradient, in their layout."""
    options: dict[str, Any] = {"num_queries": 4, "num_negatives": 8, "negatives": negatives}
    batch = make_batch(channels=256, size=(20, 20), channels_last=channels_last)
    size = batch[0].untyped_storage().nbytes()
    with Allocations(*batch) as forward:
        value, _ = reco_loss_with_statistics(*batch, **options)
    assert forward.sizes[0] < size / 3
    with Allocations(*batch, value) as backward:
        value.backward()
    # Under a dispatch mode, torch's backward adds out of place: the gradient counts twice.
    assert backward.sizes[:2] == [size, size]
    assert backward.sizes[2] < size / 3
    assert batch[0].grad is not None
    assert batch[0].grad.stride() == batch[0].stride()


def test_per_query_never_holds_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_NUMBERS_CPU", 2**14)
    batch = make_batch(channels=32)
    with Allocations(*batch) as mode:
        reco_loss_with_statistics(*batch, num_queries=32, num_negatives=64, negatives="per_query")[
            0
        ].backward()
    # The positions of the numbers to gather are int64, twice their size.
    assert mode.sizes[0] <= 8 * 2**14 < 4 * (4 * 32 * 64 * 32) / 5


@pytest.mark.parametrize("strange", ["sliced", "expanded", "transposed"])
def test_representations_of_other_strides(strange: str) -> None:
    batch = make_batch(size=(8, 8))
    base = batch[0].detach()
    if strange == "sliced":
        view = F.pad(base, (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    elif strange == "expanded":
        view = base[:1].expand(2, -1, -1, -1)
        base = view.contiguous()
    else:
        view = base.transpose(2, 3).contiguous().transpose(2, 3)
    for tensor in (view, base):
        tensor.requires_grad_()
    values = []
    for representations in (view, base):
        value, _ = reco_loss_with_statistics(representations, *batch[1:], generator=seeded(0))
        values += [value, *torch.autograd.grad(value, representations)]
    torch.testing.assert_close(values[:2], values[2:])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("negatives", ["shared", "per_query"])
def test_a_generator_repeats_a_step_to_the_bit(negatives: str, channels_last: bool) -> None:
    """With two threads too: many queries on few pixels, whose gradients must add in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    batch = make_batch(channels=128, channels_last=channels_last)
    steps = []
    for seed in (0, 0, 0, 1):
        value, statistics = reco_loss_with_statistics(
            *batch,
            num_queries=500,
            num_negatives=16,
            negatives=negatives,
            gradient_through_means=True,
            generator=seeded(seed),
        )
        steps.append((value, gradient_of(value, batch), statistics.sampled_share))
    torch.set_num_threads(threads)
    for again in steps[1:3]:
        assert all(map(torch.equal, steps[0], again))
    assert not torch.equal(steps[0][1], steps[3][1])


def test_the_global_seed_repeats_a_step() -> None:
    batch, loss = make_batch(), ReCoLoss(num_queries=8, num_negatives=8)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(loss(*batch).item())
    assert values[0] == values[1] != values[2]


def test_pixels_that_take_no_part_do_not_matter() -> None:
    representations, logits, labels = make_batch(ignored=0.3)
    expected, _ = reco_loss_with_statistics(representations, logits, labels, generator=seeded(0))
    ignored = (labels == IGNORE)[:, None]
    other = representations.detach().masked_fill(ignored, 1e30)
    value, statistics = reco_loss_with_statistics(
        other, logits.masked_fill(ignored, 7.0), labels, generator=seeded(0)
    )
    assert torch.equal(value, expected)
    assert statistics.sampled_share <= 1


# --- as people use it ---------------------------------------------------------------------------


def test_module_and_function_agree() -> None:
    options: dict[str, Any] = {
        "num_queries": 5,
        "num_negatives": 6,
        "temperature": 0.3,
        "strong_threshold": 0.9,
        "relation_temperature": 0.4,
        "query_sampling": "random",
        "key_sampling": "random",
        "negatives": "per_query",
        "gradient_through_means": True,
        "ignore_index": 3,
    }
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.5])
    loss = ReCoLoss(negative_classes=[0, 2], class_weights=weights, **options)
    batch = make_batch(classes=5, ignored=0)
    valid = torch.rand(batch[2].shape) < 0.8
    value, statistics = loss.with_statistics(*batch, valid=valid, generator=seeded(0))
    expected, expected_statistics = reco_loss_with_statistics(
        *batch,
        valid=valid,
        negative_classes=torch.tensor([True, False, True, False, False]),
        class_weights=weights,
        generator=seeded(0),
        **options,
    )
    assert torch.equal(value, expected)
    assert torch.equal(loss(*batch, valid=valid, generator=seeded(0)), expected)
    assert isinstance(statistics, ReCoStatistics)
    torch.testing.assert_close(statistics, expected_statistics, equal_nan=True)
    assert not loss.state_dict()
    assert "num_queries=5" in repr(loss)


def test_docstring_example_runs() -> None:
    # The names in the example are what its reader has imported.
    names = {"ReCoLoss": ReCoLoss, "torch": torch}
    (example,) = doctest.DocTestFinder(recurse=False).find(ReCoLoss, "ReCoLoss", globs=names)
    assert len(example.examples) > 3
    assert doctest.DocTestRunner().run(example).failed == 0


def test_a_step_of_torchvision_s_deeplab_with_one_added_head() -> None:
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5)
    head = nn.Conv2d(2048, 16, 1)
    reco = ReCoLoss(num_queries=8, num_negatives=16)
    images = torch.randn(2, 3, 41, 57)
    labels = torch.randint(5, (2, 41, 57))
    labels[:, :5] = IGNORE

    features = model.backbone(images)["out"]
    logits = F.interpolate(model.classifier(features), images.shape[2:], mode="bilinear")
    supervised = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    contrast = reco(head(features), logits, labels)
    (supervised + contrast).backward()

    assert contrast.item() > 0
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0
    for parameter in [*model.backbone.parameters(), *model.classifier.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_relation_graph_of_zero_means_is_zero() -> None:
    means = torch.zeros(3, 4)
    means[0, 0] = 2.0
    assert torch.equal(relation_graph(means), torch.tensor([1.0, 0.0, 0.0]).diag())
