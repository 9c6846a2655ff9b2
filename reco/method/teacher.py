"""Mean Teacher: an exponential moving average of the student that makes the pseudo-labels.

Tarvainen & Valpola, NeurIPS 2017; Section 3.3 of the ReCo paper.

Shapes: images (B, 3, H, W) in [0, 1]; pseudo-labels and confidence (B, H, W).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reco.models.network import logits_of


class MeanTeacher(nn.Module):
    """A copy of ``network`` whose parameters are the moving average of the student's.

    At update t the decay is ``min(1 - 1 / (t + 1), decay)``: the first update copies, and early
    ones average evenly. Parameters only: the running statistics of the teacher's batch norm are
    those of its pseudo-labelling.

    In train mode only batch norm is in train mode (batch statistics), except for a frozen encoder:
    no dropout, and the network itself stays in eval mode, so that it runs no representation head.
    ``batch_statistics=False`` keeps batch norm in eval mode too; its running statistics then follow
    the student's: copied, or with ``average_buffers`` averaged as the parameters are.

    Args:
        network: the student; in eval mode it gives logits ``(B, C, h, w)``, alone or as
            :class:`reco.models.network.SegmentationOutput`.
        decay: η of the moving average, in [0, 1).
        batch_statistics: pseudo-label with the statistics of the batch.
        average_buffers: running statistics are the moving average of the student's, as in UniMatch
            (arXiv 2208.09910); only without ``batch_statistics``.

    Raises:
        ValueError: ``decay`` out of range, or ``average_buffers`` with ``batch_statistics``.
    """

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.99,
        *,
        batch_statistics: bool = True,
        average_buffers: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"MeanTeacher: decay = {decay}: expected a number in [0, 1)")
        if average_buffers and batch_statistics:
            raise ValueError(
                "MeanTeacher: average_buffers=True: expected batch_statistics=False, since with "
                "them the teacher gathers running statistics itself"
            )
        # Batch norm that the student does not train stays in eval mode here too.
        self._frozen = {
            name
            for name, module in network.named_modules()
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad
        }
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.batch_statistics = batch_statistics
        self.average_buffers = average_buffers
        self.updates = 0
        self.train()

    def train(self, mode: bool = True) -> MeanTeacher:
        """Set the mode: ``True`` to pseudo-label, ``False`` to evaluate."""
        super().train(False)
        self.training = mode
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm) and name not in self._frozen:
                module.train(mode and self.batch_statistics)
        return self

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move a step towards ``network``; call once after each optimiser step."""
        decay = min(1 - 1 / (self.updates + 1), self.decay)
        self.updates += 1
        parameters: list[Tensor] = list(self.network.parameters())
        students: list[Tensor] = list(network.parameters())
        if decay == 0:
            torch._foreach_copy_(parameters, students)
        else:
            torch._foreach_lerp_(parameters, students, 1 - decay)
        if not self.average_buffers:
            self.copy_statistics(network)
        else:
            for buffer, student in zip(self.network.buffers(), network.buffers(), strict=True):
                if buffer.is_floating_point():
                    buffer.lerp_(student, 1 - decay)
                else:
                    buffer.copy_(student)

    @torch.no_grad()
    def copy_statistics(self, network: nn.Module) -> None:
        """Take the student's running statistics, if :meth:`update` would copy them."""
        if not self.batch_statistics and not self.average_buffers:
            for buffer, student in zip(self.network.buffers(), network.buffers(), strict=True):
                buffer.copy_(student)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-labels and their confidence, as :meth:`pseudo_label` gives them."""
        return self.pseudo_label(images)

    @torch.no_grad()
    def pseudo_label(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Most probable class of each pixel, ``(B, H, W)`` int64, and its probability.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1]; the logits are resized to their size.
        """
        logits = logits_of(self.network(images)).float()
        logits = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
        confidence, labels = logits.softmax(1).max(1)
        return labels, confidence

    def get_extra_state(self) -> dict[str, int]:
        """Number of updates so far: part of the state, since the decay depends on it."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self.updates = state["updates"]
