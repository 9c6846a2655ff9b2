"""The public interface of the package."""

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


def test_the_loss_needs_torch_alone():
    code = """
import sys
for name in ("torchvision", "PIL", "yaml", "tqdm", "numpy", "matplotlib", "timm", "scipy"):
    sys.modules[name] = None
from reco.loss import ReCoLoss
import reco, torch
assert reco.ReCoLoss is ReCoLoss
representations = torch.randn(2, 8, 9, 9, requires_grad=True)
ReCoLoss()(representations, torch.randn(2, 3, 9, 9), torch.randint(3, (2, 9, 9))).backward()
print(float(representations.grad.abs().sum()) > 0)
"""
    arguments = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(arguments, capture_output=True, check=True).stdout.strip() == b"True"
