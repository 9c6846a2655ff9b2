"""Gradients of the terms of Eq. 5: their lengths, and whether they agree.

Shapes: the gradient of a term is taken over all P parameters that both heads share, ``(P,)``.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reco.runs.checkpoint import TrainedRun, load_state
from reco.training.build import build_run
from reco.training.trainer import Trainer

TERMS = ("supervised", "unsupervised", "reco")


class TermGradient(NamedTuple):
    """Medians over batches."""

    term: str
    norm: float
    cosine_to_supervised: float | None  # in [-1, 1]; None where one of the two is 0
    cosine_to_unsupervised: float | None


def term_gradients(
    path: Path, *, overrides: Sequence[str] = (), batches: int = 8
) -> list[TermGradient]:
    """Gradients of the terms of the loss on the batches that a run would train on next.

    Args:
        path: checkpoint; its networks stay as they are.
        overrides: ``key=value`` over its configuration, such as ``dataset.root=…``.
        batches: how many.

    Raises:
        CheckpointError, ConfigError, FileNotFoundError, ValueError: a checkpoint or data that do
            not fit.
    """
    few_steps = [f"train.iterations={batches}", "train.compile=false", "model.weights=none"]
    run = TrainedRun.read(path, [*overrides, *few_steps])
    found: list[dict[str, Tensor]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(build_run(run.config), Path(folder) / "run")
        load_state(trainer.student, run.states["student"], str(run.path))
        if trainer.teacher is not None:
            load_state(trainer.teacher, run.states["teacher"], str(run.path))
        heads = ("classifier.", "representation.")
        shared = [p for name, p in trainer.student.named_parameters() if not name.startswith(heads)]
        for number, (labelled, unlabelled) in enumerate(islice(trainer.batches(), batches)):
            torch.manual_seed(number)
            losses, _ = trainer.losses(labelled, unlabelled)
            found.append({term: _gradient(getattr(losses, term), shared) for term in TERMS})
    return [
        TermGradient(
            term,
            round(statistics.median(float(of[term].norm()) for of in found), 4),
            *(_median_cosine([(of[term], of[other]) for of in found]) for other in TERMS[:2]),
        )
        for term in TERMS
    ]


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``(P,)``; zeros for a term that is switched off."""
    if not loss.requires_grad:
        return torch.zeros(sum(parameter.numel() for parameter in parameters))
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    # float64, since float32 loses digits in sums of millions of numbers.
    return torch.cat([part.flatten() for part in parts]).double().cpu()


def _median_cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    cosines = [
        float(F.cosine_similarity(first, second, dim=0))
        for first, second in pairs
        if first.any() and second.any()
    ]
    return round(statistics.median(cosines), 3) if cosines else None
