"""The ReCo loss: regional contrast between hard pixels and confusable classes.

Liu et al., "Bootstrapping Semantic Segmentation with Regional Contrast", ICLR 2022, Eq. 1-4.
Needs torch and nothing else.

Shapes, everywhere below:
    B images; C classes; D representation channels; H x W label size; h x w feature map;
    N = B*h*w pixels (one "row" of D numbers each); Q queries and K negatives per class; W ranks.

How it works, top to bottom:
    1. every pixel goes into one of 2C + 1 buckets: (class, hard or easy), or ignored;
    2. one stable sort by bucket puts each class's pixels side by side, hard before easy;
    3. a query or key is then just ``start + floor(uniform * count)``: no loop over classes,
       no data-dependent shape, nothing the host has to wait for;
    4. class means give the positive keys and, through their cosines, the classes of the negatives;
    5. Eq. 1 is a batched product of queries and keys.

With torch.distributed the buckets of all ranks form one table in the order (bucket, rank), which
is the order that one process would get from the joined batch. Every rank samples the same
positions, contributes the rows it owns, and computes the terms of the queries it owns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reco import IGNORE, distributed
from reco.fields import Count, Positive, Probability, check_fields, nearest

QuerySampling = Literal["hard", "easy", "random"]
KeySampling = Literal["active", "random"]
Negatives = Literal["shared", "per_query"]

# Numbers held at a time for the negative keys and their scores. The few of the CPU (8 MiB of
# float32) stay in its cache; elsewhere more of them (64 MiB) save kernel launches. Compiled,
# the loop over them is unrolled, and more of them save compile time.
_CHUNK_NUMBERS_CPU = 2**21
_CHUNK_NUMBERS = 2**24
# Pixels that one float32 sum runs over. Over millions, a running sum loses its last digits.
_SUM_PIXELS = 2**13
# Arguments of ReCoLoss by name beside the options, of which one may have been meant.
_ARGUMENTS = ("negative_classes", "class_weights", "ignore_index", "across_ranks")
# A shorter vector has no direction that numbers could tell: its cosines are 0.
_SHORTEST = 1e-6


@dataclass(frozen=True)
class ReCoOptions:
    """How pixels are sampled and contrasted: what the paper's experiments vary.

    Args:
        num_queries: Q, queries per class.
        num_negatives: K, negative keys per class, or per query.
        temperature: τ of Eq. 1, > 0.
        strong_threshold: δ_s of Eq. 4, in [0, 1]: a pixel whose label the classifier gives a
            probability at or below it is hard.
        relation_temperature: temperature of the softmax over the relation graph, > 0; 1 is the
            paper's equation, which has none.
        query_sampling: ``hard``, ``easy`` or ``random`` (hard and easy alike).
        key_sampling: ``active`` (by the relation graph) or ``random`` (uniform over all valid
            pixels of other classes).
        negatives: ``shared``: one set of K keys per class, as Eq. 1 writes it; ``per_query``:
            K keys for each query, the same expectation at a higher cost in time.
        gradient_through_means: let the positive key carry gradient too.

    Raises:
        ValueError: an option that is not of its type or out of range, by name.
    """

    num_queries: Count = 256
    num_negatives: Count = 512
    temperature: Positive = 0.5
    strong_threshold: Probability = 0.97
    relation_temperature: Positive = 1.0
    query_sampling: QuerySampling = "hard"
    key_sampling: KeySampling = "active"
    negatives: Negatives = "shared"
    gradient_through_means: bool = False

    def __post_init__(self) -> None:
        if not torch.compiler.is_compiling():  # which cannot trace it
            check_fields(self, "ReCoLoss")


class ReCoStatistics(NamedTuple):
    """Statistics to monitor training; tensors on the device, without synchronisation.

    The first three are over all ranks, the others over this rank's pixels and queries.
    """

    relation_graph: Tensor  # (C, C) cosine between class means, Eq. 3; NaN where one has no keys
    present: Tensor  # (C,) bool: the class has a valid pixel
    hard_share: Tensor  # (C,) share of the class's valid pixels that are hard; NaN where absent
    sampled_share: Tensor  # () distinct pixels sampled as query or negative key / valid pixels
    valid_pixels: Tensor  # () the denominator of sampled_share
    labels_out_of_range: Tensor  # () labels that are neither a class nor `ignore_index`
    positive_similarity: Tensor  # () mean cosine of a query and its positive key
    negative_similarity: Tensor  # () mean cosine of a query and its negative keys


class PixelTable(NamedTuple):
    """Valid pixels of all ranks, by bucket (2 * class + easy) and, within a bucket, by rank."""

    order: Tensor  # (N,) this rank's rows by bucket, ignored ones last
    counts: Tensor  # (W, 2C) pixels of each rank in each bucket

    def bucket_counts(self) -> Tensor:
        """``(C, 2)``: hard and easy pixels of each class, over all ranks."""
        return self.counts.sum(0).view(-1, 2)

    def class_starts(self) -> Tensor:
        """``(C,)``: position of the first pixel of each class."""
        per_class = self.bucket_counts().sum(1)
        return per_class.cumsum(0) - per_class

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of this rank at ``positions`` of the joint table, and whether they are this rank's.

        Positions of other ranks' pixels, or past the last one, give some row of this rank's and
        ``False``, so that shapes do not depend on the data.
        """
        world = self.counts.shape[0]
        if world == 1:
            here = positions < self.counts.sum()
            local = positions
        else:
            segments = self.counts.t().flatten()  # (2C * W,) in the order (bucket, rank)
            ends = segments.cumsum(0)
            segment = torch.searchsorted(ends, positions, right=True)
            exists = segment < segments.numel()
            segment = segment.clamp(max=segments.numel() - 1)
            bucket_counts = self.counts[distributed.rank()]
            bucket_starts = bucket_counts.cumsum(0) - bucket_counts
            here = exists & (segment % world == distributed.rank())
            local = positions - (ends - segments)[segment] + bucket_starts[segment // world]
        return self.order[local.clamp(0, self.order.numel() - 1)], here


def sort_pixels(
    labels: Tensor, hard: Tensor, num_classes: int, *, joint: bool = True
) -> PixelTable:
    """Order pixels by class, hard before easy, with the one sort of the loss.

    Args:
        labels: ``(N,)`` int64, class of each pixel; ``num_classes`` where it is ignored.
        hard: ``(N,)`` bool.
        num_classes: C.
        joint: join the table over the ranks of torch.distributed.
    """
    bucket = (2 * labels + (~hard).long()).clamp(max=2 * num_classes).int()
    ordered, order = torch.sort(bucket, stable=True)
    edges = torch.arange(2 * num_classes + 1, device=labels.device, dtype=torch.int32)
    counts = torch.searchsorted(ordered, edges).diff()
    return PixelTable(order, distributed.gather_over_ranks(counts) if joint else counts[None])


def class_means(
    representations: Tensor, labels: Tensor, counts: Tensor, *, joint: bool = True
) -> Tensor:
    """Mean representation of each class, ``(C, D)``: the positive keys of Eq. 2.

    Zeros for a class without a pixel. Cosines are taken afterwards.

    Args:
        representations: ``(B, D, h, w)``.
        labels: ``(B, h, w)`` int64; C where the pixel is ignored.
        counts: ``(C,)`` pixels of each class, over all ranks if ``joint``.
        joint: sum over the pixels of all ranks.
    """
    num_classes = len(counts)
    dtype = _exact(representations)
    if _is_channels_last(representations) and representations.device.type == "cpu":
        # One pass over the rows, whatever C is. Each run of pixels has separate sums.
        rows = _rows(representations).to(dtype)
        run = torch.arange(len(rows), device=rows.device) // _SUM_PIXELS
        sums = rows.new_zeros(-(-len(rows) // _SUM_PIXELS) * (num_classes + 1), rows.shape[1])
        sums = sums.index_add(0, run * (num_classes + 1) + labels.flatten(), rows)
        sums = sums.view(-1, num_classes + 1, rows.shape[1]).sum(0)[:-1]
    else:
        # Products with the one-hot labels, in either layout, without atomic additions to C rows.
        classes = torch.arange(num_classes, device=labels.device)
        sums = torch.zeros(1, dtype=dtype, device=labels.device)
        for vectors, vector_labels in zip(
            torch.split(representations.flatten(2), _SUM_PIXELS, 2),
            torch.split(labels.flatten(1), _SUM_PIXELS, 1),
            strict=True,
        ):
            one_hot = (vector_labels[:, None] == classes[:, None]).to(dtype)
            sums = sums + (one_hot @ vectors.to(dtype).transpose(1, 2)).sum(0)
    if joint:
        sums = distributed.sum_over_ranks(sums)
    return sums / counts.clamp(min=1)[:, None]


def relation_graph(means: Tensor) -> Tensor:
    """Cosine between every two class means, ``(C, C)``: Eq. 3. ``means`` is ``(C, D)``."""
    unit = _unit(means)
    return unit @ unit.t()


def negative_class_probabilities(
    graph: Tensor,
    counts: Tensor,
    *,
    key_sampling: KeySampling = "active",
    temperature: float = 1.0,
    negative_classes: Tensor | None = None,
) -> Tensor:
    """How likely each class is to give class c, a row, a negative key: ``(C, C)``.

    ``active`` is the softmax below Eq. 3 over the present classes other than c. ``random`` weighs a
    class by its pixels, which makes a key uniform over all valid pixels that are not of class c.
    A row sums to one, or is all zeros where no class can give a negative.

    Args:
        graph: ``(C, C)`` cosines, from :func:`relation_graph`.
        counts: ``(C,)`` valid pixels of each class.
        key_sampling: ``active`` or ``random``.
        temperature: of the softmax over ``graph``; the paper's equation has none, which is 1.
        negative_classes: ``(C,)`` bool: only these may give negatives.
    """
    candidates = counts > 0 if negative_classes is None else (counts > 0) & negative_classes
    itself = torch.eye(len(counts), dtype=torch.bool, device=graph.device)
    allowed = candidates[None] & ~itself
    if key_sampling == "active":
        weights = (graph / temperature).masked_fill(~allowed, -torch.inf).softmax(1)
    else:
        pixels = counts[None] * allowed
        weights = pixels / pixels.sum(1, keepdim=True)
    return torch.where(allowed, weights, 0.0)


def sample_queries(
    table: PixelTable,
    num_queries: int,
    *,
    query_sampling: QuerySampling = "hard",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample Q pixels of every class, uniformly and with replacement.

    Args:
        table: from :func:`sort_pixels`.
        num_queries: Q.
        query_sampling: ``hard`` or ``easy`` pixels (Eq. 4), or ``random``: both.
        generator: makes the sample repeatable.

    Returns:
        Positions in the table ``(C, Q)``, and ``(C,)`` bool: the class has such pixels at all.
    """
    hard, easy = table.bucket_counts().unbind(1)
    starts = table.class_starts()
    if query_sampling == "hard":
        counts = hard
    elif query_sampling == "easy":
        starts, counts = starts + hard, easy
    else:
        counts = hard + easy
    uniform = _uniform((len(counts), num_queries), table, generator)
    return starts[:, None] + _pick(uniform, counts[:, None]), counts > 0


def sample_negatives(
    table: PixelTable,
    probabilities: Tensor,
    num_negatives: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample sets of K pixels, with replacement: the class first, then a pixel of it, uniformly.

    Args:
        table: from :func:`sort_pixels`.
        probabilities: ``(S, C)`` of the classes, one row for each set; from
            :func:`negative_class_probabilities`. A row of zeros gives arbitrary pixels.
        num_negatives: K.
        generator: makes the sample repeatable.

    Returns:
        Positions in the table, ``(S, K)``.
    """
    which_class, which_pixel = _uniform((2, len(probabilities), num_negatives), table, generator)
    cumulative = probabilities.to(which_class.dtype).cumsum(1)
    total = cumulative[:, -1:].contiguous()
    # The first class whose cumulative probability exceeds the number is never one of probability 0.
    # Rounding may lift a number to the total itself, so the last class with a chance is the limit;
    # where all probabilities are NaN, the class is arbitrary.
    last = torch.searchsorted(cumulative, total).clamp(max=probabilities.shape[1] - 1)
    sampled = torch.searchsorted(cumulative, which_class * total, right=True).minimum(last)
    pixels = table.bucket_counts().sum(1)
    return table.class_starts()[sampled] + _pick(which_pixel, pixels[sampled])


def info_nce(positive: Tensor, negative_logsumexp: Tensor) -> Tensor:
    """Eq. 1 for single queries, -log(e^p / (e^p + sum e^n)), from p and log(sum e^n)."""
    return torch.logaddexp(positive, negative_logsumexp) - positive


def reco_loss_with_statistics(
    representations: Tensor,
    logits: Tensor,
    labels: Tensor,
    options: ReCoOptions = ReCoOptions(),
    *,
    valid: Tensor | None = None,
    key_pixels: Tensor | None = None,
    negative_classes: Tensor | None = None,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
    across_ranks: bool = True,
    generator: torch.Generator | None = None,
    **changes: Any,
) -> tuple[Tensor, ReCoStatistics]:
    """The ReCo loss (Eq. 1-4) and statistics of it; arguments as for :class:`ReCoLoss`.

    Args:
        negative_classes: ``(C,)`` bool, unlike the list that :class:`ReCoLoss` takes.
        class_weights: ``(C,)``.
        **changes: options by name, laid over ``options``.

    Returns:
        The loss, a scalar, and its :class:`ReCoStatistics`.

    Raises:
        ValueError: an argument out of range, by name.
        TypeError: an argument that is no tensor, or an option that there is not, with the one
            that was meant.
    """
    _check_inputs(representations, logits, labels, valid, key_pixels, ignore_index)
    if changes:
        options = _with_changes("reco_loss", options, changes)
    num_classes, temperature = logits.shape[1], options.temperature
    num_queries, num_negatives = options.num_queries, options.num_negatives
    joint = across_ranks and distributed.is_active()

    # Autocast would run the products below in half precision.
    with torch.autocast(representations.device.type, enabled=False):
        with torch.no_grad():  # which pixels take part, and which of them are hard (Eq. 4)
            size = representations.shape[2:]
            labels, valid, key_pixels = _to_feature_size(labels, valid, key_pixels, size)
            in_range = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
            out_of_range = (~in_range & (labels != ignore_index)).sum()
            classes = torch.where(in_range & valid, labels, num_classes)
            hard = label_confidence(logits, classes) <= options.strong_threshold
            table = sort_pixels(classes.flatten(), hard.flatten(), num_classes, joint=joint)
            counts = table.bucket_counts().sum(1)
            key_classes, key_table, key_counts = classes, table, counts
            if key_pixels is not None:  # keys have a separate table
                key_classes = torch.where(key_pixels, classes, num_classes)
                key_table = sort_pixels(
                    key_classes.flatten(), hard.flatten(), num_classes, joint=joint
                )
                key_counts = key_table.bucket_counts().sum(1)

        means = class_means(
            representations if options.gradient_through_means else representations.detach(),
            key_classes,
            key_counts,
            joint=joint,
        )
        with torch.no_grad():  # the relation graph (Eq. 3), and the sample of queries
            graph = relation_graph(means)
            probabilities = negative_class_probabilities(
                graph,
                key_counts,
                key_sampling=options.key_sampling,
                temperature=options.relation_temperature,
                negative_classes=negative_classes,
            )
            positions, has_queries = sample_queries(
                table, num_queries, query_sampling=options.query_sampling, generator=generator
            )
            query_rows, here = table.locate(positions)
            takes_part = has_queries & (key_counts > 0) & (probabilities.sum(1) > 0)
            counted = here & takes_part[:, None]  # (C, Q)
            sampled = torch.zeros(classes.numel() + 1, dtype=torch.bool, device=classes.device)
            _mark(sampled, query_rows, counted)

        queries = _unit(_take(representations, query_rows))  # (C, Q, D)
        positive = (queries @ _unit(means)[:, :, None]).squeeze(2)  # (C, Q) cosines

        def sample_keys(owners: Tensor) -> Tensor:
            """K unit negative keys for each class in ``owners``, whichever rank owns the pixels."""
            positions = sample_negatives(
                key_table, probabilities[owners], num_negatives, generator=generator
            )
            key_rows, here = key_table.locate(positions)
            _mark(sampled, key_rows, here & takes_part[owners][:, None])
            keys = _take(representations, key_rows)
            if joint:
                keys = distributed.sum_over_ranks(torch.where(here[:, :, None], keys, 0.0))
            return keys.mul_(_inverse_length(keys))

        owners = torch.arange(num_classes, device=classes.device)
        if options.negatives == "per_query":  # then every query is a group
            queries, owners = queries.flatten(0, 1)[:, None], owners.repeat_interleave(num_queries)
        negative, negative_similarity = (
            each.view_as(positive)
            for each in _against_negatives(queries, owners, sample_keys, num_negatives, temperature)
        )

        # Where a class has no query or no key Eq. 1 adds nothing. The numbers there are
        # unused but finite, so `where` keeps value and gradient clean, and the graph connected.
        terms = torch.where(counted, info_nce(positive / temperature, negative), 0.0)
        weights = (counts > 0).to(terms.dtype)
        if class_weights is not None:
            weights = weights * class_weights.to(weights)
        total = weights.sum()
        loss = (terms.sum(1) / num_queries * weights).sum() / torch.where(total > 0, total, 1.0)
        # With means that are NaN or infinite there are no pairs, and the sum is 0: NaN tells of it.
        loss = torch.where(means.isfinite().all(), loss, torch.nan)
        if joint:
            # A rank has the terms of its queries: the average over ranks, as of DDP, is their sum.
            loss = loss * distributed.world_size()

        with torch.no_grad():
            valid_pixels = (classes < num_classes).sum()
            pairs = counted.sum().clamp(min=1)
            statistics = ReCoStatistics(
                relation_graph=torch.where(
                    (key_counts[:, None] > 0) & (key_counts > 0), graph, torch.nan
                ),
                present=counts > 0,
                hard_share=table.bucket_counts()[:, 0] / counts,
                sampled_share=sampled[:-1].sum() / valid_pixels.clamp(min=1),
                valid_pixels=valid_pixels,
                labels_out_of_range=out_of_range,
                positive_similarity=torch.where(counted, positive, 0.0).sum() / pairs,
                negative_similarity=torch.where(counted, negative_similarity, 0.0).sum() / pairs,
            )
    return loss, statistics


def reco_loss(
    representations: Tensor,
    logits: Tensor,
    labels: Tensor,
    options: ReCoOptions = ReCoOptions(),
    **arguments: Any,
) -> Tensor:
    """The ReCo loss (Eq. 1-4), a scalar, as :class:`ReCoLoss` returns it.

    Arguments as for :func:`reco_loss_with_statistics`.
    """
    return reco_loss_with_statistics(representations, logits, labels, options, **arguments)[0]


class ReCoLoss(nn.Module):
    r"""Regional contrast: pull hard pixels to their class mean, push them off confusable classes.

    .. math::
        L = \frac{1}{|C|} \sum_{c \in C} \frac{1}{Q} \sum_{r_q \in R_q^c} -\log
        \frac{\exp(\cos(r_q, r_k^{c,+}) / \tau)}
        {\exp(\cos(r_q, r_k^{c,+}) / \tau) + \sum_{r_k^- \in R_k^c} \exp(\cos(r_q, r_k^-) / \tau)}

    Eq. 1 of the paper, with its sums taken as means: over the Q queries of a class, then over the
    classes present in the batch (one without a query adds 0 and counts). Queries are sampled from
    the class's hard pixels (Eq. 4), the positive key is the class mean (Eq. 2), and the class of
    a negative key is sampled from a softmax over the relation graph (Eq. 3). Only queries carry
    gradient. Sampling is with replacement.

    Args:
        options: how pixels are sampled and contrasted, as :class:`ReCoOptions` says. Single ones
            may be given by name instead, as in the example.
        negative_classes: indices of the classes that may give negatives; all by default.
        class_weights: C numbers >= 0 that weigh the classes in the mean, as in
            :class:`torch.nn.CrossEntropyLoss`.
        ignore_index: the label of pixels that take no part.
        across_ranks: with torch.distributed, contrast over the pixels of all ranks: class means,
            keys and the Q queries of a class are those of the joined batch. Every rank must call
            the loss. Each returns its share times the number of ranks, so that their average,
            which is what DDP forms, is the value and gradient of one process.
        **changes: options by name, laid over ``options``.

    Raises:
        ValueError: an argument out of range, by name.
        TypeError: an option that there is not, with the one that was meant.

    Example:
        >>> loss = ReCoLoss(num_queries=16, num_negatives=32)
        >>> representations = torch.randn(2, 64, 33, 33, requires_grad=True)
        >>> logits = torch.randn(2, 5, 33, 33)
        >>> labels = torch.randint(5, (2, 129, 129))
        >>> loss(representations, logits, labels).backward()
    """

    negative_classes: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        options: ReCoOptions = ReCoOptions(),
        *,
        negative_classes: Sequence[int] | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE,
        across_ranks: bool = True,
        **changes: Any,
    ) -> None:
        super().__init__()
        if not isinstance(options, ReCoOptions):
            raise ValueError(
                f"ReCoLoss: options = {options!r}: expected ReCoOptions, or single options by "
                "name: ReCoLoss(num_queries=256)"
            )
        self.options = _with_changes("ReCoLoss", options, changes)
        self.ignore_index = ignore_index
        self.across_ranks = across_ranks
        # Buffers, to move with the module; not in its state, since they are arguments.
        classes = None if negative_classes is None else torch.as_tensor(negative_classes)
        if classes is not None and (
            classes.ndim != 1
            or not len(classes)
            or classes.dtype == torch.bool
            or classes.is_floating_point()
            or (classes < 0).any()
        ):
            raise ValueError(
                f"ReCoLoss: negative_classes = {negative_classes!r}: expected a list of classes"
            )
        weights = None
        if class_weights is not None:
            weights = torch.as_tensor(class_weights, dtype=torch.float32)
            if weights.ndim != 1 or not (weights.isfinite() & (weights >= 0)).all():
                raise ValueError(
                    f"ReCoLoss: class_weights = {class_weights!r}: expected a list of numbers >= 0"
                )
        self.register_buffer("negative_classes", classes, persistent=False)
        self.register_buffer("class_weights", weights, persistent=False)
        self.max_negative_class = -1 if classes is None else int(classes.max())

    def forward(
        self,
        representations: Tensor,
        logits: Tensor,
        labels: Tensor,
        *,
        valid: Tensor | None = None,
        key_pixels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of one batch.

        Args:
            representations: ``(B, D, h, w)`` floating; channels_last is read without a copy.
            logits: ``(B, C, h, w)`` classifier output before softmax; of another size, it is
                resized bilinearly. It receives no gradient.
            labels: ``(B, H, W)`` integer, ``0 .. C-1`` or `ignore_index`; of another size than
                ``(h, w)``, nearest neighbours are taken.
            valid: ``(B, H, W)`` bool: pixels that take part. All by default.
            key_pixels: ``(B, H, W)`` bool: those of them that the class means and the negative
                keys come from. All by default. A class without any takes no part.
            generator: makes an eager call repeatable; compiled, use the global seed.

        Returns:
            A scalar of at least float32, connected to ``representations`` and finite whatever
            classes the batch holds; NaN where the mean of a class is NaN or infinite.

        Raises:
            ValueError: shapes or dtypes that do not fit together. Label values are checked on
                eager CPU tensors only; elsewhere one out of range is ignored and counted in
                :class:`ReCoStatistics`.
            TypeError: an argument that is no tensor.
        """
        return self.with_statistics(
            representations,
            logits,
            labels,
            valid=valid,
            key_pixels=key_pixels,
            generator=generator,
        )[0]

    def with_statistics(
        self,
        representations: Tensor,
        logits: Tensor,
        labels: Tensor,
        *,
        valid: Tensor | None = None,
        key_pixels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ReCoStatistics]:
        """The loss, as :meth:`forward` gives it, and its :class:`ReCoStatistics`."""
        _check_tensors(logits=logits)
        num_classes = logits.shape[1] if logits.ndim == 4 else 0
        allowed = None
        if self.negative_classes is not None:
            if self.max_negative_class >= num_classes:
                raise ValueError(
                    f"ReCoLoss: negative_classes holds {self.max_negative_class}: expected 0 to "
                    f"{num_classes - 1}, the classes in logits"
                )
            indices = torch.arange(num_classes, device=self.negative_classes.device)
            # Not torch.isin, which synchronises where there are many of them.
            allowed = (indices[:, None] == self.negative_classes).any(1)
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"ReCoLoss: class_weights has {len(self.class_weights)} numbers: expected one for "
                f"each of the {num_classes} classes in logits"
            )
        return reco_loss_with_statistics(
            representations,
            logits,
            labels,
            self.options,
            valid=valid,
            key_pixels=key_pixels,
            negative_classes=allowed,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            across_ranks=self.across_ranks,
            generator=generator,
        )

    def extra_repr(self) -> str:
        """Arguments shown by ``print(module)``."""
        names = [field.name for field in fields(ReCoOptions)]
        return ", ".join(f"{name}={getattr(self.options, name)!r}" for name in names)


def label_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability that the classifier gives the label of each pixel: ŷ of Eq. 4.

    Args:
        logits: ``(B, C, h', w')``; resized bilinearly to the labels' size if it differs.
        labels: ``(B, h, w)`` int64; C where the pixel is ignored and the result arbitrary.
    """
    logits = logits.to(_exact(logits))
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    label_logits = logits.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])
    # Softmax in one pass over either layout. Where exp overflows, the probability is 0 indeed.
    return (logits - label_logits).exp_().sum(1).reciprocal()


def _against_negatives(
    queries: Tensor,
    owners: Tensor,
    sample_keys: Callable[[Tensor], Tensor],
    num_negatives: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """``log(sum e^n)`` and mean cosine, both ``(G, q)``, for groups of q queries that share keys.

    The keys of all groups may be C * Q * K * D numbers, so they are sampled, used and freed some
    groups at a time. They carry no gradient: all that a query needs of them afterwards is the
    gradient of its log-sum-exp, the mean of its keys weighted by their softmax.

    Args:
        queries: ``(G, q, D)``, of length one.
        owners: ``(G,)`` class of each group.
        sample_keys: gives ``(g, K, D)`` keys of length one for the owners ``(g,)`` of g groups.
        num_negatives: K.
        temperature: τ.
    """
    small = queries.device.type == "cpu" and not torch.compiler.is_compiling()
    numbers = _CHUNK_NUMBERS_CPU if small else _CHUNK_NUMBERS
    step = max(1, numbers // (num_negatives * (queries.shape[1] + queries.shape[2])))
    values, similarities = [], []
    groups = zip(torch.split(queries, step), torch.split(owners, step), strict=True)
    for group_queries, group_owners in groups:
        with torch.no_grad():
            keys = sample_keys(group_owners)  # (g, K, D)
            scores = (group_queries / temperature) @ keys.transpose(1, 2)  # (g, q, K)
            value = scores.logsumexp(2)
            gradient = scores.softmax(2) @ keys / temperature
        # Adds exactly 0 to the value, and gives it its gradient.
        linear = (group_queries * gradient).sum(2)
        values.append(value + (linear - linear.detach()))
        similarities.append(scores.mean(2) * temperature)
    return torch.cat(values), torch.cat(similarities)


def _to_feature_size(
    labels: Tensor, valid: Tensor | None, key_pixels: Tensor | None, size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Labels as int64 and the masks as bool, at ``(h, w)`` by nearest neighbour."""
    if valid is None:
        valid = torch.ones_like(labels, dtype=torch.bool)
    if tuple(labels.shape[1:]) == tuple(size):
        return labels.long(), valid, key_pixels
    planes = [labels, valid] if key_pixels is None else [labels, valid, key_pixels]
    stacked = torch.stack([plane.float() for plane in planes], 1)
    labels, *masks = F.interpolate(stacked, tuple(size), mode="nearest-exact").unbind(1)
    return labels.long(), masks[0].bool(), None if key_pixels is None else masks[1].bool()


def _uniform(
    shape: tuple[int, ...], table: PixelTable, generator: torch.Generator | None
) -> Tensor:
    """Numbers in [0, 1), the same on every rank that shares the table.

    In float64, since float32 has 2^24 of them: too few to be fair among millions of pixels.
    """
    device = table.order.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
    uniform = torch.rand(shape, device=device, dtype=dtype, generator=generator)
    return distributed.from_first_rank(uniform) if len(table.counts) > 1 else uniform


def _pick(uniform: Tensor, count: Tensor) -> Tensor:
    """A whole number in ``0 .. count - 1`` for every uniform one; 0 where count is 0."""
    return (uniform * count).long().minimum((count - 1).clamp(min=0))


def _mark(marks: Tensor, rows: Tensor, counted: Tensor) -> Tensor:
    """Set ``marks`` (N + 1,) at ``rows`` where ``counted``; the last one takes all the rest."""
    return marks.index_fill_(0, torch.where(counted, rows, len(marks) - 1).flatten(), True)


def _inverse_length(vectors: Tensor) -> Tensor:
    """1 / length of each vector, ``(..., 1)``; 0 where there is next to none.

    What is multiplied by it is then 0, without gradient. The gradient is 1 / length otherwise, too
    much for float16 and for training where, say, a ReLU switched a pixel off.
    """
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > _SHORTEST, length, torch.inf).reciprocal()


def _unit(vectors: Tensor) -> Tensor:
    return vectors * _inverse_length(vectors)


def _is_channels_last(representations: Tensor) -> bool:
    return representations.stride(1) == 1


def _rows(representations: Tensor) -> Tensor:
    """``(N, D)``: a view of channels_last memory."""
    return representations.permute(0, 2, 3, 1).flatten(0, 2)


def _take(representations: Tensor, rows: Tensor) -> Tensor:
    """Representations of the pixels ``rows``, ``(*rows.shape, D)``, in at least float32.

    Neither layout is copied, and the gradient comes in the same one. Not by ``pixels[rows]``,
    whose gradient on the CPU is summed in a nondeterministic order.
    """
    num_channels = representations.shape[1]
    if _is_channels_last(representations):
        taken = _rows(representations).index_select(0, rows.flatten())
    else:
        area = representations.shape[2] * representations.shape[3]
        first = rows // area * (num_channels * area) + rows % area
        numbers = first[..., None] + torch.arange(num_channels, device=rows.device) * area
        taken = representations.flatten().gather(0, numbers.flatten())
    return taken.view(*rows.shape, num_channels).to(_exact(representations))


def _exact(tensor: Tensor) -> torch.dtype:
    """At least float32, whatever autocast made of the input."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _with_changes(caller: str, options: ReCoOptions, changes: dict[str, Any]) -> ReCoOptions:
    """``options`` with single ones changed by name; `TypeError` for one that there is not."""
    names = [option.name for option in fields(options)]
    for name in changes:
        if name not in names:
            meant = nearest(name, [*names, *_ARGUMENTS])
            raise TypeError(f"{caller}: {name!r} is no option{meant}: expected {', '.join(names)}")
    return replace(options, **changes)


_TWO_CLASSES = (
    "one logit z for an object is those of background and object by "
    "torch.cat([torch.zeros_like(z), z], 1)"
)


def _check_tensors(**arguments: object) -> None:
    for name, given in arguments.items():
        if not isinstance(given, Tensor):
            raise TypeError(
                f"ReCoLoss: {name} is a {type(given).__name__}: expected a torch.Tensor; "
                "torch.as_tensor makes one of an array, and a network that returns a dict has its "
                'logits in one of the values, such as "out"'
            )


def _check_inputs(
    representations: Tensor,
    logits: Tensor,
    labels: Tensor,
    valid: Tensor | None,
    key_pixels: Tensor | None,
    ignore_index: int,
) -> None:
    """Shapes and dtypes; label values only where the check needs no synchronisation."""
    given = {"valid": valid, "key_pixels": key_pixels}
    masks = {name: mask for name, mask in given.items() if mask is not None}
    _check_tensors(representations=representations, logits=logits, labels=labels, **masks)

    def require(holds: bool, name: str, tensor: Tensor, expected: str) -> None:
        if not holds:
            came = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"ReCoLoss: {name} is {came}: expected {expected}")

    require(
        representations.ndim == 4
        and representations.is_floating_point()
        and representations.numel() > 0,
        "representations",
        representations,
        "a floating tensor (B, D, h, w), none of them 0",
    )
    batch = len(representations)
    require(
        logits.ndim == 4 and logits.is_floating_point() and len(logits) == batch,
        "logits",
        logits,
        f"a floating tensor (B, C, h, w) with B = {batch} as in representations",
    )
    require(
        ignore_index != IGNORE or logits.shape[1] <= IGNORE,
        "logits",
        logits,
        f"at most {IGNORE} classes, since ignore_index = {IGNORE} would be one of them; for more, "
        "pass another such as ignore_index=-1",
    )
    require(
        labels.ndim == 3
        and len(labels) == batch
        and not labels.is_floating_point()
        and labels.dtype != torch.bool,
        "labels",
        labels,
        f"an integer tensor (B, H, W) with B = {batch} as in representations",
    )
    for name, mask in masks.items():
        require(
            mask.shape == labels.shape and mask.dtype == torch.bool,
            name,
            mask,
            f"a bool tensor of labels' shape {tuple(labels.shape)}",
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        labels = labels.long()  # -1 or 255 of ignore_index compare wrongly with uint8 or int8
        wrong = labels[((labels < 0) | (labels >= logits.shape[1])) & (labels != ignore_index)]
        if wrong.numel():
            raise ValueError(
                f"ReCoLoss: labels holds {sorted(set(wrong.tolist()))[:10]}: expected 0 to "
                f"{logits.shape[1] - 1}, the classes in logits, or ignore_index = {ignore_index}"
                + (f"; {_TWO_CLASSES}" if logits.shape[1] == 1 else "")
            )
