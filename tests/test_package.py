"""The public interface of the package."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reco


def test_public_names_are_there():
    for name in reco.__all__:
        assert getattr(reco, name) is not None
    assert {*reco.__all__} <= {*dir(reco)}
    with pytest.raises(AttributeError, match="nothing"):
        reco.nothing  # noqa: B018


def test_the_page_of_the_interface_lists_all_of_it():
    """GitHub shows the table alone, the site what the directives below it name."""
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `from (\S+) import (\w+)` \| \S.* \|$", page, re.MULTILINE)
    directives = re.findall(r"^::: (\S+)\.(\w+)$", page, re.MULTILINE)
    assert {name for module, name in rows if module == "reco"} == {*reco.__all__}
    assert {name for _, name in rows} == {name for _, name in directives} | {"IGNORE"}
    listed = {name: getattr(importlib.import_module(module), name) for module, name in rows}
    for module, name in directives:
        assert listed[name] is getattr(importlib.import_module(module), name)


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
