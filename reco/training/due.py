"""What is due after a step."""

from __future__ import annotations

from typing import NamedTuple

from reco.config import TrainConfig


class Due(NamedTuple):
    """What to do after a step, in this order."""

    log: bool
    checkpoint: bool
    validate: bool


def due_after(iteration: int, config: TrainConfig, *, stopping: bool = False) -> Due:
    """What is due after ``iteration`` steps.

    After the last step all three are due. A run that is stopping writes a checkpoint and leaves a
    validation for its resumption.
    """
    last = iteration == config.iterations
    validate = last or (iteration % config.validate_every == 0 and not stopping)
    checkpoint = last or stopping or iteration % config.checkpoint_every == 0
    log = validate or checkpoint or iteration % config.log_every == 0
    return Due(log, checkpoint, validate)
