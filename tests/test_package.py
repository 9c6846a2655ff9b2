"""What other projects see of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import reco


def test_public_names_are_there():
    for name in reco.__all__:
        assert getattr(reco, name) is not None
    assert {*reco.__all__} <= {*dir(reco)}
    with pytest.raises(AttributeError, match="nothing"):
        reco.nothing  # noqa: B018


def test_importing_the_loss_needs_torch_alone():
    code = (
        "import sys; from reco.loss import ReCoLoss; import reco; assert reco.ReCoLoss is ReCoLoss;"
        "print([m for m in ('torchvision', 'PIL', 'yaml', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
